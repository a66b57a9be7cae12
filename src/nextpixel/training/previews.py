"""Draws the picture that training saves at each validation, depending on the model's role."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from PIL.Image import Image

from nextpixel.conditioning.degradation import Task
from nextpixel.context import Context, ContextLike
from nextpixel.data import Dataset
from nextpixel.data.sampler import evenly_spaced
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.models.base.image_model import ImageModel
from nextpixel.models.base.latent import LatentModel
from nextpixel.tasks.reconstruction import draw_reconstructions
from nextpixel.tasks.restoration import restore, show
from nextpixel.tasks.variations import side_by_side, vary
from nextpixel.viz import images as pictures

__all__ = ["draw_preview"]


def draw_preview(model: ImageModel, data: Dataset) -> Image:
    """Draws a small grid, with the same noise at every validation.

    Args:
        model: The model; its `role` decides between samples, restorations, variations and
            reconstructions.
        data: The data set, for its validation images.
    """
    previews = {
        "sample": preview_samples,
        "prior": preview_samples,
        "restore": preview_restorations,
        "vary": preview_variations,
        "reconstruct": preview_reconstructions,
    }
    return previews[model.role](model, data)


def preview_samples(model: ImageModel, data: Dataset) -> Image:
    """Draws samples of each class in turn, or given the coarse codes of validation images."""
    classes = model.data_record.trained(model.classes)[:10]
    columns = 8 if model.classes is None else len(classes)
    n = 4 * columns
    c: ContextLike = None if model.classes is None else np.tile(classes, 4)
    if data.coarse_codes is not None:
        numbers = evenly_spaced(len(data.valid), n)
        n, c = len(numbers), model.inputs(data.valid, numbers)[1].context
    x = pictures.for_display(model.sample(n, c).numpy(force=True), data.spectrogram)
    return pictures.grid(x, model.levels, columns=columns)


def preview_reconstructions(model: ImageModel, data: Dataset) -> Image:
    """Draws reconstructions of a few validation images."""
    pixels, _ = data.valid.batch(evenly_spaced(len(data.valid), 8))
    return draw_reconstructions(cast(LatentModel, model), torch.from_numpy(pixels), draws=3)


def preview_restorations(model: ImageModel, data: Dataset) -> Image:
    """Draws restorations of a few validation images."""
    task, restorer = cast(Task, model.conditioner), cast(AutoregressiveModel, model)
    numbers = evenly_spaced(len(data.valid), 8)
    pixels, y = data.valid.batch(numbers)
    x = torch.from_numpy(pixels)
    degraded = task.degrade(x, model.levels, numbers.tolist())
    classes = None if model.classes is None else y
    draws = restore(restorer, degraded, draws=3, classes=classes)
    return show(task, degraded, draws, model.levels, x)


def preview_variations(model: ImageModel, data: Dataset) -> Image:
    """Draws variations of a few validation images."""
    x, conditioning = model.inputs(data.valid, evenly_spaced(len(data.valid), 8))
    draws = vary(cast(AutoregressiveModel, model), cast(Context, conditioning.context), draws=3)
    return side_by_side({"original": x, "variation": draws}, model.levels)
