"""Restoring degraded images by exact conditional models p(clean | degraded).

One degraded image has many originals that fit it. Drawn restorations show them; their mean is the
single image nearest to them all, and their deviation says where they differ.

Example:
    >>> model = npx.load("mnist-inpaint")
    >>> degraded = model.conditioner.degrade(x, model.levels, numbers=range(len(x)))
    >>> draws = restore(model, degraded, draws=8)  # (8, B, C, H, W)
    >>> show(model.conditioner, degraded, draws, model.levels, x).save("restored.png")
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextpixel.conditioning.degradation import Degraded, Task
from nextpixel.context import Context
from nextpixel.errors import UserError
from nextpixel.evaluation.image_quality import Quality, quality
from nextpixel.evaluation.likelihood import Score
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.sampling import loop
from nextpixel.tasks.restoration_baselines import baseline, baseline_name
from nextpixel.utils import inference
from nextpixel.viz import images as pictures

__all__ = ["qualities", "restore", "score", "show", "uncertainty"]


def restore(
    model: AutoregressiveModel,
    degraded: Degraded,
    *,
    draws: int = 4,
    classes: object = None,
    **how: Any,
) -> Tensor:
    """Draws restorations from p(clean | degraded), exactly.

    Args:
        model: A model that was trained for a task.
        degraded: The images, degraded by this task.
        draws: How many restorations to draw of each.
        classes: The classes, if the model takes them, see `ContextSpec.read`.
        how: Other arguments of `sampling.sample`.

    Returns:
        Integers in `[0, levels)`, `(draws, B, C, H, W)`, int64, on the CPU. Known pixels are kept.

    Raises:
        UserError: The model restores no images, or not such ones.
    """
    if model.role != "restore":
        raise UserError(
            "This model is not conditioned on degraded images: train one with --task to restore "
            "images."
        )
    count, context = len(degraded), context_of(model, degraded, classes)

    def draw(again: Tensor) -> Tensor:
        known: dict[str, Any] = {}
        if degraded.mask is not None:
            known = {"x": degraded.pixels(model.levels)[again], "mask": degraded.mask[again]}
        here = None if context is None else context[again]
        return model.sample(len(again), here, **known, **how)

    return loop.repeat_draws(draw, count, draws)


@torch.inference_mode()
def score(
    model: AutoregressiveModel,
    x: Tensor,
    degraded: Degraded,
    classes: object = None,
    batch_size: int = 100,
) -> Score:
    """Scores p(clean | degraded), exactly; known pixels carry no bits.

    Args:
        model: A model that was trained for a task.
        x: The original images, integers `(B, C, H, W)`.
        degraded: The same images, degraded.
        classes: The classes, if the model takes them.
        batch_size: Images scored together.
    """
    context = context_of(model, degraded, classes)
    nats = []
    with inference.evaluation_mode(model):
        for some in torch.split(torch.arange(len(x)), batch_size):
            mask = None if degraded.mask is None else degraded.mask[some].to(model.device)
            of_some = None if context is None else context[some]
            nats.append(-model.log_prob(x[some].to(model.device), of_some, mask).double().cpu())
    return Score.of(torch.cat(nats), np.full(len(x), math.prod(model.shape)))


def context_of(model: AutoregressiveModel, degraded: Degraded, classes: object) -> Context | None:
    """Makes the context of degraded images."""
    parts = {"classes": classes, "image": degraded.image}
    given = {name: part for name, part in parts.items() if part is not None}
    return model.context(given, len(degraded))


def qualities(
    task: Task, degraded: Degraded, draws: Tensor, levels: int, x: Tensor
) -> dict[str, Quality]:
    """Compares restorations with the originals, beside those of the task's simple method.

    Args:
        task: What was done to the images.
        degraded: The degraded images.
        draws: Their restorations, `(draws, B, C, H, W)`.
        levels: Number of levels of the images.
        x: The original images, integers `(B, C, H, W)`.

    Returns:
        The quality of the mean of the draws (the best guess by squared error, and so by PSNR), of
        a single draw and of the simple method, by their names.
    """
    count = len(draws)
    found = (
        {} if count == 1 else {f"mean of {count} draws": quality(x, draws.double().mean(0), levels)}
    )
    found["one draw"] = quality(x, draws[0], levels)
    found[baseline_name(task)] = quality(x, baseline(task, degraded, levels), levels)
    return found


def show(
    task: Task, degraded: Degraded, draws: Tensor, levels: int, x: Tensor | None = None
) -> Image.Image:
    """Lays out a row an image: what is given, restorations, their mean and where they differ.

    Args:
        task: What was done to the images.
        degraded: The degraded images.
        draws: Their restorations, `(draws, B, C, H, W)`: four at most are shown; of one alone there
            are no mean and no differences.
        levels: Number of levels of the restorations.
        x: The original images, integers `(B, C, H, W)`, or None if they are not known.
    """
    columns = {
        "given": given_picture(task, degraded),
        baseline_name(task): pictures.real_to_uint8(baseline(task, degraded, levels), levels),
    }
    for number, drawn in enumerate(draws[:4], 1):
        columns[f"restored {number}"] = pictures.to_uint8(drawn, levels)
    if len(draws) > 1:
        columns[f"mean of {len(draws)}"] = pictures.real_to_uint8(draws.double().mean(0), levels)
        columns["where they differ"] = pictures.heat_map(uncertainty(draws))
    if x is not None:
        columns["original"] = pictures.to_uint8(x, levels)
    return pictures.side_by_side(columns, 256)


def uncertainty(draws: Tensor) -> Tensor:
    """Computes the standard deviation of the restorations at each pixel, in levels.

    Args:
        draws: `(draws, B, C, H, W)`, two draws at least.

    Returns:
        The root of the mean variance of the channels, `(B, H, W)`.
    """
    return draws.double().var(0).mean(1).sqrt()


def given_picture(task: Task, degraded: Degraded) -> pictures.Pixels:
    """Makes of what is given a picture of the size of the restored one."""
    if degraded.mask is not None:
        return pictures.tint_unknown(degraded.picture, degraded.mask, 256)
    pixels = pictures.to_uint8(degraded.picture, 256)
    if task.name == "super-resolution":
        pixels = pixels.repeat(task.factor, -1).repeat(task.factor, -2)
    return pixels
