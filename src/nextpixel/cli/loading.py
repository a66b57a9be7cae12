"""Loads the models, the data sets and the images that a command names, from plain values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nextpixel.cli.options import parse_classes
from nextpixel.data import Dataset
from nextpixel.data.catalogue import NAMED
from nextpixel.data.user_data import shape_options
from nextpixel.errors import UserError, did_you_mean
from nextpixel.latents import codes
from nextpixel.latents.generator import LatentGenerator, holds_bundle
from nextpixel.models.base.autoregressive import AutoregressiveModel, autoregressive
from nextpixel.models.base.image_model import ImageModel, load
from nextpixel.models.base.latent import LatentModel
from nextpixel.saving import bundles, judges, shipped, training_record

if TYPE_CHECKING:
    pass

__all__ = [
    "check_guidance",
    "check_name",
    "choose_classes",
    "class_names",
    "load_any_model",
    "load_bundle",
    "load_for",
    "load_model",
    "load_model_data",
    "load_model_or_latent",
    "refuse_moved",
]

Shape = tuple[int, int, int]


# --- models ---------------------------------------------------------------------------------------


def load_any_model(
    name: str, device: torch.device | str = "cpu", *, trust: bool = False
) -> ImageModel:
    """Loads a model of any kind, by its name or folder.

    Args:
        name: Its name or folder.
        device: Where to put the weights.
        trust: See `nextpixel.load`.

    Raises:
        UserError: There is no such model, or it is not trusted.
    """
    check_name(name)
    return load(name, device=device, trust=trust)


def check_name(name: str, kinds: Sequence[str] = ()) -> None:
    """Checks for a misspelt name of a pretrained model.

    Args:
        name: The name or folder that the user gave.
        kinds: Other names that the command takes.

    Raises:
        UserError: There is no such name or folder, but a name nearly like it.
    """
    names = [*kinds, *shipped(), *bundles(), *judges()]
    if name not in names and not Path(name).exists() and (guess := did_you_mean(name, names)):
        raise UserError(f"There is no model {name}{guess}; nextpixel models lists them all.")


def load_bundle(
    name: str, device: torch.device | str = "cpu", *, trust: bool = False
) -> LatentGenerator | None:
    """Loads a VQ-VAE with its prior; returns None for a model or folder of another kind."""
    return LatentGenerator.load(name, device=device, trust=trust) if holds_bundle(name) else None


def load_model(
    name: str,
    device: torch.device | str = "cpu",
    *,
    conditioned: bool = False,
    trust: bool = False,
) -> AutoregressiveModel:
    """Loads an autoregressive model.

    Args:
        name: Its name or folder.
        device: Where to put the weights.
        conditioned: Whether the command can handle a model that is conditioned on a degraded image
            or on features.
        trust: See `nextpixel.load`.

    Raises:
        UserError: There is no such model, or the command cannot handle its kind.
    """
    model = load_any_model(name, device, trust=trust)
    return autoregressive_model(model, name, conditioned=conditioned)


def load_model_or_latent(
    name: str, device: torch.device | str = "cpu", *, trust: bool = False
) -> AutoregressiveModel | LatentModel:
    """Loads an autoregressive model, or one with a latent code.

    Raises:
        UserError: There is no such model, or it is conditioned on more than a class.
    """
    model = load_any_model(name, device, trust=trust)
    return model if isinstance(model, LatentModel) else autoregressive_model(model, name)


def autoregressive_model(
    model: ImageModel, name: str, *, conditioned: bool = False
) -> AutoregressiveModel:
    """Checks that the command can handle a loaded model, see `load_model`."""
    found = autoregressive(model, name)
    if found.conditioner is not None and not conditioned:
        raise UserError(
            f"{name} is conditioned on {found.conditioner.in_words()}: {found.conditioner.advice}."
        )
    return found


def check_guidance(name: str, guidance: float) -> None:
    """Raises a UserError for guidance of a model that has not learned the null context."""
    record = training_record(name)
    if guidance != 1 and record and not record.get("train", {}).get("drop_context"):
        raise UserError(
            f"{name} was trained without train.drop_context, so it has no unconditional prediction "
            "for --guidance to start from: leave it out, or train a model with it."
        )


def class_names(model: ImageModel | LatentGenerator) -> Sequence[str]:
    """Returns the names of a model's classes; their ids where the names are not known."""
    return model.data_record.class_names or [str(i) for i in range(model.classes or 0)]


def choose_classes(text: str | None, model: ImageModel | LatentGenerator) -> torch.Tensor | None:
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
        return torch.tensor(trained)
    chosen = c.nonzero()[:, 0].tolist() if c.is_floating_point() else c.tolist()
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


# --- data sets ------------------------------------------------------------------------------------


def load_model_data(
    model: ImageModel,
    name: str,
    data: str | None = None,
    data_dir: str | Path | None = None,
    *,
    trust: bool = False,
) -> Dataset:
    """Loads data for a model: by default those that it was trained on.

    Args:
        model: The model.
        name: Its name or folder, where the record of its training is found.
        data: The data set, as for `load_for`; None for the data that the model was trained on.
        data_dir: Folder to search first.
        trust: See `nextpixel.load`, for the model of codes:RUN.

    Raises:
        UserError: There are no such data, or they do not fit the model.
    """
    dataset = load_named_or_own(name, data, model.shape, model.levels, data_dir, trust=trust)
    model.check_dataset(dataset)
    digest = model.data_record.digest
    if data is None and digest is not None and dataset.digest != digest:
        raise UserError(
            f"The data that {name} was trained on ({dataset.source}) have changed since, so that "
            "the test images may have been trained on: name data by --data to use them as they are."
        )
    if model.data_record.class_names is not None:
        dataset = dataset.with_class_names(model.data_record.class_names)
    return dataset


def load_named_or_own(
    name: str,
    data: str | None,
    shape: Shape,
    levels: int,
    data_dir: str | Path | None,
    *,
    trust: bool = False,
) -> Dataset:
    """Loads a data set; by default the one that the model of this name was trained on."""
    if data is None:
        record = training_record(name)
        data, data_dir = record.get("data"), data_dir or record.get("data_dir")
        refuse_moved(name, data)
    if data is None:
        raise UserError(f"It is not known which data {name} was trained on: give --data.")
    return load_for(data, shape, levels, data_dir, trust=trust)


def refuse_moved(name: str, data: str | None) -> None:
    """Refuses a model whose own data are no longer where they were.

    Args:
        name: Its name or folder.
        data: The data that it was trained on, with an absolute path.

    Raises:
        UserError: There is no such path.
    """
    path = Path((data or "").removeprefix("wavs:"))
    if path.is_absolute() and not path.exists():
        raise UserError(
            f"The data of {name} are not at {data}: name the place where they are by --data."
        )


def load_for(
    data: str,
    shape: Shape,
    levels: int,
    data_dir: str | Path | None = None,
    *,
    trust: bool = False,
) -> Dataset:
    """Loads a data set with these levels, and a folder's pictures in this shape `(C, H, W)`."""
    resize, channels = (None, None) if is_known_name(data) else shape_options(shape, Path(data))
    return codes.load_data(
        data, levels=levels, data_dir=data_dir, resize=resize, channels=channels, trust=trust
    )


def is_known_name(name: str) -> bool:
    """Checks whether a data set of the catalogue has this name."""
    return name in NAMED
