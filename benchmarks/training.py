"""Measures training steps a second of our networks, and of the textbook's with the same weights.

    python benchmarks/training.py --threads 2 --json training.json
    python benchmarks/training.py --models --curve 300 --picture curve.png

Both sides take the whole step of the trainer (gradient, clipping, fused AdamW, average of the
weights) on the same images of MNIST, in turns, each in its own process. Ours is the step of
`nextpixel train`: channels-last maps, bfloat16 autocast where the processor has it, freed memory
kept for reuse. The other side is float32, NCHW:

* PixelCNN, Gated PixelCNN: k x k kernels with the mask multiplied on (`yardstick.textbook`);
* Diagonal BiLSTM: the same recurrence, with a call of an LSTM cell for each pixel;
* Row LSTM: our own network, with PyTorch's operations for its layers;
* the others: our own network.

*GFLOP/s* counts two operations for every multiplication by a weight or state that is not masked
(forward, and twice as many backward), on both sides: the textbook's masked taps do not count.
Attention is counted where PyTorch's counter supports it. *In convolutions* is the share of our step
that is spent in convolutions, by PyTorch's profiler.

Steps in half and in full precision do not agree to the last bit. `--curve` trains both sides from
the same weights on the same images, and the textbook's once more with the images in another order,
to show how large the noise is.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yardstick
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import nextpixel as npx
from nextpixel.data import Images, batch_indices
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.nn import CausalConv2d, DiagonalLayer, RowLayer, checkpointing
from nextpixel.nn.lstm import lstm_cell
from nextpixel.training import TrainArgs
from nextpixel.training.config import learning_rate
from nextpixel.training.launch import has_bf16, keep_freed_memory
from nextpixel.training.trainer import update_average

SHAPE = (1, 28, 28)
MODELS: dict[str, Callable[[], AutoregressiveModel]] = {
    "PixelCNN": lambda: npx.PixelCNN(shape=SHAPE),
    "GatedPixelCNN": lambda: npx.GatedPixelCNN(shape=SHAPE, width=64, blocks=8),
    "RowLSTM": lambda: npx.RowLSTM(shape=SHAPE, width=32, blocks=4),
    "DiagonalBiLSTM": lambda: npx.DiagonalBiLSTM(
        shape=SHAPE, levels=2, width=16, blocks=7, head=32
    ),
    "PixelCNNPP": lambda: npx.PixelCNNPP(shape=SHAPE, width=32, blocks=2, dropout=0),
    "PixelSNAIL": lambda: npx.PixelSNAIL(shape=SHAPE, width=32, blocks=2, dropout=0),
}


class RowByRow(RowLayer):
    """The Row LSTM's layer by PyTorch's operations, a row at a time."""

    _sweep = RowLayer._row_by_row


class PixelByPixel(DiagonalLayer):
    """The Diagonal BiLSTM's layer as a loop over the pixels, in both directions."""

    def _sweep(self, from_left: Tensor, from_right: Tensor) -> tuple[Tensor, Tensor]:
        left, right = (
            self._one(gates.permute(0, 2, 3, 1), weight, step)
            for gates, weight, step in zip(
                (from_left, from_right), self.state_to_state, (1, -1), strict=True
            )
        )
        return left, right

    def _one(self, gates: Tensor, weight: Tensor, step: int) -> Tensor:
        """Sweeps `(B, H, W, 4 width)` to `(B, width, H, W)`; a step of -1 is from the right."""
        height, width = gates.shape[1:3]
        nothing = gates.new_zeros(len(gates), self.width)
        states: list[list[Tensor]] = []
        for row in range(height):
            h = c = nothing
            states.append([nothing] * width)
            for col in range(width)[::step]:
                above = states[row - 1][col] if row else nothing
                from_states = torch.cat([h, above], 1) @ weight
                h, c = lstm_cell(gates[:, row, col] + from_states, c)
                states[row][col] = h
        return torch.stack([torch.stack(row, 2) for row in states], 2)


def other_side(model: AutoregressiveModel) -> AutoregressiveModel:
    """Makes the network that a model of ours is compared with, see above."""
    book = yardstick.textbook(model)
    for layer in book.modules():
        if isinstance(layer, DiagonalLayer):
            layer.__class__ = PixelByPixel
        if isinstance(layer, RowLayer):
            layer.__class__ = RowByRow
    return book


