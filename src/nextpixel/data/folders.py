"""Loads folders of pictures."""

from __future__ import annotations

import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from nextpixel.data import cache
from nextpixel.data.arrays import read_idx_folder
from nextpixel.data.classes import sort_names
from nextpixel.data.files import NAMED, File, FileKind, find_files, folder_state, list_files
from nextpixel.data.images import (
    SPLITS,
    Dataset,
    Images,
    Unsplit,
    dataset_from_splits,
    refuse_empty,
)
from nextpixel.data.levels import requantise
from nextpixel.errors import UserError
from nextpixel.utils.progress import track
from nextpixel.utils.reading import open_regular
from nextpixel.utils.words import list_names

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

__all__ = [
    "PICTURE_FILES",
    "UnreadableError",
    "dataset_from_cache",
    "decode_picture",
    "left_out",
    "load_folder",
    "load_folder_unsplit",
    "picture_names",
    "picture_size",
    "read_picture",
    "sort_by_split",
]

T = TypeVar("T")
PICTURES = (  # still pictures that Pillow reads by itself
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi"),
    *(".ico", ".icns", ".psd", ".dds", ".pcx", ".sgi"),
)
FILMS = (".gif", ".webp", ".apng", ".avif", ".tif", ".tiff")  # may have several frames or pages
GREY = {"1", "L", "LA", "La"}  # modes of Pillow
MOST_SIDE = 8192  # of pictures that are resized
BLOCK = 32  # pictures decoded by one call of a thread
PICTURE_FILES = FileKind(
    "images",
    "PNG, JPEG, WebP, GIF, BMP, TIFF or other pictures in it or in a subfolder per class, or IDX "
    "files named like MNIST's",
    PICTURES,
)


class UnreadableError(UserError):
    """A picture that is corrupt, must not be read, or is none."""


class _UnreadableFilesError(Exception):
    """The pictures that could not be read, by their names, after all others have been."""


# --- data sets ------------------------------------------------------------------------------------


