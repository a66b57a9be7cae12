"""Compares restored images with their originals: PSNR and SSIM."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nextpixel.conditioning.degradation import checked_pixels
from nextpixel.errors import UserError

__all__ = ["Quality", "quality"]

_HIGHEST_PSNR = 100.0
_SSIM_WINDOW = 7


class Quality(NamedTuple):
    """The quality of restored images, as means over the images.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB; an image's counts at most 100.
        ssim: Structural similarity, at most 1.
    """

    psnr: float
    ssim: float


def quality(x: Tensor | NDArray[np.integer[Any]], restored: Tensor, levels: int) -> Quality:
    """Compares restored images with the true ones, image by image.

    An image's PSNR counts at most 100 dB, because an identical image has an infinite PSNR, which
    would make the mean infinite. The structural similarity uses uniform windows of 7x7 and is
    averaged over the channels.

    Args:
        x: The true images, integers in `[0, levels)`, `(B, C, H, W)`, C = 1 or 3.
        restored: The restored images, integers or real numbers, of the same shape.
        levels: Number of levels; the range from black to white is `levels - 1`.

    Returns:
        The means over the images.

    Raises:
        UserError: The shapes differ, or the images are smaller than 7x7.

    References:
        Wang, Bovik, Sheikh, Simoncelli: Image Quality Assessment: From Error Visibility to
        Structural Similarity, 2004.
    """
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    true = checked_pixels(x, levels).astype(np.float64)
    estimate = restored.detach().cpu().double().numpy()
    if estimate.shape != true.shape:
        raise UserError(
            f"Restored images must have the shape of the true ones, {true.shape}, not "
            f"{estimate.shape}."
        )
    if min(true.shape[2:]) < _SSIM_WINDOW:
        raise UserError(
            f"Structural similarity needs images of {_SSIM_WINDOW}x{_SSIM_WINDOW} or more, not "
            f"{true.shape[2]}x{true.shape[3]}."
        )
    psnr, ssim = [], []
    for pair in zip(true, estimate, strict=True):
        identical = np.array_equal(*pair)
        ratio = math.inf if identical else peak_signal_noise_ratio(*pair, data_range=levels - 1)
        psnr.append(min(ratio, _HIGHEST_PSNR))
        ssim.append(
            structural_similarity(
                *pair, win_size=_SSIM_WINDOW, data_range=levels - 1, channel_axis=0
            )
        )
    return Quality(float(np.mean(psnr)), float(np.mean(ssim)))
