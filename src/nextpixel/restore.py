"""Restoring degraded images by exact conditional models p(clean | degraded).

One degraded image has many originals that fit. Drawn restorations show them; their mean is the
single image nearest to them all, and their deviation says where they differ.

Example:
    >>> model = npx.load("mnist-inpaint")
    >>> degraded = model.task.degrade(x, model.levels, numbers=range(len(x)))
    >>> draws = restore(model, degraded, draws=8)  # (8, B, C, H, W)
    >>> pictures = show(draws, degraded, model.levels)
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nextpixel import plots
from nextpixel.autoregressive import AutoregressiveModel
from nextpixel.errors import UserError
from nextpixel.restoration import Degraded, Task, baseline, baseline_name

__all__ = ["restore", "show"]


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
        classes: The classes, if the model takes them, see `Takes.read`.
        how: Other arguments of `sampling.sample`.

    Returns:
        Integers in `[0, levels)`, `(draws, B, C, H, W)`, int64, on the CPU. Known pixels are kept.

    Raises:
        UserError: The model restores no images, or not such ones.
    """
    if model.task is None:
        raise UserError(
            "This model is not given degraded images: train one with --task to restore images."
        )
    count = len(degraded.image)
    parts = {"classes": classes, "image": degraded.image}
    context = model.context({name: part for name, part in parts.items() if part is not None}, count)
    again = torch.arange(count).repeat(draws)
    if degraded.known is not None:
        known = degraded.picture(model.levels)
        how |= {"known": known[again], "mask": degraded.known[again]}
    x = model.sample(len(again), None if context is None else context[again], **how)
    return torch.unflatten(x, 0, (draws, count))


def show(
    task: Task,
    degraded: Degraded,
    draws: Tensor,
    levels: int,
    x: Tensor | None = None,
) -> Image.Image:
    """Lays out a row an image: what is given, restorations, their mean and where they differ.

    Args:
        task: What was done to the images.
        degraded: The images that were restored.
        draws: Their restorations, `(draws, B, C, H, W)`; of one alone there are no mean and no
            differences to show.
        levels: Number of levels of the restorations.
        x: The original images, integers `(B, C, H, W)`, or None if they are not known.
    """
    columns = {
        "given": given_picture(task, degraded, levels),
        baseline_name(task): bytes_of(baseline(task, degraded, levels), levels),
    }
    for number, drawn in enumerate(draws, 1):
        columns[f"restored {number}"] = plots.to_uint8(drawn, levels)
    if len(draws) > 1:
        columns["mean of these"] = bytes_of(draws.double().mean(0), levels)
        columns["where they differ"] = plots.heat_map(uncertainty(draws))
    if x is not None:
        columns["original"] = plots.to_uint8(x, levels)
    return plots.side_by_side(columns, 256)


def uncertainty(draws: Tensor) -> Tensor:
    """Computes the standard deviation of the restorations at each pixel, in levels.

    Args:
        draws: `(draws, B, C, H, W)`, two draws at least.

    Returns:
        The root of the mean variance of the channels, `(B, H, W)`.
    """
    return draws.double().var(0).mean(1).sqrt()


def given_picture(task: Task, degraded: Degraded, levels: int) -> plots.Pixels:
    """Makes of what is given a picture of the size of the restored one."""
    picture = degraded.picture(levels)
    if degraded.known is not None:
        return plots.hide(picture, degraded.known, levels)
    pixels = plots.to_uint8(picture, levels)
    if task.name == "super-resolution":
        pixels = pixels.repeat(task.factor, -1).repeat(task.factor, -2)
    return pixels


def bytes_of(x: Tensor, levels: int) -> plots.Pixels:
    """Turns real numbers in `[0, levels - 1]` into bytes."""
    return plots.to_uint8((x.double() * 255 / (levels - 1)).round().long(), 256)
