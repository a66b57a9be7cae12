"""Restores images by classical methods, as baselines for models."""

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
    """Returns the name of a task's baseline."""
    return _method(task)[0]


def baseline(task: Task, degraded: Degraded, levels: int) -> Tensor:
    """Restores images by a task's baseline, a classical method.

    The baseline knows the task's options, such as the width of the blur.

    - Super-resolution: bicubic enlargement.
    - Colourise: the grey picture.
    - Denoise: total variation, then a correction for the bias from clipping at black and white; a
      3x3 median filter for salt and pepper.
    - Deblur: Wiener deconvolution with the largest power of ten as regularisation at which the
      result, blurred again, matches the blurred image up to rounding to bytes.
    - Inpaint: biharmonic inpainting. It works best for small holes; a hidden half is extrapolated.

    Args:
        task: The degradation.
        degraded: The images, from `task.degrade`.
        levels: Number of levels of the images.

    Returns:
        Real numbers in `[0, levels - 1]`, `(B, C, H, W)`, float32.

    Raises:
        UserError: The images were not degraded by this task.

    References:
        Chambolle: An Algorithm for Total Variation Minimization and Applications, 2004.
        Foi: Clipped noisy images: Heteroskedastic modeling and practical denoising, 2009: the
        correction for clipping.
        Morozov: On the Solution of Functional Equations by the Method of Regularization, 1966: the
        choice of the regularisation.
        Orieux, Giovannelli, Rodet: Bayesian estimation of regularization and point spread function
        parameters for Wiener-Hunt deconvolution, 2010
        (https://hal.archives-ouvertes.fr/hal-00674508). Damelin, Hoang: On Surface Completion and
        Image Inpainting by Biharmonic Functions: Numerical Aspects, 2018
        (https://doi.org/10.1155/2018/3950312).
    """
    check_levels(levels)
    if (task.name == "inpaint") != (degraded.mask is not None):
        raise UserError("Images with hidden pixels belong to the task inpaint, and only to it.")
    # From here on black is 0 and white is 1.
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


# Each of these takes the task, an image (C, H, W) from 0 to 1 and its mask (H, W).


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
    # The mean of a number in [0, 1] is the integral over t of the probability that it exceeds t.
    thresholds = (true[1:] + true[:-1]) / 2
    means = torch.special.ndtr((true[:, None] - thresholds) / task.noise).mean(1)
    unclipped: Floats = np.interp(smooth, means.numpy(), true.numpy())
    return unclipped


def _deconvolved(task: Task, image: Floats, mask: NDArray[np.bool_]) -> Floats:
    from skimage.restoration import wiener

    kernel = gaussian_kernel(task.sigma)
    # The picture and its mirror image are one period of a plane. Blurring the plane periodically
    # equals blurring the picture with mirrored edges, so there are no artefacts at the edges. The
    # plane must have at least the size of the kernel, so small pictures take several periods.
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
