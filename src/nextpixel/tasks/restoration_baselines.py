"""Restores images by simple methods that models are compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nextpixel.conditioning.degradation import (
    Degraded,
    Floats,
    Task,
    check_levels,
    gaussian_blur,
    gaussian_kernel,
)
from nextpixel.errors import UserError

__all__ = ["baseline", "baseline_name"]

_Restore = Callable[["Task", Floats, NDArray[np.bool_]], Floats]
_ROUNDING = 1 / 12 / 255**2  # mean square of the error of rounding to a byte, black to white is 1
_BALANCES = tuple(10.0**-n for n in range(1, 9))  # how much a deconvolved image is smoothed
_VARIATION = 0.6  # weight of the total variation, for noise of deviation 1


def baseline_name(task: Task) -> str:
    """Says in a few words which simple method the task is compared with."""
    return _method(task)[0]


def baseline(task: Task, degraded: Degraded, levels: int) -> Tensor:
    """Restores images by the simple method that the task is compared with.

    It is told what the task says: the width of the blur, the strength of the noise.

    - Super-resolution: bicubic enlargement.
    - Colourise: the grey picture.
    - Denoise: total variation, and then what the cutting off at black and white has done to the
      mean is undone; for salt and pepper a median filter of 3x3.
    - Deblur: Wiener deconvolution, smoothed by the largest of the powers of ten at which the
      result, blurred again, is as near to the blurred image as rounding to bytes leaves it.
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
        Chambolle: An Algorithm for Total Variation Minimization and Applications, 2004.
        Foi: Clipped noisy images: Heteroskedastic modeling and practical denoising, 2009: undoing
        what clipping does to a mean.
        Morozov: On the Solution of Functional Equations by the Method of Regularization, 1966: how
        much to smooth.
        Orieux, Giovannelli, Rodet: Bayesian estimation of regularization and point spread function
        parameters for Wiener-Hunt deconvolution, 2010
        (https://hal.archives-ouvertes.fr/hal-00674508). Damelin, Hoang: On Surface Completion and
        Image Inpainting by Biharmonic Functions: Numerical Aspects, 2018
        (https://doi.org/10.1155/2018/3950312).
    """
    check_levels(levels)
    if (task.name == "inpaint") != (degraded.mask is not None):
        raise UserError("Images with hidden pixels belong to the task inpaint, and only to it.")
    # Black is 0 and white 1 in what follows.
    images = degraded.picture.numpy() / 255
    masks = np.ones((len(images), *images.shape[2:]), dtype=np.bool_)
    if degraded.mask is not None:
        images = degraded.pixels(levels).numpy() / (levels - 1)
        masks = degraded.mask[:, 0].numpy()
    restore = _method(task)[1]
    restored = [restore(task, *one) for one in zip(images, masks, strict=True)]
    scaled = np.stack(restored).clip(0, 1) * (levels - 1)
    return torch.from_numpy(scaled.astype(np.float32))


def _method(task: Task) -> tuple[str, _Restore]:
    if task.name == "denoise" and task.noise_kind == "salt-and-pepper":
        return "median filter, 3x3", _median
    return {
        "super-resolution": ("bicubic enlargement", _enlarged),
        "colourise": ("the grey picture", _grey),
        "denoise": ("total variation", _smoothed),
        "deblur": ("Wiener deconvolution", _deconvolved),
        "inpaint": ("biharmonic inpainting", _filled_in),
    }[task.name]


# Each of these is given the task, an image (C, H, W) from 0 to 1 and its known pixels (H, W).


def _enlarged(task: Task, image: Floats, mask: NDArray[np.bool_]) -> Floats:
    size = image.shape[2] * task.factor, image.shape[1] * task.factor
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in image]
    return np.stack([np.asarray(c.resize(size, Image.Resampling.BICUBIC)) for c in channels])


def _grey(task: Task, image: Floats, mask: NDArray[np.bool_]) -> Floats:
    return image.repeat(3, 0)


def _median(task: Task, image: Floats, mask: NDArray[np.bool_]) -> Floats:
    from skimage.filters import median

    return np.stack([median(channel, np.ones((3, 3))) for channel in image])


def _smoothed(task: Task, image: Floats, mask: NDArray[np.bool_]) -> Floats:
    from skimage.restoration import denoise_tv_chambolle

    smooth = denoise_tv_chambolle(image, _VARIATION * task.noise, channel_axis=0)
    true = torch.linspace(0, 1, 257, dtype=torch.float64)
    # The mean of a number between 0 and 1 is the integral of how often it lies above a threshold.
    thresholds = (true[1:] + true[:-1]) / 2
    means = torch.special.ndtr((true[:, None] - thresholds) / task.noise).mean(1)
    unclipped: Floats = np.interp(smooth, means.numpy(), true.numpy())
    return unclipped


def _deconvolved(task: Task, image: Floats, mask: NDArray[np.bool_]) -> Floats:
    from skimage.restoration import wiener

    kernel = gaussian_kernel(task.sigma)
    # Beside its mirror image a picture is one period of a plane, which is blurred as the picture
    # was, so that there is nothing wrong at the edges; as many periods as the kernel is large.
    _, height, width = image.shape
    periods = [-(-len(kernel) // (2 * side)) for side in (height, width)]
    added = [(0, (2 * n - 1) * side) for n, side in zip(periods, (height, width), strict=True)]
    planes = [np.pad(channel, added, "symmetric") for channel in image]
    for balance in _BALANCES:
        wide = [wiener(plane, kernel, balance, clip=False) for plane in planes]
        sharp = np.stack(wide)[:, :height, :width]
        if ((gaussian_blur(sharp, task.sigma) - image) ** 2).mean() <= _ROUNDING:
            break
    return sharp


def _filled_in(task: Task, image: Floats, mask: NDArray[np.bool_]) -> Floats:
    from skimage.restoration import inpaint_biharmonic

    if not mask.any():  # nothing to go by
        return np.full_like(image, 0.5)
    filled: Floats = inpaint_biharmonic(image, ~mask, channel_axis=0)
    return filled
