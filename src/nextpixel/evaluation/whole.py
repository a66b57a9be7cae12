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
from nextpixel.models.base.autoregressive import AutoregressiveModel, autoregressive
from nextpixel.models.base.image_model import ImageModel
from nextpixel.utils.inference import evaluation_mode

__all__ = ["MOST_PIXELS", "WholePicture", "bits_per_dim", "score_whole"]

MOST_PIXELS = 1 << 19  # of a picture: a pass of width 32 takes 2 to 3 KB for each


class WholePicture(NamedTuple):
    """The score of a picture.

    Attributes:
        path: Its file.
        shape: `(C, H, W)`.
        bits: -log2 of its probability.
    """

    path: Path
    shape: tuple[int, ...]
    bits: float


def bits_per_dim(pictures: Sequence[WholePicture]) -> float:
    """Divides the bits of all pictures by their levels: pixels x channels."""
    return sum(one.bits for one in pictures) / sum(math.prod(one.shape) for one in pictures)


@torch.inference_mode()
def score_whole(
    model: ImageModel,
    name: str,
    paths: Sequence[Path],
    show: Callable[[float], None] | None = None,
) -> list[WholePicture]:
    """Scores picture files at their own sizes, in one pass each.

    Args:
        model: An autoregressive network of convolutions, without classes or another context.
        name: What to call it in messages.
        paths: The picture files.
        show: Called with the fraction done.

    Raises:
        UserError: It is another model, a file cannot be read or is larger than `MOST_PIXELS`, or
            the weights belong to images of one size.
    """
    network = autoregressive(model, name)
    refuse_other_images(network, name)
    for path in paths:  # before the first pass
        check_size(path)
    found = list[WholePicture]()
    for k, path in enumerate(paths):
        x = levels_of(path, network)
        if x.shape != network.shape:
            network = network.resized((x.shape[0], x.shape[1], x.shape[2]))
        with evaluation_mode(network) as evaluated:
            whole = torch.from_numpy(x.astype(np.int64))[None].to(network.device)
            bits = -evaluated.score(whole).item() / math.log(2)
        found.append(WholePicture(path, x.shape, bits))
        if show is not None:
            show((k + 1) / len(paths))
    return found


def refuse_other_images(model: AutoregressiveModel, name: str) -> None:
    """Raises a UserError for a model of other things than pictures, or that is told of them."""
    record = model.data_record
    if record.codes_of is not None or record.spectrogram is not None:
        what = "codes" if record.codes_of is not None else "sounds"
        raise UserError(f"{name} is a model of {what}: score a data set by --data.")
    if model.context_spec.parts:
        raise UserError(
            f"{name} is conditioned on {' and '.join(model.context_spec.parts)}, which whole "
            "pictures do not have: score a data set by --data."
        )
    if model.shape[0] not in (1, 3) or model.levels > 256:
        raise UserError(
            f"{name} is for images of {model.shape[0]} channels and {model.levels} levels, which "
            "picture files do not have: score a data set by --data."
        )


def check_size(path: Path) -> None:
    """Raises a UserError if a picture cannot be read, or is too large."""
    pixels = math.prod(picture_size(path))
    if pixels > MOST_PIXELS:
        raise UserError(
            f"{path} has {pixels:,} pixels, and a pass over more than {MOST_PIXELS:,} takes too "
            "much memory: cut it, or let nextpixel compress score it in tiles."
        )


def levels_of(path: Path, model: ImageModel) -> NDArray[Any]:
    """Reads a picture as levels of a model, `(C, H, W)`."""
    return requantise(read_picture(path, None, model.shape[0]), 256, model.levels)
