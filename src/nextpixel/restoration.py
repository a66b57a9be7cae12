"""Degraded images, the simple methods that restore them, and how good a restored image is.

A `Task` says what is done to an image and turns images into what a model is given as context. The
baselines are what a learned model has to beat. Nothing here knows of models.

Example:
    >>> task = Task("super-resolution", factor=2)
    >>> x = torch.randint(16, (3, 1, 28, 28))
    >>> degraded = task.degrade(x, levels=16, numbers=range(3))
    >>> degraded.image.shape
    torch.Size([3, 1, 14, 14])
    >>> quality(x, baseline(task, degraded, levels=16), levels=16).psnr  # in dB
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nextpixel.errors import UserError
from nextpixel.masks import Half, box_mask, half_mask

__all__ = [
    "Degraded",
    "Holes",
    "NoiseKind",
    "Quality",
    "Task",
    "TaskName",
    "baseline",
    "baseline_name",
    "quality",
]

TaskName = Literal["super-resolution", "colourise", "denoise", "deblur", "inpaint"]
NoiseKind = Literal["gaussian", "salt-and-pepper"]
Holes = Literal["boxes", "halves", "scattered", "mixed"]

_HOLES: tuple[Holes, ...] = ("boxes", "halves", "scattered")  # what "mixed" mixes
_Floats = NDArray[np.floating[Any]]
_Restore = Callable[["Task", _Floats, NDArray[np.bool_]], _Floats]

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R BT.601, section 2.5.1
_TRUNCATE = 4.0  # a blur's kernel ends at so many deviations
_WIDTHS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)  # deviations of smoothing kernels, in pixels
# How much a deconvolved image is smoothed. A blurred image is not rounded to levels, so that the
# blur can nearly be inverted, and this is what the rounding to float32 allows: for blurs of 2 and 4
# pixels within 3 dB of the best power of ten, on digits and on photographs; smaller ones are undone
# altogether. Images rounded to 256 levels would need about 1e-5.
_BALANCE = 1e-13
_HIGHEST_PSNR = 100.0
_SSIM_WINDOW = 7


@dataclass(frozen=True, eq=False)
class Degraded:
    """Degraded images, on the CPU.

    Attributes:
        image: What a model is given as context, `(B, Cc, Hc, Wc)`, float32: level 0 is -1 and the
            top level 1. Where there are hidden pixels they are 0, and the last channel is 1 at
            known pixels and 0 at hidden ones.
        known: True at known pixels, `(B, 1, H, W)`; None where no pixel is hidden.
    """

    image: Tensor
    known: Tensor | None = None

    def picture(self, levels: int) -> Tensor:
        """Rounds to the nearest levels, to be shown.

        Args:
            levels: Number of levels of the picture.

        Returns:
            Integers in `[0, levels)`, `(B, C, Hc, Wc)`, int64, without the channel of the mask.
            What noise brought beyond black and white is cut off; hidden pixels have the middle
            level (of two, black).
        """
        _check_levels(levels)
        image = self.image if self.known is None else self.image[:, :-1]
        return ((image.double() + 1) / 2 * (levels - 1)).round().clamp(0, levels - 1).long()


class Quality(NamedTuple):
    """How near restored images are to the true ones, as means over the images.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB, at most 100 an image.
        ssim: Structural similarity, at most 1.
    """

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Task:
    """A degradation of images, to be undone; each name uses the options that are said to be its.

    Attributes:
        name: "super-resolution" averages blocks of pixels, "colourise" keeps the luminance,
            "denoise" adds noise, "deblur" blurs and adds no noise, "inpaint" hides pixels.
        factor: Super-resolution: side of the blocks, 2 or more.
        noise: Denoise: the deviation of Gaussian noise, as a part of the range from black to white,
            or the probability that a pixel is replaced by salt and pepper.
        noise_kind: Denoise: "gaussian", which may go beyond black and white, or "salt-and-pepper":
            a pixel, with all its channels, becomes black or white, equally often.
        sigma: Deblur: deviation of a Gaussian blur in pixels; the picture is mirrored at its edges
            (the outermost pixels are repeated).
        holes: Inpaint: what is hidden. "boxes": a box, each side between a quarter and two thirds
            of the picture's; "halves": left, right, top or bottom; "scattered": each pixel, with a
            probability between 0.5 and 0.9 drawn for the image; "mixed": each of these equally
            often.

    Raises:
        UserError: An option is none of those.
    """

    name: TaskName
    factor: int = 4
    noise: float = 0.3
    noise_kind: NoiseKind = "gaussian"
    sigma: float = 2.0
    holes: Holes = "mixed"

    def __post_init__(self) -> None:
        for what, given, names in (
            ("restoration task", self.name, get_args(TaskName)),
            ("kind of noise", self.noise_kind, get_args(NoiseKind)),
            ("kind of holes", self.holes, get_args(Holes)),
        ):
            if given not in names:
                raise UserError(f"There is no {what} {given!r}: choose {', '.join(names)}.")
        if not (isinstance(self.factor, int) and self.factor >= 2):
            raise UserError(f"The factor must be an integer of 2 or more, not {self.factor}.")
        if not 0 < self.noise < math.inf:
            raise UserError(f"The noise must be a number above 0, not {self.noise}.")
        if self.noise_kind == "salt-and-pepper" and self.noise > 1:
            raise UserError(
                f"Salt and pepper can replace a part of the pixels up to 1, not {self.noise}."
            )
        if not 0 < self.sigma < math.inf:
            raise UserError(f"sigma, in pixels, must be a number above 0, not {self.sigma}.")

    def settings(self) -> dict[str, Any]:
        """Lists its name and the options that it uses."""
        options = {
            "super-resolution": ("factor",),
            "colourise": (),
            "denoise": ("noise", "noise_kind"),
            "deblur": ("sigma",),
            "inpaint": ("holes",),
        }
        return {name: getattr(self, name) for name in ("name", *options[self.name])}

    def context_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Says which shape `(Cc, Hc, Wc)` the degraded image has.

        Args:
            shape: `(C, H, W)` of the image.

        Raises:
            UserError: An image of this shape cannot be degraded in this way.
        """
        channels, height, width = shape
        if self.name == "super-resolution":
            if height % self.factor or width % self.factor:
                raise UserError(
                    f"Super-resolution by {self.factor} needs a height and a width that "
                    f"{self.factor} divides, not {height}x{width}: choose another factor."
                )
            return channels, height // self.factor, width // self.factor
        if self.name == "colourise":
            if channels != 3:
                raise UserError(
                    f"Only pictures of 3 channels can be coloured in, not {channels}: "
                    "choose colour pictures or another task."
                )
            return 1, height, width
        if self.name == "inpaint":
            if min(height, width) < 2:
                raise UserError(
                    f"Only a part of a picture can be hidden if it is 2x2 or more, not "
                    f"{height}x{width}."
                )
            return channels + 1, height, width
        return shape

    def degrade(
        self,
        x: Tensor | NDArray[np.integer[Any]],
        levels: int,
        numbers: Sequence[int],
        seed: int = 0,
    ) -> Degraded:
        """Degrades images.

        Args:
            x: Images, integers in `[0, levels)`, `(B, C, H, W)`.
            levels: Number of levels.
            numbers: The number of each image, B integers >= 0. What is random about an image
                depends on `(seed, number)` only, not on the batch.
            seed: Not negative.

        Returns:
            The degraded images; colours, means and blurs are not rounded to levels.

        Raises:
            UserError: Images, numbers or seed are not of this kind, or do not fit the task.
        """
        pixels = _pixels(x, levels)
        self.context_shape(pixels.shape[1:])
        if len(numbers) != len(pixels):
            raise UserError(f"{len(pixels)} images have {len(pixels)} numbers, not {len(numbers)}.")
        if not 0 <= seed < 2**63 or min(numbers) < 0:
            raise UserError(
                f"A seed lies between 0 and 2^63 and images have numbers from 0, not {seed} and "
                f"{min(numbers)}."
            )
        # Image by image, so that not even the order of a sum can depend on the batch.
        streams = [_stream(seed, int(number)) for number in numbers]
        if self.name == "inpaint":
            hidden = [self._hidden(pixels.shape[2:], stream) for stream in streams]
            known = ~np.stack(hidden)[:, None]
            image = np.where(known, _scaled(pixels, levels), 0)
            return Degraded(_float32(np.concatenate([image, known], 1)), torch.from_numpy(known))
        images = [self._changed(*one, levels) for one in zip(pixels, streams, strict=True)]
        return Degraded(_float32(_scaled(np.stack(images), levels)))

    def _changed(
        self, x: NDArray[np.integer[Any]], stream: np.random.Generator, levels: int
    ) -> _Floats:
        """Degrades one image `(C, H, W)`, in levels."""
        if self.name == "super-resolution":
            channels, height, width = self.context_shape(x.shape)
            blocks = x.reshape(channels, height, self.factor, width, self.factor)
            means: _Floats = blocks.mean((2, 4))
            return means
        if self.name == "colourise":
            luminance: _Floats = (_LUMINANCE[:, None, None] * x).sum(0, keepdims=True)
            return luminance
        if self.name == "deblur":
            return _blurred(x.astype(np.float64), self.sigma)
        if self.noise_kind == "gaussian":
            return x + self.noise * (levels - 1) * stream.standard_normal(x.shape)
        replaced, white = stream.random((2, *x.shape[1:]))
        salt_and_pepper = np.where(white < 0.5, 0, levels - 1)
        return np.where(replaced < self.noise, salt_and_pepper, x).astype(np.float64)

    def _hidden(self, size: tuple[int, int], stream: np.random.Generator) -> NDArray[np.bool_]:
        """Draws which pixels are hidden, `(H, W)`."""
        holes = self.holes
        if holes == "mixed":
            holes = _HOLES[stream.integers(len(_HOLES))]
        if holes == "scattered":
            return stream.random(size) < stream.uniform(0.5, 0.9)
        if holes == "halves":
            half: Half = get_args(Half)[stream.integers(4)]
            return half_mask(half, *size).numpy()
        height, width = (int(stream.integers(-(-n // 4), n * 2 // 3 + 1)) for n in size)
        row = int(stream.integers(size[0] - height + 1))
        col = int(stream.integers(size[1] - width + 1))
        return box_mask(row, col, height, width, size).numpy()


def baseline_name(task: Task) -> str:
    """Says in a few words which simple method the task is compared with."""
    return _method(task)[0]


def baseline(task: Task, degraded: Degraded, levels: int) -> Tensor:
    """Restores images by the simple method that the task is compared with.

    It is told what the task says: the width of the blur, the strength of the noise.

    - Super-resolution: bicubic enlargement.
    - Colourise: the grey picture.
    - Denoise: a Gaussian filter, whose width is the one with the least error by Stein's unbiased
      estimate; for salt and pepper a median filter of 3x3.
    - Deblur: Wiener deconvolution. A blurred image is nearly invertible as long as it is not
      rounded to levels, and `degrade` does not round: this is hard to beat.
    - Inpaint: biharmonic inpainting. It is at its best where holes are small; in a half it
      extrapolates.

    Args:
        task: What was done to the images.
        degraded: The images, from `task.degrade`.
        levels: Number of levels of the images.

    Returns:
        Real numbers in `[0, levels - 1]`, `(B, C, H, W)`, float32.

    Raises:
        UserError: The images are not degraded by this task.

    References:
        Stein: Estimation of the Mean of a Multivariate Normal Distribution, 1981.
        Orieux, Giovannelli, Rodet: Bayesian estimation of regularization and point spread function
        parameters for Wiener-Hunt deconvolution, 2010 (https://hal.archives-ouvertes.fr/hal-00674508).
        Damelin, Hoang: On Surface Completion and Image Inpainting by Biharmonic Functions:
        Numerical Aspects, 2018 (https://doi.org/10.1155/2018/3950312).
    """
    _check_levels(levels)
    if (task.name == "inpaint") != (degraded.known is not None):
        raise UserError("Images with hidden pixels belong to the task inpaint, and only to it.")
    # Black is 0 and white 1 in what follows.
    images = degraded.image.double().numpy() / 2 + 0.5
    if degraded.known is None:
        masks = np.ones((len(images), *images.shape[2:]), dtype=np.bool_)
    else:
        images, masks = images[:, :-1], degraded.known[:, 0].numpy()
    restore = _method(task)[1]
    restored = [restore(task, *one) for one in zip(images, masks, strict=True)]
    return _float32(np.stack(restored).clip(0, 1) * (levels - 1))


def quality(x: Tensor | NDArray[np.integer[Any]], restored: Tensor, levels: int) -> Quality:
    """Compares restored images with the true ones, image by image.

    The PSNR of an identical image is infinite, and one of them would make the mean so: an image's
    PSNR counts as 100 dB at most, and as 100 dB if it is identical. The structural similarity is
    that of uniform windows of 7x7, the mean over the channels.

    Args:
        x: The true images, integers in `[0, levels)`, `(B, C, H, W)`, C = 1 or 3.
        restored: The restored ones, integers or real numbers, of the same shape.
        levels: Number of levels; black to white is `levels - 1`.

    Raises:
        UserError: The shapes differ, or the images are smaller than 7x7.

    References:
        Wang, Bovik, Sheikh, Simoncelli: Image Quality Assessment: From Error Visibility to
        Structural Similarity, 2004.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    true = _pixels(x, levels).astype(np.float64)
    found = restored.detach().cpu().double().numpy()
    if found.shape != true.shape:
        raise UserError(
            f"Restored images have the shape of the true ones, {true.shape}, not {found.shape}."
        )
    if min(true.shape[2:]) < _SSIM_WINDOW:
        raise UserError(
            f"Structural similarity needs images of {_SSIM_WINDOW}x{_SSIM_WINDOW} or more, not "
            f"{true.shape[2]}x{true.shape[3]}."
        )
    psnr, ssim = [], []
    for pair in zip(true, found, strict=True):
        same = np.array_equal(*pair)
        ratio = math.inf if same else peak_signal_noise_ratio(*pair, data_range=levels - 1)
        psnr.append(min(ratio, _HIGHEST_PSNR))
        ssim.append(
            structural_similarity(
                *pair, win_size=_SSIM_WINDOW, data_range=levels - 1, channel_axis=0
            )
        )
    return Quality(float(np.mean(psnr)), float(np.mean(ssim)))


def _method(task: Task) -> tuple[str, _Restore]:
    if task.name == "denoise" and task.noise_kind == "salt-and-pepper":
        return "median filter, 3x3", _median
    return {
        "super-resolution": ("bicubic enlargement", _enlarged),
        "colourise": ("the grey picture", _grey),
        "denoise": ("Gaussian filter, width by Stein's estimate", _smoothed),
        "deblur": ("Wiener deconvolution", _deconvolved),
        "inpaint": ("biharmonic inpainting", _filled_in),
    }[task.name]


# Each of these is given the task, an image (C, H, W) from 0 to 1 and its known pixels (H, W).


def _enlarged(task: Task, image: _Floats, known: NDArray[np.bool_]) -> _Floats:
    size = image.shape[2] * task.factor, image.shape[1] * task.factor
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in image]
    return np.stack([np.asarray(c.resize(size, Image.Resampling.BICUBIC)) for c in channels])


def _grey(task: Task, image: _Floats, known: NDArray[np.bool_]) -> _Floats:
    return image.repeat(3, 0)


def _median(task: Task, image: _Floats, known: NDArray[np.bool_]) -> _Floats:
    from skimage.filters import median

    return np.stack([median(channel, np.ones((3, 3))) for channel in image])


def _smoothed(task: Task, image: _Floats, known: NDArray[np.bool_]) -> _Floats:
    best, least = image, task.noise**2  # the image as it is, and its expected error
    for width in _WIDTHS:
        smooth = _blurred(image, width)
        own_weight = _kernel(width).max()  # of a pixel in its own average
        error = ((smooth - image) ** 2).mean() + (2 * own_weight - 1) * task.noise**2
        if error < least:
            best, least = smooth, error
    return best


def _deconvolved(task: Task, image: _Floats, known: NDArray[np.bool_]) -> _Floats:
    from skimage.restoration import wiener

    kernel = _kernel(task.sigma)
    # Beside its mirror image a picture is one period of a plane, which is blurred as the picture
    # was, so that there is nothing wrong at the edges; as many periods as the kernel is large.
    _, height, width = image.shape
    periods = [-(-len(kernel) // (2 * side)) for side in (height, width)]
    added = [(0, (2 * n - 1) * side) for n, side in zip(periods, (height, width), strict=True)]
    planes = [np.pad(channel, added, "symmetric") for channel in image]
    sharp = [wiener(plane, kernel, _BALANCE, clip=False) for plane in planes]
    return np.stack(sharp)[:, :height, :width]


def _filled_in(task: Task, image: _Floats, known: NDArray[np.bool_]) -> _Floats:
    from skimage.restoration import inpaint_biharmonic

    if not known.any():  # nothing to go by: hidden pixels are grey already
        return image
    filled: _Floats = inpaint_biharmonic(image, ~known, channel_axis=0)
    return filled


def _blurred(image: _Floats, sigma: float) -> _Floats:
    """Blurs each channel of `(C, H, W)`; the picture is mirrored at its edges."""
    from skimage.filters import gaussian

    blurred: _Floats = gaussian(
        image, sigma, mode="reflect", truncate=_TRUNCATE, channel_axis=0, preserve_range=True
    )
    return blurred


def _kernel(sigma: float) -> _Floats:
    """Computes what `_blurred` makes of a single bright pixel: a square of odd size."""
    radius = int(_TRUNCATE * sigma + 0.5)
    point = np.zeros((1, 2 * radius + 1, 2 * radius + 1))
    point[0, radius, radius] = 1
    kernel: _Floats = _blurred(point, sigma)[0]
    return kernel


def _stream(seed: int, number: int) -> np.random.Generator:
    """Makes the random numbers of an image.

    `nextpixel.sampling.site_noise` draws the pixels from the same key. Jumping far ahead makes the
    degradation independent of what a model then draws with the same seed and number.
    """
    return np.random.Generator(np.random.Philox(key=[seed, number]).jumped())


def _pixels(x: Tensor | NDArray[np.integer[Any]], levels: int) -> NDArray[np.int64]:
    """Checks images and makes an array of them."""
    _check_levels(levels)
    pixels = np.asarray(x.cpu() if isinstance(x, Tensor) else x)
    if pixels.ndim != 4 or not pixels.size or not np.issubdtype(pixels.dtype, np.integer):
        raise UserError(
            f"Images are integers of shape (B, C, H, W), at least one, not {pixels.dtype} of "
            f"shape {pixels.shape}."
        )
    if pixels.min() < 0 or pixels.max() >= levels:
        raise UserError(
            f"Images of {levels} levels hold integers from 0 to {levels - 1}, not from "
            f"{pixels.min()} to {pixels.max()}: give the right number of levels."
        )
    return pixels.astype(np.int64)


def _check_levels(levels: int) -> None:
    if levels < 2:
        raise UserError(f"Images have 2 levels or more, not {levels}.")


def _scaled(x: NDArray[Any], levels: int) -> _Floats:
    """Scales levels from [0, levels - 1] to [-1, 1], both ends exactly."""
    scaled: _Floats = x / (levels - 1) * 2 - 1
    return scaled


def _float32(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))
