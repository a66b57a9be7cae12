"""Loads the codes of a VQ-VAE's data set, as data to train a prior on.

`codes:RUN` is the data set of codes of the VQ-VAE in the run folder RUN. For a VQ-VAE-2 these are
the top codes; `codes:RUN#bottom` has the bottom codes, with the top codes as `coarse_codes`. Images
are encoded once; the codes stay in the user's cache folder until the model or its data change.
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
from nextpixel.data.catalogue import NAMED, SOUNDS
from nextpixel.data.levels import level_type
from nextpixel.data.sampler import batches
from nextpixel.errors import UserError
from nextpixel.utils.files import user_path
from nextpixel.utils.progress import track

if TYPE_CHECKING:
    from nextpixel.models.base.codebook import CodebookModel

__all__ = [
    "absolute_name",
    "baselines",
    "codes_digest",
    "load_codes",
    "load_data",
    "load_source",
]

PREFIX, BOTTOM = "codes:", "#bottom"
SPLITS = ("train", "valid", "test")
BLOCK = 500  # images encoded together
STATE_VERSION = 1  # raise it when the same model encodes images differently than before


def load_data(
    name: str | Path,
    *,
    levels: int | None = None,
    data_dir: str | Path | None = None,
    resize: int | None = None,
    channels: int | None = None,
    trust: bool = False,
) -> Dataset:
    """Loads images by name or path, see `nextpixel.data.load`, or the codes of `codes:RUN`.

    `trust` is that of `nextpixel.load`, for the model of RUN.

    Raises:
        UserError: The data do not exist, or an option does not fit them.
    """
    if not str(name).startswith(PREFIX):
        return data.load(name, levels=levels, data_dir=data_dir, resize=resize, channels=channels)
    codes = load_codes(str(name).removeprefix(PREFIX), data_dir, trust=trust)
    if levels not in (None, codes.levels) or resize is not None or channels is not None:
        raise UserError(
            f"{name} has {codes.levels} codes and a shape of its own: leave levels, resize and "
            f"channels out, or give a model with {codes.levels} levels."
        )
    return codes


def load_source(
    run: str | Path, data_dir: str | Path | None = None, *, trust: bool = False
) -> tuple[CodebookModel, Dataset]:
    """Loads a VQ-VAE (see `nextpixel.load` for `trust`) and the images that it was trained on.

    Raises:
        UserError: The model is not a VQ-VAE, or its data are unknown or missing.
    """
    from nextpixel.model_folders import training_record
    from nextpixel.models.base.codebook import CodebookModel
    from nextpixel.models.base.image_model import load

    model, record = load(run, trust=trust), training_record(run)
    if not isinstance(model, CodebookModel):
        raise UserError(
            f"{run} ({type(model).__name__}) has no codebook: give the run folder of a VQVAE or a "
            "VQVAE2."
        )
    if "data" not in record:
        raise UserError(f"{run} has no record of its training data: give a run folder.")
    images = data.load(
        record["data"],
        levels=model.levels,
        data_dir=data_dir or record.get("data_dir"),
        resize=record.get("resize"),
        channels=record.get("channels"),
    )
    return model, images


def codes_digest(model: CodebookModel, grid: str) -> str:
    """Returns a string that identifies the codes of a model's grid, see `Dataset.codes_of`."""
    return model.digest() if len(model.sizes) == 1 else f"{model.digest()}/{grid}"


def parse_name(name: str | Path) -> tuple[str, bool]:
    """Splits the name of a data set of codes into the run folder and whether it is the bottom's."""
    run = str(name).removeprefix(PREFIX)
    return run.removesuffix(BOTTOM), run.endswith(BOTTOM)


def load_codes(
    name: str | Path, data_dir: str | Path | None = None, *, trust: bool = False
) -> Dataset:
    """Loads the codes of the images that a VQ-VAE was trained on, with their classes.

    A data set with redrawn bits is drawn once. If images have rows of padding, so have their codes:
    the row after the last real one is filled with an additional code, K, which means that the image
    has ended, and counts as real. So a prior learns the lengths of sounds.

    Args:
        name: The run folder of the VQ-VAE; for the bottom codes of a VQ-VAE-2 followed by #bottom.
        data_dir: Where to look for its data first.
        trust: See `nextpixel.load`.

    Returns:
        Images `(1, h, w)` with a level for each code, and one more if images have padding. Bottom
        codes have the top codes as `coarse_codes`.

    Raises:
        UserError: See `load_source`; or there are no bottom codes.
    """
    run, bottom = parse_name(name)
    model, images = load_source(run, data_dir, trust=trust)
    model.check_dataset(images)
    if bottom and len(model.sizes) == 1:
        raise UserError(
            f"{run} ({type(model).__name__}) has no bottom grid of codes: leave {BOTTOM} out."
        )
    splits = [getattr(images, split) for split in SPLITS]
    x = cached_codes(model, splits, run)
    train, valid, test = grid_splits(model, splits, x, 0)
    if bottom:
        train, valid, test = (
            replace(codes, coarse_codes=top)
            for codes, top in zip(
                grid_splits(model, splits, x, 1), (train, valid, test), strict=True
            )
        )
    return Dataset(
        f"{PREFIX}{run}{BOTTOM if bottom else ''}",
        train,
        valid,
        test,
        levels=train.levels,
        class_names=images.class_names,
        source=f"codes of {images.source}",
        codes_of=codes_digest(model, list(model.sizes)[bottom]),
        unnamed=images.unnamed,
        own=False,  # `codes_of` identifies them
    )


