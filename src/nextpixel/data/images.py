"""Images as integers: a split, a data set of three splits, and the change of levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.spectrogram import Spectrogram
from nextpixel.errors import UserError
from nextpixel.noise import Stream

__all__ = [
    "SPLITS",
    "DataRecord",
    "Dataset",
    "Images",
    "batches",
    "draw_bits",
    "level_type",
    "mutate",
    "requantise",
    "spread",
]

BLOCK = 1 << 18  # values that are worked on together where all would take much memory
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set.

    Attributes:
        x: Images, shape (N, C, H, W), integers in [0, levels): uint8, or uint16 for more than 256
            levels. For a redrawn split these are the intensities in [0, 256) that the bits are
            drawn from. It may be a memory map.
        y: Class ids, shape (N,), int64, or None.
        levels: The number of levels of what `batch` returns, 2 to 256 (of codes, up to 65,536).
        redraw: Whether every batch draws new bits, with P(1) = x / 255.
        rows: How many rows of each image are real, 1 to H, shape (N,), int64; those below are
            padding, which no loss and no score counts. None: all are real.
        coarse_codes: The codes of a coarser grid of each image, one channel, as many as there are
            images, for a model that is conditioned on them; or None.
        mutation_rate: The probability that `batch` replaces a value by a level drawn uniformly, see
            `mutate`.

    Raises:
        UserError: If an array has another type or shape, or a value outside [0, levels); the values
            of a memory map are checked as batches are read.
    """

    x: NDArray[np.uint8] | NDArray[np.uint16]
    y: NDArray[np.int64] | None
    levels: int
    redraw: bool = False
    rows: NDArray[np.int64] | None = None
    coarse_codes: Images | None = None
    mutation_rate: float = 0.0

    def __post_init__(self) -> None:
        dtype = level_type(self.levels)
        if self.x.ndim != 4 or self.x.dtype != dtype:
            raise UserError(
                f"Images of {self.levels} levels need x as {dtype} of shape (N, C, H, W), not "
                f"{self.x.dtype} of shape {self.x.shape}: convert the array first."
            )
        if self.y is not None and (self.y.shape != self.x.shape[:1] or self.y.dtype != np.int64):
            raise UserError(
                f"{len(self.x)} images need y as int64 of shape ({len(self.x)},), not "
                f"{self.y.dtype} of shape {self.y.shape}: give one class id an image."
            )
        if self.rows is not None:
            self._check_rows(self.rows)
        coarse = self.coarse_codes
        if coarse is not None and coarse.x.shape[:2] != (len(self.x), 1):
            raise UserError(
                f"{len(self.x)} images need {len(self.x)} grids of coarse codes with one channel, "
                f"not x of shape {coarse.x.shape}."
            )
        if not isinstance(self.x, np.memmap):
            self._check_values(self.x)

    def _check_rows(self, rows: NDArray[np.int64]) -> None:
        if rows.shape != self.x.shape[:1] or rows.dtype != np.int64:
            raise UserError(
                f"{len(self.x)} images need rows as int64 of shape ({len(self.x)},), not "
                f"{rows.dtype} of shape {rows.shape}: give one number an image."
            )
        if rows.size and not 1 <= rows.min() <= rows.max() <= self.x.shape[2]:
            raise UserError(
                f"Images of {self.x.shape[2]} rows have 1 to {self.x.shape[2]} real ones, not "
                f"{rows.min()} to {rows.max()}."
            )

    def _check_values(self, x: NDArray[np.unsignedinteger[Any]]) -> None:
        top = 256 if self.redraw else self.levels
        if top <= np.iinfo(x.dtype).max and x.size and x.max() >= top:
            raise UserError(
                f"Images of {top} levels hold integers from 0 to {top - 1}, but one value is "
                f"{x.max()}: give the right number of levels."
            )

    def __len__(self) -> int:
        return len(self.x)

    def batch(
        self, indices: NDArray[np.integer], draw: tuple[int, int] = (0, 0)
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64] | None]:
        """Returns the images with these indices, and their class ids.

        Args:
            indices: Which images, shape (B,).
            draw: The key of the noise for a redrawn split's bits and for mutated values: two
                integers >= 0, say (seed, step), different for every rank. Other splits do not use
                it.

        Returns:
            x, shape (B, C, H, W), in [0, levels), uint8, or int32 for more than 256 levels; y,
            shape (B,), int64, or None. Both are copies, free to be changed.
        """
        x = self.x[indices]
        if isinstance(self.x, np.memmap):
            self._check_values(x)
        y = None if self.y is None else self.y[indices]
        if self.redraw:
            x = draw_bits(x, draw)
        elif x.dtype != np.uint8:
            x = x.astype(np.int32)  # torch hardly knows uint16
        if self.mutation_rate:
            x = mutate(x, self.mutation_rate, self.levels, draw)
        return x, y

    def spread(self, limit: int | None) -> Images:
        """Keeps at most so many images, spread evenly over all: files may be sorted by class."""
        if limit is None or limit >= len(self):
            return self
        kept = spread(len(self), limit)
        y = None if self.y is None else self.y[kept]
        rows = None if self.rows is None else self.rows[kept]
        coarse = None if self.coarse_codes is None else self.coarse_codes.spread(limit)
        return replace(self, x=self.x[kept], y=y, rows=rows, coarse_codes=coarse)

    def padding(self, indices: NDArray[np.integer]) -> NDArray[np.bool_] | None:
        """Returns where images are padding, shape (B, 1, H, W), or None where all is real."""
        if self.rows is None:
            return None
        _, _, height, width = self.x.shape
        below = np.arange(height) >= self.rows[indices][:, None]
        return np.broadcast_to(below[:, None, :, None], (len(below), 1, height, width))

    def refuse_padding(self, what: str) -> None:
        """Refuses images with padding where all their pixels would be counted.

        Raises:
            UserError: Some rows are padding; `what` begins the sentence.
        """
        if self.rows is not None:
            raise UserError(
                f"{what} counts all pixels of an image, but these have rows of padding, as sounds "
                "of different lengths do: give images without any."
            )

    def sites(self) -> NDArray[np.int64]:
        """Counts the real sites of each image, C times its real rows times W, shape (N,)."""
        n, channels, height, width = self.x.shape
        rows = np.full(n, height) if self.rows is None else self.rows
        sites: NDArray[np.int64] = rows * (channels * width)
        return sites


