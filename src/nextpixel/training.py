"""The trainer: one linear loop that can be killed at any step and goes on exactly.

    nextpixel train --config recipes/mnist-gated.yaml --out runs/mine
    nextpixel train --resume runs/mine
    torchrun --nproc-per-node 2 -m nextpixel train --config recipes/mnist-gated.yaml --out runs/mine

A run folder holds `config.yaml` (the resolved configuration), `metrics.jsonl`, `tensorboard/`,
`samples/`, the models `best/` and `last/` (both with averaged weights) and `state.pt` to resume.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from nextpixel import data as npx_data
from nextpixel import plots
from nextpixel.checkpoint import load_state, save_state
from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.evaluate import evaluate
from nextpixel.files import replace_file
from nextpixel.model import AutoregressiveModel, model_name

__all__ = ["TrainArgs", "fit"]


@dataclass(frozen=True)
class TrainArgs:
    """How to train.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Images a step, on each device.
        lr: Peak learning rate of AdamW.
        schedule: What the learning rate does after the warm-up: "cosine" falls to a hundredth of
            the peak at the last step, "constant" stays.
        warmup: Steps over which the learning rate rises from 0.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient; larger ones are scaled down.
        ema: Decay of the running average of the weights, which is what is scored and kept; it
            starts quicker and reaches this value as the steps go by. 0 keeps the weights as they
            are.
        precision: "bf16" computes in bfloat16 where autocast allows it, "float32" does not, "auto"
            takes bf16 where the processor has it.
        seed: Decides the order of the images and (through the command line) the first weights.
        valid_every: Steps between validations; each draws a grid of samples too.
        valid_images: Score only the first so many validation images; all by default.
        save_every: Steps between checkpoints.
    """

    steps: int = 20_000
    batch_size: int = 32
    lr: float = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    precision: Literal["auto", "bf16", "float32"] = "auto"
    seed: int = 0
    valid_every: int = 1000
    valid_images: int | None = None
    save_every: int = 500

    def __post_init__(self) -> None:
        at_least_one = ("steps", "batch_size", "valid_every", "save_every")
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} must be at least 1, not {getattr(self, name)}.")
        if not (self.lr > 0 and self.clip > 0 and self.warmup >= 0 and self.weight_decay >= 0):
            raise UserError("train.lr and train.clip must be above 0, warmup and decay not below.")
        if not 0 <= self.ema < 1:
            raise UserError(f"train.ema must lie in [0, 1), not {self.ema}.")


def learning_rate(step: int, args: TrainArgs) -> float:
    """Computes the learning rate of a step; steps count from 1."""
    if step <= args.warmup:
        return args.lr * step / args.warmup
    if args.schedule == "constant":
        return args.lr
    done = (step - args.warmup) / max(1, args.steps - args.warmup)
    return args.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves the averaged weights towards the model's (they start quicker than `decay` says)."""
    weight = 1 - min(decay, (1 + step) / (10 + step)) if decay else 1.0
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, weight)