class Side:
    """One side of the comparison: a model that takes the trainer's steps.

    Args:
        model: The model; it is trained.
        ours: Whether maps are channels-last, and autocast is on where the processor has bfloat16.
        args: The options of training, with `accumulate` and `checkpoint_activations`.
    """

    def __init__(self, model: AutoregressiveModel, ours: bool, args: TrainArgs) -> None:
        self.model, self.args, self.steps = model.train(), args, 0
        if ours:
            model.to(memory_format=torch.channels_last)
            keep_freed_memory()
        self.half = ours and has_bf16("cpu")
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=args.lr, weight_decay=args.weight_decay, fused=True
        )

    def step(self, x: Tensor) -> float:
        """Takes a step as `training.Run` does, and returns the loss in bits/dim."""
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.steps, self.args)
        total = 0.0
        for part in x.tensor_split(self.args.accumulate):
            with (
                torch.autocast("cpu", torch.bfloat16, enabled=self.half),
                checkpointing(self.args.checkpoint_activations),
            ):
                loss = self.model.bits_per_dim(part).mean() * (len(part) / len(x))
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_average(self.average, self.model, self.steps, self.args.ema)
        return total


def batches(images: Images, size: int, seed: int) -> Iterator[Tensor]:
    """Yields the batches of a training run endlessly."""
    step = 0
    while True:
        yield torch.from_numpy(images.batch(batch_indices(len(images), size, step, seed=seed))[0])
        step += 1


