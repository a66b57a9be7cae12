"""Reads the options --class and --guidance for a model, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nextpixel.data import DataRecord
from nextpixel.data.classes import list_classes
from nextpixel.errors import MIX_ERROR, UserError, did_you_mean
from nextpixel.model_folders import training_record

__all__ = [
    "Classes",
    "HasClasses",
    "check_guidance",
    "choose_classes",
    "class_names",
    "in_turn",
    "is_mix",
    "parse_classes",
    "refuse_guidance",
]

Classes: TypeAlias = NDArray[Any]  # class ids `(K,)`, integers; or the weights of a mix, float32


class HasClasses(Protocol):
    """A model, a generator or a program, which may have classes."""

    @property
    def levels(self) -> int:
        """A pixel is an integer in `[0, levels)`."""

    @property
    def classes(self) -> int | None:
        """Number of classes, or None."""

    @property
    def data_record(self) -> DataRecord:
        """What it keeps of its data."""


def check_guidance(name: str, guidance: float) -> None:
    """Raises a UserError for guidance of a model that has not learned the null context."""
    record = training_record(name)
    if guidance != 1 and record and not record.get("train", {}).get("drop_context"):
        refuse_guidance(name)


def refuse_guidance(name: str) -> NoReturn:
    """Raises the UserError of `check_guidance`."""
    raise UserError(
        f"{name} was trained without train.drop_context, so it has no unconditional prediction "
        "for --guidance to start from: leave it out, or train a model with it."
    )


def class_names(model: HasClasses) -> Sequence[str]:
    """Returns the names of a model's classes; their ids where the names are not known."""
    return model.data_record.class_names or [str(i) for i in range(model.classes or 0)]


def choose_classes(text: str | None, model: HasClasses) -> Classes | None:
    """Reads --class for a model, see `parse_classes`, and prints the names of the chosen classes.

    Classes that had no training images are left out of all classes.

    Raises:
        UserError: These are no classes, one had no training images, or the model has none.
    """
    names = None if model.classes is None else class_names(model)
    c = parse_classes(text, names)
    if c is None:
        return None
    trained = model.data_record.trained(model.classes)
    if text is None:
        return np.array(trained, np.int64)
    chosen = c.nonzero()[0].tolist() if is_mix(c) else c.tolist()
    for i in dict.fromkeys(chosen):
        name = (names or ())[i]
        if i not in trained:
            raise UserError(
                f"The class {name} had no training images, so that the model does not know it: "
                "leave it out."
            )
        if name != str(i):
            print(f"class {i}: {name}")
    return c


def parse_classes(text: str | None, names: Sequence[str] | None) -> Classes | None:
    """Reads --class.

    Args:
        text: The option's value, ids or names; None for all classes in turn.
        names: The names of the model's classes, or None if it has no classes.

    Returns:
        Class ids for the images to take in turn, `(K,)`; the weights of a mix, `(classes,)`, float;
        or None for an unconditional model.

    Raises:
        UserError: These are no classes, the weights do not sum to 1, or the model has no classes.
    """
    if names is None:
        if text is not None:
            raise UserError("This model is unconditional: leave --class out.")
        return None
    if text is None:
        return np.arange(len(names))
    if text in names or "=" not in text:
        parts = [text] if text in names else text.split(",")
        return np.array([class_id(part.strip(), names) for part in parts])
    weights = np.zeros(len(names), np.float32)
    for part in text.split(","):
        name, _, weight = part.rpartition("=")
        try:
            share = float(weight)
        except ValueError:
            name = ""
        if not name:
            raise UserError(
                f"--class takes a mix as 3=0.7,8=0.3, and {part} is no class with a weight."
            )
        weights[class_id(name.strip(), names)] = share
    if not abs(float(weights.sum()) - 1) <= MIX_ERROR or not bool((weights >= 0).all()):
        raise UserError(
            f"The weights of a mix sum to 1, as in 3=0.7,8=0.3, but those of {text} do not."
        )
    return weights


def class_id(text: str, names: Sequence[str]) -> int:
    """Finds a class by its id or its name.

    Raises:
        UserError: There is no such class.
    """
    if text.isdecimal() and text == str(int(text)) and int(text) < len(names):
        return int(text)  # even where other classes are named by numbers, as 1, 2, 10
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise UserError(
        f"There is no class {text}{did_you_mean(text, names)}: --class takes ids or names of the "
        f"classes {list_classes(names)}, as 3 or 3,5,8 or a mix 3=0.7,8=0.3."
    )


def in_turn(c: Classes | None, n: int) -> Classes | None:
    """Repeats class ids in turn for n images, `(n,)`; returns a mix, or None, as it is."""
    return c if c is None or is_mix(c) else c[np.arange(n) % len(c)]


def is_mix(c: Classes) -> bool:
    """Checks whether these are the weights of a mix, not class ids."""
    return c.dtype.kind == "f"
