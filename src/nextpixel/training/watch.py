"""Watches the loss of a training run, and notices when training has gone wrong."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["DivergenceError", "LossWatch"]

SMOOTHING = 0.1  # weight of the newest loss in the moving average, if it is of ENOUGH images
ENOUGH = 16
PATIENCE = 100  # steps without a new low after which a loss above a uniform guess is a failure


class DivergenceError(Exception):
    """Training has gone wrong at a step; the message says how, and begins with the step."""


@dataclass
class LossWatch:
    """Follows a moving average of the loss, in bits/dim.

    Its fields are numbers, so that a checkpoint can store them.

    Attributes:
        uniform: The loss of a uniform guess, log2(levels).
        warmup: Steps of the warm-up.
        images: Images of a step. The loss of a few may be high by chance, so each counts less.
        average: The moving average; None before the first step.
        lowest: Its lowest value so far.
        lowest_step: The step of the lowest value.
    """

    uniform: float
    warmup: int
    images: int = ENOUGH
    average: float | None = None
    lowest: float = math.inf
    lowest_step: int = 0

    @property
    def limit(self) -> float:
        """The average from which on training has lost half of what it had learned."""
        learned = self.uniform - self.lowest
        if learned < 0.05 * self.uniform:
            return math.inf
        return self.lowest + max(0.5 * learned, 0.05 * self.uniform)

    def is_calm(self, loss: float) -> bool:
        """Checks that the loss of a step does not begin a jump, so that its state may be saved."""
        return loss <= self.limit

    def check(self, step: int, loss: float) -> None:
        """Adds the loss of a step.

        Raises:
            DivergenceError: The loss has jumped, or is above a uniform guess and does not fall.
        """
        # Clipped, so that a single bad batch is not taken for a jump.
        loss = min(loss, 2 * self.uniform)
        old = loss if self.average is None else self.average
        self.average = old + SMOOTHING * min(1.0, self.images / ENOUGH) * (loss - old)
        if self.average < self.lowest:
            self.lowest, self.lowest_step = self.average, step
        elif self.average > self.limit:
            raise DivergenceError(
                f"At step {step:,} the loss has risen to {self.average:.3f} bits/dim, from "
                f"{self.lowest:.3f} at step {self.lowest_step:,}"
            )
        elif (
            self.average > 1.05 * self.uniform
            and step > self.warmup
            and step > self.lowest_step + PATIENCE
        ):
            raise DivergenceError(
                f"At step {step:,} the loss is {self.average:.3f} bits/dim, above the "
                f"{self.uniform:.3f} of a uniform guess, and has not fallen for {PATIENCE} steps"
            )

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint stores."""
        return {name: asdict(self)[name] for name in ("average", "lowest", "lowest_step")}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""
        for name in ("average", "lowest", "lowest_step"):
            setattr(self, name, state[name])
