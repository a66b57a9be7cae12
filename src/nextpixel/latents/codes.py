"""Codes as data: what a VQ-VAE makes of its own data set, for a prior to learn.

A data set of codes has the name `codes:RUN`, for the run folder of a VQ-VAE. Of a VQ-VAE-2 these
are the top codes; `codes:RUN#bottom` has the bottom codes, and the top's as their `coarse_codes`.
Codes are encoded once and kept in the user's cache folder, until the model or its data change.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nextpixel import data
from nextpixel.data import Dataset, Images, cache
from nextpixel.data.images import batches, level_type
from nextpixel.errors import UserError
from nextpixel.utils.progress import shown

if TYPE_CHECKING:
    from nextpixel.models.base.codebook import CodebookModel

__all__ = ["baselines", "load_codes", "load_data", "mark", "source"]

PREFIX, BOTTOM = "codes:", "#bottom"
SPLITS = ("train", "valid", "test")
BLOCK = 500  # images encoded together
STATE_VERSION = 1  # to be raised when images are turned into other codes than before


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


def source(run: str | Path, data_dir: str | Path | None = None) -> tuple[CodebookModel, Dataset]:
    """Loads a VQ-VAE, and the images that it was trained on.

    Raises:
        UserError: The model is no VQ-VAE, or its data are not known or not there.
    """
    from nextpixel.models.base.codebook import CodebookModel
    from nextpixel.models.base.image_model import load
    from nextpixel.saving import training_record

    model, record = load(run), training_record(run)
    if not isinstance(model, CodebookModel):
        raise UserError(
            f"{run} ({type(model).__name__}) has no codebook: give the run folder of a VQVAE or a "
            "VQVAE2."
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


def mark(model: CodebookModel, grid: str) -> str:
    """Says which codes those of a model's grid are, see `Dataset.codes_of`."""
    return model.digest() if len(model.sizes) == 1 else f"{model.digest()}/{grid}"


def run_of(name: str | Path) -> tuple[str, bool]:
    """Reads the name of codes: the run folder, and whether its bottom codes are meant."""
    run = str(name).removeprefix(PREFIX)
    return run.removesuffix(BOTTOM), run.endswith(BOTTOM)


def load_codes(name: str | Path, data_dir: str | Path | None = None) -> Dataset:
    """Loads the codes of the images that a VQ-VAE was trained on, with their classes.

    Of a data set whose bits are redrawn, one draw is encoded. Where images have rows of padding, so
    have their codes: the first of these rows is real, and all of one more code, K, which says that
    here the image has ended. So a prior learns how long sounds are, and draws some that end.

    Args:
        name: The run folder of the VQ-VAE; of a VQ-VAE-2, with #bottom behind it for these codes.
        data_dir: Where to look for its data first.

    Returns:
        Images `(1, h, w)` with as many levels as there are codes, and one more if images end. The
        bottom's have the top's as `coarse_codes`.

    Raises:
        UserError: See `source`; or there are no bottom codes.
    """
    run, bottom = run_of(name)
    model, images = source(run, data_dir)
    model.check_dataset(images)
    if bottom and len(model.sizes) == 1:
        raise UserError(
            f"{run} ({type(model).__name__}) has one grid of codes, and no bottom: leave {BOTTOM} "
            "out."
        )
    splits = [getattr(images, split) for split in SPLITS]
    x = encoded(model, splits, run)
    train, valid, test = grid_splits(model, splits, x, 0)
    if bottom:
        below = grid_splits(model, splits, x, 1)
        train, valid, test = (
            replace(split, coarse_codes=top)
            for split, top in zip(below, (train, valid, test), strict=True)
        )
    return Dataset(
        f"{PREFIX}{run}{BOTTOM if bottom else ''}",
        train,
        valid,
        test,
        levels=train.levels,
        class_names=images.class_names,
        source=f"codes of {images.source}",
        codes_of=mark(model, list(model.sizes)[bottom]),
    )


def encoded(model: CodebookModel, splits: list[Images], run: str) -> NDArray[Any]:
    """Gets the codes of all splits from where they are kept, `(N, 1, *code_shape)`."""
    from nextpixel.saving import find

    folder, dtype = find(run), level_type(level_count(model, splits))
    return cache.made(
        folder,
        cache.place(folder),
        f"{STATE_VERSION} {model.digest()} {content(splits)}",
        lambda: (
            (sum(map(len, splits)), 1, *model.code_shape),
            encode(model, splits, dtype),
            {},
        ),
        dtype,
    )["x"]


