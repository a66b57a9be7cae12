"""Scores: the negative log-likelihood of a data set, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel.data.images import Images, spread
from nextpixel.errors import UserError
from nextpixel.model import Given, ImageModel
from nextpixel.sampling import evaluation_mode

__all__ = ["Score", "evaluate", "told"]


@dataclass(frozen=True)
class Score:
    """The mean of `-log p(x | c)` over images, and the standard error of that mean.

    Attributes:
        bits_per_dim: In bits, divided by the number of sites and channels.
        bits_per_dim_error: Standard error of `bits_per_dim` over the images.
        nats: In nats an image.
        nats_error: Standard error of `nats` over the images.
        images: Number of images scored.
    """

    bits_per_dim: float
    bits_per_dim_error: float
    nats: float
    nats_error: float
    images: int

    def __str__(self) -> str:
        """Writes the score in one line."""
        return (
            f"{self.bits_per_dim:.4f} ± {self.bits_per_dim_error:.4f} bits/dim, "
            f"{self.nats:.2f} ± {self.nats_error:.2f} nats ({self.images:,} images)"
        )


def told(
    model: ImageModel, images: Images, numbers: NDArray[np.integer[Any]], seed: int = 0
) -> tuple[Tensor, Given]:
    """Gets images by their numbers, and what the model is told about them, see `given`."""
    pixels, ids = images.batch(numbers)
    x, y = torch.from_numpy(pixels), None if ids is None else torch.from_numpy(ids)
    return x, model.given(x, y, numbers.tolist(), seed)


@torch.inference_mode()
def evaluate(
    model: ImageModel,
    images: Images,
    *,
    limit: int | None = None,
    batch_size: int = 100,
    progress: Callable[[float], None] | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
) -> Score:
    """Scores images under a model, in the precision of its weights, without autocast.

    Args:
        model: The model; it is told of each image what `model.given` says, as its true class.
        images: The images.
        limit: Score only so many, spread evenly over all.
        batch_size: Images scored together.
        progress: Called with the fraction done, between 0 and 1.
        score: What to compute of images in place of `model.score`, `(B, C, H, W)` -> `(B,)` nats.

    Returns:
        The score. Its standard error is `s / sqrt(N)`, s the deviation (N - 1) over the images.

    Raises:
        UserError: The images do not fit the model, or there are none.
    """
    numbers = spread(len(images), limit)
    count = len(numbers)
    if min(count, batch_size) < 1:
        raise UserError(f"There is nothing to score: {count} images, {batch_size} at a time.")
    if images.levels != model.levels:
        raise UserError(
            f"The model is for images of {model.levels} levels, but these have {images.levels}: "
            f"load them with levels={model.levels}."
        )
    parts = []
    with evaluation_mode(model):
        for begin in range(0, count, batch_size):
            x, given = told(model, images, numbers[begin : begin + batch_size])
            x = x.to(model.device)
            nats = score(x) if score else model.score(x, given.context, given.known)
            parts.append(-nats.double().cpu())
            if progress is not None:
                progress((begin + len(x)) / count)
    costs = torch.cat(parts)
    mean = costs.mean().item()
    error = costs.std().item() / math.sqrt(count) if count > 1 else math.nan
    bits = 1 / (math.prod(model.shape) * math.log(2))
    return Score(mean * bits, error * bits, mean, error, count)
