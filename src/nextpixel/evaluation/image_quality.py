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
    """How near restored images are to the true ones, as means over the images.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB, at most 100 an image.
        ssim: Structural similarity, at most 1.
    """

    psnr: float
    ssim: float


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

    true = checked_pixels(x, levels).astype(np.float64)
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
