"""Finds the folders of saved models and reads what they say, without PyTorch."""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from nextpixel.data.catalogue import NAMED
from nextpixel.errors import UserError
from nextpixel.utils.reading import (
    mapping,
    read_json,
    read_regular,
    read_yaml,
    refusing_damage,
)

__all__ = [
    "FORMAT",
    "MOVED",
    "TRAINING",
    "SavedModel",
    "bundles",
    "check_trusted",
    "find",
    "judges",
    "read_folder",
    "recorded_classes",
    "renamed_options",
    "shipped",
    "training_record",
    "up_to_date",
]

FORMAT = 1  # of config.json
RENAMED = {"located": "spatial"}  # hyperparameters that had another name before 0.2
# Only the classifier is saved by its dotted path: models in nextpixel.models have bare names.
CLASSIFIER = "nextpixel.conditioning.classifier.Classifier"
# Hyperparameters added in 0.2, with the values that models saved before it were trained with.
ADDED = {model: {"max_log_scale": 40.0} for model in ("PixelCNNPP", "PixelSNAIL")}
MOVED = {"nextpixel.classifier.Classifier": CLASSIFIER}  # its path before 0.2
TRAINING = "training.yaml"  # in a bundle, a copy of the run's configuration beside config.json


def shipped() -> dict[str, Path]:
    """Lists the pretrained models by name, with their folders."""
    return _folders("weights", "config.json")


def bundles() -> dict[str, Path]:
    """Lists the pretrained VQ-VAEs with priors by name, with their folders."""
    return _folders("weights", "bundle.json")


def judges() -> dict[str, Path]:
    """Lists the pretrained classifiers, which score sample quality, by name, with their folders."""
    return _folders("judges", "config.json")


def _folders(part: str, record: str) -> dict[str, Path]:
    """Lists the folders of the package's `part` that hold a file named `record`."""
    folder = Path(str(importlib.resources.files("nextpixel"))) / part
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{record}"))}


def find(name: str | Path) -> Path:
    """Finds the folder of a saved model.

    Args:
        name: The name of a pretrained model, a run folder (its best model, else its last one), a
            folder with a `config.json`, or a file in it.

    Raises:
        UserError: There is no such model.
    """
    pretrained = shipped() | judges()
    if str(name) in pretrained:
        return pretrained[str(name)]
    path = bundles().get(str(name), Path(name))
    folder = path.parent if path.suffix in (".json", ".safetensors") else path
    for candidate in (folder, folder / "best", folder / "last"):
        if (candidate / "config.json").is_file():
            return candidate
    if (path / "bundle.json").is_file():
        raise UserError(
            f"{name} holds a VQ-VAE and its prior: use nextpixel sample or complete, or name its "
            "folder decoder or prior."
        )
    problem = "has no saved model" if path.exists() else "does not exist"
    raise UserError(
        f"{name} {problem}: give a run folder, a folder with a config.json, or a pretrained model "
        f"({', '.join([*shipped(), *bundles()]) or 'none'})."
    )


def training_record(name: str | Path) -> dict[str, Any]:
    """Reads how a model was trained from its card, or from its run's configuration.

    Returns:
        The entries of the first of these files that exists, the name of the data as "data" and the
        training options as "train"; empty without such a file. There is no "data" if a run was
        trained on data made in Python.

    Raises:
        UserError: There is no such model, or the file is damaged.
    """
    folder = find(name)
    for file in (folder / "card.json", folder / TRAINING, folder.parent / "config.yaml"):
        if file.is_file():
            with refusing_damage(file, "card", "take another copy, or give --data"):
                found = read_json(file) if file.suffix == ".json" else read_yaml(file)
                record = renamed_options(mapping(found))
                for option in ("data", "data_dir"):
                    if not isinstance(record.get(option), str | None):
                        raise TypeError(f"{option} is {record[option]!r:.60}")
            if record.get("data") is None:
                record.pop("data", None)
            return record
    return {}


