"""Scores of a data set with their uncertainty: its negative log-likelihood, and the accuracy.

A class-conditional model is a classifier for free, by Bayes' rule: where all classes are equally
likely before the image is seen, the likeliest class after that is `argmax_c log p(x | c)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel.data.images import Images, batches, spread
from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.models.base.image_model import ImageModel
from nextpixel.sampling.config import IncrementalModel, check_integers, check_mask
from nextpixel.sampling.loop import batch_slices
from nextpixel.utils import inference
from nextpixel.utils.inference import evaluation_mode

__all__ = [
    "DIAGNOSED",
    "Classification",
    "Score",
    "check_images",
    "class_log_probs",
    "classify",
    "diagnose",
    "entropy",
    "evaluate",
    "hidden_bits",
    "judge",
    "surprise",
]

DIAGNOSED = 500  # images that a model tells more about than their score


@dataclass(frozen=True)
class Score:
    """The mean of `-log p(x | c)` over images, and the standard error of that mean.

    Bits/dim are those of all images together, divided by their sites and channels together: an
    image with padding has fewer real ones, and weighs less. This is a ratio r of two means, so that
    its standard error is that of the mean of `nats - r sites`, divided by the mean of the sites (to
    first order in 1 / N; exactly where all images have as many).

    Attributes:
        bits_per_dim: In bits, divided by the number of real sites and channels.
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

    @classmethod
    def of(cls, nats: Tensor, sites: NDArray[np.int64]) -> Score:
        """Sums up the nats of single images, `(N,)`, with so many real sites and channels each."""
        values, dims = nats.double().numpy(), sites.mean()
        ratio = values.mean() / dims

        def error(of: NDArray[np.float64]) -> float:
            return float(of.std(ddof=1)) / math.sqrt(len(of)) if len(of) > 1 else math.nan

        return cls(
            bits_per_dim=float(ratio / math.log(2)),
            bits_per_dim_error=error(values - ratio * sites) / (float(dims) * math.log(2)),
            nats=float(values.mean()),
            nats_error=error(values),
            images=len(values),
        )

    def __str__(self) -> str:
        """Writes the score in one line."""
        return (
            f"{self.bits_per_dim:.4f} ± {self.bits_per_dim_error:.4f} bits/dim, "
            f"{self.nats:.2f} ± {self.nats_error:.2f} nats ({self.images:,} images)"
        )


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
        model: The model; each image is scored with what `model.inputs` gives, such as its class.
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
        for batch in batches(count, batch_size, progress):
            x, given = model.inputs(images, numbers[batch])
            x = x.to(model.device)
            nats = score(x) if score else model.score(x, given.context, given.mask)
            parts.append(-nats.double().cpu())
    return Score.of(torch.cat(parts), images.sites()[numbers])


def diagnose(model: ImageModel, images: Images) -> dict[str, float]:
    """Computes what else a model tells of some of these images, see `ImageModel.diagnose`."""
    x, given = model.inputs(images, spread(len(images), DIAGNOSED))
    return model.diagnose(x, given.mask)


@dataclass(frozen=True)
class Classification:
    """How often the likeliest class of an image is the true one.

    Attributes:
        accuracy: The share of the images whose likeliest class is the true one.
        accuracy_error: Standard error of `accuracy` over the images.
        images: Number of images classified.
        confusion: How many images of the class of the row were taken for that of the column,
            integers `(classes, classes)`.
    """

    accuracy: float
    accuracy_error: float
    images: int
    confusion: NDArray[np.int64]

    def __str__(self) -> str:
        """Writes the accuracy in one line."""
        return (
            f"classifies {100 * self.accuracy:.2f} ± {100 * self.accuracy_error:.2f} % of "
            f"{self.images:,} images correctly, by the likeliest class"
        )


