"""Defines the models to compare, and what each may spend on training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import AutoregressiveModel, autoregressive
from nextpixel.training.recipes import Recipe
from nextpixel.utils.words import count

__all__ = ["VALIDATIONS", "VALID_IMAGES", "Budget", "Contender", "error_prefix"]

VALIDATIONS = 5  # per training, for the curves
VALID_IMAGES = 1000


@dataclass(frozen=True)
class Budget:
    """Limits the training of each model, by optimizer steps or by seconds of them.

    Raises:
        UserError: Both are given.
    """

    steps: int | None = None
    seconds: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.seconds is not None:
            raise UserError("The budget is a number of steps or of seconds: give one of them.")

    def __str__(self) -> str:
        if self.steps is not None:
            return count(self.steps, "step")
        if self.seconds is not None:
            return f"{count(self.seconds, 'second')} of steps"
        return "nothing"

    @property
    def given(self) -> bool:
        """Whether a budget is set."""
        return self.steps is not None or self.seconds is not None


@dataclass(frozen=True)
class Contender:
    """A model to compare.

    Attributes:
        label: Its name in the table.
        source: What the user named: a recipe, a kind of model, or a trained model.
        folder: Its run folder, or the saved model.
        recipe: How to make and train it; None if it is loaded.
    """

    label: str
    source: str
    folder: Path
    recipe: Recipe | None = None

    @property
    def to_train(self) -> Recipe:
        """The recipe of a model that is trained.

        Raises:
            ValueError: The model is loaded.
        """
        if self.recipe is None:
            raise ValueError(f"{self.label} is loaded, not trained.")
        return self.recipe

    def make(self, dataset: Dataset) -> AutoregressiveModel:
        """Makes the untrained model for a data set; the recipe's seed decides its weights."""
        torch.manual_seed(self.to_train.train["seed"])
        return autoregressive(self.to_train.make_model(dataset), self.source)

    def train_options(self, steps: int) -> dict[str, Any]:
        """Returns the recipe's `TrainArgs` with these steps, and the same validations for all."""
        options = dict(self.to_train.train)
        options["steps"] = steps
        options["warmup"] = min(options["warmup"], steps // 4)  # a short training still peaks
        options["valid_every"] = math.ceil(steps / VALIDATIONS)
        options["valid_images"] = VALID_IMAGES
        return options

    def run_folder(self) -> Path | None:
        """Finds the folder of the training run, if there is one."""
        places = (self.folder, self.folder.parent)  # a loaded model may lie in the run's best/
        return next((place for place in places if (place / "metrics.jsonl").is_file()), None)


@contextmanager
def error_prefix(source: str) -> Iterator[None]:
    """Puts the model's name before the message of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
