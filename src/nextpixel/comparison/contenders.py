"""The models to compare, and what each may spend on training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nextpixel import models
from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import AutoregressiveModel, autoregressive
from nextpixel.saving import find
from nextpixel.training.recipe import train_settings
from nextpixel.training.setup import make_model

__all__ = ["VALIDATIONS", "VALID_IMAGES", "Budget", "Contender", "named"]

VALIDATIONS = 5  # during a training, for its curve
VALID_IMAGES = 1000


@dataclass(frozen=True)
class Budget:
    """What each model may spend on training: optimizer steps, or seconds of them."""

    steps: int | None = None
    seconds: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.seconds is not None:
            raise UserError("The budget is a number of steps or of seconds: give one of them.")

    def __str__(self) -> str:
        if self.steps is not None:
            return f"{self.steps:,} steps"
        if self.seconds is not None:
            return f"{self.seconds:,} seconds of steps"
        return "nothing"

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return self.steps is not None or self.seconds is not None


@dataclass(frozen=True)
class Contender:
    """A model to compare.

    Attributes:
        label: Its name in the table.
        source: What the user gave: a recipe, a kind of model, a trained model.
        folder: Its run folder, or the saved model.
        settings: How to make and train it, as `train_settings` reads them; None if it is loaded.
    """

    label: str
    source: str
    folder: Path
    settings: Any = None

    @classmethod
    def read(cls, text: str, out: Path) -> Contender:
        """Reads MODEL or label=MODEL.

        Raises:
            UserError: There is no such model, or the label is no name for a folder.
        """
        label, equals, source = text.partition("=")
        if not equals or Path(text).exists():
            source, path = text, Path(text)
            label = path.stem if path.suffix in (".yaml", ".yml") else path.name
        if not re.fullmatch(r"\w[\w.+-]*", label):
            raise UserError(f"{label!r} cannot name a folder: give {source} as NAME={source}.")
        if (option := how_to_make(source)) is None:
            return cls(label, source, find_trained(source))
        with named(source):
            settings = train_settings([option, source, "--out", "-"])
        return cls(label, source, out / label, settings)

    def make(self, dataset: Dataset) -> AutoregressiveModel:
        """Makes the untrained model for a data set; the seed decides its first weights."""
        torch.manual_seed(self.settings.train.seed)
        return autoregressive(make_model(self.settings, dataset), self.source)

    def options(self, steps: int) -> dict[str, Any]:
        """Sets the budget in place of the recipe's, and validates all models alike."""
        options = dict(vars(self.settings.train))
        options["steps"] = steps
        options["warmup"] = min(options["warmup"], steps // 4)  # a short training still peaks
        options["valid_every"] = math.ceil(steps / VALIDATIONS)
        options["valid_images"] = VALID_IMAGES
        return options

    def run(self) -> Path | None:
        """Finds the folder of the training run, if it is there."""
        places = (self.folder, self.folder.parent)  # what `find` finds may be in its best/
        return next((place for place in places if (place / "metrics.jsonl").is_file()), None)


@contextmanager
def named(source: str) -> Iterator[None]:
    """Tells which of the models a mistake is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def how_to_make(source: str) -> str | None:
    """Gives the option of `nextpixel train` that a source is for; None if it is trained already."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"There is no recipe {source}: give the path of a YAML file.")
        return "--config"
    dotted = re.fullmatch(r"\w+(\.\w+)+", source) and not path.exists()
    return "--model" if source in models.__all__ or dotted else None


def find_trained(source: str) -> Path:
    """Finds the folder of a trained model."""
    try:
        return find(source)
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}; or give a recipe (a YAML file), or a kind of model "
            f"({', '.join(models.__all__)})."
        ) from None