def operations(model: AutoregressiveModel, x: Tensor) -> int:
    """Counts the unmasked operations of a training step, see above."""
    hidden = 0

    def count(layer: CausalConv2d, _: Any, out: Tensor) -> None:
        nonlocal hidden
        taps = layer.left + 1 + layer.right - layer.weight_row.shape[-1]
        hidden += 2 * taps * layer.in_channels * out.numel()
        if layer.row_mask is not None:  # of several channel groups
            sites = out.numel() // layer.out_channels
            hidden += 2 * sites * int((~layer.row_mask).sum())

    layers = [layer for layer in model.modules() if isinstance(layer, CausalConv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.log_prob(x)
    for hook in hooks:
        hook.remove()
    return 3 * (int(counter.get_total_flops()) - hidden)


def convolution_share(side: Side, x: Tensor) -> float:
    """Measures the share of a step that is spent in convolutions, PyTorch's and ours."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        side.step(x)
    seconds = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return sum(t for key, t in seconds.items() if "onvolution" in key) / sum(seconds.values())


def half_limit() -> float:
    """Measures the rate of a large matrix product in bfloat16, in GFLOP/s."""
    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    return 2 * 2048**3 / yardstick.median_seconds(lambda: torch.mm(a, a), 5) / 1e9


def take_turns(
    pipe: Connection, name: str, ours: bool, batch: int, threads: int, profiled: int
) -> None:
    """Takes as many steps as the pipe says, and sends their seconds, until the pipe says 0.

    Finally sends the median share of convolutions in `profiled` more steps.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = MODELS[name]()
    side = Side(model if ours else other_side(model), ours, TrainArgs())
    feed = batches(npx.load_data("mnist", levels=model.levels).train, batch, seed=0)
    while steps := pipe.recv():
        seconds = []
        for _ in range(steps):
            x = next(feed)
            began = time.perf_counter()
            side.step(x)
            seconds.append(time.perf_counter() - began)
        pipe.send(seconds)
    shares = [convolution_share(side, next(feed)) for _ in range(profiled)]
    pipe.send(statistics.median(shares) if shares else 0.0)


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measures both sides of one model, in turns."""
    torch.manual_seed(0)
    model = MODELS[name]()
    data = npx.load_data("mnist", levels=model.levels)
    x = next(batches(data.train, args.batch, seed=0))
    work = operations(model, x)
    with torch.no_grad():
        error = (other_side(model).log_prob(x) - model.log_prob(x)).abs().max().item()
    context = multiprocessing.get_context("spawn")
    pipes, seconds = [], {False: [], True: []}
    for ours in seconds:
        pipe, end = context.Pipe()
        rest = (name, ours, args.batch, torch.get_num_threads(), 5 if ours else 0)
        context.Process(target=take_turns, args=(end, *rest), daemon=True).start()
        end.close()  # here, so that a process that dies is noticed
        pipes.append((ours, pipe))
    for turn in range(args.rounds + 1):
        for ours, pipe in pipes:
            pipe.send(2)
            times = pipe.recv()
            if turn:  # the first is for warming up
                seconds[ours] += times
    for _, pipe in pipes:
        pipe.send(0)
        convolutions = pipe.recv()  # ours come last
    book, ours_seconds = (statistics.median(times) for times in seconds.values())
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch": args.batch,
        "largest_difference_nats": error,  # of log_prob, without autocast
        "textbook_seconds": book,
        "seconds": ours_seconds,
        "in_convolutions": convolutions,
        "ratio": book / ours_seconds,
        "gflop_per_step": work / 1e9,
        "textbook_gflops": work / book / 1e9,
        "gflops": work / ours_seconds / 1e9,
        "all_seconds": list(seconds.values()),
    }


def table(rows: list[dict[str, Any]], limits: dict[str, float]) -> None:
    """Prints the speeds, and their share of the limits of the machine."""
    half = has_bf16("cpu")
    ours_limit = limits["half_gflops" if half else "gflops"]
    print(
        f"Matrix product: {limits['gflops']:.0f} GFLOP/s in float32, {limits['half_gflops']:.0f} "
        f"in bfloat16; memory read at {limits['gbytes']:.0f} GB/s; {limits['threads']:.0f} threads"
    )
    columns = (
        *("model", "parameters", "textbook images/s", "ours images/s", "speed-up"),
        *(
            "textbook GFLOP/s",
            "of float32",
            "ours GFLOP/s",
            "of bfloat16" if half else "of float32",
            "in convolutions",
            "nats apart",
        ),
    )
    cells = [
        (
            row["model"],
            f"{row['parameters']:,}",
            f"{row['batch'] / row['textbook_seconds']:.1f}",
            f"{row['batch'] / row['seconds']:.1f}",
            f"{row['ratio']:.2f}x",
            f"{row['textbook_gflops']:.1f}",
            f"{row['textbook_gflops'] / limits['gflops']:.0%}",
            f"{row['gflops']:.1f}",
            f"{row['gflops'] / ours_limit:.0%}",
            f"{row['in_convolutions']:.0%}",
            f"{row['largest_difference_nats']:.1g}",
        )
        for row in rows
    ]
    yardstick.print_table(columns, cells)


def curves(args: argparse.Namespace) -> dict[str, list[float]]:
    """Trains the PixelCNN on each side, and once more with the images in another order."""
    data = npx.load_data("mnist")
    options = TrainArgs(steps=args.curve, warmup=min(50, args.curve // 2))
    losses: dict[str, list[float]] = {}
    for label, ours, seed in (
        ("textbook", False, 0),
        ("ours", True, 0),
        (f"{'ours' if args.noise == 'ours' else 'textbook'}, other order", args.noise == "ours", 1),
    ):
        torch.manual_seed(0)
        model = MODELS["PixelCNN"]()
        side = Side(model if ours else other_side(model), ours, options)
        feed = batches(data.train, args.curve_batch, seed=seed)
        began = time.perf_counter()
        losses[label] = [side.step(next(feed)) for _ in range(args.curve)]
        print(f"{label}: {args.curve} steps in {time.perf_counter() - began:.0f} s", flush=True)
    return losses


def show_curves(losses: dict[str, list[float]], picture: Path) -> None:
    """Draws the curves, and prints how far they are apart."""
    from matplotlib.figure import Figure

    part = max(1, len(losses["textbook"]) // 6)
    means = {
        label: np.array([np.mean(values[i : i + part]) for i in range(0, len(values), part)])
        for label, values in losses.items()
    }
    book, ours, other = means.values()
    rows = [
        (
            f"{i * part + 1} to {min((i + 1) * part, len(losses['textbook']))}",
            *(f"{mean:.4f}" for mean in (book[i], ours[i], other[i])),
            *(f"{mean - book[i]:+.4f}" for mean in (ours[i], other[i])),
        )
        for i in range(len(book))
    ]
    print("Training loss, bits/dim, mean over steps; differences from the textbook:")
    labels = list(losses)
    yardstick.print_table(("steps", *labels, *(f"{label}, diff." for label in labels[1:])), rows)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for (label, values), style in zip(losses.items(), ("-", "--", ":"), strict=True):
        axes.plot(range(1, len(values) + 1), values, style, label=label, linewidth=1.2)
    axes.set(xlabel="step", ylabel="training loss, bits/dim", yscale="log")
    axes.legend()
    figure.savefig(picture, dpi=120)


def main() -> None:
    """Measures speeds and curves, prints and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4, help="turns of the two sides")
    parser.add_argument("--threads", type=int, help="processor threads to use")
    parser.add_argument("--curve", type=int, default=0, help="steps of the loss curves; 0 for none")
    parser.add_argument("--curve-batch", type=int, default=16)
    parser.add_argument(
        "--noise", choices=["textbook", "ours"], default="textbook", help="the side trained twice"
    )
    parser.add_argument("--picture", type=Path, default=Path("curve.png"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"torch": torch.__version__}
    if args.models:
        limits = {**yardstick.limits(torch.device("cpu")), "half_gflops": half_limit()}
        limits["threads"] = torch.get_num_threads()
        rows = [compare(name, args) for name in args.models]
        table(rows, limits)
        result |= {"limits": limits, "rows": rows}
    if args.curve:
        result["curves"] = losses = curves(args)
        show_curves(losses, args.picture)
    yardstick.write_json(args.json, result)


if __name__ == "__main__":
    main()