def absolute_name(name: str) -> str:
    """Returns the name of a data set, with an absolute path if it is the user's own.

    So a run finds its data from any folder.
    """
    if name in NAMED:
        return name
    prefix = next((each for each in (PREFIX, SOUNDS) if name.startswith(each)), "")
    path = user_path(name.removeprefix(prefix).removesuffix(BOTTOM))
    end = BOTTOM if prefix == PREFIX and name.endswith(BOTTOM) else ""
    return f"{prefix}{path.absolute()}{end}" if path.exists() else name


def cached_codes(model: CodebookModel, splits: list[Images], run: str) -> NDArray[Any]:
    """Returns the codes of all splits, from the cache or encoded now, `(N, 1, *code_shape)`."""
    from nextpixel.model_folders import find

    folder, dtype = find(run), level_type(level_count(model, splits))
    return cache.load_or_decode(
        folder,
        cache.path_of(folder),
        f"{STATE_VERSION} {model.digest()} {content_hash(splits)}",
        lambda: (
            (sum(map(len, splits)), 1, *model.code_shape),
            encode(model, splits, dtype),
            {},
        ),
        dtype,
    )["x"]


def level_count(model: CodebookModel, splits: list[Images]) -> int:
    """Returns the number of codes, plus one for the end of images if there is padding."""
    return model.code_count + any(split.rows is not None for split in splits)


def grid_splits(
    model: CodebookModel, splits: list[Images], x: NDArray[Any], grid: int
) -> list[Images]:
    """Splits the codes of one grid into the data set's splits, without a copy.

    Args:
        model: The VQ-VAE.
        splits: The splits of its images.
        x: The codes of all splits, `(N, 1, *code_shape)`.
        grid: The number of the grid, 0 for the coarsest.
    """
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


def content_hash(splits: list[Images]) -> str:
    """Computes a hash of images, without their classes."""
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
    """Computes the rows of codes for images whose first `rows` rows, `(N,)`, are real.

    Returns:
        The rows that encode real pixels, and these plus the row that ends the image, `(N,)` each.
    """
    height = model.code_shape[0]
    real = -(-rows * height // model.shape[1])
    return real, np.minimum(real + 1, height)


def encode(
    model: CodebookModel, splits: list[Images], dtype: np.dtype[Any]
) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """Encodes all splits in blocks `(B, 1, *code_shape)`, with code K after an image's end."""
    import torch

    from nextpixel.utils.inference import evaluation_mode

    blocks = [(split, numbers) for split in splits for numbers in batches(len(split), BLOCK)]
    with closing(track(blocks, "encoding", len(blocks))) as counted:
        for split, numbers in counted:
            x, _ = split.batch(numbers, (0, int(numbers[0])))
            with torch.inference_mode(), evaluation_mode(model) as network:
                codes = network.codes(torch.from_numpy(x).to(model.device)).cpu().numpy()
            if split.rows is not None:
                real, _ = code_rows(split.rows[numbers], model)
                codes[np.arange(codes.shape[1]) >= real[:, None]] = model.code_count
            yield codes[:, None].astype(dtype)


def baselines(train: Images, images: Images) -> dict[str, float]:
    """Scores images under simple distributions, in bits per site.

    Args:
        train: The images to fit them to, with add-one smoothing.
        images: The images to score.

    Returns:
        The bits under "uniform", "unigram" (one distribution for all sites) and "unigram of each
        position" (one for each site).
    """
    shape = train.x.shape[1:]
    counts = np.ones((math.prod(shape), train.levels))
    for positions, levels in real_sites(train):
        np.add.at(counts, (positions, levels), 1)
    # The unigram adds one to the total of each level, not one for each site.
    fitted = {
        "unigram": np.broadcast_to(counts.sum(0) - (len(counts) - 1), counts.shape),
        "unigram of each position": counts,
    }
    scores = {"uniform": math.log2(train.levels)}
    for name, level_counts in fitted.items():
        bits = np.log2(level_counts.sum(1, keepdims=True)) - np.log2(level_counts)
        total = sum(bits[positions, levels].sum() for positions, levels in real_sites(images))
        scores[name] = float(total / images.sites().sum())
    return scores


def real_sites(images: Images) -> Iterator[tuple[NDArray[np.intp], NDArray[np.integer[Any]]]]:
    """Yields the positions and the levels of all real sites, block by block."""
    for numbers in batches(len(images), BLOCK):
        x, padding = images.x[numbers], images.padding(numbers)
        real = np.ones(x.shape, bool) if padding is None else ~np.broadcast_to(padding, x.shape)
        flat = real.reshape(len(x), -1)
        yield np.nonzero(flat)[1], x.reshape(len(x), -1)[flat]
