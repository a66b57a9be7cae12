"""The training options, and the learning rate that they set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nextpixel.errors import UserError

__all__ = ["TrainArgs", "learning_rate"]


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
        seed: Decides the order of the images, what is random in a step (dropout) and, through the
            command line, the first weights.
        valid_every: Steps between validations; each draws a grid of samples too.
        valid_images: Score only so many validation images, spread evenly; all by default.
        save_every: Steps between checkpoints.
        accumulate: In how many parts a step's batch is worked through, one after the other, to
            need less memory; the gradient is that of the whole batch, up to rounding.
        drop_context: Part of the images that are given the null context in place of their own, so
            that the model learns it, too; guidance needs that.
        checkpoint_activations: Compute the activations of a network's blocks again in the backward
            pass, to need less memory: the same gradient, in more time.
        mutate: The probability that a value of a training image (a pixel, or each channel of it) is
            replaced by a level drawn uniformly, anew at each step: so a background model for
            likelihood ratios is trained (Ren et al., 2019). Validation images stay as they are.
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
    accumulate: int = 1
    drop_context: float = 0.0
    checkpoint_activations: bool = False
    mutate: float = 0.0

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "valid_every", "valid_images", "save_every", "accumulate")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"train.{name} must be at least 1, not {value}.")
        if self.accumulate > self.batch_size:
            raise UserError(
                f"train.accumulate must be at most train.batch_size, {self.batch_size}, not "
                f"{self.accumulate}: each part has an image."
            )
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"train.{name} must be above 0, not {getattr(self, name)}.")
        for name in ("warmup", "weight_decay", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"train.{name} must be at least 0, not {getattr(self, name)}.")
        if self.seed >= 2**63:
            raise UserError(f"train.seed must be below 2^63, not {self.seed}.")
        if self.schedule not in ("cosine", "constant"):
            raise UserError(f"train.schedule is cosine or constant, not {self.schedule}.")
        if self.precision not in ("auto", "bf16", "float32"):
            raise UserError(f"train.precision is auto, bf16 or float32, not {self.precision}.")
        for name in ("ema", "drop_context"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"train.{name} must lie in [0, 1), not {getattr(self, name)}.")
        if not 0 <= self.mutate <= 1:
            raise UserError(f"train.mutate must lie in [0, 1], not {self.mutate}.")


def learning_rate(step: int, args: TrainArgs) -> float:
    """Computes the learning rate of a step; steps count from 1."""
    if step <= args.warmup:
        return args.lr * step / args.warmup
    if args.schedule == "constant":
        return args.lr
    done = (step - args.warmup) / max(1, args.steps - args.warmup)
    return args.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)