def level_count(model: CodebookModel, splits: list[Images]) -> int:
    """Counts the codes, and one more if images end."""
    return model.code_count + any(split.rows is not None for split in splits)


def grid_splits(
    model: CodebookModel, splits: list[Images], x: NDArray[Any], grid: int
) -> list[Images]:
    """Takes one grid of a model out of the codes of all splits, without a copy."""
    sizes = list(model.sizes.values())
    first = sum(map(math.prod, sizes[:grid]))
    flat = x.reshape(len(x), 1, -1)[:, :, first : first + math.prod(sizes[grid])]
    codes = flat.reshape(len(x), 1, *sizes[grid])
    begins = np.cumsum([0, len(splits[0]), len(splits[1])])
    return [
        Images(
            codes[begin : begin + len(split)],
            split.y,
            level_count(model, splits),
            rows=None if split.rows is None else code_rows(split.rows, model)[1],
        )
        for split, begin in zip(splits, begins, strict=True)
    ]


def content(splits: list[Images]) -> str:
    """Computes a hash of images; their classes are not encoded, and do not matter."""
    total = hashlib.sha256()
    for split in splits:
        total.update(repr((split.x.shape, split.levels, split.redraw)).encode())
        total.update(b"" if split.rows is None else split.rows.tobytes())
        for numbers in batches(len(split), BLOCK):
            total.update(split.x[numbers].tobytes())
    return total.hexdigest()


def code_rows(
    rows: NDArray[np.int64], model: CodebookModel
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts the rows of codes that stand for real rows of images, and these with the end's."""
    height = model.code_shape[0]
    real = -(-rows * height // model.shape[1])
    return real, np.minimum(real + 1, height)


def encode(
    model: CodebookModel, splits: list[Images], dtype: np.dtype[Any]
) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """Computes the codes of all splits in blocks `(B, 1, *code_shape)`; K after an image's end."""
    import torch

    from nextpixel.utils.inference import evaluation_mode

    blocks = [(split, numbers) for split in splits for numbers in batches(len(split), BLOCK)]
    with closing(shown(blocks, "encoding", len(blocks))) as counted:
        for split, numbers in counted:
            x, _ = split.batch(numbers, (0, int(numbers[0])))
            with torch.inference_mode(), evaluation_mode(model):
                codes = model.codes(torch.from_numpy(x).to(model.device)).cpu().numpy()
            if split.rows is not None:
                real, _ = code_rows(split.rows[numbers], model)
                codes[np.arange(codes.shape[1]) >= real[:, None]] = model.code_count
            yield codes[:, None].astype(dtype)


def baselines(train: Images, images: Images) -> dict[str, float]:
    """Scores images under distributions that need no network, in bits for each site.

    Args:
        train: What they are fitted on; each level is counted once more than it appears.
        images: What they are scored on.

    Returns:
        "uniform" (all levels alike), "unigram" (one distribution for all sites), and "unigram of
        each position" (one for each site).
    """
    shape = train.x.shape[1:]
    counts = np.ones((math.prod(shape), train.levels))
    for positions, levels in real_sites(train):
        np.add.at(counts, (positions, levels), 1)
    # One added to each level of all sites together, as to those of a single one.
    fitted = {
        "unigram": np.broadcast_to(counts.sum(0) - (len(counts) - 1), counts.shape),
        "unigram of each position": counts,
    }
    scores = {"uniform": math.log2(train.levels)}
    for name, numbers in fitted.items():
        bits = np.log2(numbers.sum(1, keepdims=True)) - np.log2(numbers)
        total = sum(bits[positions, levels].sum() for positions, levels in real_sites(images))
        scores[name] = float(total / images.sites().sum())
    return scores


def real_sites(images: Images) -> Iterator[tuple[NDArray[np.intp], NDArray[np.integer[Any]]]]:
    """Lists the real sites of images, block by block: their positions, and their levels."""
    for numbers in batches(len(images), BLOCK):
        x, padding = images.x[numbers], images.padding(numbers)
        real = np.ones(x.shape, bool) if padding is None else ~np.broadcast_to(padding, x.shape)
        flat = real.reshape(len(x), -1)
        yield np.nonzero(flat)[1], x.reshape(len(x), -1)[flat]
