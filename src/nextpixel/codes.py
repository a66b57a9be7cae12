"""Codes as data: what a VQ-VAE makes of its own data set, for a prior to learn.

A data set of codes has the name `codes:RUN`, for the run folder of a VQ-VAE. It is encoded once and
kept in the user's cache folder, until the model or its data change.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nextpixel import data
from nextpixel.data import Dataset, Images, kept
from nextpixel.data.images import level_type
from nextpixel.data.progress import shown
from nextpixel.errors import UserError

if TYPE_CHECKING:
    from nextpixel.models import VQVAE

__all__ = ["baselines", "load_codes", "load_data", "source"]

PREFIX = "codes:"
SPLITS = ("train", "valid", "test")
BLOCK = 500  # images encoded together


def load_data(
    name: str | Path,
    *,
    levels: int | None = None,
    data_dir: str | Path | None = None,
    size: int | None = None,
    channels: int | None = None,
) -> Dataset:
    """Loads images by name or path, see `nextpixel.data.load`, or the codes of `codes:RUN`.

    Raises:
        UserError: There are no such data, or an option does not fit them.
    """
    if not str(name).startswith(PREFIX):
        return data.load(name, levels=levels, data_dir=data_dir, size=size, channels=channels)
    codes = load_codes(str(name).removeprefix(PREFIX), data_dir)
    if levels not in (None, codes.levels) or size is not None or channels is not None:
        raise UserError(
            f"{name} holds codes below {codes.levels}, which are as they are: leave levels, size "
            "and channels out, or take a model with as many levels."
        )
    return codes


def source(run: str | Path, data_dir: str | Path | None = None) -> tuple[VQVAE, Dataset]:
    """Loads a VQ-VAE, and the images that it was trained on.

    Raises:
        UserError: The model is no VQ-VAE, or its data are not known or not there.
    """
    from nextpixel.model import load, training_record
    from nextpixel.models import VQVAE

    model, record = load(run), training_record(run)
    if not isinstance(model, VQVAE):
        raise UserError(
            f"{run} ({type(model).__name__}) has no codebook: give the run folder of a VQVAE."
        )
    if "data" not in record:
        raise UserError(f"It is not known which data {run} was trained on: give a run folder.")
    images = data.load(
        record["data"],
        levels=model.levels,
        data_dir=data_dir or record.get("data_dir"),
        size=record.get("size"),
        channels=record.get("channels"),
    )
    return model, images


def load_codes(run: str | Path, data_dir: str | Path | None = None) -> Dataset:
    """Loads the codes of the images that a VQ-VAE was trained on, with their classes.

    Of a data set whose bits are redrawn, one draw is encoded.

    Args:
        run: The run folder of the VQ-VAE.
        data_dir: Where to look for its data first.

    Returns:
        Images `(1, h, w)` with as many levels as there are codes.

    Raises:
        UserError: See `source`.
    """
    from nextpixel.model import find

    model, images = source(run, data_dir)
    digest = model.digest()
    splits = [getattr(images, split) for split in SPLITS]
    folder, dtype = find(run), level_type(model.code_count)
    shape = (sum(map(len, splits)), 1, *model.code_shape)
    x = kept.made(
        folder,
        kept.place(folder),
        f"{digest} {content(splits)}",
        lambda: (shape, encode(model, splits), {}),
        dtype,
    )["x"]
    begins = np.cumsum([0, len(splits[0]), len(splits[1])])
    train, valid, test = (
        Images(x[begin : begin + len(split)], split.y, model.code_count)
        for split, begin in zip(splits, begins, strict=True)
    )
    return Dataset(
        f"{PREFIX}{run}",
        train,
        valid,
        test,
        levels=model.code_count,
        class_names=images.class_names,
        source=f"codes of {images.source}",
        codes_of=digest,
    )


def content(splits: list[Images]) -> str:
    """Computes a hash of images; their classes are not encoded, and do not matter."""
    total = hashlib.sha256()
    for split in splits:
        total.update(repr((split.x.shape, split.levels, split.redraw)).encode())
        for begin in range(0, len(split), BLOCK):
            total.update(split.x[begin : begin + BLOCK].tobytes())
    return total.hexdigest()


def encode(model: VQVAE, splits: list[Images]) -> Iterator[NDArray[np.uint8] | NDArray[np.uint16]]:
    """Computes the codes of all splits, block by block, `(B, 1, h, w)`."""
    import torch

    blocks = [
        (split, np.arange(begin, min(begin + BLOCK, len(split))))
        for split in splits
        for begin in range(0, len(split), BLOCK)
    ]
    with closing(shown(blocks, "encoding", len(blocks))) as counted:
        for split, numbers in counted:
            x, _ = split.batch(numbers, (0, int(numbers[0])))
            with torch.inference_mode():
                codes = model.codes(torch.from_numpy(x).to(model.device))
            yield codes.cpu().numpy()[:, None].astype(level_type(model.code_count))


def baselines(train: Images, images: Images) -> dict[str, float]:
    """Scores images under distributions that need no network, in bits for each site.

    Args:
        train: What they are fitted on; each level is counted once more than it appears.
        images: What they are scored on.

    Returns:
        "uniform" (all levels alike), "unigram" (one distribution for all sites), and "unigram of
        each position" (one for each site).
    """
    sites = math.prod(train.x.shape[1:])
    counts = np.ones((sites, train.levels))
    positions = np.arange(sites)
    for begin in range(0, len(train), BLOCK):
        block = train.x[begin : begin + BLOCK].reshape(-1, sites)
        np.add.at(counts, (positions, block), 1)
    # One added to each level of all sites together, as to those of a single one.
    fitted = {
        "unigram": np.broadcast_to(counts.sum(0) - (sites - 1), counts.shape),
        "unigram of each position": counts,
    }
    scores = {"uniform": math.log2(train.levels)}
    for name, numbers in fitted.items():
        bits = np.log2(numbers.sum(1, keepdims=True)) - np.log2(numbers)
        total = sum(
            bits[positions, images.x[begin : begin + BLOCK].reshape(-1, sites)].sum()
            for begin in range(0, len(images), BLOCK)
        )
        scores[name] = float(total / (len(images) * sites))
    return scores
