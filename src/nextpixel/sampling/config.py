"""The options of sampling, the noise of each image, and the pixels that are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypedDict, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel import noise as streams
from nextpixel.context import Context, ContextLike
from nextpixel.data.pictures import ImagesLike, to_model_images
from nextpixel.distributions import Distribution
from nextpixel.errors import UserError
from nextpixel.nn import Cache, Site
from nextpixel.noise import check_integer

__all__ = [
    "CommonOptions",
    "CompleteOptions",
    "IncrementalModel",
    "MaskLike",
    "SampleOptions",
    "Sampler",
    "SamplingConfig",
    "TraceOptions",
    "as_mask",
    "check_count",
    "check_integers",
    "check_mask",
    "check_temperature",
    "known_pixels",
    "site_noise",
]


class IncrementalModel(Protocol):
    """A model that the generation loop can sample from, one site at a time."""

    shape: tuple[int, int, int]
    levels: int
    training: bool

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def context(self, c: ContextLike, batch: int) -> Context | None:
        """Turns the context that a user gave into one row for each image."""

    def __call__(self, x: Tensor, c: ContextLike = None) -> Distribution:
        """Computes the distributions of all sites of whole images."""

    def start(self, batch: int, c: ContextLike = None) -> Cache:
        """Makes the cache for a batch."""

    def step(self, x: Tensor, site: Site, cache: Cache) -> Distribution:
        """Computes the distribution at a site from the pixels before it."""


MaskLike: TypeAlias = Tensor | NDArray[np.bool_]

# Ways to sample; all give the same images.
#   "auto": the fastest of the following for the model and the device.
#   "cached": pixel by pixel, with a cache of what earlier pixels contribute.
#   "engine": the model is compiled to a program that runs in C (see `nextpixel.engine`): with the
#       same bits on every machine, in any batch. "auto" takes it for nextpixel's own models on the
#       CPU. It may also work for your layers: compare its images with those of "cached" before you
#       rely on it.
#   "full": pixel by pixel, with a full forward pass for each. Slow; the reference for the others.
#   "fixed-point": guesses all pixels at once and repeats until nothing changes, see `fixed_point`.
#       "auto" takes it for a model that has no cached path.
Sampler = Literal["auto", "engine", "cached", "full", "fixed-point"]


@dataclass(frozen=True, eq=False)
class SamplingConfig:
    """The options that all sampling functions share.

    Attributes:
        seed: Together with an image's number decides its noise.
        temperature: Divides the logits, see `Distribution.pmf`.
        guidance: Scales the step from the null context to the given one, in log-probability: 1
            samples from the model, more exaggerates what the context asks for, 0 ignores it. Other
            values than 1 change the distribution and double the time.
        x: Pixels to keep, integers, `(n, C, H, W)` or one image for all; or pictures, see
            `nextpixel.to_images`.
        mask: True where x is kept, booleans, broadcastable to `(n, C, H, W)`.
        numbers: The number of each image; 0 to n - 1 if None. Images with the same number have the
            same noise, and differ only by their contexts.
        sampler: One of `Sampler`.

    Raises:
        UserError: A number is out of range, or there is no such sampler.

    References:
        Ho, Salimans: Classifier-Free Diffusion Guidance, 2022 (https://arxiv.org/abs/2207.12598),
        for guidance; here it is exact, level by level.
    """

    seed: int = 0
    temperature: float = 1.0
    guidance: float = 1.0
    x: ImagesLike | None = None
    mask: MaskLike | None = None
    numbers: Sequence[int] | None = None
    sampler: Sampler = "auto"

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 <= self.guidance < math.inf:
            raise UserError(f"guidance must be at least 0, not {self.guidance}.")
        if self.sampler not in get_args(Sampler):
            samplers = ", ".join(get_args(Sampler))
            raise UserError(f"There is no sampler {self.sampler!r}: choose {samplers}.")

    @property
    def copies(self) -> int:
        """How often each image is computed: guidance needs the null context, too."""
        return 1 if self.guidance == 1 else 2

    def begin(
        self, model: IncrementalModel, n: int, c: ContextLike
    ) -> tuple[Context | None, Tensor, tuple[Tensor, Tensor] | None]:
        """Makes the context, the noise and the known pixels of a batch of n images.

        Returns:
            The context (with guidance, followed by n null contexts), the noise `(n, C, H, W)`, and
            the known pixels with their mask, or None.
        """
        context = model.context(c, n)
        if self.copies == 2:
            if context is None:
                raise UserError("guidance needs a context, and this model is unconditional.")
            context = context.cat(context.null())
        noise = site_noise(model.shape, self.seed, self.numbers_of(n))
        return context, noise.to(model.device), known_pixels(model, self.x, self.mask, n)

    def numbers_of(self, n: int) -> Sequence[int]:
        """Returns the numbers of n images.

        Raises:
            UserError: There are more or fewer numbers than images.
        """
        numbers = range(n) if self.numbers is None else self.numbers
        if len(numbers) != n:
            raise UserError(f"{n} images need {n} numbers, not {len(numbers)}.")
        return numbers


class CommonOptions(TypedDict, total=False):
    """The options of `ImageModel.sample` that every model takes.

    See `SamplingConfig` and `sample` for what they mean.
    """

    seed: int
    temperature: float
    numbers: Sequence[int] | None
    batch_size: int
    progress: Callable[[float], None] | None


class CompleteOptions(CommonOptions, total=False):
    """The options of `complete`."""

    guidance: float
    sampler: Sampler
    passes: Callable[[int], object] | None


class SampleOptions(CompleteOptions, total=False):
    """The options of `sample`."""

    x: ImagesLike | None
    mask: MaskLike | None


class TraceOptions(TypedDict, total=False):
    """The options of `trace`, `film` and `fixed_point`: the attributes of `SamplingConfig`."""

    seed: int
    temperature: float
    guidance: float
    x: ImagesLike | None
    mask: MaskLike | None
    numbers: Sequence[int] | None
    sampler: Sampler


def site_noise(shape: tuple[int, int, int], seed: int, numbers: Sequence[int]) -> Tensor:
    """Draws a uniform number for each site of each image.

    Args:
        shape: `(C, H, W)` of one image.
        seed: Not negative.
        numbers: The numbers of the images, not negative.

    Returns:
        Noise in `[0, 1)`, `(len(numbers), C, H, W)`, float64, on the CPU. The noise of image k
        depends only on `(seed, k)`.

    Raises:
        UserError: The seed or a number is out of range.
    """
    return torch.from_numpy(streams.site_noise(shape, seed, numbers))


def known_pixels(
    model: IncrementalModel, x: ImagesLike | None, mask: MaskLike | None, batch: int
) -> tuple[Tensor, Tensor] | None:
    """Checks the known pixels and their mask and expands both to the batch.

    Returns:
        Both `(batch, C, H, W)`, on the model's device; None if neither is given.

    Raises:
        UserError: They do not fit the model, or one of them is missing.
    """
    if x is None and mask is None:
        return None
    if x is None or mask is None:
        raise UserError("Known pixels, x, and their mask go together: give both or none.")
    shape = (batch, *model.shape)
    x = to_model_images(x, model.shape, model.levels)
    mask = as_mask(mask)
    check_integers(x)
    check_mask(mask)
    try:
        x, mask = x.long().expand(shape), mask.expand(shape)
    except RuntimeError:
        raise UserError(
            f"Known pixels and their mask must fit {shape}, "
            f"not {tuple(x.shape)} and {tuple(mask.shape)}."
        ) from None
    x, mask = x.to(model.device), mask.to(model.device)  # they may have come from two devices
    wrong = mask & ((x < 0) | (x >= model.levels))
    if bool(wrong.any()):
        raise UserError(f"Known pixels must lie between 0 and {model.levels - 1}.")
    return x, mask


def check_count(n: int) -> None:
    """Checks a number of images to sample.

    Raises:
        UserError: It is no integer, or below 1.
    """
    check_integer("A number of images", n)
    if n < 1:
        raise UserError(f"Draw at least one image at a time, not {n}.")


def check_temperature(temperature: float) -> None:
    """Checks a temperature.

    Raises:
        UserError: It is not above 0, or infinite.
    """
    if not 0 < temperature < math.inf:
        raise UserError(f"The temperature must be above 0, not {temperature}.")


def check_integers(x: Tensor) -> None:
    """Checks that pixels are integers.

    Raises:
        UserError: They are floats or booleans.
    """
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise UserError(f"Pixels, x, are integers, not {x.dtype}.")


def as_mask(mask: MaskLike) -> Tensor:
    """Turns a mask into a tensor; an array is copied, as PyTorch takes none that is read-only.

    Raises:
        UserError: It is no array.
    """
    if isinstance(mask, Tensor):
        return mask
    try:
        return torch.as_tensor(np.array(mask))
    except (TypeError, ValueError) as error:
        raise UserError(f"A mask is an array of booleans, true at known pixels: {error}") from None


def check_mask(mask: Tensor, shape: Sequence[int] | None = None) -> None:
    """Checks that a mask is made of booleans, true at known pixels.

    Args:
        mask: The mask.
        shape: A shape that it must be broadcastable to, or None.

    Raises:
        UserError: It is not.
    """
    if mask.dtype != torch.bool:
        raise UserError(f"A mask is made of booleans, true at known pixels, not of {mask.dtype}.")
    try:
        mask.expand(mask.shape if shape is None else tuple(shape))
    except RuntimeError:
        raise UserError(
            f"The mask of known pixels must fit {tuple(shape or ())}, not {tuple(mask.shape)}."
        ) from None
