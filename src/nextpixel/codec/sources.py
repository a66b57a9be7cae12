"""The images that are to be compressed, read one after the other."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nextpixel.codec.models import Coding, Size
from nextpixel.codec.names import check_name, png_name, png_names
from nextpixel.codec.pictures import Item, read_file
from nextpixel.data.files import walk
from nextpixel.data.folders import PICTURE_FILES, picture_size
from nextpixel.data.images import Images
from nextpixel.data.levels import level_type
from nextpixel.data.sampler import batches, evenly_spaced
from nextpixel.data.user_data import load_unsplit
from nextpixel.errors import UserError
from nextpixel.utils.files import user_path
from nextpixel.utils.progress import track
from nextpixel.utils.words import count, list_names

__all__ = [
    "ArraySource",
    "FileSource",
    "ImagesLike",
    "Source",
    "files_of",
    "find_files",
    "list_files",
    "source_of",
    "source_of_images",
]

ImagesLike: TypeAlias = "str | Path | Sequence[str | Path] | Images | Any"

READ = 256  # images of an array that are read at once
LOOKED_AT = 2000  # files of which the size is read, spread evenly
ARRAYS = (".npz", ".npy", "-ubyte", "-ubyte.gz")  # endings of files that hold many images


@dataclass(frozen=True)
class Source(ABC):
    """Images to compress.

    Attributes:
        count: Number of images.
        digest: What tells them from others.
        bytes: Bytes of their files, or of the array.
    """

    count: int
    digest: str
    bytes: int

    @abstractmethod
    def sizes(self) -> list[Size]:
        """Reads `(H, W)` of some of the images, spread evenly."""

    @abstractmethod
    def items(self, coding: Coding | None, first: int = 0) -> Iterator[Item]:
        """Reads the images for a model, or for none, from a number on.

        Raises:
            UserError: One cannot be read.
        """


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileSource(Source):
    """Picture files.

    Attributes:
        folders: Folders, and the names of the files below each.
        left_out: The names of other files.
    """

    folders: Sequence[tuple[Path, Sequence[str]]]
    left_out: Sequence[str] = field(default_factory=list)

    @cached_property
    def pngs(self) -> Mapping[str, str]:
        """The names that pictures get as PNG files, where they are not plain (see `png_names`)."""
        return png_names([name for _, name in files_of(self.folders)])

    def sizes(self) -> list[Size]:
        """Reads `(H, W)` of some of the pictures; of none that cannot be read."""
        wanted = np.zeros(self.count, bool)
        wanted[evenly_spaced(self.count, LOOKED_AT)] = True
        sizes = list[Size]()
        for folder, name in track(
            compress(files_of(self.folders), wanted), "looking at the pictures", int(wanted.sum())
        ):
            with suppress(UserError):  # it is kept as it is, and counted
                width, height = picture_size(folder / name)
                sizes.append((height, width))
        return sizes

    def items(self, coding: Coding | None, first: int = 0) -> Iterator[Item]:
        """Reads the pictures; a class is the name of its folder, if the model has such a class."""
        names = () if coding is None else coding.class_names or ()
        ids = {name: i for i, name in enumerate(names)}
        channels, levels = (3, 256) if coding is None else form_of(coding)
        for folder, name in islice(files_of(self.folders), first, None):
            class_id = ids.get(name.split("/")[-2]) if "/" in name else None
            png = self.pngs.get(name) or png_name(name)
            yield read_file(folder / name, name, png, channels, levels, class_id)


def find_files(paths: Sequence[Path]) -> FileSource:
    """Finds picture files.

    Args:
        paths: Picture files, and folders of them; of several, each has a folder of its own.

    Raises:
        UserError: There are no pictures, or a name that some system does not have.
    """
    folders, left_out = list_files(paths)
    if twice := found_twice(folders):
        raise UserError(f"Two of the files are called {twice}: give a folder that holds both.")
    digest, files, total = hashlib.sha256(), 0, 0
    for folder, name in files_of(folders):
        check_name(name)
        try:
            stat = (folder / name).stat()
        except OSError as error:
            raise UserError(f"{folder / name} cannot be read: {error.strerror}.") from None
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        files, total = files + 1, total + stat.st_size
    if not files:
        raise UserError(f"There are no pictures in {', '.join(map(str, paths))}.")
    return FileSource(files, digest.hexdigest(), total, folders, left_out)


def list_files(paths: Sequence[Path]) -> tuple[list[tuple[Path, list[str]]], list[str]]:
    """Lists picture files, as folders and the names below each, and the names of other files."""
    folders, left_out = list[tuple[Path, list[str]]](), list[str]()
    for path in paths:
        if not path.is_dir():
            folders.append((path.parent, [path.name]))
            continue
        several = len(paths) > 1
        folder = path.resolve().parent if several else path
        before = f"{path.resolve().name}/" if several else ""
        other = list[str]()
        found = walk(path, PICTURE_FILES.endings, other, other, other)
        folders.append((folder, sorted(before + name for name, stat in found if stat is not None)))
        left_out += [before + name for name in sorted(other)]
    return folders, left_out


def files_of(folders: Sequence[tuple[Path, Sequence[str]]]) -> Iterator[tuple[Path, str]]:
    """Yields the folder of each file, and its name below that."""
    return ((folder, name) for folder, names in folders for name in names)


def found_twice(folders: Sequence[tuple[Path, Sequence[str]]]) -> str | None:
    """Returns a name that two files have; None if there is none, as in a single folder."""
    seen = set[str]()
    for _, name in files_of(folders) if len(folders) > 1 else ():
        if name in seen:
            return name
        seen.add(name)
    return None


def say_left_out(names: Sequence[str]) -> str:
    """Says which files `list_files` left out."""
    files = count(len(names), "file")
    return f"Left out, as hidden or no pictures: {files} ({list_names(names)})."


# --- arrays ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArraySource(Source):
    """The images of an array or a data set, all of one size and without names.

    Attributes:
        images: The images.
    """

    images: Images

    def sizes(self) -> list[Size]:
        """Returns the size of all."""
        return [self.images.x.shape[2:]]

    def items(self, coding: Coding | None, first: int = 0) -> Iterator[Item]:
        """Reads the images, with the model's classes if they have any; padding is left out."""
        images = self.images
        form = images.x.shape[1], images.levels
        if coding is not None and form != form_of(coding):
            channels, levels = form_of(coding)
            raise UserError(
                f"The images have {count(images.x.shape[1], 'channel')} of {images.levels} levels, "
                f"but {coding.name} takes {channels} of {levels}."
            )
        y = images.y
        if coding is None or "classes" not in coding.program.inputs:
            y = None
        elif y is not None and coding.class_names is not None:
            y = images.with_class_names(coding.class_names).y
        for block in batches(len(images) - first, READ):
            numbers = block + first
            x = images.batch(numbers)[0].astype(level_type(images.levels), copy=False)
            for k, number in enumerate(numbers):
                rows = None if images.rows is None else int(images.rows[number])
                if rows is not None and x[k, :, rows:].any():
                    raise UserError(f"The padding of image {number} is not 0.")
                yield Item(
                    "",
                    x[k, :, :rows],
                    class_id=None if y is None else int(y[number]),
                    own_class=None if images.y is None else int(images.y[number]),
                )


