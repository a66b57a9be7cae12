"""Scores data sets under a model: negative log-likelihood, accuracy, bits of each pixel.

A class-conditional model is also a classifier, by Bayes' rule: with a uniform prior over the
classes, the likeliest class is `argmax_c log p(x | c)`.
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

from nextpixel.context import ContextLike
from nextpixel.data.images import Images
from nextpixel.data.levels import level_type
from nextpixel.data.pictures import ImagesLike
from nextpixel.data.sampler import batches, evenly_spaced
from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.models.base.image_model import Conditioning, ImageModel
from nextpixel.sampling.config import IncrementalModel, check_integers, check_mask
from nextpixel.sampling.loop import batch_slices
from nextpixel.utils.inference import evaluation_mode
from nextpixel.utils.words import count, with_error

__all__ = [
    "DIAGNOSIS_IMAGES",
    "Classification",
    "Score",
    "as_split",
    "check_images",
    "class_log_probs",
    "classify",
    "diagnose",
    "entropy",
    "evaluate",
    "hidden_bits",
    "surprisal",
]

DIAGNOSIS_IMAGES = 500  # for `diagnose`


@dataclass(frozen=True)
class Score:
    """The mean of `-log p(x | c)` over images, with its standard error.

    `bits_per_dim` divides the bits of all images by the real sites of all images, so an image with
    padding weighs less. It is a ratio r of two means: its standard error is that of the mean of
    `nats - r sites`, divided by the mean number of sites (to first order in 1 / N; exact where all
    images have the same number).

    Attributes:
        bits_per_dim: Bits per real site.
        bits_per_dim_error: Standard error of `bits_per_dim` over the images.
        nats: Nats per image.
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
        """Summarises the nats of single images.

        Args:
            nats: `-log p(x | c)` of each image, `(N,)`.
            sites: Number of real sites of each image, `(N,)`.
        """
        values, dims = nats.double().numpy(), sites.mean()
        ratio = values.mean() / dims
        return cls(
            bits_per_dim=float(ratio / math.log(2)),
            bits_per_dim_error=standard_error(values - ratio * sites) / (float(dims) * math.log(2)),
            nats=float(values.mean()),
            nats_error=standard_error(values),
            images=len(values),
        )

    def __str__(self) -> str:
        """Writes the score in one line."""
        return (
            f"{with_error(self.bits_per_dim, self.bits_per_dim_error)} bits/dim, "
            f"{with_error(self.nats, self.nats_error, 2)} nats ({count(self.images, 'image')})"
        )


@torch.inference_mode()
def evaluate(
    model: ImageModel,
    images: Images | ImagesLike,
    *,
    limit: int | None = None,
    batch_size: int = 100,
    progress: Callable[[float], None] | None = None,
    score: Callable[[ImageModel, Tensor, Conditioning], Tensor] | None = None,
) -> Score:
    """Scores images under a model, in the precision of its weights, without autocast.

    Args:
        model: The model; each image is scored given its conditioning from `model.inputs`.
        images: The images: a split of a data set; or pictures, see `nextpixel.to_images`.
        limit: The number of images to score, spread evenly over all; all by default.
        batch_size: Images scored together.
        progress: Called with the fraction done, between 0 and 1.
        score: A function to use in place of `model.score`: takes the network, images
            `(B, C, H, W)` and their conditioning, and returns nats, `(B,)`.

    Returns:
        The score. Standard errors are `s / sqrt(N)`, with s the sample standard deviation.

    Raises:
        UserError: The images do not fit the model, or there are none.
    """
    images = as_split(model, images)
    numbers = evenly_spaced(len(images), limit)
    count = len(numbers)
    if min(count, batch_size) < 1:
        raise UserError(f"There is nothing to score: {count} images, {batch_size} at a time.")
    if images.levels != model.levels:
        raise UserError(
            f"The model is for images of {model.levels} levels, but these have {images.levels}: "
            f"load them with levels={model.levels}."
        )
    parts = []
    with evaluation_mode(model) as network:
        for batch in batches(count, batch_size, progress):
            x, conditioning = network.inputs(images, numbers[batch])
            x = x.to(model.device)
            if score is None:
                log_prob = network.score(x, conditioning.context, conditioning.mask)
            else:
                log_prob = score(network, x, conditioning)
            parts.append(-log_prob.double().cpu())
    return Score.of(torch.cat(parts), images.sites()[numbers])


def diagnose(model: ImageModel, images: Images) -> dict[str, float]:
    """Computes a model's diagnostics on up to `DIAGNOSIS_IMAGES` images.

    See `ImageModel.diagnose`.
    """
    x, conditioning = model.inputs(images, evenly_spaced(len(images), DIAGNOSIS_IMAGES))
    return model.diagnose(x, conditioning.mask)


