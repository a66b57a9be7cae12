"""Defines the training options and the learning rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, TypedDict

from nextpixel.errors import UserError
from nextpixel.noise import check_integer

__all__ = ["TrainArgs", "TrainOptions", "learning_rate"]

NUMBERS = ("minutes", "lr", "weight_decay", "clip", "ema", "save_minutes", "drop_context", "mutate")
WARMUP_SHARE = 0.05  # of `TrainArgs.minutes`, after which the warm-up ends whatever the steps


@dataclass(frozen=True)
class TrainArgs:
    """The training options.

    Attributes:
        steps: Number of optimizer steps.
        minutes: Longest training time in minutes, without pauses and without the last validation.
            The schedule of the learning rate then follows whichever is further, steps or time, and
            the warm-up takes at most a twentieth of the time.
        batch_size: Images per step, on each device.
        optimizer: "muon": Muon for the matrices of a network and AdamW for the rest, which learns
            more from each image than "adamw" alone (see `nextpixel.training.optimizer`).
        lr: Peak learning rate.
        schedule: The learning rate after the warm-up: "cosine" falls to a hundredth of the peak at
            the last step, "constant" stays at the peak.
        warmup: Steps over which the learning rate rises from 0.
        weight_decay: Weight decay, decoupled from the gradient as in AdamW. Without it weights walk
            at random in a long run, and the loss rises again.
        clip: Largest norm of the gradient; a larger gradient is scaled down to it.
        ema: Decay of the moving average of the weights, which is scored and saved. The first steps
            use a smaller decay. 0 turns the average off.
        precision: "bf16" computes in bfloat16 where autocast allows it, "float32" does not, "auto"
            uses bf16 where the processor supports it.
        seed: Seed of the order of the images, of dropout and, on the command line, of the initial
            weights.
        valid_every: Steps between validations, each with a preview in `samples/`.
        valid_images: Number of validation images to score, spread evenly; all by default.
        patience: Number of validations without a new best score after which training stops; it does
            not stop early by default.
        save_every: Steps between checkpoints.
        save_minutes: Minutes between checkpoints, whatever the steps.
        setbacks: How often training goes back to the last checkpoint with half the learning rate
            when the loss goes wrong, before it stops with an error.
        accumulate: Number of parts in which a batch is computed, one after the other, to use less
            memory. The gradient is that of the whole batch, up to rounding.
        drop_context: Probability that an image gets the null context in place of its own. The model
            learns the null context from these images; guidance needs it.
        checkpoint_activations: Whether to use activation checkpointing: the activations of a
            network's blocks are computed again in the backward pass. This gives the same gradient
            in less memory and more time.
        mutate: Probability that a channel of a pixel in a training image is replaced by a uniformly
            random level, anew at each step. This trains a background model for likelihood ratios
            (Ren et al., 2019). Validation images are not changed.

    Raises:
        UserError: A value is out of range, or of another type.
    """

    steps: int = 20_000
    minutes: float | None = None
    batch_size: int = 32
    optimizer: Literal["muon", "adamw"] = "muon"
    lr: float = 3e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 200
    weight_decay: float = 0.1
    clip: float = 1.0
    ema: float = 0.999
    precision: Literal["auto", "bf16", "float32"] = "auto"
    seed: int = 0
    valid_every: int = 1000
    valid_images: int | None = None
    patience: int | None = None
    save_every: int = 500
    save_minutes: float = 2.0
    setbacks: int = 2
    accumulate: int = 1
    drop_context: float = 0.0
    checkpoint_activations: bool = False
    mutate: float = 0.0

    def __post_init__(self) -> None:
        counts = (
            "steps",
            "batch_size",
            "valid_every",
            "valid_images",
            "patience",
            "save_every",
            "accumulate",
        )
        for name in counts:
            value = getattr(self, name)
            if value is None and name in ("valid_images", "patience"):
                continue
            check_integer(f"train.{name}", value)
            if value < 1:
                raise UserError(f"train.{name} must be at least 1, not {value}.")
        for name in ("seed", "warmup", "setbacks"):
            check_integer(f"train.{name}", getattr(self, name))
        for name in NUMBERS:
            value = getattr(self, name)
            if value is None and name != "minutes":
                raise UserError(f"train.{name} has no value: give a number, or leave it out.")
            if value is not None and not isinstance(value, Real):
                raise UserError(f"train.{name} is a number, not {value!r}.")
        if type(self.checkpoint_activations) is not bool:
            raise UserError("train.checkpoint_activations is true or false.")
        if self.accumulate > self.batch_size:
            raise UserError(
                f"train.accumulate must be at most train.batch_size, {self.batch_size}, not "
                f"{self.accumulate}: each part needs an image."
            )
        for name in ("lr", "clip", "minutes", "save_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"train.{name} must be above 0, not {value}.")
        for name in ("warmup", "weight_decay", "seed", "setbacks"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"train.{name} must be at least 0, not {getattr(self, name)}.")
        if self.seed >= 2**63:
            raise UserError(f"train.seed must be below 2^63, not {self.seed}.")
        if self.optimizer not in ("muon", "adamw"):
            raise UserError(f"train.optimizer is muon or adamw, not {self.optimizer}.")
        if self.schedule not in ("cosine", "constant"):
            raise UserError(f"train.schedule is cosine or constant, not {self.schedule}.")
        if self.precision not in ("auto", "bf16", "float32"):
            raise UserError(f"train.precision is auto, bf16 or float32, not {self.precision}.")
        for name in ("ema", "drop_context"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"train.{name} must lie in [0, 1), not {getattr(self, name)}.")
        if not 0 <= self.mutate <= 1:
            raise UserError(f"train.mutate must lie in [0, 1], not {self.mutate}.")


class TrainOptions(TypedDict, total=False):
    """The fields of `TrainArgs`, as keyword arguments of `fit`."""

    steps: int
    minutes: float | None
    batch_size: int
    optimizer: Literal["muon", "adamw"]
    lr: float
    schedule: Literal["cosine", "constant"]
    warmup: int
    weight_decay: float
    clip: float
    ema: float
    precision: Literal["auto", "bf16", "float32"]
    seed: int
    valid_every: int
    valid_images: int | None
    patience: int | None
    save_every: int
    save_minutes: float
    setbacks: int
    accumulate: int
    drop_context: float
    checkpoint_activations: bool
    mutate: float


def learning_rate(step: int, args: TrainArgs, seconds: float = 0.0) -> float:
    """Computes the learning rate of a step.

    Args:
        step: The step; steps count from 1.
        args: The options.
        seconds: The training time so far, which counts if `args.minutes` is given.
    """
    elapsed = 0.0 if args.minutes is None else seconds / (60 * args.minutes)
    rate = args.lr * step / args.warmup if step < args.warmup else args.lr
    rate = max(rate, args.lr * min(1.0, elapsed / WARMUP_SHARE))
    if args.schedule == "constant":
        return rate
    done = max(elapsed, max(0, step - args.warmup) / max(1, args.steps - args.warmup))
    return rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)