def form_of(coding: Coding) -> tuple[int, int]:
    """Returns the channels and the levels of the images that a model takes."""
    return coding.program.shape[0], coding.program.levels


def source_of_images(images: Images) -> ArraySource:
    """Makes a source of images in memory.

    Raises:
        UserError: They have no pixels, or change from time to time.
    """
    if 0 in images.x.shape[1:]:
        raise UserError(f"Images {images.x.shape[1:]} have no pixels.")
    if images.redraw or images.mutation_rate:
        raise UserError(
            "These images are drawn anew each time: compress those they are drawn from."
        )
    digest = hashlib.sha256(f"{images.x.shape} {images.levels}".encode())
    for block in batches(len(images), READ):
        x, y = images.batch(block)
        digest.update(x.tobytes())
        digest.update(b"" if y is None else y.tobytes())
    digest.update(b"" if images.rows is None else images.rows.tobytes())
    return ArraySource(len(images), digest.hexdigest(), images.x.nbytes, images)


def source_of(images: ImagesLike) -> Source:
    """Finds images: of files and folders, of one file of arrays, or in memory.

    Args:
        images: A path, several, a split of a data set, or integers `(N, H, W)` or `(N, C, H, W)`
            below 256.

    Raises:
        UserError: There are none.
    """
    if isinstance(images, Source):
        return images
    if isinstance(images, Images):
        return source_of_images(images)
    if isinstance(images, str | Path):
        images = [images]
    if isinstance(images, Sequence) and all(isinstance(each, str | Path) for each in images):
        paths = [user_path(path) for path in images]
        missing = [path for path in paths if not path.exists()]
        if missing:
            raise UserError(f"There is no {missing[0]}.")
        if len(paths) == 1 and paths[0].name.lower().endswith(ARRAYS):
            return source_of_images(load_unsplit(paths[0]).images)
        return find_files(paths)
    x = np.asarray(images)
    if x.dtype.kind not in "iu" or x.ndim not in (3, 4):
        raise UserError(f"Images are integers (N, H, W) or (N, C, H, W), not {x.dtype} {x.shape}.")
    if x.size and not 0 <= x.min() <= x.max() < 256:
        raise UserError("Images in memory have levels from 0 to 255: give Images for others.")
    x = x[:, None] if x.ndim == 3 else x
    return source_of_images(Images(np.ascontiguousarray(x, np.uint8), None, 256))