def fit(
    model: AutoregressiveModel,
    data: str | Dataset,
    *,
    out: str | Path,
    resume: bool = False,
    data_dir: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> Path:
    """Trains a model by maximum likelihood and keeps the best and the last one.

    The best is the one with the lowest negative log-likelihood on the validation split.

    Args:
        model: The model; trained in place.
        data: A data set, or its name for `data.load`.
        out: The run folder.
        resume: Go on from the folder's last checkpoint.
        data_dir: Where to look for data first.
        device: "auto", "cpu", "cuda" or "cuda:N".
        options: Fields of `TrainArgs`.

    Returns:
        The run folder.

    Raises:
        UserError: The data do not fit the model, the folder holds another run, the loss is no
            longer a number, or there is nothing to resume.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was saved.
    """
    try:
        args = TrainArgs(**options)
    except TypeError as error:
        raise UserError(f"Unknown training option: {error}.") from None
    if isinstance(data, str):
        data = npx_data.load(data, levels=model.levels, data_dir=data_dir)
    check_data(model, data)
    out = Path(out)
    if (out / "state.pt").exists() and not resume:
        raise UserError(
            f"{out} already holds a run: go on with it by --resume {out}, or name another folder."
        )
    fabric = make_fabric(device, args.precision)
    fabric.launch()
    fabric.barrier()
    run = Run(fabric, model, data, args, out)
    if resume:
        run.load()
    else:
        run.begin()
    run.train()
    return out


def check_data(model: AutoregressiveModel, data: Dataset) -> None:
    """Checks that a data set has the model's shape, levels and classes."""
    if data.shape != model.shape or data.levels != model.levels:
        raise UserError(
            f"The model is for images {model.shape} with {model.levels} levels, but {data.name} "
            f"has {data.shape} with {data.levels}: make the model with shape={data.shape}, "
            f"levels={data.levels}."
        )
    if model.classes is not None and data.classes != model.classes:
        raise UserError(
            f"The model has {model.classes} classes, but {data.name} has {data.classes or 'none'}: "
            f"make the model with classes={data.classes}."
        )


def make_fabric(device: str, precision: str) -> Fabric:
    """Makes the Fabric for one process, or for those that torchrun started."""
    accelerator, _, index = device.partition(":")
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device here: use --device cpu.")
    if accelerator not in ("cpu", "cuda"):
        raise UserError(f"Unknown device {device}: give auto, cpu, cuda or cuda:N.")
    if precision == "auto":
        has_bf16 = (
            torch.cuda.is_bf16_supported()
            if accelerator == "cuda"
            else getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16", False)
        )
        precision = "bf16" if has_bf16 else "float32"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Fabric(
        accelerator=accelerator,
        devices=[int(index)] if index else processes,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )


class Run:
    """A training run: the model, its average, its optimizer, and the folder they are kept in."""

    def __init__(
        self,
        fabric: Fabric,
        model: AutoregressiveModel,
        data: Dataset,
        args: TrainArgs,
        out: Path,
    ) -> None:
        self.fabric, self.data, self.args, self.out = fabric, data, args, out
        model = model.train().to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(model).to(fabric.device).eval().requires_grad_(False)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=args.lr, weight_decay=args.weight_decay, fused=True
        )
        self.raw = model
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.model.mark_forward_method("log_prob")
        self.step = 0
        self.best = math.inf  # validation bits/dim

    def begin(self) -> None:
        """Writes the resolved configuration into a new run folder."""
        if self.fabric.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
            self.write_config()
            (self.out / "metrics.jsonl").write_text("")

    def write_config(self) -> None:
        """Writes `config.yaml`, which `nextpixel train --config` can read."""
        hyperparameters = dict(self.raw.hyperparameters)
        for given_by_data in ("shape", "levels", "classes"):
            hyperparameters.pop(given_by_data)
        config = {
            "model": {"class_path": model_name(type(self.raw)), "init_args": hyperparameters},
            "data": self.data.name,
            "levels": self.data.levels,
            "conditional": self.raw.classes is not None,
            "train": asdict(self.args),
        }
        text = yaml.safe_dump(config, sort_keys=False)
        replace_file(self.out / "config.yaml", text.encode())

    def load(self) -> None:
        """Takes the state of the last checkpoint, and forgets metrics written after it."""
        state = load_state(self.out / "state.pt")
        self.raw.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        torch.set_rng_state(state["rng"])
        if self.fabric.is_global_zero:
            self.write_config()
            metrics = self.out / "metrics.jsonl"
            lines = metrics.read_text().splitlines(keepends=True)
            kept = [line for line in lines if complete_line_until(line, self.step)]
            replace_file(metrics, "".join(kept).encode())
        self.fabric.barrier()

    def save(self) -> None:
        """Saves the state to resume from, and the averaged model as `last/`."""
        if self.fabric.is_global_zero:
            self.average.save(self.out / "last")
            state = {
                "model": self.raw.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "best": self.best,
                "rng": torch.get_rng_state(),
            }
            save_state(self.out / "state.pt", state)
        self.fabric.barrier()

    def train(self) -> None:
        """Trains to the last step."""
        args = self.args
        with (
            interrupts() as interrupted,
            metrics_log(self.out, self.step, self.fabric.is_global_zero) as log,
            progress_bar(self.step, args.steps, self.fabric.is_global_zero) as show,
        ):
            began = time.perf_counter()
            while self.step < args.steps:
                metrics = self.train_step()
                self.step += 1
                now = time.perf_counter()
                speed = args.batch_size * self.fabric.world_size / (now - began)
                began = now
                log({"step": self.step, **metrics, "images_per_second": round(speed, 1)})
                show(self.step, metrics["loss"], speed)
                last = self.step == args.steps
                if self.step % args.valid_every == 0 or last:
                    log({"step": self.step, **self.validate(show)})
                if self.step % args.save_every == 0 or last or interrupted():
                    self.save()
                if interrupted() and not last:
                    raise KeyboardInterrupt
                began += time.perf_counter() - now

    def train_step(self) -> dict[str, float]:
        """Takes one optimizer step; nothing is changed if the loss or the gradient is not finite."""
        args, step = self.args, self.step + 1
        x, c = self.batch()
        rate = learning_rate(step, args)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.fabric.autocast():  # Fabric itself wraps `forward` in it, but no other method
            nats = -self.model.log_prob(x, c).mean()
        loss = nats / (math.prod(self.raw.shape) * math.log(2))
        self.fabric.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.raw.parameters(), args.clip)
        bits = float(self.fabric.all_reduce(loss.detach()))
        if not math.isfinite(bits) or not math.isfinite(norm):
            saved = self.out / "state.pt"
            advice = (
                f"the last checkpoint in {self.out} is intact: resume it with a lower train.lr"
                if saved.exists()
                else "try a lower train.lr"
            )
            raise UserError(
                f"At step {step} the loss is {bits} and the gradient's norm {float(norm)}: training "
                f"stops; {advice}."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_average(self.average, self.raw, step, args.ema)
        return {"loss": bits, "lr": rate, "grad_norm": float(norm)}

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """Gets the images of the next step: a function of the seed and the step alone."""
        args, images = self.args, self.data.train
        rank, world = self.fabric.global_rank, self.fabric.world_size
        indices = npx_data.batch_indices(
            len(images), args.batch_size, self.step, seed=args.seed, rank=rank, world=world
        )
        x, y = images.batch(indices, (args.seed, self.step * world + rank))
        c = None if self.raw.classes is None or y is None else torch.from_numpy(y)
        device = self.fabric.device
        return torch.from_numpy(x).to(device), None if c is None else c.to(device)

    def validate(self, show: ShowStep) -> dict[str, float]:
        """Scores the averaged model, keeps it if it is the best, and draws a grid of samples."""
        if not self.fabric.is_global_zero:
            return {}
        score = evaluate(
            self.average,
            self.data.valid,
            limit=self.args.valid_images,
            progress=lambda done: show(self.step, None, None, f"validating {done:.0%}"),
        )
        if score.bits_per_dim < self.best:
            self.best = score.bits_per_dim
            self.average.save(self.out / "best")
        self.draw_samples()
        show(self.step, None, None, f"step {self.step}: validation {score}")
        return {"valid": score.bits_per_dim, "valid_error": score.bits_per_dim_error}

    def draw_samples(self) -> None:
        """Draws a small grid, the same noise every time, so that one sees the model learn."""
        classes = self.raw.classes
        columns = 8 if classes is None else min(10, classes)
        n = 4 * columns
        c = None if classes is None else np.arange(n) % columns
        picture = plots.grid(self.average.sample(n, c), self.raw.levels, columns=columns)
        plots.save_image(picture, self.out / "samples" / f"step-{self.step:07d}.png")


def complete_line_until(line: str, step: int) -> bool:
    """Tells whether a line of `metrics.jsonl` is whole and not from after a step."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except ValueError:
        return False


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Catches Ctrl-C, so that the step under way is finished; a second Ctrl-C stops at once."""
    caught = False

    def handle(number: int, frame: object) -> None:
        nonlocal caught
        if caught:
            raise KeyboardInterrupt
        caught = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: caught
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def metrics_log(out: Path, step: int, write: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """Opens the run's metrics for writing, `metrics.jsonl` and TensorBoard, after a step."""
    if not write:
        yield lambda metrics: None
        return
    with (
        (out / "metrics.jsonl").open("a", buffering=1) as file,
        SummaryWriter(str(out / "tensorboard"), purge_step=step + 1) as board,
    ):

        def log(metrics: dict[str, float]) -> None:
            if len(metrics) > 1:
                file.write(json.dumps(metrics) + "\n")
            for name, value in metrics.items():
                if name != "step":
                    board.add_scalar(name, value, int(metrics["step"]))

        yield log


class ShowStep(Protocol):
    """Shows how far training is."""

    def __call__(
        self, step: int, loss: float | None = None, speed: float | None = None, note: str = ""
    ) -> None:
        """Shows a step: its loss in bits/dim, images a second, or a note in words."""


@contextmanager
def progress_bar(step: int, steps: int, visible: bool) -> Iterator[ShowStep]:
    """Shows a bar in a terminal, and elsewhere a line now and then."""
    if not visible:
        yield lambda step, loss=None, speed=None, note="": None
        return
    console = Console(stderr=True)
    loss_shown, speed_shown = Smoothed(), Smoothed()
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=steps, completed=step, status="")
        printed = time.monotonic()

        def show(
            step: int, loss: float | None = None, speed: float | None = None, note: str = ""
        ) -> None:
            nonlocal printed
            if loss is not None and speed is not None:
                status = f"{loss_shown(loss):.4f} bits/dim, {speed_shown(speed):.0f} images/s"
            else:
                status = note
            bar.update(task, completed=step, status=status)
            lasting = note.startswith("step")
            if lasting or (not console.is_terminal and time.monotonic() - printed > 30):
                printed = time.monotonic()
                console.print(note if lasting else f"step {step}/{steps}: {status}", highlight=False)

        yield show


class Smoothed:
    """Smooths a number that is shown, so that it can be read."""

    def __init__(self) -> None:
        self.value: float | None = None

    def __call__(self, new: float) -> float:
        """Takes the next number and returns the running average."""
        self.value = new if self.value is None else 0.95 * self.value + 0.05 * new
        return self.value
