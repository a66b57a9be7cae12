"""Puts a score in bits/dim on a scale: what simple ways to write the same images down need.

A number such as 3.2 bits/dim says little alone. Beside what a uniform guess, the frequencies of the
levels, PNG and WebP need for the same images, it says whether the model has learned something.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.images import Images
from nextpixel.models.base.image_model import ImageModel
from nextpixel.utils.words import count

__all__ = [
    "FILES",
    "SCALE_IMAGES",
    "bits_on_scale",
    "file_bits",
    "has_scale",
    "scale_in_words",
    "scale_names",
    "worse_than_uniform",
]

SCALE_IMAGES = 500  # that `bits_on_scale` measures, at most
FILES: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "optimize": True},
    "webp": {"format": "WEBP", "lossless": True, "quality": 100, "method": 4},
}
"""Lossless formats, and how Pillow writes them as small as it can."""

NAMES = {
    "uniform": "uniform guess",
    "unigram": "frequencies of the training levels",
    "png": "PNG",
    "webp": "WebP",
}


def has_scale(model: ImageModel) -> bool:
    """Whether a model's score is that of whole images of pixels, or a bound on it."""
    of_pixels = model.conditioner is None and model.data_record.codes_of is None
    return of_pixels and (model.is_likelihood or model.has_importance_bound)


def bits_on_scale(
    images: Images, train: Images, *, limit: int | None = SCALE_IMAGES
) -> dict[str, float]:
    """Measures what simple ways to write images down need, in bits per real site (bits/dim).

    Args:
        images: The images.
        train: The training images, whose levels the unigram distribution is fitted to.
        limit: Number of images to measure, spread evenly; None for all.

    Returns:
        The bits/dim of

        - "uniform": a uniform guess, log2 of the levels;
        - "unigram": the frequencies of the levels in the training images, the same at each site,
          with one added to each;
        - "png" and "webp": a lossless file for each image, in whole bytes and with its header,
          which weighs much for small images. The levels are stored as they are, a byte for each.
          These are missing where an image is no picture (codes, or 2 channels).
    """
    images, train = images.subset(limit), train.subset(10_000)
    numbers = np.arange(len(images))
    x, _ = images.batch(numbers)
    real = np.broadcast_to(_real(images, numbers), x.shape)
    sites = int(real.sum())
    seen, _ = train.batch(np.arange(len(train)))
    known = np.broadcast_to(_real(train, np.arange(len(train))), seen.shape)
    frequencies = 1 + np.bincount(seen[known].ravel(), minlength=images.levels)
    bits = np.log2(frequencies.sum()) - np.log2(frequencies)
    found = {
        "uniform": math.log2(images.levels),
        "unigram": float(bits[x[real]].sum() / sites),
    }
    if images.levels <= 256 and x.shape[1] in (1, 3):
        heights = x.shape[2] * np.ones(len(x), int) if images.rows is None else images.rows
        for name, options in FILES.items():
            sizes = [
                file_bits(image[:, :rows].astype(np.uint8), options)
                for image, rows in zip(x, heights, strict=True)
            ]
            found[name] = sum(sizes) / sites
    return found


def _real(images: Images, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    padding = images.padding(numbers)
    return np.ones((1, 1, 1, 1), bool) if padding is None else ~padding


def file_bits(x: NDArray[np.uint8], options: Mapping[str, Any]) -> int:
    """Computes the size of an image's file in bits, header included.

    The levels are stored as they are, not stretched to the 256 of a byte.

    Args:
        x: An image, uint8 `(C, H, W)`, C = 1 or 3.
        options: Pillow's format and its options, as in `FILES`.
    """
    from PIL import Image

    picture = Image.fromarray(x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0)))
    file = io.BytesIO()
    picture.save(file, **options)
    return 8 * file.tell()


def scale_names(score: float, scale: Mapping[str, float]) -> dict[str, float]:
    """Returns the bits/dim of a model and of a scale by their names, the lowest first."""
    named = {"this model": score} | {NAMES[name]: bits for name, bits in scale.items()}
    return dict(sorted(named.items(), key=lambda item: item[1]))


def scale_in_words(score: float, scale: Mapping[str, float], images: int) -> str:
    """Writes where a score stands on a scale.

    Args:
        score: The model's bits/dim.
        scale: As from `bits_on_scale`.
        images: Number of images that the scale was measured on.

    Returns:
        A line with all numbers, the lowest first, and a warning where the model is worse than a
        uniform guess.
    """
    files = "; PNG and WebP: whole lossless files" if "png" in scale else ""
    line = (
        f"Bits/dim on a scale, the lowest first: "
        f"{', '.join(f'{name} {bits:.4f}' for name, bits in scale_names(score, scale).items())} "
        f"(of {count(images, 'image')}{files})"
    )
    return "\n".join([line, *worse_than_uniform(score, scale)])


def worse_than_uniform(score: float, scale: Mapping[str, float]) -> list[str]:
    """Returns a warning if a model is worse than a uniform guess, else nothing."""
    if score <= scale["uniform"]:
        return []
    return [
        "Warning: the model is worse than a uniform guess on these images: they are not of the "
        "kind it was trained on, or its training went wrong."
    ]
