"""Trains one small network with different training options, and prints what each gives.

    python benchmarks/training_options.py options --threads 1
    python benchmarks/training_options.py options --only baseline "another seed" --threads 1
    python benchmarks/training_options.py rates --widths 12 24 48 --threads 1

PixelCNN++ of categories on the static binarized MNIST, the same number of images for all. The
seconds are of the processor, so that other work on the machine changes them little.

`options`: "another seed" says how large a difference is chance. What the library does not have is
here: schedule-free AdamW (The Road Less Scheduled, Defazio et al., 2024), other betas of Adam, a
batch that grows, and attention at the smallest resolution (training only, without a cached path).

`rates`: learning rates of networks of several widths.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor, nn
from yardstick import print_table, write_json

import nextpixel as npx
from nextpixel.models.pixel_cnn_pp import HorizontalStage
from nextpixel.nn.attention import CausalAttention
from nextpixel.training import trainer
from nextpixel.training.config import TrainArgs
from nextpixel.training.optimizer import make_optimizer
from nextpixel.utils.machine import machine

IMAGES = 12_800  # that each variant sees
BASE: dict[str, Any] = {
    "batch_size": 16,
    "optimizer": "muon",
    "lr": 3e-3,
    "weight_decay": 0.2,
    "warmup": 50,
    "ema": 0.995,
    "valid_images": 2000,
    "setbacks": 0,
}
NETWORK: dict[str, Any] = {
    "shape": (1, 28, 28),
    "levels": 2,
    "inputs": "embedded",
    "width": 24,
    "blocks": 1,
    "dropout": 0.0,
}
ADAM: dict[str, Any] = {"optimizer": "adamw", "lr": 2e-3}


# --- what the library does not have ---------------------------------------------------------------


class ScheduleFree(torch.optim.Optimizer):
    """Creates AdamW without a schedule: the weights that are scored are an average of all steps.

    The gradient is taken between the average x and the sequence z of Adam's steps:
    y = (1 - beta) z + beta x, and x moves towards z by 1 / steps (weighted by the squared rate).
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float) -> None:
        super().__init__([p for p in model.parameters() if p.requires_grad], {"lr": lr})
        self.weight_decay, self.weights, self.steps = weight_decay, 0.0, 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step, with gradients that are there already; the parameters become y."""
        lr, beta1, beta2 = self.param_groups[0]["lr"], 0.9, 0.999
        self.steps += 1
        self.weights += lr**2
        share = lr**2 / self.weights
        for p in self.param_groups[0]["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state.update(z=p.clone(), x=p.clone(), square=torch.zeros_like(p))
            square = state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            root = (square / (1 - beta2**self.steps)).sqrt() + 1e-8
            state["z"].sub_(lr * (p.grad / root + self.weight_decay * p))
            state["x"].lerp_(state["z"], share)
            p.copy_(state["z"].lerp(state["x"], beta1))


def schedule_free() -> AbstractContextManager[Any]:
    """Trains by `ScheduleFree`; its average of the weights is scored."""
    made: list[ScheduleFree] = []

    def make(model: nn.Module, args: TrainArgs) -> ScheduleFree:
        made.append(ScheduleFree(model, args.lr, args.weight_decay))
        return made[0]

    def average(ema: nn.Module, model: nn.Module, *_: Any) -> None:
        states = made[0].state
        for mean, p in zip(ema.parameters(), model.parameters(), strict=True):
            mean.copy_(states[p]["x"] if p in states else p)

    return patch.multiple(trainer, make_optimizer=make, update_average=average)


def betas(first: float, second: float) -> Callable[[], AbstractContextManager[Any]]:
    """Trains with other betas of Adam; with Muon, those of the parameters that are no matrices."""

    def make(model: nn.Module, args: TrainArgs) -> torch.optim.Optimizer:
        optimizer = make_optimizer(model, args)
        for group in optimizer.param_groups:
            group["betas"] = (first, second)
        return optimizer

    return lambda: patch.multiple(trainer, make_optimizer=make)


def growing() -> AbstractContextManager[Any]:
    """Trains with 8 images a step at first and 24 in the end, 16 on average."""
    whole = trainer.Run.batch

    def batch(run: trainer.Run) -> Any:
        x, conditioning = whole(run)
        return x[: round(8 + 16 * run.step / run.args.steps)], conditioning

    return patch.object(trainer.Run, "batch", batch)


class Attending(nn.Module):
    """Creates a part of a network whose output attends to itself at the sites before."""

    def __init__(self, inner: HorizontalStage, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.inner = inner
        self.parts = nn.Conv2d(width, 3 * width, 1)
        self.attention = CausalAttention(width, width, size)
        self.last = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, h: Tensor, rows: Any, biases: Any, cache: Any) -> Tensor:
        """Computes the part, of whole maps."""
        h = self.inner(h, rows, biases, cache)
        attended: Tensor = h + self.last(self.attention(*self.parts(h).chunk(3, 1), cache=cache))
        return attended


def attend(model: npx.PixelCNNPP) -> None:
    """Adds attention to a PixelCNN++ at its smallest resolution of three, 7 x 7."""
    largest: Any = model.horizontal
    halved = largest.smaller.inner.smaller
    halved.inner = Attending(halved.inner, NETWORK["width"], (7, 7))


# --- measuring ------------------------------------------------------------------------------------


class Variant(NamedTuple):
    """What differs from the baseline."""

    options: Mapping[str, Any] = {}
    network: Mapping[str, Any] = {}
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext
    changed: Callable[[npx.PixelCNNPP], object] = id  # which changes nothing
    mean_batch: int | None = None  # where it is not the batch size


VARIANTS = {
    "baseline": Variant(),
    "another seed": Variant({"seed": 1}),
    "schedule-free AdamW, 3e-3": Variant(
        {"schedule": "constant", "lr": 3e-3}, patched=schedule_free
    ),
    "AdamW": Variant(ADAM),
    "AdamW, betas 0.9 and 0.95": Variant(ADAM, patched=betas(0.9, 0.95)),
    "AdamW, betas 0.95 and 0.999": Variant(ADAM, patched=betas(0.95, 0.999)),
    "attention at 7 x 7": Variant(changed=attend),
    "four resolutions": Variant(network={"stages": 4}),
    "a batch that grows, 8 to 24": Variant({"batch_size": 24}, patched=growing, mean_batch=16),
    "EMA of 0.98": Variant({"ema": 0.98}),
    "EMA of 0.99": Variant({"ema": 0.99}),
    "EMA of 0.998": Variant({"ema": 0.998}),
    "warm-up of 10 steps": Variant({"warmup": 10}),
    "warm-up of 200 steps": Variant({"warmup": 200}),
    "schedule-free AdamW, 6e-3": Variant(
        {"schedule": "constant", "lr": 6e-3}, patched=schedule_free
    ),
    "batches of 8": Variant({"batch_size": 8, "lr": 2.1e-3}),
    "batches of 32": Variant({"batch_size": 32, "lr": 4.2e-3}),
    "dropout of 0.1": Variant(network={"dropout": 0.1}),
}


def measure(variant: Variant, data: npx.Dataset, images: int) -> dict[str, float]:
    """Trains one variant, and returns its validation score and its processor time."""
    options = BASE | dict(variant.options)
    steps = images // (variant.mean_batch or options["batch_size"])
    options |= {"steps": steps, "valid_every": steps}
    torch.manual_seed(options.get("seed", 0))
    model = npx.PixelCNNPP(**(NETWORK | dict(variant.network)))
    variant.changed(model)
    began = time.process_time()
    no_samples = patch.object(trainer, "draw_preview", lambda *_: Image.new("L", (1, 1)))
    with tempfile.TemporaryDirectory() as folder, variant.patched(), no_samples:
        run = npx.fit(model, data, out=Path(folder) / "run", device="cpu", **options)
        lines = (run / "metrics.jsonl").read_text().splitlines()
    seconds = time.process_time() - began
    last = [line for line in map(json.loads, lines) if "valid" in line][-1]
    nats = 784 * math.log(2)  # in a bit/dim
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "nats": last["valid"] * nats,
        "error": last["valid_error"] * nats,
        "seconds": seconds,
    }


def options(args: argparse.Namespace, data: npx.Dataset) -> dict[str, Any]:
    """Trains the variants and prints a row for each."""
    results = {}
    for name in args.only:
        results[name] = measure(VARIANTS[name], data, args.images)
        print(f"{name}: {results[name]['nats']:.2f} nats", flush=True)
        write_json(args.json, results)  # a long run that is stopped has its first results
    print_table(
        ["", "parameters", "nats of 2,000 validation images", "processor seconds"],
        [
            [
                name,
                f"{x['parameters']:,}",
                f"{x['nats']:.2f} ± {x['error']:.2f}",
                f"{x['seconds']:.0f}",
            ]
            for name, x in results.items()
        ],
    )
    return results


def rates(args: argparse.Namespace, data: npx.Dataset) -> dict[str, Any]:
    """Trains networks of several widths at several rates and prints a row for each width."""
    results: dict[str, Any] = {}
    for width in args.widths:
        of_width = results[str(width)] = {}
        for rate in args.rates:
            found = measure(Variant({"lr": rate}, {"width": width}), data, args.images)
            of_width[f"{rate:g}"] = found
            print(f"width {width}, rate {rate:g}: {found['nats']:.2f} nats", flush=True)
            write_json(args.json, results)
    print_table(
        ["width", "parameters", *(f"{rate:g}" for rate in args.rates)],
        [
            [width, f"{found[0]['parameters']:,}", *(f"{x['nats']:.2f}" for x in found)]
            for width, row in results.items()
            for found in [list(row.values())]
        ],
    )
    return results


def main() -> None:
    """Measures one part, prints it and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["options", "rates"])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--widths", nargs="+", type=int, default=[12, 24, 48], metavar="N")
    parser.add_argument("--rates", nargs="+", type=float, default=[1.5e-3, 3e-3, 6e-3], metavar="R")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help="that each sees")
    parser.add_argument("--data-dir", type=Path, help="where the data are")
    parser.add_argument("--threads", type=int, metavar="N", help="number of processor threads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"{args.images:,} images; {machine()}", flush=True)
    data = npx.load_data("binarized-mnist", data_dir=args.data_dir)
    measured = options(args, data) if args.part == "options" else rates(args, data)
    write_json(args.json, measured)


if __name__ == "__main__":
    main()
