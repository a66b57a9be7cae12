"""Loads folders of pictures; finds the files of a folder, their classes and splits."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from nextpixel.data import cache
from nextpixel.data.arrays import read_idx_folder
from nextpixel.data.images import (
    SPLITS,
    Dataset,
    Images,
    Unsplit,
    dataset_from_splits,
    refuse_all_zero,
    refuse_empty,
)
from nextpixel.data.levels import requantise
from nextpixel.errors import UserError
from nextpixel.utils.progress import track

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "PICTURE_FILES",
    "File",
    "FileKind",
    "dataset_from_cache",
    "decode_picture",
    "find_files",
    "folder_state",
    "load_folder",
    "load_folder_unsplit",
    "picture_names",
    "read_picture",
    "sort_by_split",
]

T = TypeVar("T")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
STATE_VERSION = 1  # increase it when pictures decode to other integers than before
GREY = {"1", "L", "LA", "La"}  # modes of Pillow
BLOCK = 32  # pictures decoded by one call of a thread
SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}


class FileKind(NamedTuple):
    """Describes the files to look for in a folder.

    Attributes:
        name: The plural of what the files are, for messages.
        expected: The expected formats and places, for messages.
        endings: Endings of the files' names, in lower case.
    """

    name: str
    expected: str
    endings: tuple[str, ...]


PICTURE_FILES = FileKind(
    "images",
    "PNG, JPEG or WebP files in it or in a subfolder per class, or IDX files named like MNIST's",
    PICTURES,
)


class File(NamedTuple):
    """Describes a file of a folder.

    Attributes:
        name: The path below the folder, with slashes.
        split: "train", "valid" or "test".
        label: The name of the class, or None.
    """

    name: str
    split: str
    label: str | None


# --- data sets ------------------------------------------------------------------------------------


def load_folder(
    folder: Path, resize: int | None, channels: int | None, levels: int | None
) -> Dataset:
    """Loads a folder of pictures, which is decoded only if it is not in the cache.

    Args:
        folder: The folder.
        resize: Crops each picture to its central square and resizes it to this side, if not None.
        channels: 1 (grey) or 3 (RGB); None for 1 if all files are grey, else 3.
        levels: Number of levels, 256 if None.

    Raises:
        UserError: If an option is out of range, a picture cannot be read, or the pictures differ in
            size and `resize` is None.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels is {channels}: give 1 for grey or 3 for RGB.")
    if resize is not None and resize < 1:
        raise UserError(f"resize is {resize}: give the side of the square pictures, 1 or more.")
    levels = 256 if levels is None else levels
    table = requantise(np.arange(256), 256, levels)
    state = folder_state(folder, PICTURES)
    # What was decoded without resize or channels may already have the wanted ones.
    for options in product(dict.fromkeys((resize, None)), dict.fromkeys((channels, None))):
        cached = cache.load(cache.path_of(folder, *options, levels), state)
        if cached is not None and _fits(cached["x"].shape, resize, channels):
            return dataset_from_cache(folder, cached, levels)

    path = cache.path_of(folder, resize, channels, levels)
    decoded = cache.load_or_decode(
        folder, path, state, lambda: _decode(folder, resize, channels, table)
    )
    return dataset_from_cache(folder, decoded, levels)


def load_folder_unsplit(
    folder: Path, resize: int | None, channels: int | None, levels: int
) -> Unsplit:
    """Loads all pictures of a folder in the order of their names, without the cache.

    See `load_folder` for arguments and errors.
    """
    pictures = find_files(folder, PICTURE_FILES)
    names = [p.name for p in pictures]
    if channels is None:
        channels = 1 if all(_is_grey(folder / name) for name in names) else 3
    table = requantise(np.arange(256), 256, levels)
    first = read_picture(folder / names[0], resize, channels)
    x = np.concatenate(list(_decode_blocks(folder, names, first, resize, channels, table)))
    labels, y = _class_ids(pictures)
    return Unsplit(Images(x, y, levels), names, tuple(labels) or None)


def picture_names(path: Path, split: str) -> list[str] | None:
    """Lists the names of a folder's pictures in the order of a split; None for other paths."""
    if not path.is_dir() or read_idx_folder(path):
        return None
    return [p.name for p in find_files(path, PICTURE_FILES) if p.split == split]


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
    return dataset_from_splits(folder, splits, levels, tuple(arrays["names"].tolist()) or None)


def _decode(
    folder: Path, resize: int | None, channels: int | None, table: NDArray[np.uint8]
) -> cache.Decoded:
    """Starts to decode a folder.

    Args:
        folder: The folder.
        resize: As for `load_folder`.
        channels: As for `load_folder`.
        table: Maps the 256 levels of a picture to the new levels, shape (256,).

    Returns:
        The shape of all images, (N, C, H, W); the images in blocks, split after split; and the
        arrays of `sort_by_split`.
    """
    pictures, others = sort_by_split(folder, find_files(folder, PICTURE_FILES))
    if channels is None:
        with closing(track(pictures, "looking for colour", len(pictures))) as tracked:
            channels = 1 if all(_is_grey(folder / p.name) for p in tracked) else 3
    names = [p.name for p in pictures]
    first = read_picture(folder / names[0], resize, channels)
    blocks = _decode_blocks(folder, names, first, resize, channels, table)
    return (len(names), *first.shape), blocks, others


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
    labels = sorted({f.label for f in files if f.label is not None})
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
) -> Iterator[NDArray[np.uint8]]:
    """Decodes pictures in threads, which help with large pictures and do no harm with small ones.

    Yields:
        Blocks of images in the order of the names, uint8, shape (up to BLOCK, C, H, W).
    """

    def read(block_names: Sequence[str]) -> NDArray[np.uint8]:
        block = np.empty((len(block_names), *first.shape), np.uint8)
        for i, name in enumerate(block_names):
            x = read_picture(folder / name, resize, channels)
            _check_shape(folder / name, x, folder / names[0], first)
            block[i] = x
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
    refuse_all_zero(folder, highest, 256, levels)


