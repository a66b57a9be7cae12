"""Restores degraded images with exact conditional models p(clean | degraded).

Many originals fit one degraded image. Samples of restorations show them; the mean of the samples is
the best single estimate by squared error, and their standard deviation shows where they differ.

Example:
    >>> model = npx.load("mnist-inpaint")
    >>> degraded = model.conditioner.degrade(x, model.levels, numbers=range(len(x)))
    >>> draws = restore(model, degraded, draws=8)  # (8, B, C, H, W)
    >>> show(model.conditioner, degraded, draws, model.levels, x).save("restored.png")
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextpixel.conditioning.degradation import Degraded, Task
from nextpixel.context import Context, ContextPart
from nextpixel.data.pictures import ImagesLike, to_model_images
from nextpixel.errors import UserError
from nextpixel.evaluation.image_quality import Quality, quality
from nextpixel.evaluation.likelihood import Score
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.sampling import loop
from nextpixel.sampling.config import CompleteOptions, MaskLike
from nextpixel.tasks.restoration_baselines import baseline, baseline_name
from nextpixel.utils.inference import evaluation_mode
from nextpixel.viz import images as pictures

__all__ = ["SHOWN", "qualities", "restore", "score", "show", "uncertainty"]

SHOWN = 16  # restorations of an image that `show` has room for


def restore(
    model: AutoregressiveModel,
    degraded: Degraded | ImagesLike,
    *,
    mask: MaskLike | None = None,
    draws: int = 4,
    classes: ContextPart | None = None,
    **options: Unpack[CompleteOptions],
) -> Tensor:
    """Samples restorations from p(clean | degraded), exactly.

    Args:
        model: A model trained for a restoration task.
        degraded: The images, degraded by this task; or degraded pictures, see
            `nextpixel.to_images`.
        mask: Inpaint, with pictures: true at known pixels, `(H, W)` for all pictures or
            `(B, 1, H, W)`.
        draws: Number of restorations of each image.
        classes: The classes, if the model is class-conditional, see `ContextSpec.read`.
        options: Other arguments of `sampling.sample`.

    Returns:
        Integers in `[0, levels)`, `(draws, B, C, H, W)`, int64, on the CPU. Known pixels are kept.

    Raises:
        UserError: The model was not trained for restoration, or the images do not fit it.
    """
    if model.role != "restore":
        raise UserError(
            "This model is not conditioned on degraded images: train one with --task to restore "
            "images."
        )
    if not isinstance(degraded, Degraded):
        degraded = from_pictures(model, degraded, mask)
    elif mask is not None:
        raise UserError("These images carry their mask of known pixels: leave mask out.")
    context = make_context(model, degraded, classes)

    def sample(numbers: Tensor) -> Tensor:
        known: dict[str, Any] = {}
        if degraded.mask is not None:
            known = {"x": degraded.pixels(model.levels)[numbers], "mask": degraded.mask[numbers]}
        part = None if context is None else context[numbers]
        return model.sample(len(numbers), part, **known, **options)

    return loop.repeat_draws(sample, len(degraded), draws)


def from_pictures(
    model: AutoregressiveModel, pictures: ImagesLike, mask: MaskLike | None
) -> Degraded:
    """Reads degraded pictures, see `restore`."""
    task = model.conditioner
    assert isinstance(task, Task)  # by the model's role
    shape = model.shape if task.name == "inpaint" else task.context_shape(model.shape)
    if task.name == "inpaint" and mask is None:
        raise UserError("Say which pixels of the pictures are known: give a mask.")
    x = to_model_images(pictures, shape, 256)
    x = x if isinstance(pictures, Tensor) else x.to(torch.uint8)
    return task.from_pictures(x, model.shape, model.levels, mask)


@torch.inference_mode()
def score(
    model: AutoregressiveModel,
    x: Tensor,
    degraded: Degraded,
    classes: ContextPart | None = None,
    batch_size: int = 100,
) -> Score:
    """Scores p(clean | degraded), exactly; known pixels carry no bits.

    Args:
        model: A model trained for a restoration task.
        x: The original images, integers `(B, C, H, W)`.
        degraded: The same images, degraded.
        classes: The classes, if the model is class-conditional.
        batch_size: Images scored together.
    """
    context = make_context(model, degraded, classes)
    nats = []
    with evaluation_mode(model) as network:
        for numbers in torch.split(torch.arange(len(x)), batch_size):
            mask = None if degraded.mask is None else degraded.mask[numbers].to(model.device)
            part = None if context is None else context[numbers]
            nats.append(-network.log_prob(x[numbers].to(model.device), part, mask).double().cpu())
    return Score.of(torch.cat(nats), np.full(len(x), math.prod(model.shape)))


def make_context(
    model: AutoregressiveModel, degraded: Degraded, classes: ContextPart | None
) -> Context | None:
    """Makes the context of degraded images."""
    parts = {"classes": classes, "image": degraded.image}
    parts = {name: part for name, part in parts.items() if part is not None}
    return model.context(parts, len(degraded))


def qualities(
    task: Task, degraded: Degraded, draws: Tensor, levels: int, x: Tensor
) -> dict[str, Quality]:
    """Measures the quality of restorations, and that of the task's baseline.

    Args:
        task: The degradation.
        degraded: The degraded images.
        draws: Their restorations, `(draws, B, C, H, W)`.
        levels: Number of levels of the images.
        x: The original images, integers `(B, C, H, W)`.

    Returns:
        Name -> quality: of the mean of the draws (the best estimate by squared error, and so by
        PSNR), of a single draw, and of the baseline.
    """
    measured = {}
    if len(draws) > 1:
        measured[f"mean of {len(draws)} draws"] = quality(x, draws.double().mean(0), levels)
    measured["one draw"] = quality(x, draws[0], levels)
    measured[baseline_name(task)] = quality(x, baseline(task, degraded, levels), levels)
    return measured


def show(
    task: Task, degraded: Degraded, draws: Tensor, levels: int, x: Tensor | None = None
) -> Image.Image:
    """Lays out a row for each image: the degraded one, restorations, their mean and deviation.

    Args:
        task: The degradation.
        degraded: The degraded images.
        draws: Their restorations, `(draws, B, C, H, W)`. At most `SHOWN` are shown; the mean and
            the deviation need two.
        levels: Number of levels of the restorations.
        x: The original images, integers `(B, C, H, W)`, or None if they are unknown.
    """
    columns = {
        "given": degraded_picture(task, degraded),
        baseline_name(task): pictures.real_to_uint8(baseline(task, degraded, levels), levels),
    }
    for number, restored in enumerate(draws[:SHOWN], 1):
        columns[f"restored {number}"] = pictures.to_uint8(restored, levels)
    if len(draws) > 1:
        columns[f"mean of {len(draws)}"] = pictures.real_to_uint8(draws.double().mean(0), levels)
        columns["where they differ"] = pictures.heat_map(uncertainty(draws))
    if x is not None:
        columns["original"] = pictures.to_uint8(x, levels)
    return pictures.side_by_side(columns, 256)


def uncertainty(draws: Tensor) -> Tensor:
    """Computes the standard deviation of the restorations at each pixel, in levels.

    Args:
        draws: `(draws, B, C, H, W)`, at least two draws.

    Returns:
        The root of the mean variance over the channels, `(B, H, W)`.
    """
    return draws.double().var(0).mean(1).sqrt()


def degraded_picture(task: Task, degraded: Degraded) -> pictures.Pixels:
    """Returns the degraded images at the size of the restored ones."""
    if degraded.mask is not None:
        return pictures.tint_unknown(degraded.picture, degraded.mask, 256)
    pixels = pictures.to_uint8(degraded.picture, 256)
    if task.name == "super-resolution":
        pixels = pixels.repeat(task.factor, -1).repeat(task.factor, -2)
    return pixels
