"""Compares the data of a training with those that its run was begun with, and records them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nextpixel.data import DataRecord, Dataset
from nextpixel.errors import UserError
from nextpixel.latents.codes import absolute_name
from nextpixel.models.base.image_model import ImageModel
from nextpixel.utils.files import user_path
from nextpixel.utils.reading import mapping, read_json, refusing_damage
from nextpixel.utils.words import list_names

__all__ = ["begun_record", "check_digest", "record_for", "warn_of_untrained", "with_absolute_paths"]


def begun_record(out: Path) -> DataRecord:
    """Reads what a run has recorded of its data; an empty record if it has not begun.

    Raises:
        UserError: The record is damaged, so that nothing can be compared with it.
    """
    file = out / "last" / "config.json"
    if not file.is_file():
        return DataRecord()
    # Without it nobody knows what the run was trained on.
    remedy = "take another copy of the run, or begin a new one by another --out"
    with refusing_damage(file, "configuration of a model", remedy):
        return DataRecord.from_settings(mapping(read_json(file)))


def check_digest(begun: DataRecord, data: Dataset, out: Path) -> None:
    """Checks that the user's own data are those that a run was begun with.

    Raises:
        UserError: They are not.
    """
    if begun.digest is not None and not (data.own and data.digest == begun.digest):
        raise UserError(
            f"{data.name} ({data.source}) is not what {out} was begun with: the data have changed, "
            "or were read with other options; to train on with them as they are now, add "
            "--accept-changed-data (in Python accept_changed_data=True)."
        )


def record_for(model: ImageModel, data: Dataset) -> DataRecord:
    """Returns the record of a data set for a model, whose classes keep names that they have."""
    record = replace(data.record, digest=data.digest if data.own else None)
    if model.classes is None:
        return replace(record, class_names=None, untrained=())
    before = model.data_record
    if before.class_names is not None:
        never = set(data.with_class_names(before.class_names).classes_without_images())
        never &= set(before.untrained)  # the others had images before
        record = replace(record, class_names=before.class_names, untrained=tuple(sorted(never)))
    return record


def warn_of_untrained(model: ImageModel, data: Dataset) -> None:
    """Warns of the classes of a model that had no training images."""
    names = model.data_record.class_names or ()
    untrained = [names[i] for i in model.data_record.untrained]
    if untrained:
        warnings.warn(
            f"{data.name} has no training images of {len(untrained)} of the {model.classes} "
            f"classes ({list_names(untrained)}): the model cannot learn them, and nextpixel "
            "sample leaves them out.",
            stacklevel=3,
        )


def with_absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the paths of the data absolute, so that a run finds them from any folder."""
    absolute = dict(settings)
    if "data" in settings:
        absolute["data"] = absolute_name(str(settings["data"]))
    for name in ("data_dir", "features", "from"):
        if name in settings and user_path(settings[name]).exists():
            absolute[name] = str(user_path(settings[name]).absolute())
    return absolute
