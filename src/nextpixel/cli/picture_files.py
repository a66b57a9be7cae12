"""Loads pictures one by one: what cannot be read is named and skipped, what is changed counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nextpixel.cli.loading import Shape
from nextpixel.cli.pictures import (
    Pictures,
    is_dataset,
    join_images,
    load_images,
    load_pictures,
    read_pictures,
)
from nextpixel.data import Images
from nextpixel.data.arrays import read_idx_folder
from nextpixel.data.classes import sort_names
from nextpixel.data.files import list_files
from nextpixel.data.folders import PICTURE_FILES, picture_size, read_picture
from nextpixel.data.levels import requantise
from nextpixel.errors import UserError
from nextpixel.utils.files import user_path
from nextpixel.utils.progress import track
from nextpixel.utils.words import count

__all__ = ["Reading", "load_readable"]


@dataclass
class Reading:
    """What happened to pictures while they were read.

    Attributes:
        strict: Whether the first picture that cannot be read stops everything.
        skipped: Why each skipped picture cannot be used, in a sentence that names it.
        read: Number of pictures read.
        cropped: Number of pictures that were cropped to a square.
        resized: Number of pictures that were resized.
        greyed: Number of pictures in colour that were turned grey.
    """

    strict: bool = False
    skipped: list[str] = field(default_factory=list)
    read: int = 0
    cropped: int = 0
    resized: int = 0
    greyed: int = 0

    def skip(self, error: UserError) -> None:
        """Notes why a picture is skipped, or raises the error if `strict`."""
        if self.strict:
            raise error
        self.skipped.append(str(error))

    def changes(self, shape: Shape) -> str:
        """Returns how many pictures were brought into a shape `(C, H, W)`; "" for none."""
        done = [
            f"{word} {number:,}"
            for word, number in (
                ("cropped", self.cropped),
                ("resized", self.resized),
                ("turned grey", self.greyed),
            )
            if number
        ]
        if not done:
            return ""
        return (
            f"Of {count(self.read, 'picture')}, to fit the model's {shape[2]} x {shape[1]} pixels: "
            f"{', '.join(done)}"
        )


def load_readable(
    name: str,
    shape: Shape,
    levels: int,
    images: Sequence[str],
    reading: Reading,
    *,
    split: str | None = None,
    **options: Any,
) -> Pictures:
    """Loads images as `load_images` does, but skips picture files that cannot be read.

    Args:
        name: The model's name or folder.
        shape: `(C, H, W)`; if it is square, pictures are cropped and resized to it.
        levels: Levels of a pixel.
        images: Picture files, folders of pictures and files of arrays; or one data set.
        reading: Gets what is skipped, cropped, resized and turned grey.
        split: See `load_images`.
        **options: Other options of `load_images`.

    Raises:
        UserError: There are no images, no picture can be read, or one cannot and `reading` is
            strict.
    """
    if is_dataset(images, split) or options.get("data") is not None:
        return load_images(name, shape, levels, images, split=split, **options)
    found = []
    for source in images:
        path = user_path(source)
        if files := list(picture_files(path, reading)):
            if len(images) > 1 and path.is_dir():
                files = [
                    (f"{source.rstrip('/')}/{shown}", label, file) for shown, label, file in files
                ]
            part = read_files(files, shape, levels, reading)
            if part is not None:
                what = path.name or source
                found.append(Pictures(*part, what, one_by_one=not path.is_dir()))
        else:
            found.append(load_pictures(path, shape, levels))
    if not found:
        others = len(reading.skipped) - 1
        more = f" (and {count(others, 'other')} like it)" * bool(others)
        raise UserError(f"No picture can be read{more}: {reading.skipped[0]}")
    return join_images(found)


def picture_files(path: Path, reading: Reading) -> Iterator[tuple[str, str | None, Path]]:
    """Lists the picture files at a path: the name to show, the class and the path of each.

    Nothing is listed for files of other kinds, and for what does not exist. Broken links are
    skipped.
    """
    if path.is_dir():
        if not read_idx_folder(path):
            files, skipped = list_files(path, PICTURE_FILES)
            for name in skipped.broken:
                reading.skip(UserError(f"{path / name} is a broken link: repair or remove it."))
            for file in files:
                yield file.name, file.label, path / file.name
    elif path.suffix.lower() in Image.registered_extensions():
        yield str(path), None, path


def has_colour(path: Path) -> bool:
    """Checks whether a picture has a pixel whose red, green and blue differ."""
    x = read_picture(path, None, None)
    return bool((x != x[:1]).any())


def read_files(
    files: Sequence[tuple[str, str | None, Path]], shape: Shape, levels: int, reading: Reading
) -> tuple[Images, list[str], tuple[str, ...] | None] | None:
    """Reads picture files, see `load_readable`.

    Returns:
        The images, their names and the names of their classes; None if no file can be read.
    """
    arrays: list[NDArray[np.uint8]] = []
    names: list[str] = []
    labels: list[str] = []
    for shown, label, path in track(files, "reading pictures", len(files)):
        try:
            arrays.append(read_pictures([path], shape))
            width, height = picture_size(path)
        except UserError as error:
            reading.skip(error)
            continue
        names.append(shown)
        labels += [] if label is None else [label]
        reading.read += 1
        reading.greyed += shape[0] == 1 and has_colour(path)
        if (height, width) != shape[1:]:
            reading.cropped += height != width
            reading.resized += min(height, width) != shape[1]
    if not arrays:
        return None
    class_names = tuple(sort_names(labels)) or None
    y = None if class_names is None else np.array([class_names.index(c) for c in labels], np.int64)
    x = requantise(np.concatenate(arrays), 256, levels)
    return Images(x, y, levels, class_names=class_names), names, class_names