@dataclass(frozen=True)
class DataRecord:
    """What a model keeps of the data set it was trained on.

    Attributes:
        class_names: A name for each class id, or None.
        spectrogram: How sounds became its images, or None.
        codes_of: Where its images are grids of codes: which ones, see `Dataset.codes_of`.
    """

    class_names: tuple[str, ...] | None = None
    spectrogram: Spectrogram | None = None
    codes_of: str | None = None

    def settings(self) -> dict[str, Any]:
        """Returns the entries that are not None, as JSON holds them."""
        entries = {
            "spectrogram": None if self.spectrogram is None else self.spectrogram.settings(),
            "class_names": self.class_names,
            "codes_of": self.codes_of,
        }
        return {name: entry for name, entry in entries.items() if entry is not None}

    @classmethod
    def from_settings(cls, config: dict[str, Any]) -> DataRecord:
        """Makes one from the entries of a `config.json`; others are ignored."""
        spectrogram, names = config.get("spectrogram"), config.get("class_names")
        return cls(
            None if names is None else tuple(names),
            None if spectrogram is None else Spectrogram(**spectrogram),
            config.get("codes_of"),
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three fixed splits of images of one shape.

    Attributes:
        name: What the user called it.
        train: What to learn from.
        valid: What to select on.
        test: What to report, and never to select on.
        levels: The number of levels of every split.
        class_names: A name for each class id, or None if there are no classes.
        source: Citation and licence, in one line.
        codes_of: Where the integers are codes: the sha256 of the model that they are codes of, and
            after a slash the name of the grid, if it has several.
        spectrogram: How sounds became these images, or None.
    """

    name: str
    train: Images
    valid: Images
    test: Images
    levels: int
    class_names: tuple[str, ...] | None
    source: str
    codes_of: str | None = None
    spectrogram: Spectrogram | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image, (C, H, W)."""
        _, c, h, w = self.train.x.shape
        return c, h, w

    @property
    def classes(self) -> int | None:
        """The number of classes, or None."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def coarse_codes(self) -> tuple[int, int, int] | None:
        """The levels, the height and the width of each image's coarse codes, or None."""
        coarse = self.train.coarse_codes
        return None if coarse is None else (coarse.levels, *coarse.x.shape[2:])

    @property
    def record(self) -> DataRecord:
        """What a model that is trained on this data set keeps of it."""
        return DataRecord(self.class_names, self.spectrogram, self.codes_of)

    def requantised(self, levels: int) -> Dataset:
        """Returns this data set with fewer levels (see `requantise`).

        Raises:
            UserError: If `levels` is below 2 or above the levels that the data set has.
        """
        if levels == self.levels:
            return self
        if not 2 <= levels <= self.levels:
            raise UserError(
                f"{self.name} has {self.levels} levels and cannot be given {levels}: choose "
                f"{'2' if self.levels == 2 else f'2 to {self.levels}'} for levels."
            )

        def split(images: Images) -> Images:
            return replace(images, x=requantise(images.x, self.levels, levels), levels=levels)

        spectrogram = self.spectrogram
        return replace(
            self,
            train=split(self.train),
            valid=split(self.valid),
            test=split(self.test),
            levels=levels,
            spectrogram=None if spectrogram is None else replace(spectrogram, levels=levels),
        )


def spread(count: int, limit: int | None) -> NDArray[np.int64]:
    """Chooses at most `limit` of the numbers from 0 to count - 1, evenly."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(np.int64)


def batches(
    count: int, size: int, progress: Callable[[float], None] | None = None
) -> Iterator[NDArray[np.int64]]:
    """Cuts the numbers from 0 to count - 1 into batches.

    Args:
        count: How many numbers.
        size: The length of a batch; the last one may be shorter.
        progress: Called with the fraction done after each batch.
    """
    for begin in range(0, count, size):
        end = min(begin + size, count)
        yield np.arange(begin, end)
        if progress is not None:
            progress(end / count)


def level_type(levels: int) -> np.dtype[Any]:
    """Returns the type that levels are kept in: uint8, or uint16 where these are too many."""
    return np.dtype(np.uint8 if levels <= 256 else "<u2")


def requantise(x: NDArray[np.integer], from_levels: int, levels: int) -> NDArray[np.uint8]:
    """Reduces the levels of images: q = x * levels // from_levels.

    Args:
        x: Integers in [0, from_levels), of one dimension or more.
        from_levels: How many levels x has, at most 256.
        levels: How many the result has, 2 <= levels <= from_levels.

    Returns:
        uint8 of the same shape.

    Raises:
        UserError: If the numbers of levels are out of range.
    """
    if not 2 <= levels <= from_levels <= 256:
        raise UserError(
            f"{from_levels} levels cannot be turned into {levels}: "
            "choose 2 or more, and no more than there are (at most 256)."
        )
    table: NDArray[np.uint8] = (np.arange(from_levels) * levels // from_levels).astype(np.uint8)
    out = np.empty(x.shape, np.uint8)
    some = max(1, BLOCK // max(1, math.prod(x.shape[1:])))
    for i in range(0, len(x), some):  # not all at once: NumPy makes indices of 8 bytes of them
        out[i : i + some] = table[x[i : i + some]]
    return out


def draw_bits(x: NDArray[np.integer[Any]], key: Sequence[int]) -> NDArray[np.uint8]:
    """Draws a bit for every intensity, 1 with probability x / 255, from the noise of this key.

    Args:
        x: Intensities in [0, 256), any shape.
        key: Two integers >= 0; the same key gives the same bits.

    Returns:
        uint8, 0 or 1, of the same shape.
    """
    noise = Stream.BITS.generator(*key)
    # noise < 1, so that 255 is always 1 and 0 never.
    return (noise.random(x.shape) * 255 < x).astype(np.uint8)


def mutate(
    x: NDArray[np.integer[Any]], share: float, levels: int, key: Sequence[int]
) -> NDArray[np.integer[Any]]:
    """Replaces values, each with a probability, by levels drawn uniformly from the key's noise.

    What is drawn may be the level that was there, so that a share of `1 / levels` of the replaced
    values stays the same.

    Args:
        x: Images, any shape, integers in [0, levels).
        share: The probability that a value (a channel of a pixel) is replaced, 0 to 1.
        levels: The number of levels.
        key: Two integers >= 0; the same key gives the same result.

    Returns:
        Integers of the same type and shape.

    References:
        Ren et al.: Likelihood Ratios for Out-of-Distribution Detection, 2019
        (https://arxiv.org/abs/1906.02845): how the images of a background model are made.
    """
    noise = Stream.MUTATIONS.generator(*key)
    replaced = noise.random(x.shape) < share
    return np.where(replaced, noise.integers(levels, size=x.shape).astype(x.dtype), x)


# --- both -----------------------------------------------------------------------------------------


def _dataset(
    path: Path, splits: Mapping[str, Images], levels: int, class_names: Sequence[str] | None
) -> Dataset:
    shapes = {images.x.shape[1:] for images in splits.values()}
    if len(shapes) > 1:
        raise UserError(
            f"{path} holds images of different shapes, {' and '.join(map(str, sorted(shapes)))}: "
            "give all splits one (C, H, W)."
        )
    if 0 in next(iter(shapes)):
        raise UserError(f"{path} holds images without pixels: give each side 1 or more.")
    for split, images in splits.items():
        _refuse_empty(path, split, len(images))
    return Dataset(
        name=_name(path),
        train=splits["train"],
        valid=splits["valid"],
        test=splits["test"],
        levels=levels,
        class_names=None if class_names is None else tuple(class_names),
        source=f"own data, {path}",
    )


def _name(path: Path) -> str:
    return path.stem if path.is_file() else path.resolve().name


def _refuse_empty(path: Path, split: str, count: int) -> None:
    if not count:
        raise UserError(
            f"{path} leaves no image for the {split} split: give more images, or choose the "
            "splits yourself (subfolders, or arrays x_..., train, valid and test)."
        )


def _refuse_blank(path: Path, highest: int, own_levels: int, levels: int) -> None:
    """Stops a set that holds, say, levels 0 to 15 from being taken for 256 levels, and blanked."""
    if 2 <= levels < own_levels and highest and highest * levels < own_levels:
        raise UserError(
            f"{_name(path)} has values up to {highest} only, which {levels} of {own_levels} levels "
            f"would all turn into 0: if they are levels already, state how many there are in an "
            ".npz, as levels."
        )