@torch.inference_mode()
def classify(
    model: AutoregressiveModel,
    images: Images,
    *,
    limit: int | None = None,
    batch_size: int = 100,
    progress: Callable[[float], None] | None = None,
) -> Classification:
    """Classifies images by the likeliest class, `argmax_c log p(x | c)`: all are equal before.

    It takes a pass for each class, in the precision of the model's weights, without autocast.

    Args:
        model: A class-conditional model.
        images: The images, with their true classes.
        limit: Classify only so many, spread evenly over all.
        batch_size: Images classified together.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The accuracy and the confusions. The accuracy's standard error is `s / sqrt(N)`, s the
        deviation (N - 1) of 1 for a right class and 0 for a wrong one.

    Raises:
        UserError: The images do not fit the model, there are none, or classes are missing.
    """
    if model.classes is None:
        raise UserError(
            "This model is unconditional and cannot classify: take one that was trained on images "
            "with classes."
        )
    images = images.spread(limit)
    check_images("The model", model, images)
    if images.y is None or images.y.max() >= model.classes:
        raise UserError(
            f"To tell whether a class is right, every image needs one from 0 to "
            f"{model.classes - 1}, but "
            + ("these have none." if images.y is None else f"one has {images.y.max()}.")
        )
    likeliest = []
    with evaluation_mode(model):
        for numbers in batches(len(images), batch_size, progress):
            x, _ = images.batch(numbers)
            mask = model.padding(images, numbers)
            given = class_log_probs(model, torch.from_numpy(x).to(model.device), mask)
            likeliest.append(given.argmax(1).cpu().numpy())
    return judge(images.y, np.concatenate(likeliest), model.classes)


def judge(true: NDArray[np.int64], chosen: NDArray[np.int64], classes: int) -> Classification:
    """Compares the classes chosen for N images with the true ones, ids `(N,)` both."""
    count = len(true)
    confusion = np.bincount(classes * true + chosen, minlength=classes**2)
    right = true == chosen
    error = right.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    table = confusion.reshape(classes, classes)
    return Classification(float(right.mean()), float(error), count, table)


def class_log_probs(model: AutoregressiveModel, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Computes log p(x | c) for every class c of a class-conditional model.

    Args:
        model: The model.
        x: Integers `(B, C, H, W)`.
        mask: True at pixels that carry no bits, broadcastable to x.

    Returns:
        Nats, `(B, classes)`, float64.
    """
    classes = range(cast(int, model.classes))
    return torch.stack([model.log_prob(x, c, mask).double() for c in classes], 1)


def check_images(what: str, model: ImageModel, images: Images) -> None:
    """Checks that there are images, of a model's shape and levels; the classes may be others."""
    if not len(images):
        raise UserError("There is nothing to score: 0 images.")
    shape = images.x.shape[1:]
    if (shape, images.levels) != (model.shape, model.levels):
        raise UserError(
            f"{what} is for images {model.shape} with {model.levels} levels, but these are "
            f"{tuple(shape)} with {images.levels}: give images, and models, that fit each other."
        )


@torch.inference_mode()
def hidden_bits(model: IncrementalModel, x: Tensor, mask: Tensor, c: object = None) -> Tensor:
    """Computes the bits of the hidden pixels, each given the true pixels before it.

    Args:
        model: The model.
        x: The true images, integers `(N, C, H, W)`.
        mask: True at known pixels, broadcastable to `(N, C, H, W)`.
        c: The context: one for all images, or one for each.

    Returns:
        `-log2 p(pixel | pixels before it)` at hidden pixels and 0 at known ones, `(N, C, H, W)`,
        on the CPU. Their sum is the length of an ideal code for the hidden pixels.

    Raises:
        UserError: An argument does not fit the model.
    """
    check_integers(x)
    check_mask(mask)
    context = model.context(c, len(x))
    bits = []
    with evaluation_mode(model):
        for part in batch_slices(len(x)):
            images = x[part].to(model.device)
            distribution = model(images, None if context is None else context[part])
            bits.append(distribution.log_prob(images).cpu() / -math.log(2))
    return torch.cat(bits).masked_fill(mask.cpu(), 0)


# --- bits -----------------------------------------------------------------------------------------


def surprise(model: AutoregressiveModel, x: Tensor, c: object = None) -> Tensor:
    """Computes how many bits each pixel costs, given those before it.

    Args:
        model: The model.
        x: Images, integers `(N, C, H, W)`.
        c: Their context.

    Returns:
        `-log2 p(pixel)`, summed over the channels, `(N, H, W)`; an image's sum is its code length.
    """
    return hidden_bits(model, x, torch.zeros(x.shape, dtype=torch.bool), c).sum(1)


@torch.inference_mode()
def entropy(model: AutoregressiveModel, x: Tensor, c: object = None) -> Tensor:
    """Computes how many bits each pixel was expected to cost, before it was known.

    Args:
        model: The model.
        x: Images, integers `(N, C, H, W)`.
        c: Their context.

    Returns:
        `-sum_v p(v) log2 p(v)`, summed over the channels, `(N, H, W)`. A channel's distribution is
        the one given the true channels before it.
    """
    with inference.evaluation_mode(model):
        pmf = model(x.to(model.device), c).pmf()
    bits: Tensor = torch.special.entr(pmf).sum((1, -1)) / math.log(2)
    return bits.cpu()