def load_folder(
    folder: Path, resize: int | None, channels: int | None, levels: int | None
) -> Dataset:
    """Loads a folder of pictures, which is decoded only if it is not in the cache.

    Pictures that cannot be read, and other files, are left out with a warning.

    Args:
        folder: The folder.
        resize: Crops each picture to its central square and resizes it to this side, if not None.
        channels: 1 (grey) or 3 (RGB); None for 1 if all files are grey, else 3.
        levels: Number of levels, 256 if None.

    Raises:
        UserError: If an option is out of range, no picture can be read, one has more than 8 bits a
            value, or the pictures differ in size and `resize` is None.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels is {channels}: give 1 for grey or 3 for RGB.")
    check_resize(resize)
    levels = 256 if levels is None else levels
    table = requantise(np.arange(256), 256, levels)
    state = folder_state(folder, PICTURES)
    # What was decoded without resize or channels may already have the wanted ones.
    for options in product(dict.fromkeys((resize, None)), dict.fromkeys((channels, None))):
        cached = cache.load(cache.path_of(folder, *options, levels), state)
        if cached is not None and _fits(cached["x"].shape, resize, channels):
            return dataset_from_cache(folder, cached, levels)

    path = cache.path_of(folder, resize, channels, levels)
    notes: list[str] = []
    unreadable: set[str] = set()

    def decode() -> cache.Decoded:
        notes.clear()
        return _decode(folder, resize, channels, table, unreadable, notes)

    decoded = None
    while decoded is None:
        try:
            decoded = cache.load_or_decode(folder, path, state, decode)
        except _UnreadableFilesError as found:
            unreadable.update(found.args[0])  # the others do not move to other splits
    for note in notes:  # once, because the next time the folder is in the cache
        warnings.warn(note, stacklevel=5)
    return dataset_from_cache(folder, decoded, levels)


def load_folder_unsplit(
    folder: Path, resize: int | None, channels: int | None, levels: int
) -> Unsplit:
    """Loads all pictures of a folder in the order of their names, without the cache.

    See `load_folder` for arguments and errors.
    """
    check_resize(resize)
    notes: list[str] = []
    pictures, skipped = list_files(folder, PICTURE_FILES)
    if note := skipped.in_words(folder, PICTURE_FILES):
        notes.append(note)
    names = [p.name for p in pictures]
    if channels is None:
        channels = 1 if all(_is_grey(folder / name) for name in names) else 3
    table = requantise(np.arange(256), 256, levels)
    first = read_picture(folder / names[0], resize, channels)
    try:
        blocks = _decode_blocks(folder, names, first, resize, channels, table, notes)
        x = np.concatenate(list(blocks))
    except _UnreadableFilesError as found:
        read_picture(folder / found.args[0][0], resize, channels)  # raises its error again
        raise
    for note in notes:
        warnings.warn(note, stacklevel=4)
    labels, y = _class_ids(pictures)
    class_names = tuple(labels) or None
    return Unsplit(Images(x, y, levels, class_names=class_names), names, class_names)


def picture_names(path: Path, split: str, skipped: Sequence[str] = ()) -> list[str] | None:
    """Lists the names of a folder's pictures in the order of a split; None for other paths.

    Args:
        path: The folder.
        split: The split.
        skipped: The names to leave out, see `Dataset.skipped`.
    """
    if not path.is_dir() or read_idx_folder(path):
        return None
    left_out = set(skipped)
    files = find_files(path, PICTURE_FILES)
    return [p.name for p in files if p.split == split and p.name not in left_out]


def left_out(path: Path, skipped: Sequence[str] = ()) -> str:
    """Counts the files of a folder of pictures that are left out; "" for none and for other paths.

    Args:
        path: The folder.
        skipped: The names of its pictures that cannot be read, see `Dataset.skipped`.
    """
    if not path.is_dir() or read_idx_folder(path):
        return ""
    found = list_files(path, PICTURE_FILES)[1]
    return found._replace(unreadable=skipped).counted(PICTURE_FILES)


def _fits(shape: tuple[int, ...], resize: int | None, channels: int | None) -> bool:
    return channels in (None, shape[1]) and (resize is None or shape[2:] == (resize, resize))


def dataset_from_cache(folder: Path, arrays: Mapping[str, NDArray[Any]], levels: int) -> Dataset:
    """Creates the data set of a decoded folder.

    Args:
        folder: The folder.
        arrays: The images `x`, the arrays of `sort_by_split`, and optionally `Images.rows`.
        levels: Number of levels.
    """
    splits, begin = {}, 0
    for split, count in zip(SPLITS, arrays["counts"].tolist(), strict=True):
        part = slice(begin, begin + count)
        y = arrays["y"][part] if "y" in arrays else None
        rows = arrays["rows"][part] if "rows" in arrays else None
        splits[split] = Images(arrays["x"][part], y, levels, rows=rows)
        begin += count
    names = tuple(arrays["names"].tolist()) or None
    skipped = arrays["skipped"].tolist() if "skipped" in arrays else ()
    return dataset_from_splits(folder, splits, levels, names, skipped=skipped)


def _decode(
    folder: Path,
    resize: int | None,
    channels: int | None,
    table: NDArray[np.uint8],
    unreadable: Set[str],
    notes: list[str],
) -> cache.Decoded:
    """Starts to decode a folder.

    Args:
        folder: The folder.
        resize: As for `load_folder`.
        channels: As for `load_folder`.
        table: Maps the 256 levels of a picture to the new levels, shape (256,).
        unreadable: The names of pictures to leave out.
        notes: Gets sentences for the user.

    Returns:
        The shape of all images, (N, C, H, W); the images in blocks, split after split; and the
        arrays of `sort_by_split`, with the names that are left out as `skipped`.
    """
    files, skipped = list_files(folder, PICTURE_FILES)
    pictures, others = sort_by_split(folder, [p for p in files if p.name not in unreadable])
    others["skipped"] = np.array(sorted(unreadable), np.str_)
    if channels is None:
        with closing(track(pictures, "looking for colour", len(pictures))) as tracked:
            channels = 1 if all(_is_grey(folder / p.name) for p in tracked) else 3
    names = [p.name for p in pictures]
    first = _read_first(folder, names, resize, channels)
    blocks = _decode_blocks(folder, names, first, resize, channels, table, notes)
    if note := skipped._replace(unreadable=sorted(unreadable)).in_words(folder, PICTURE_FILES):
        notes.append(note)
    return (len(names), *first.shape), blocks, others


def _read_first(
    folder: Path, names: Sequence[str], resize: int | None, channels: int
) -> NDArray[np.uint8]:
    """Reads the first picture that can be read, which decides the shape of all."""
    for name in names[:-1]:
        with suppress(UnreadableError):
            return read_picture(folder / name, resize, channels)
    return read_picture(folder / names[-1], resize, channels)


def sort_by_split(
    folder: Path, files: Sequence[File]
) -> tuple[list[File], dict[str, NDArray[Any]]]:
    """Sorts a folder's files by their splits.

    Returns:
        The files; and the arrays `counts`, the number of files in each split, `names`, the names of
        the classes, and, if there are classes, `y`, the class ids.

    Raises:
        UserError: If a split is empty.
    """
    files = sorted(files, key=lambda f: SPLITS.index(f.split))
    counts = Counter(f.split for f in files)
    for split in SPLITS:
        refuse_empty(folder, split, counts[split])
    labels, y = _class_ids(files)
    others: dict[str, NDArray[Any]] = {
        "counts": np.array([counts[split] for split in SPLITS]),
        "names": np.array(labels, np.str_),
    }
    if y is not None:
        others["y"] = y
    return files, others


def _class_ids(files: Sequence[File]) -> tuple[list[str], NDArray[np.int64] | None]:
    """Returns the sorted names of the classes, and the files' class ids if there are classes."""
    labels = sort_names(f.label for f in files if f.label is not None)
    ids = {label: i for i, label in enumerate(labels)}
    y = np.array([ids[f.label] for f in files if f.label is not None], np.int64)
    return labels, y if labels else None


