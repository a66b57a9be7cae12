"""Scores whole pictures, each at its own size, by a network that takes any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from nextpixel.data.folders import picture_size, read_picture
from nextpixel.data.levels import requantise
from nextpixel.errors import UserError
from nextpixel.models.base.image_model import ImageModel
from nextpixel.utils.inference import evaluation_mode

__all__ = ["MOST_PIXELS", "WholePicture", "score_whole"]

MOST_PIXELS = 1 << 21  # of a picture: a pass over it keeps a few hundred numbers for each


class WholePicture(NamedTuple):
    """The score of a picture.

    Attributes:
        path: Its file.
        size: `(H, W)`.
        bits: -log2 of its probability.
        bits_per_dim: The same for each level: pixels x channels.
    """

    path: Path
    size: tuple[int, int]
    bits: float
    bits_per_dim: float


@torch.inference_mode()
def score_whole(
    model: ImageModel, paths: Sequence[Path], show: Callable[[float], None] | None = None
) -> list[WholePicture]:
    """Scores picture files at their own sizes, in one pass each.

    Args:
        model: A network of convolutions, without classes or another context.
        paths: The picture files.
        show: Called with the fraction done.

    Raises:
        UserError: A file cannot be read or is larger than `MOST_PIXELS`, or the weights belong to
            images of one size.
    """
    if model.context_spec.parts:
        raise UserError(
            f"The model is given {' and '.join(model.context_spec.parts)}, which whole pictures do "
            "not have: score a data set."
        )
    for path in paths:  # before the first pass
        check_size(path)
    found = []
    for k, path in enumerate(paths):
        x = levels_of(path, model)
        height, width = x.shape[1:]
        with evaluation_mode(model.resized((model.shape[0], height, width))) as network:
            whole = torch.from_numpy(x.astype(np.int64))[None].to(network.device)
            bits = -network.score(whole).item() / math.log(2)
        found.append(WholePicture(path, (height, width), bits, bits / x.size))
        if show is not None:
            show((k + 1) / len(paths))
    return found


def check_size(path: Path) -> None:
    """Raises a UserError if a picture cannot be read, or is too large."""
    pixels = math.prod(picture_size(path))
    if pixels > MOST_PIXELS:
        raise UserError(
            f"{path} has {pixels:,} pixels: cut it to {MOST_PIXELS:,}, or let nextpixel compress "
            "score it in tiles."
        )


def levels_of(path: Path, model: ImageModel) -> NDArray[Any]:
    """Reads a picture as levels of a model, `(C, H, W)`."""
    return requantise(read_picture(path, None, model.shape[0]), 256, model.levels)
