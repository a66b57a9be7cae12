"""Trains a model on a data set: the function behind `nextpixel train`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from lightning_fabric import Fabric

from nextpixel.conditioning.conditioner import CoarseCodes
from nextpixel.data import Dataset
from nextpixel.data.arrays import dataset_from_arrays
from nextpixel.data.catalogue import NAMED, refuse_inside
from nextpixel.data.pictures import ImagesLike
from nextpixel.data.user_data import shape_options
from nextpixel.errors import UserError
from nextpixel.evaluation.model_checks import refuse_leak
from nextpixel.latents.codes import load_data
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.models.base.image_model import ImageModel
from nextpixel.training.begun import (
    begun_record,
    check_digest,
    record_for,
    warn_of_untrained,
    with_absolute_paths,
)
from nextpixel.training.config import TrainArgs, TrainOptions
from nextpixel.training.launch import interrupts, launched, make_fabric
from nextpixel.training.report import report_run
from nextpixel.training.run_folder import locked, refuse_begun
from nextpixel.training.trainer import Run
from nextpixel.utils.denormals import denormals_as_zero
from nextpixel.utils.files import user_path

__all__ = ["fit", "prepare"]


def fit(
    model: ImageModel,
    data: str | Path | Dataset | ImagesLike | Mapping[str, Any],
    *,
    out: str | Path,
    resume: bool = False,
    data_dir: str | Path | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    accept_changed_data: bool = False,
    **options: Unpack[TrainOptions],
) -> Path:
    """Trains a model by maximum likelihood, and saves the best and the last one.

    The best model has the lowest negative log-likelihood on the validation split. `report.html` in
    the run folder shows the curves, samples over time and the options.

    Args:
        model: The model; trained in place, and in evaluation mode afterwards (dropout is off).
        data: A data set, its name or path for `nextpixel.load_data` (the pictures of a folder are
            cropped and resized to a square model), or pictures for `nextpixel.to_images`, of which
            a tenth is kept for validation and another one for testing. Pictures with classes are a
            dictionary: x, and class ids y; or x_train, y_train, x_valid, ... .
        out: The run folder.
        resume: Resume the run from the folder's last checkpoint.
        data_dir: Where to look for data first.
        device: "auto", "cpu", "cuda" or "cuda:N".
        settings: Other options of the command line to save in `config.yaml`, which resuming there
            needs again (where the data came from, the number of threads).
        accept_changed_data: Whether a run may resume on own data that have changed since it began.
        options: Fields of `TrainArgs`.

    Returns:
        The run folder.

    Raises:
        UserError: The data do not fit the model, or are not those that the run was begun with; the
            folder holds another run, or is inside the data; there is nothing to resume; or training
            went wrong more often than `setbacks`.
        Stopped: A signal (Ctrl-C, SIGTERM, SIGHUP) has stopped the run; a checkpoint is saved
            first. It is a KeyboardInterrupt.
    """
    try:
        args = TrainArgs(**options)
    except TypeError as error:
        raise UserError(f"A training option is unknown or of the wrong type: {error}.") from None
    if isinstance(data, (str, Path)):
        source = {"data": str(data)}
        if data_dir is not None:
            source["data_dir"] = str(data_dir)
        settings = {**source, **(settings or {})}
        path = user_path(data)
        known = str(data) in NAMED
        resize, channels = (None, None) if known else shape_options(model.shape, path)
        data = load_data(
            data, levels=model.levels, data_dir=data_dir, resize=resize, channels=channels
        )
    elif not isinstance(data, Dataset):
        data = from_pictures(model, data)
    out, settings = Path(out), with_absolute_paths(settings or {})
    if not resume:
        refuse_begun(out)
    if resume:
        begun = begun_record(out)
        if not accept_changed_data:
            check_digest(begun, data, out)
        if begun.class_names is not None:  # they never change
            model.data_record = replace(
                model.data_record, class_names=begun.class_names, untrained=begun.untrained
            )
    elif (location := settings.get("data", data.location)) is not None:
        refuse_inside(out, location)
    data = prepare(model, data, args)
    own_class = not type(model).__module__.startswith("nextpixel.")
    if own_class and isinstance(model, AutoregressiveModel):
        refuse_leak(model)
    warn_of_untrained(model, data)
    fabric = make_fabric(device, args.precision)
    with (
        launched(fabric),
        run_lock(out, fabric),
        denormals_as_zero(),
        interrupts() as interrupted,
    ):
        if not resume:
            refuse_begun(out)  # another process may have begun meanwhile
        Run(fabric, model, data, args, out, settings).train(resume, interrupted)
    model.eval()
    if fabric.is_global_zero:
        report_run(out, model, data)
    return out


def run_lock(out: Path, fabric: Fabric) -> AbstractContextManager[None]:
    """Keeps the run folder for this process, on the first of all ranks."""
    return locked(out) if fabric.is_global_zero else nullcontext()


def from_pictures(model: ImageModel, data: ImagesLike | Mapping[str, Any]) -> Dataset:
    """Makes a data set of pictures, see `fit`."""
    arrays: dict[str, Any] = dict(data) if isinstance(data, Mapping) else {"x": data}
    for name, value in arrays.items():
        if name.startswith("y"):
            arrays[name] = np.asarray(value)
        elif name != "levels":
            arrays[name] = model.to_images(value).cpu().numpy()
    if model.levels > 256:
        raise UserError(f"Pictures have up to 256 levels, but the model has {model.levels}.")
    arrays["levels"] = np.array(model.levels)
    return dataset_from_arrays(Path("pictures"), arrays, model.shape[0], None)


def prepare(model: ImageModel, data: Dataset, args: TrainArgs) -> Dataset:
    """Checks that model, data and options fit, and records the data set in the model.

    Returns:
        The data to train on.

    Raises:
        UserError: They do not fit.
    """
    if data.coarse_codes is not None and model.conditioner is None:
        model.conditioner = CoarseCodes()
    model.check_dataset(data)
    model.data_record = record_for(model, data)
    if model.data_record.class_names is not None:
        data = data.with_class_names(model.data_record.class_names)
    if args.drop_context and not model.context_spec.parts:
        raise UserError(
            "train.drop_context drops contexts, but this model is unconditional: leave it out."
        )
    if args.mutate:
        data.train.refuse_padding("Training with train.mutate")
        data = replace(data, train=replace(data.train, mutation_rate=args.mutate))
    return data