def _decode_blocks(
    folder: Path,
    names: Sequence[str],
    first: NDArray[np.uint8],
    resize: int | None,
    channels: int,
    table: NDArray[np.uint8],
    notes: list[str],
) -> Iterator[NDArray[np.uint8]]:
    """Decodes pictures in threads, which help with large pictures and do no harm with small ones.

    Yields:
        Blocks of images in the order of the names, uint8, shape (up to BLOCK, C, H, W).

    Raises:
        _UnreadableFilesError: If some cannot be read; after the last block.
    """
    unreadable: list[str] = []
    films: list[str] = []

    def read(block_names: Sequence[str]) -> NDArray[np.uint8]:
        block = np.zeros((len(block_names), *first.shape), np.uint8)
        for i, name in enumerate(block_names):
            try:
                x = read_picture(folder / name, resize, channels)
            except UnreadableError:
                unreadable.append(name)
                continue
            _check_shape(folder / name, x, folder / names[0], first)
            block[i] = x
            if name.lower().endswith(FILMS) and _read(folder / name, _has_frames):
                films.append(name)
        return block

    def read_ahead(pool: ThreadPoolExecutor) -> Iterator[NDArray[np.uint8]]:
        running: deque[Future[NDArray[np.uint8]]] = deque()
        for begin in range(0, len(names), BLOCK):
            running.append(pool.submit(read, names[begin : begin + BLOCK]))
            if len(running) > 2 * workers:  # a limit, so that a slow disk does not fill the memory
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    workers = min(16, os.cpu_count() or 1)
    highest, levels = 0, int(table[-1]) + 1
    with ThreadPoolExecutor(workers) as pool:
        description = f"decoding {len(names):,} pictures of {folder}, once"
        for block in track(read_ahead(pool), description, len(names), weight=len):
            highest = max(highest, int(block.max()))
            yield block if levels == 256 else table[block]
    if unreadable:
        raise _UnreadableFilesError(unreadable)
    if films:
        notes.append(
            f"{len(films):,} of {len(names):,} pictures of {folder} have several frames or "
            f"pages, of which only the first is read ({list_names(sorted(films), NAMED)})."
        )
    if levels < 256 and highest and not table[highest]:
        notes.append(
            f"All pixels of {folder} are dark, {highest} of 255 at most, and become 0 at {levels} "
            "levels: use more levels, or brighten the pictures."
        )


# --- pictures -------------------------------------------------------------------------------------


def _read(path: Path, work: Callable[[Image.Image], T]) -> T:
    """Opens a picture and returns `work(picture)`; an unreadable file is a UserError."""
    # Imported here, because most commands read no pictures.
    from PIL import Image

    try:
        with open_regular(path) as file, Image.open(file, formats=_formats()) as picture:
            if not picture.mode.startswith(("I", "F")):
                _check_covered(picture)
                return work(picture)
            mode = picture.mode
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"There is no picture {path}: give the path of a file.") from None
    except UserError as error:
        raise UnreadableError(str(error)) from None
    except Image.DecompressionBombError:
        raise UnreadableError(
            f"{path} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: make it smaller."
        ) from None
    except Exception as error:  # Pillow raises many types of errors on corrupt files
        raise UnreadableError(
            f"{path} is corrupt or no image ({error}): replace or remove the file."
        ) from error
    raise UserError(f"{path} has more than 8 bits a value (mode {mode}): save it with 8 bits.")


