"""Loads the models, the data sets and the images that a command names, from plain values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from nextpixel.data import Dataset
from nextpixel.data.catalogue import NAMED
from nextpixel.data.user_data import shape_options
from nextpixel.errors import UserError, did_you_mean
from nextpixel.latents import codes
from nextpixel.latents.generator import LatentGenerator, holds_bundle
from nextpixel.model_folders import bundles, judges, shipped, training_record
from nextpixel.models.base.autoregressive import AutoregressiveModel, autoregressive
from nextpixel.models.base.image_model import ImageModel, load
from nextpixel.models.base.latent import LatentModel

__all__ = [
    "check_name",
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
    if (path.is_absolute() or path.suffix == ".npz") and not path.exists():
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