def recorded_classes(folder: Path, classes: int) -> tuple[str, ...] | None:
    """Finds the names of the classes of a model that was saved without them.

    Args:
        folder: The folder that `Model.save` wrote.
        classes: Number of classes.

    Returns:
        The names of the classes of the data set of the catalogue that the model was trained on;
        None if it was trained on other data, or it is not known on which.
    """
    with suppress(UserError):  # a damaged record
        entry = NAMED.get(str(training_record(folder).get("data")))
        if entry is not None and entry.class_names and len(entry.class_names) == classes:
            return entry.class_names
    return None


def renamed_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a run that was begun before 0.2, as this version names them.

    Such a run trained by AdamW, which was the only optimizer.
    """
    renamed = {"resize" if name == "size" else name: value for name, value in settings.items()}
    if isinstance(train := renamed.get("train"), Mapping):
        renamed["train"] = {"optimizer": "adamw", "weight_decay": 1e-4, **train}
    return renamed


class SavedModel(NamedTuple):
    """What the folder of a saved model holds.

    Attributes:
        name: The name or the dotted path of its class, see `nextpixel.saving.model_name`.
        hyperparameters: The arguments of the class, as this version names them.
        weights: The content of a safetensors file.
        config: `config.json`, see `nextpixel.saving.Model.save`.
    """

    name: str
    hyperparameters: dict[str, Any]
    weights: bytes
    config: dict[str, Any]


def read_folder(folder: Path, *, trust: bool = False) -> SavedModel:
    """Reads the folder that `Model.save` wrote, and checks the hash of the weights.

    Args:
        folder: The folder.
        trust: Whether to read a model that is not nextpixel's own, see `check_trusted`.

    Raises:
        UserError: The folder is damaged, or not trusted.
    """
    file, remedy = folder / "config.json", "save the model again, or take another copy"
    with refusing_damage(file, "configuration of a model", remedy):
        config = mapping(read_json(file))
        name = str(config["model"])
        hyperparameters = up_to_date(name, mapping(config["hyperparameters"]))
        weights, digest = folder / Path(config["weights"]).name, config["sha256"]
        saved_format, there = config["format"], weights.is_file()
        if type(saved_format) is not int:
            raise TypeError(f"format is {saved_format!r:.60}")
    if saved_format != FORMAT:
        raise UserError(
            f"{folder} was saved in format {saved_format}, and this version of nextpixel reads "
            f"format {FORMAT}: install the version that wrote it."
        )
    check_trusted(name, file, trust)
    if not there:
        raise UserError(f"{weights} is missing: take another copy of the model's whole folder.")
    with refusing_damage(weights, "file of weights", "take another copy of the model"):
        data = read_regular(weights)
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{weights} is damaged (wrong sha256): take another copy of the model.")
    return SavedModel(name, hyperparameters, data, config)


def up_to_date(model: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Renames hyperparameters of a model saved before 0.2, and adds those that were constants."""
    renamed = {RENAMED.get(name, name): value for name, value in hyperparameters.items()}
    return ADDED.get(model, {}) | renamed


def check_trusted(name: str, file: Path, trust: bool) -> None:
    """Refuses a file that names a class outside nextpixel, unless the caller trusts it.

    Finding the class imports its module, and that runs the module's code: a folder from a
    stranger, with a module beside it, could do anything.

    Args:
        name: The name or the dotted path of a class, from the file.
        file: The file, for the message.
        trust: Whether the caller trusts it.

    Raises:
        UserError: It is not trusted.
    """
    known = "." not in name or name.startswith("nextpixel.models.") or name in (CLASSIFIER, *MOVED)
    if not trust and not known:
        raise UserError(
            f"{file} names a model that is not nextpixel's, {name}, and loading it runs that "
            "module's code: if you trust it, add --trust, or trust=True in Python."
        )