def _check_covered(picture: Image.Image) -> None:
    """Checks that the strips or tiles of a TIFF cover it: Pillow would leave the rest black.

    Raises:
        ValueError: They do not.
    """
    if picture.format == "TIFF":
        tiles = cast("ImageFile", picture).tile
        corners = [(tile.extents or (0, 0, *picture.size))[2:] for tile in tiles]
        right, bottom = (max(lengths) for lengths in zip((0, 0), *corners, strict=True))
        if right < picture.width or bottom < picture.height:
            raise ValueError(f"its data are of {right} x {bottom} pixels")


@lru_cache
def _formats() -> tuple[str, ...]:
    """Lists Pillow's names of `PICTURES`: others need not even be recognised, as PostScript."""
    from PIL import Image

    known = Image.registered_extensions()
    return tuple(dict.fromkeys(known[ending] for ending in PICTURES if ending in known))


def check_resize(resize: int | None) -> None:
    """Checks the option `resize`.

    Raises:
        UserError: It is out of range.
    """
    if resize is not None and not 1 <= resize <= MOST_SIDE:
        raise UserError(
            f"resize is {resize}: give the side of the square pictures, 1 to {MOST_SIDE}."
        )


def _has_frames(picture: Image.Image) -> bool:
    """Checks whether a picture has more than one frame or page."""
    return bool(getattr(picture, "is_animated", False))


def _is_grey(path: Path) -> bool:
    """Checks whether a picture is grey; also true of one that cannot be read."""
    try:
        return _read(path, lambda picture: picture.mode in GREY)
    except UnreadableError:
        return True


def picture_size(path: Path) -> tuple[int, int]:
    """Reads the width and height of a picture file from its header; see `read_picture`."""
    return _read(path, lambda picture: picture.size)


def read_picture(path: Path, resize: int | None, channels: int | None) -> NDArray[np.uint8]:
    """Reads a picture file, see `decode_picture`.

    Raises:
        UserError: If there is no such file, or it has more than 8 bits a value.
        UnreadableError: If it is corrupt, or no image.
    """
    check_resize(resize)
    return _read(path, lambda picture: decode_picture(picture, resize, channels))


def decode_picture(
    picture: Image.Image, resize: int | None, channels: int | None
) -> NDArray[np.uint8]:
    """Turns a PIL image into an array, upright as its EXIF data demand, transparent parts as white.

    Args:
        picture: The image.
        resize: Crops to the central square and resizes it to this side, if not None.
        channels: 1 (grey) or 3 (RGB); None for its own.

    Returns:
        uint8, shape (C, H, W).

    Raises:
        UserError: If it has more than 8 bits a value.
    """
    from PIL import Image, ImageOps

    if picture.mode.startswith(("I", "F")):
        raise UserError(
            f"The picture has more than 8 bits a value (mode {picture.mode}): convert it to 8 bits."
        )
    if channels is None:
        channels = 1 if picture.mode in GREY else 3
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    picture = picture.convert("L" if channels == 1 else "RGB")
    if resize is not None:
        side = min(picture.size)
        left, top = ((length - side) // 2 for length in picture.size)
        # Cropped first, because resizing with a box would blend in pixels outside of it.
        picture = picture.crop((left, top, left + side, top + side))
        picture = picture.resize((resize, resize), Image.Resampling.LANCZOS)
    x = np.asarray(picture, np.uint8)
    return x[None] if channels == 1 else x.transpose(2, 0, 1)


def _check_shape(
    path: Path, x: NDArray[np.uint8], first_path: Path, first: NDArray[np.uint8]
) -> None:
    if x.shape != first.shape:
        (h, w), (first_h, first_w) = x.shape[1:], first.shape[1:]
        raise UserError(
            f"{path} is {w} x {h} pixels but {first_path} is {first_w} x {first_h}: give resize "
            "(--resize 32 on the command line) to crop and resize all of them to one square."
        )
