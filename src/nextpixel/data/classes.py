"""Compares the classes of images with those of a model, by their names; sorts and lists classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError
from nextpixel.utils.words import list_names

__all__ = [
    "list_classes",
    "match_classes",
    "refuse_class",
    "sort_names",
    "translate_ids",
]


def sort_names(names: Iterable[str]) -> list[str]:
    """Sorts class names: as numbers if all are whole numbers, else as text."""
    distinct = set(names)
    if all(name.isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def match_classes(
    names: Sequence[str] | None, known: Sequence[str] | None, what: str = "these images"
) -> NDArray[np.int64] | None:
    """Finds the class ids of a model for the class ids of images, by the names of the classes.

    Args:
        names: The name of each class id of the images; None if they have only ids, which are then
            taken for those of the model.
        known: The name of each class id of the model; None if they are not known.
        what: The images, for messages.

    Returns:
        The model's id of each id of the images, `(classes,)`; None if they are the same.

    Raises:
        UserError: A class of the images is none of the model's.
    """
    if names is None or known is None or tuple(names) == tuple(known):
        return None
    ids = {name: i for i, name in enumerate(known)}
    for name in names:
        if name not in ids:
            refuse_class(name, known, what)
    return np.array([ids[name] for name in names], np.int64)


def translate_ids(
    ids: NDArray[np.int64],
    names: Sequence[str] | None,
    known: Sequence[str] | None,
    what: str = "these images",
) -> NDArray[np.int64]:
    """Returns the class ids of a model for those of images, see `match_classes`."""
    table = match_classes(names, known, what)
    return ids if table is None else table[ids]


def refuse_class(name: str, known: Sequence[str], what: str) -> NoReturn:
    """Refuses images of a class that a model has not, see `match_classes`."""
    raise UserError(
        f"The class {name} of {what} is none of the model's ({list_classes(known)}): rename the "
        "folder, or give other images."
    )


def list_classes(names: Sequence[str]) -> str:
    """Lists the names of classes for a message, with their ids where these are not the names."""
    return list_names([name if name == str(i) else f"{i} ({name})" for i, name in enumerate(names)])