# --- files ----------------------------------------------------------------------------------------


def folder_state(folder: Path, endings: tuple[str, ...]) -> str:
    """Returns a fingerprint of a folder, which changes when it has to be decoded again.

    It is a sum of hashes: one for the name, size and time of each file with one of the endings, and
    one for the name of each subfolder. A sum does not depend on the order, so that it takes no
    list of all names.
    """
    total = 0
    for name, stat in track(_walk(folder, endings), f"looking through {folder}"):
        written = (stat.st_size, stat.st_mtime_ns) if stat else None
        line = os.fsencode(f"{name}\0{written}")
        total += int.from_bytes(hashlib.sha256(line).digest())
    return f"{STATE_VERSION} {total:x}"


def _walk(folder: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result | None]]:
    """Lists the files below a folder as (name, stat) and its subfolders as (name, None), unsorted.

    Hidden entries are skipped. Symbolic links to folders are followed at the top level only.
    """
    waiting = [""]
    while waiting:
        parent = waiting.pop()
        try:
            with os.scandir(folder / parent) as entries:
                for entry in entries:
                    name = f"{parent}/{entry.name}" if parent else entry.name
                    if entry.name[0] == ".":
                        continue
                    if entry.is_dir(follow_symlinks=not parent):
                        waiting.append(name)
                        yield name, None
                    elif entry.name.lower().endswith(endings) and entry.is_file():
                        yield name, entry.stat()
        except OSError as error:
            raise UserError(
                f"{folder / parent} cannot be read ({error.strerror}): check the folder and its "
                "permissions."
            ) from error


def find_files(folder: Path, kind: FileKind) -> list[File]:
    """Lists the files of a folder with their splits and classes, in the order of their names.

    Raises:
        UserError: If the folder cannot be read, holds no such files, or its classes are ambiguous.
    """
    # The stat of a file takes more memory than its name, so it is dropped.
    entries = sorted(
        ((name, stat is not None) for name, stat in _walk(folder, kind.endings)),
        key=lambda e: e[0].split("/"),
    )
    tops = {name for name, is_file in entries if not is_file and "/" not in name}
    has_splits = (
        "train" in tops
        and tops <= set(SPLIT_FOLDERS)
        and not any(is_file and "/" not in name for name, is_file in entries)
    )
    files = []
    missing = set(SPLITS) - {SPLIT_FOLDERS[top] for top in tops} if has_splits else set(SPLITS)
    for name, is_file in entries:
        if not is_file:
            continue
        if (readable := os.fsencode(name).decode(errors="replace")) != name:
            raise UserError(f"{folder} holds {readable}, whose name is not UTF-8: rename the file.")
        top, relative = name.split("/", 1) if has_splits else ("", name)
        split = SPLIT_FOLDERS.get(top, "train")
        if split == "train":
            split = _split_by_name(relative, missing)
        label = relative.split("/")[0] if "/" in relative else None
        files.append(File(name, split, label))
    if not files:
        raise UserError(f"{folder} holds no {kind.name}: expected {kind.expected}.")
    if len({f.label is None for f in files}) > 1:
        raise UserError(
            f"{folder} holds {kind.name} both directly and in subfolders, so that their classes "
            "are not clear: move all files into a subfolder per class, or all into one folder."
        )
    return files


def _split_by_name(name: str, missing: set[str]) -> str:
    """Chooses a file's split by its relative name alone: 80 % train, 10 % valid, 10 % test.

    Only splits missing from the folder are filled. Names are hashed in Unicode's composed form,
    because file systems store accents differently.
    """
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).digest()
    tenth = int.from_bytes(digest[:8], "big") * 10 >> 64
    split = {8: "valid", 9: "test"}.get(tenth, "train")
    return split if split in missing else "train"


def _read(path: Path, work: Callable[[Image.Image], T]) -> T:
    """Opens a picture and returns `work(picture)`; an unreadable file is a UserError."""
    # Imported here, because most commands read no pictures.
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if not picture.mode.startswith(("I", "F")):
                return work(picture)
            mode = picture.mode
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"There is no picture {path}: give the path of a file.") from None
    except Exception as error:  # Pillow raises many types of errors on corrupt files
        raise UserError(
            f"{path} is corrupt or no image ({error}): replace or remove the file."
        ) from error
    raise UserError(f"{path} has more than 8 bits a value (mode {mode}): save it with 8 bits.")


def _is_grey(path: Path) -> bool:
    return _read(path, lambda picture: picture.mode in GREY)


def read_picture(path: Path, resize: int | None, channels: int | None) -> NDArray[np.uint8]:
    """Reads a picture file, see `decode_picture`.

    Raises:
        UserError: If there is no such file, or it is corrupt, no image, or has more than 8 bits a
            value.
    """
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
            f"{path} is {w} x {h} pixels but {first_path} is {first_w} x {first_h}: give resize to "
            "crop and resize all of them to one square."
        )
