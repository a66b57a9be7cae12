"""Levels of pixels: their type, fewer of them, random bits and random mutations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError
from nextpixel.noise import Stream

__all__ = ["draw_bits", "level_type", "mutate", "requantise"]

BLOCK = 1 << 18  # values converted at once, where all of them would take much memory


def level_type(levels: int) -> np.dtype[Any]:
    """Returns the type that stores this number of levels: uint8, or uint16 above 256 levels."""
    return np.dtype(np.uint8 if levels <= 256 else "<u2")


def requantise(x: NDArray[np.integer], from_levels: int, levels: int) -> NDArray[np.uint8]:
    """Reduces the levels of images: q = x * levels // from_levels.

    Args:
        x: Integers in [0, from_levels), of one dimension or more.
        from_levels: Number of levels of `x`, at most 256.
        levels: Number of levels of the result, 2 <= levels <= from_levels.

    Returns:
        uint8 of the same shape.

    Raises:
        UserError: If a number of levels is out of range.
    """
    if not 2 <= levels <= from_levels <= 256:
        raise UserError(
            f"{from_levels} levels cannot be turned into {levels}: "
            "choose 2 or more, and no more than there are (at most 256)."
        )
    table: NDArray[np.uint8] = (np.arange(from_levels) * levels // from_levels).astype(np.uint8)
    out = np.empty(x.shape, np.uint8)
    count = max(1, BLOCK // max(1, math.prod(x.shape[1:])))
    for i in range(0, len(x), count):  # in blocks, as NumPy converts the indices to 8 bytes each
        out[i : i + count] = table[x[i : i + count]]
    return out


def draw_bits(x: NDArray[np.integer[Any]], key: Sequence[int]) -> NDArray[np.uint8]:
    """Draws a bit for every intensity, 1 with probability x / 255.

    Args:
        x: Intensities in [0, 256), any shape.
        key: Key of the noise, two integers >= 0; the same key gives the same bits.

    Returns:
        uint8, 0 or 1, of the same shape.
    """
    noise = Stream.BITS.generator(*key)
    # As noise < 1, intensity 255 always gives 1, and 0 never does.
    return (noise.random(x.shape) * 255 < x).astype(np.uint8)


def mutate(
    x: NDArray[np.integer[Any]], rate: float, levels: int, key: Sequence[int]
) -> NDArray[np.integer[Any]]:
    """Replaces values at random by uniformly drawn levels.

    A drawn level may equal the one it replaces, which leaves 1 in `levels` of them unchanged.

    Args:
        x: Images, any shape, integers in [0, levels).
        rate: Probability that a site (a channel of a pixel) is replaced, 0 to 1.
        levels: Number of levels.
        key: Key of the noise, two integers >= 0; the same key gives the same result.

    Returns:
        Integers of the same type and shape.

    References:
        Ren et al.: Likelihood Ratios for Out-of-Distribution Detection, 2019
        (https://arxiv.org/abs/1906.02845): the training images of the background model.
    """
    noise = Stream.MUTATIONS.generator(*key)
    replaced = noise.random(x.shape) < rate
    return np.where(replaced, noise.integers(levels, size=x.shape).astype(x.dtype), x)
