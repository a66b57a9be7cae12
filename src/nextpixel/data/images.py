"""Images as integers: one split, and a data set of three splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.classes import match_classes, refuse_class
from nextpixel.data.levels import draw_bits, level_type, mutate, requantise
from nextpixel.data.sampler import evenly_spaced
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.errors import UserError
from nextpixel.utils.reading import is_utf8

__all__ = [
    "SPLITS",
    "DataRecord",
    "Dataset",
    "Images",
    "Unsplit",
    "dataset_from_splits",
    "refuse_all_zero",
    "refuse_empty",
]

SPLITS = ("train", "valid", "test")
HASHED = 1000  # images hashed at once


@dataclass(frozen=True, eq=False)
class Images:
    """Holds one split of a data set.

    Attributes:
        x: Images, shape (N, C, H, W), integers in [0, levels): uint8, or uint16 for more than 256
            levels. If `redraw` is true, intensities in [0, 256) from which bits are drawn. May be
            a memory map.
        y: Class ids, shape (N,), int64, or None.
        levels: Number of levels of the batches, 2 to 256 (for codes up to 65,536).
        redraw: Whether every batch draws new bits, with P(1) = x / 255.
        rows: Number of real rows of each image, 1 to H, shape (N,), int64. The rows below are
            padding, which no loss or score counts. None if all rows are real.
        coarse_codes: The coarser grid of codes of each image, N grids of one channel, for models
            conditioned on it; or None.
        mutation_rate: Probability that `batch` replaces a value by a uniformly drawn level, see
            `mutate`.
        class_names: The name of each class id; None without classes, or if the ids of an array are
            all that is known. A `Dataset` sets it.

    Raises:
        UserError: If an array has the wrong type or shape, or a value outside [0, levels). The
            values of a memory map are checked when a batch is read.
    """

    x: NDArray[np.uint8] | NDArray[np.uint16]
    y: NDArray[np.int64] | None
    levels: int
    redraw: bool = False
    rows: NDArray[np.int64] | None = None
    coarse_codes: Images | None = None
    mutation_rate: float = 0.0
    class_names: tuple[str, ...] | None = None

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
                f"{self.y.dtype} of shape {self.y.shape}: give one class id per image."
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
                f"{rows.dtype} of shape {rows.shape}: give one number per image."
            )
        if rows.size and not 1 <= rows.min() <= rows.max() <= self.x.shape[2]:
            raise UserError(
                f"Images of {self.x.shape[2]} rows have 1 to {self.x.shape[2]} real rows, not "
                f"{rows.min()} to {rows.max()}."
            )

    def _check_values(self, x: NDArray[np.unsignedinteger[Any]]) -> None:
        levels = 256 if self.redraw else self.levels
        if levels <= np.iinfo(x.dtype).max and x.size and x.max() >= levels:
            raise UserError(
                f"Images of {levels} levels hold integers from 0 to {levels - 1}, but one value is "
                f"{x.max()}: give the right number of levels."
            )

    def __len__(self) -> int:
        return len(self.x)

    def batch(
        self, indices: NDArray[np.integer], key: tuple[int, int] = (0, 0)
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64] | None]:
        """Returns the images at some indices and their class ids.

        Args:
            indices: Indices of images, shape (B,).
            key: Key of the noise for redrawn bits and mutations: two integers >= 0 such as
                (seed, step), different for every rank. Unused by other splits.

        Returns:
            x, shape (B, C, H, W), in [0, levels), uint8, or int32 for more than 256 levels; y,
            shape (B,), int64, or None. Both are copies that the caller may change.

        Raises:
            UserError: If a value of a memory map is outside [0, levels).
        """
        x = self.x[indices]
        if isinstance(self.x, np.memmap):
            self._check_values(x)
        y = None if self.y is None else self.y[indices]
        if self.redraw:
            x = draw_bits(x, key)
        elif x.dtype != np.uint8:
            x = x.astype(np.int32)  # torch hardly supports uint16
        if self.mutation_rate:
            x = mutate(x, self.mutation_rate, self.levels, key)
        return x, y

    def subset(self, limit: int | None) -> Images:
        """Selects at most `limit` images at evenly spaced indices: files may be sorted by class."""
        if limit is None or limit >= len(self):
            return self
        indices = evenly_spaced(len(self), limit)
        y = None if self.y is None else self.y[indices]
        rows = None if self.rows is None else self.rows[indices]
        coarse = None if self.coarse_codes is None else self.coarse_codes.subset(limit)
        return replace(self, x=self.x[indices], y=y, rows=rows, coarse_codes=coarse)

    def with_class_names(self, names: Sequence[str] | None) -> Images:
        """Returns these images with the class ids of a model, see `match_classes`."""
        table = None if self.y is None else match_classes(self.class_names, names)
        if self.y is None or table is None:
            return self
        return replace(self, y=table[self.y], class_names=tuple(names or ()))

    def padding(self, indices: NDArray[np.integer]) -> NDArray[np.bool_] | None:
        """Returns where images are padding, bool (B, 1, H, W), or None if all rows are real."""
        if self.rows is None:
            return None
        _, _, height, width = self.x.shape
        below = np.arange(height) >= self.rows[indices][:, None]
        return np.broadcast_to(below[:, None, :, None], (len(below), 1, height, width))

    def refuse_padding(self, task: str) -> None:
        """Refuses images with padding for a task that counts all their pixels.

        Args:
            task: What counts all pixels; begins the message.

        Raises:
            UserError: If some rows are padding.
        """
        if self.rows is not None:
            raise UserError(
                f"{task} counts all pixels of an image, but these images have rows of padding, as "
                "sounds of different lengths do: give images without padding."
            )

    def sites(self) -> NDArray[np.int64]:
        """Counts the real sites of each image, C times its real rows times W, shape (N,)."""
        n, channels, height, width = self.x.shape
        rows = np.full(n, height) if self.rows is None else self.rows
        sites: NDArray[np.int64] = rows * (channels * width)
        return sites


@dataclass(frozen=True)
class DataRecord:
    """Describes the data set that a model was trained on, and is saved with the model.

    Attributes:
        class_names: The name of each class id, or None.
        spectrogram: The conversion from sounds to images, or None.
        codes_of: The model whose codes the images are, see `Dataset.codes_of`, or None.
        untrained: The ids of the classes that had no training images.
        digest: The hash of the user's own data, see `Dataset.digest`; None for other data.
    """

    class_names: tuple[str, ...] | None = None
    spectrogram: Spectrogram | None = None
    codes_of: str | None = None
    untrained: tuple[int, ...] = ()
    digest: str | None = None

    def trained(self, classes: int | None) -> list[int]:
        """Returns those ids of a model's classes that had training images; [] without classes."""
        return [i for i in range(classes or 0) if i not in self.untrained]

    def settings(self) -> dict[str, Any]:
        """Returns the entries that are not None, in the form that JSON stores."""
        entries = {
            "spectrogram": None if self.spectrogram is None else self.spectrogram.settings(),
            "class_names": self.class_names,
            "codes_of": self.codes_of,
            "untrained_classes": self.untrained or None,
            "data_digest": self.digest,
        }
        return {name: entry for name, entry in entries.items() if entry is not None}

    @classmethod
    def from_settings(cls, config: dict[str, Any]) -> DataRecord:
        """Creates a record from a `config.json`; a TypeError if an entry is of another type."""
        spectrogram, names = config.get("spectrogram"), config.get("class_names")
        untrained = config.get("untrained_classes", [])
        texts = [*(names or ()), config.get("codes_of") or "", config.get("data_digest") or ""]
        if not isinstance(names, list | None) or not all(map(is_utf8, texts)):
            raise TypeError("class_names is a list of texts in UTF-8")
        if not all(type(text) is str for text in texts) or not all(
            type(i) is int for i in untrained
        ):
            raise TypeError("names of classes are text, their ids whole numbers")
        return cls(
            None if names is None else tuple(names),
            None if spectrogram is None else Spectrogram(**spectrogram),
            config.get("codes_of"),
            tuple(untrained),
            config.get("data_digest"),
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Holds three fixed splits of images of one shape.

    Attributes:
        name: The name or the path's last part.
        train: Images to train on.
        valid: Images for choosing between models and settings.
        test: Images for reported scores only.
        levels: Number of levels of every split.
        class_names: The name of each class id, or None if there are no classes.
        source: Citation and licence, in one line.
        codes_of: If the images are codes, the sha256 of the model that made them, followed by a
            slash and the name of the grid if the model has several; else None.
        spectrogram: The conversion from sounds to these images, or None.
        unnamed: Whether the class names are only the ids of an array, "0", "1", ...
        own: Whether these are the user's own data, which may change, not a data set of the
            catalogue.
        location: Where `load_data` finds the user's own data, with an absolute path; None for data
            made in Python.
        skipped: The files of a folder that could not be read as pictures.
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
    unnamed: bool = False
    own: bool = True
    location: str | None = None
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = None if self.unnamed else self.class_names
        for split in SPLITS:
            images: Images = getattr(self, split)
            if images.class_names != names:
                object.__setattr__(self, split, replace(images, class_names=names))

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
        """The (levels, height, width) of each image's coarse codes, or None."""
        coarse = self.train.coarse_codes
        return None if coarse is None else (coarse.levels, *coarse.x.shape[2:])

    @property
    def all(self) -> Images:
        """All images: train, then valid, then test.

        Raises:
            UserError: The training images are redrawn at each step, so that they are of another
                kind than the others.
        """
        parts = [getattr(self, split) for split in SPLITS]
        if self.train.redraw != self.test.redraw:
            raise UserError(
                f"The splits of {self.name} hold images of different kinds: give one of them."
            )
        coarse = [part.coarse_codes for part in parts if part.coarse_codes is not None]
        return replace(
            self.test,
            x=np.concatenate([part.x for part in parts]),
            y=None if self.test.y is None else np.concatenate([part.y for part in parts]),
            rows=None if self.test.rows is None else np.concatenate([part.rows for part in parts]),
            coarse_codes=replace(coarse[-1], x=np.concatenate([part.x for part in coarse]), y=None)
            if coarse
            else None,
        )

    @property
    def record(self) -> DataRecord:
        """The record that a model trained on this data set saves, without the digest."""
        return DataRecord(
            self.class_names, self.spectrogram, self.codes_of, self.classes_without_images()
        )

    def classes_without_images(self) -> tuple[int, ...]:
        """Returns the ids of the classes that have no training images."""
        if self.classes is None or self.train.y is None:
            return ()
        counts = np.bincount(self.train.y, minlength=self.classes)
        return tuple(np.flatnonzero(counts == 0).tolist())

    def with_class_names(self, names: Sequence[str]) -> Dataset:
        """Returns this data set with the class ids of a model or a run, see `match_classes`.

        Args:
            names: The name of each class id there.

        Raises:
            UserError: A class of this data set is none of these.
        """
        if self.class_names is None:
            return self
        names = tuple(names)
        known = self.class_names
        # Ids are taken for those of the model, so that the last of them need not occur.
        match_classes(None if self.unnamed else known, names, self.name)
        if self.unnamed and len(known) > len(names):
            refuse_class(str(len(known) - 1), names, self.name)
        splits = {split: getattr(self, split).with_class_names(names) for split in SPLITS}
        return replace(self, **splits, class_names=names, unnamed=False)

    @cached_property
    def digest(self) -> str:
        """A hash of all images and their classes, wherever they are stored.

        It depends on the names of the classes, not on the order of their ids.
        """
        total = hashlib.sha256()
        names = None if self.class_names is None else np.array(self.class_names, np.str_)
        for split in SPLITS:
            images: Images = getattr(self, split)
            total.update(repr((split, images.x.shape, images.levels, images.redraw)).encode())
            total.update(b"" if images.rows is None else images.rows.tobytes())
            for begin in range(0, len(images), HASHED):
                part = slice(begin, begin + HASHED)
                total.update(images.x[part].tobytes())
                if images.y is not None and names is not None:
                    total.update("\0".join(names[images.y[part]].tolist()).encode())
        return total.hexdigest()

    def requantised(self, levels: int) -> Dataset:
        """Returns this data set with fewer levels (see `requantise`).

        Raises:
            UserError: If `levels` is below 2 or above the data set's levels.
        """
        if levels == self.levels:
            return self
        if not 2 <= levels <= self.levels:
            raise UserError(
                f"{self.name} has {self.levels} levels, which cannot be turned into {levels}: ask "
                f"for {'2' if self.levels == 2 else f'2 to {self.levels}'}, or give other data."
            )

        def convert(images: Images) -> Images:
            return replace(images, x=requantise(images.x, self.levels, levels), levels=levels)

        spectrogram = self.spectrogram
        return replace(
            self,
            train=convert(self.train),
            valid=convert(self.valid),
            test=convert(self.test),
            levels=levels,
            spectrogram=None if spectrogram is None else replace(spectrogram, levels=levels),
        )


class Unsplit(NamedTuple):
    """Holds all images at a path, without splits.

    Attributes:
        images: The images; their `class_names` are None if the ids of an array are all that is
            known.
        names: Their paths relative to the folder, or their numbers in the file, from 0.
        class_names: The name of each class id, or None if there are no classes.
    """

    images: Images
    names: list[str]
    class_names: tuple[str, ...] | None


# --- the user's own images ------------------------------------------------------------------------


def dataset_from_splits(
    path: Path,
    splits: Mapping[str, Images],
    levels: int,
    class_names: Sequence[str] | None,
    *,
    unnamed: bool = False,
    skipped: Sequence[str] = (),
) -> Dataset:
    """Creates a data set from the three splits at a path, see `Dataset`.

    Raises:
        UserError: If a split is empty, images have no pixels, or the splits differ in shape.
    """
    shapes = {images.x.shape[1:] for images in splits.values()}
    if len(shapes) > 1:
        raise UserError(
            f"{path} holds images of different shapes, {' and '.join(map(str, sorted(shapes)))}: "
            "give all splits one (C, H, W)."
        )
    if 0 in next(iter(shapes)):
        raise UserError(f"{path} holds images without pixels: give each side 1 or more.")
    for split, images in splits.items():
        refuse_empty(path, split, len(images))
    return Dataset(
        name=_name(path),
        train=splits["train"],
        valid=splits["valid"],
        test=splits["test"],
        levels=levels,
        class_names=None if class_names is None else tuple(class_names),
        source=f"own data, {path}",
        unnamed=unnamed,
        skipped=tuple(skipped),
    )


def refuse_empty(path: Path, split: str, count: int) -> None:
    """Refuses a split without images."""
    if not count:
        raise UserError(
            f"{path} leaves no image for the {split} split: give more images, or choose the "
            "splits yourself (subfolders, or arrays x_..., train, valid and test)."
        )


def refuse_all_zero(path: Path, highest: int, own_levels: int, levels: int) -> None:
    """Refuses to requantise images whose values would all become 0.

    This happens if values are levels already, say 0 to 15, but are read as 256 levels.

    Args:
        path: The path of the images.
        highest: Their highest value.
        own_levels: Their number of levels.
        levels: The number of levels to requantise to.
    """
    if 2 <= levels < own_levels and highest and highest * levels < own_levels:
        raise UserError(
            f"{_name(path)} has values up to {highest} only, which {levels} of {own_levels} levels "
            f"would all turn into 0: if they are levels already, state how many there are in an "
            ".npz, as levels."
        )


def _name(path: Path) -> str:
    return path.stem if path.is_file() else path.resolve().name
