"""Reads pictures so that not a single value of a pixel changes, and writes them again."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nextpixel.errors import UserError
from nextpixel.utils.reading import read_regular, refusing_damage
from nextpixel.viz.images import to_uint8

__all__ = [
    "MODES",
    "Item",
    "Kind",
    "levels_of_webp",
    "picture_of",
    "png_of",
    "read_file",
    "same_as_webp",
    "smallest_file",
]

MODES = ("1", "L", "RGB", "LA", "RGBA")  # of Pillow: pictures that are not kept as their own file
TAKEN = MODES[:3]  # whose values a model may take
EIGHT_BITS = ("BMP", "GIF", "JPEG", "WEBP", "QOI", "PCX")  # formats of no more than 8 bits a value
MOST_PIXELS = 1 << 27
LARGEST_WEBP = 16383  # pixels on a side
MOST_PROFILE = 1 << 20  # bytes
ORIENTATION = 0x112  # of EXIF
BITS, PHOTOMETRIC, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 338, 339  # of TIFF
LOCK = threading.Lock()

Kind: TypeAlias = Literal["model", "webp", "file"]  # how an image is kept; "file": its own


@dataclass(frozen=True)
class Item:
    """An image to compress.

    Attributes:
        name: The file that it will be; "" for an image of an array.
        levels: What the model codes, `(C, H, W)`; None if it cannot.
        mode: Pillow's mode of the file that it will be; "" of an array or if only its own file will
            do.
        profile: Its ICC profile, or b"".
        file: The bytes of its own file, and that file's name; None for an image of an array.
        class_id: The class that the model is to know, or None.
        own_class: The class that it has in its array, or None.
        order: The order in which its pixels are coded, see `nextpixel.orders`.
    """

    name: str
    levels: NDArray[Any] | None
    mode: str = ""
    profile: bytes = b""
    file: tuple[bytes, str] | None = None
    class_id: int | None = None
    own_class: int | None = None
    order: int = 0


def read_file(
    path: Path, name: str, png: str, channels: int, levels: int, class_id: int | None
) -> Item:
    """Reads a picture file for a model.

    Args:
        path: The file.
        name: Its name.
        png: The name that it gets as a PNG.
        channels: The model's channels; a grey picture may become three equal ones.
        levels: The model's levels. With fewer than 256, only pictures that have no other values
            than those that show these levels are for the model.
        class_id: The class, or None.

    Returns:
        The picture. One that the model cannot take has no levels; a file that is no picture that
        can be read has no mode either.

    Raises:
        UserError: The file cannot be read.
    """
    with refusing_damage(path, "picture", "leave it out"):
        data = read_regular(path)
    file = data, name
    try:
        with opened(data) as picture:
            if is_more_than_pixels(picture) or not has_8_bits(picture, data):
                return Item(name, None, file=file, class_id=class_id)
            picture.load()
            profile = picture.info.get("icc_profile") or b""
            plain = as_plain(picture)
            if plain.mode not in MODES or len(profile) > MOST_PROFILE:
                return Item(name, None, file=file, class_id=class_id)
            x = levels_of_picture(plain, channels, levels) if plain.mode in TAKEN else None
            return Item(png, x, plain.mode, profile, file, class_id)
    except Exception:  # whatever a decoder may raise
        return Item(name, None, file=file, class_id=class_id)


@contextmanager
def opened(data: bytes, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """Opens a picture in memory; of one of these formats, or of all that Pillow reads."""
    with LOCK, warnings.catch_warnings():  # which is for one thread at a time
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        picture = Image.open(io.BytesIO(data), formats=formats)
    with picture:
        yield picture


def has_8_bits(picture: Image.Image, data: bytes) -> bool:
    """Whether Pillow surely gives all values of a picture, and drops no bits and no channels."""
    if picture.format == "PNG":
        depth, colour_type = data[24], data[25]
        # Pillow scales grey values of 2 and 4 bits, but not the one that is clear.
        clear = colour_type == 0 and depth in (2, 4) and "transparency" in picture.info
        return data[12:16] == b"IHDR" and depth <= 8 and not clear
    if picture.format == "TIFF":
        tags = picture.tag_v2  # type: ignore[attr-defined]
        unsigned = set(as_tuple(tags.get(SAMPLE_FORMAT, 1))) == {1}
        plain = tags.get(PHOTOMETRIC) in (0, 1, 2)
        alpha = as_tuple(tags.get(EXTRA_SAMPLES, 2)) == (2,)
        return plain and unsigned and alpha and max(as_tuple(tags.get(BITS, 1))) <= 8
    if picture.format == "PPM":
        return data[:2] == b"P4" or ppm_maximum(data) == b"255"
    return picture.format in EIGHT_BITS


def as_tuple(x: Any) -> tuple[Any, ...]:
    """Returns the values of a tag, which may be one."""
    return x if isinstance(x, tuple) else (x,)


def ppm_maximum(data: bytes) -> bytes:
    """Returns the largest value that the header of a PGM or PPM names, or b""."""
    header = b"\n".join(line.split(b"#")[0] for line in data[:1000].split(b"\n"))
    words = header.split()
    return words[3] if data[:2] in (b"P5", b"P6") and len(words) > 3 else b""


def is_more_than_pixels(picture: Image.Image) -> bool:
    """Whether a picture is animated, is to be turned (EXIF), or is too large to be read."""
    return (
        picture.width * picture.height > MOST_PIXELS
        or getattr(picture, "n_frames", 1) > 1
        or picture.getexif().get(ORIENTATION, 1) != 1
    )


def as_plain(picture: Image.Image) -> Image.Image:
    """Returns a picture without a palette."""
    if picture.mode in ("P", "PA"):
        return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if picture.mode in ("1", "L", "RGB") and picture.has_transparency_data:  # a colour is clear
        return picture.convert("LA" if picture.mode == "L" else "RGBA")
    return picture


def levels_of_picture(picture: Image.Image, channels: int, levels: int) -> NDArray[np.uint8] | None:
    """Turns a picture into levels; None if that would lose something."""
    grey = picture.convert("L") if picture.mode == "1" else picture
    x = np.atleast_3d(np.asarray(grey, np.uint8)).transpose(2, 0, 1)
    if len(x) != channels:
        if channels == 1 and (x == x[:1]).all():
            x = x[:1]
        elif len(x) == 1:
            x = np.repeat(x, channels, 0)
        else:
            return None
    return None if levels > 256 else levels_shown_by(x, levels)


def shown(levels: int) -> NDArray[np.uint8]:
    """Returns the values from 0 to 255 that show the levels."""
    return to_uint8(np.arange(levels), levels)


def levels_shown_by(x: NDArray[np.uint8], levels: int) -> NDArray[np.uint8] | None:
    """Returns the levels that are shown by values; None if a value shows none."""
    if levels == 256:
        return x
    table = np.full(256, -1)
    table[shown(levels)] = np.arange(levels)
    found = table[x]
    return None if found.min(initial=0) < 0 else found.astype(np.uint8)


def picture_of(x: NDArray[Any], mode: str, levels: int) -> Image.Image:
    """Makes the picture of levels `(C, H, W)`, C being 1 or 3, in the mode that it had."""
    values = shown(levels)[x]
    if mode in ("1", "L") or (not mode and len(x) == 1):
        return Image.fromarray(np.ascontiguousarray(values[0])).convert(mode or "L")
    values = np.repeat(values, 3, 0) if len(values) == 1 else values
    return Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0)))


def png_of(picture: Image.Image, profile: bytes) -> bytes:
    """Writes a picture as a PNG."""
    memory = io.BytesIO()
    picture.save(memory, "PNG", icc_profile=profile or None)
    return memory.getvalue()


def smallest_file(item: Item, levels: int) -> tuple[bytes, Kind] | None:
    """Returns the smallest lossless file of an image: its own, or a WebP.

    None if there is none, as of more than 256 levels.
    """
    found: list[tuple[bytes, Kind]] = [] if item.file is None else [(item.file[0], "file")]
    if (webp := webp_of(item, levels)) is not None:
        found.append((webp, "webp"))
    return min(found, key=lambda each: len(each[0]), default=None)


def webp_of(item: Item, levels: int) -> bytes | None:
    """Writes an image as a lossless WebP; None if it cannot be one."""
    picture = plain_picture(item, levels)
    if picture is None or max(picture.size) > LARGEST_WEBP:
        return None
    memory = io.BytesIO()
    try:
        picture.save(memory, "WEBP", lossless=True, quality=75, method=4, exact=True)
    except (OSError, ValueError):
        return None
    return memory.getvalue()


def plain_picture(item: Item, levels: int) -> Image.Image | None:
    """Returns the picture of an image, if it has a mode of `MODES`."""
    if item.file is not None and item.mode in MODES:
        with opened(item.file[0]) as picture:
            return as_plain(picture).copy()
    if item.levels is not None and levels <= 256 and len(item.levels) in (1, 3):
        return picture_of(item.levels, "", levels)
    return None


def same_as_webp(item: Item, webp: bytes) -> bool:
    """Whether a WebP has all values of a picture file."""
    picture = plain_picture(item, 256)
    with opened(webp, ("WEBP",)) as found:
        return picture is not None and np.array_equal(
            np.asarray(found.convert(picture.mode)), np.asarray(picture)
        )


def levels_of_webp(webp: bytes, channels: int, levels: int) -> NDArray[np.uint8]:
    """Returns the levels of a WebP that `smallest_file` made of an image of an array.

    Raises:
        UserError: It is none.
    """
    try:
        with opened(webp, ("WEBP",)) as picture:
            x = levels_of_picture(
                picture.convert("L" if channels == 1 else "RGB"), channels, levels
            )
    except Exception:  # whatever a decoder may raise
        x = None
    if x is None:
        raise UserError("a kept picture is damaged.")
    return x