@dataclass(frozen=True)
class Classification:
    """The accuracy and the confusion matrix of predicted classes.

    Attributes:
        accuracy: The share of images whose predicted class is the true one.
        accuracy_error: Standard error of `accuracy` over the images.
        images: Number of images classified.
        confusion: Number of images of the row's class that were predicted as the column's class,
            integers `(classes, classes)`.
    """

    accuracy: float
    accuracy_error: float
    images: int
    confusion: NDArray[np.int64]

    @classmethod
    def of(
        cls, true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
    ) -> Classification:
        """Compares predicted class ids `(N,)` with the true ones, `(N,)`."""
        correct = (true == predicted).astype(np.float64)
        confusion = np.bincount(classes * true + predicted, minlength=classes**2)
        return cls(
            accuracy=float(correct.mean()),
            accuracy_error=standard_error(correct),
            images=len(true),
            confusion=confusion.reshape(classes, classes),
        )

    def __str__(self) -> str:
        """Writes the accuracy in one line."""
        return (
            f"classifies {with_error(100 * self.accuracy, 100 * self.accuracy_error, 2)} % of "
            f"{count(self.images, 'image')} correctly, by the likeliest class"
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
    """Classifies images by the likeliest class, `argmax_c log p(x | c)`, with a uniform prior.

    This takes a pass for each class, in the precision of the model's weights, without autocast.

    Args:
        model: A class-conditional model.
        images: The images, with their true classes.
        limit: The number of images to classify, spread evenly over all; all by default.
        batch_size: Images classified together.
        progress: Called with the fraction done, between 0 and 1.

    Raises:
        UserError: The images do not fit the model, there are none, or classes are missing or
            are none of the model's.
    """
    if model.classes is None:
        raise UserError(
            "This model is unconditional and cannot classify: give one that was trained on images "
            "with classes."
        )
    images = images.subset(limit).with_class_names(model.data_record.class_names)
    check_images("The model", model, images)
    if images.y is None or images.y.max() >= model.classes:
        raise UserError(
            f"For an accuracy every image needs a class from 0 to {model.classes - 1}, but "
            + ("these have none." if images.y is None else f"one has {images.y.max()}.")
        )
    predicted = []
    with evaluation_mode(model) as network:
        for numbers in batches(len(images), batch_size, progress):
            x, _ = images.batch(numbers)
            mask = model.padding(images, numbers)
            log_probs = class_log_probs(network, torch.from_numpy(x).to(model.device), mask)
            predicted.append(log_probs.argmax(1).cpu().numpy())
    return Classification.of(images.y, np.concatenate(predicted), model.classes)


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


def standard_error(values: NDArray[np.float64]) -> float:
    """Computes the standard error of a mean, from values `(N,)`; NaN for a single one."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def as_split(model: ImageModel, images: Images | ImagesLike) -> Images:
    """Returns a split of a data set as it is, and pictures as images without classes."""
    if isinstance(images, Images):
        return images
    x = model.to_images(images).cpu().numpy()
    return Images(x.astype(level_type(model.levels)), None, model.levels)


def check_images(name: str, model: ImageModel, images: Images) -> None:
    """Checks that there are images, of a model's shape and levels; classes may differ.

    Args:
        name: The model's name for the message, at the beginning of a sentence.
        model: The model.
        images: The images.

    Raises:
        UserError: There are none, or they do not fit.
    """
    if not len(images):
        raise UserError("There is nothing to score: 0 images.")
    shape = images.x.shape[1:]
    if (shape, images.levels) != (model.shape, model.levels):
        raise UserError(
            f"{name} is for images {model.shape} with {model.levels} levels, but these are "
            f"{tuple(shape)} with {images.levels}: give images that fit the model."
        )


@torch.inference_mode()
def hidden_bits(model: IncrementalModel, x: Tensor, mask: Tensor, c: ContextLike = None) -> Tensor:
    """Computes the bits of hidden pixels, each given the true pixels before it.

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
    check_mask(mask, x.shape)
    context = model.context(c, len(x))
    bits = []
    with evaluation_mode(model) as network:
        for part in batch_slices(len(x)):
            images = x[part].to(model.device)
            distribution = network(images, None if context is None else context[part])
            bits.append(distribution.log_prob(images).cpu() / -math.log(2))
    return torch.cat(bits).masked_fill(mask.cpu(), 0)


# --- bits -----------------------------------------------------------------------------------------


def surprisal(model: AutoregressiveModel, x: ImagesLike, c: ContextLike = None) -> Tensor:
    """Computes the surprisal of each pixel: its bits, given the pixels before it.

    Args:
        model: The model.
        x: Images, integers `(N, C, H, W)`; or pictures, see `nextpixel.to_images`.
        c: Their context.

    Returns:
        `-log2 p(pixel)`, summed over the channels, `(N, H, W)`; an image's sum is its code length.
    """
    x = x if isinstance(x, Tensor) else model.to_images(x)
    return hidden_bits(model, x, torch.zeros(x.shape, dtype=torch.bool), c).sum(1)


@torch.inference_mode()
def entropy(model: AutoregressiveModel, x: ImagesLike, c: ContextLike = None) -> Tensor:
    """Computes the entropy of each pixel's distribution: its expected surprisal, in bits.

    Args:
        model: The model.
        x: Images, integers `(N, C, H, W)`; or pictures, see `nextpixel.to_images`.
        c: Their context.

    Returns:
        `-sum_v p(v) log2 p(v)`, summed over the channels, `(N, H, W)`. A channel's distribution is
        given the true channels before it.
    """
    x = x if isinstance(x, Tensor) else model.to_images(x)
    with evaluation_mode(model) as network:
        pmf = network(x.to(model.device), c).pmf()
    bits: Tensor = torch.special.entr(pmf).sum((1, -1)) / math.log(2)
    return bits.cpu()
