"""Scores: the negative log-likelihood of a data set, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nextpixel.data import Images
from nextpixel.errors import UserError
from nextpixel.model import AutoregressiveModel
from nextpixel.sampling import evaluation_mode

__all__ = ["Score", "evaluate"]


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


@torch.inference_mode()
def evaluate(
    model: AutoregressiveModel,
    images: Images,
    *,
    limit: int | None = None,
    batch_size: int = 100,
    progress: Callable[[float], None] | None = None,
) -> Score:
    """Scores images under a model, in the precision of its weights, without autocast.

    Args:
        model: The model; a class-conditional one is scored given the images' true classes.
        images: The images.
        limit: Score only so many, spread evenly over all.
        batch_size: Images scored together.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The score. Its standard error is `s / sqrt(N)`, s the deviation (N - 1) over the images.

    Raises:
        UserError: The images do not fit the model, or there are none.
    """
    images = images.spread(limit)
    count = len(images)
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
            indices = np.arange(begin, min(begin + batch_size, count))
            x, y = images.batch(indices)
            c = None if model.classes is None or y is None else torch.from_numpy(y)
            parts.append(-model.log_prob(torch.from_numpy(x).to(model.device), c).double().cpu())
            if progress is not None:
                progress((begin + len(x)) / count)
    nats = torch.cat(parts)
    mean = nats.mean().item()
    error = nats.std().item() / math.sqrt(count) if count > 1 else math.nan
    bits = 1 / (math.prod(model.shape) * math.log(2))
    return Score(mean * bits, error * bits, mean, error, count)
