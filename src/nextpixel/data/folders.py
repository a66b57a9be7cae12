"""Reads images from folders of pictures."""

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
from nextpixel.data.arrays import _idx_files
from nextpixel.data.images import (
    SPLITS,
    Dataset,
    Images,
    _dataset,
    _refuse_blank,
    _refuse_empty,
    requantise,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import shown

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "File",
    "Kind",
    "Unsplit",
    "find_files",
    "folder_state",
    "from_kept",
    "picture_names",
    "read_picture",
    "split_up",
]

T = TypeVar("T")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
STATE_VERSION = 1  # to be raised when pictures are turned into other integers than before
BLOCK = 32  # pictures decoded together
SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}


class Kind(NamedTuple):
    """A kind of files that a folder may hold.

    Attributes:
        name: What they are.
        expected: Which ones, and where, in words.
        endings: Of their names, in small letters.
    """

    name: str
    expected: str
    endings: tuple[str, ...]


PICTURE_FILES = Kind(
    "images",
    "PNG, JPEG or WebP files in it or in a subfolder for each class, or IDX files named as MNIST's",
    PICTURES,
)


class Unsplit(NamedTuple):
    """All images at a path together.

    Attributes:
        images: The images.
        names: Their files' names, below the folder, or their numbers in the file, from 0.
        class_names: A name for each class id, or None if there are no classes.
    """

    images: Images
    names: list[str]
    class_names: tuple[str, ...] | None


def _unsplit_folder(folder: Path, size: int | None, channels: int | None, levels: int) -> Unsplit:
    pictures = find_files(folder, PICTURE_FILES)
    names = [p.name for p in pictures]
    if channels is None:
        channels = 1 if all(_is_grey(folder / name) for name in names) else 3
    table = requantise(np.arange(256), 256, levels)
    first = read_picture(folder / names[0], size, channels)
    x = np.concatenate(list(_blocks(folder, names, first, size, channels, table)))
    labels = sorted({p.label for p in pictures if p.label is not None})
    y = np.array([labels.index(p.label) for p in pictures if p.label is not None], np.int64)
    return Unsplit(Images(x, y if labels else None, levels), names, tuple(labels) or None)


def picture_names(path: Path, split: str) -> list[str] | None:
    """Lists the files of a folder's pictures in the order of a split; None of anything else."""
    if not path.is_dir() or _idx_files(path):
        return None
    return [p.name for p in find_files(path, PICTURE_FILES) if p.split == split]


# --- folders --------------------------------------------------------------------------------------


class File(NamedTuple):
    """A file of a folder, and where it belongs."""

    name: str  # below the folder, with slashes
    split: str
    label: str | None  # the class's name


def _load_folder(
    folder: Path, size: int | None, channels: int | None, levels: int | None
) -> Dataset:
    if channels not in (None, 1, 3):
        raise UserError(f"channels is {channels}: give 1 for grey or 3 for RGB.")
    if size is not None and size < 1:
        raise UserError(f"size is {size}: give the side of the square pictures, 1 or more.")
    levels = 256 if levels is None else levels
    table = requantise(np.arange(256), 256, levels)
    state = folder_state(folder, PICTURES)
    # Pictures that need no crop are the same with their size and without, and so on.
    for options in product(dict.fromkeys((size, None)), dict.fromkeys((channels, None))):
        found = cache.find(cache.place(folder, *options, levels), state)
        if found is not None and _fits(found["x"].shape, size, channels):
            return from_kept(folder, found, levels)

    place = cache.place(folder, size, channels, levels)
    made = cache.made(folder, place, state, lambda: _decode(folder, size, channels, table))
    return from_kept(folder, made, levels)


def _fits(shape: tuple[int, ...], size: int | None, channels: int | None) -> bool:
    return channels in (None, shape[1]) and (size is None or shape[2:] == (size, size))


def from_kept(folder: Path, arrays: Mapping[str, NDArray[Any]], levels: int) -> Dataset:
    """Makes the data set of what was decoded of a folder, see `split_up`."""
    splits, begin = {}, 0
    for split, count in zip(SPLITS, arrays["counts"].tolist(), strict=True):
        part = slice(begin, begin + count)
        y = arrays["y"][part] if "y" in arrays else None
        rows = arrays["rows"][part] if "rows" in arrays else None
        splits[split] = Images(arrays["x"][part], y, levels, rows=rows)
        begin += count
    return _dataset(folder, splits, levels, tuple(arrays["names"].tolist()) or None)


def _decode(
    folder: Path, size: int | None, channels: int | None, table: NDArray[np.uint8]
) -> cache.Decoded:
    """Begins to decode a folder.

    Args:
        folder: The folder.
        size: As for `load_own`.
        channels: As for `load_own`.
        table: The new level of each of the 256 that pictures have.

    Returns:
        The shape of all images, (N, C, H, W); the images block by block, split after split; and
        the arrays of `split_up`.
    """
    pictures, others = split_up(folder, find_files(folder, PICTURE_FILES))
    if channels is None:
        with closing(shown(pictures, "looking for colour", len(pictures))) as looked_at:
            channels = 1 if all(_is_grey(folder / p.name) for p in looked_at) else 3
    names = [p.name for p in pictures]
    first = read_picture(folder / names[0], size, channels)
    blocks = _blocks(folder, names, first, size, channels, table)
    return (len(names), *first.shape), blocks, others


def split_up(folder: Path, files: Sequence[File]) -> tuple[list[File], dict[str, NDArray[Any]]]:
    """Sorts a folder's files by their splits, of which none may be empty.

    Returns:
        The files, and `counts`, the files in each split, `names` of the classes, and `y` if there
        are any.
    """
    files = sorted(files, key=lambda f: SPLITS.index(f.split))
    counts = Counter(f.split for f in files)
    for split in SPLITS:
        _refuse_empty(folder, split, counts[split])
    labels = sorted({f.label for f in files if f.label is not None})
    numbers = {label: i for i, label in enumerate(labels)}
    others: dict[str, NDArray[Any]] = {
        "counts": np.array([counts[split] for split in SPLITS]),
        "names": np.array(labels, np.str_),
    }
    if labels:
        others["y"] = np.array([numbers[f.label] for f in files if f.label], np.int64)
    return files, others


def _blocks(
    folder: Path,
    names: Sequence[str],
    first: NDArray[np.uint8],
    size: int | None,
    channels: int,
    table: NDArray[np.uint8],
) -> Iterator[NDArray[np.uint8]]:
    """Decodes pictures in threads, which pay for large ones and cost nothing for small ones."""

    def read(some: Sequence[str]) -> NDArray[np.uint8]:
        block = np.empty((len(some), *first.shape), np.uint8)
        for i, name in enumerate(some):
            x = read_picture(folder / name, size, channels)
            block[i] = _same_shape(folder / name, x, folder / names[0], first)
        return block

    def read_ahead(pool: ThreadPoolExecutor) -> Iterator[NDArray[np.uint8]]:
        running: deque[Future[NDArray[np.uint8]]] = deque()
        for begin in range(0, len(names), BLOCK):
            running.append(pool.submit(read, names[begin : begin + BLOCK]))
            if len(running) > 2 * workers:  # no more, or a slow disk would fill the memory
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    workers = min(16, os.cpu_count() or 1)
    highest, levels = 0, int(table[-1]) + 1
    with ThreadPoolExecutor(workers) as pool:
        what = f"decoding {len(names):,} pictures of {folder}, once"
        for block in shown(read_ahead(pool), what, len(names), weight=len):
            highest = max(highest, int(block.max()))
            yield block if levels == 256 else table[block]
    _refuse_blank(folder, highest, 256, levels)


def folder_state(folder: Path, endings: tuple[str, ...]) -> str:
    """Sums up the names, sizes and times of a folder's files, and the names of its folders.

    Only files with such endings count. A sum of hashes does not depend on the order, so that no
    list of 100,000 names is needed.
    """
    total = 0
    for name, stat in shown(_walk(folder, endings), f"looking through {folder}"):
        written = (stat.st_size, stat.st_mtime_ns) if stat else None
        line = os.fsencode(f"{name}\0{written}")
        total += int.from_bytes(hashlib.sha256(line).digest())
    return f"{STATE_VERSION} {total:x}"


def _walk(folder: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result | None]]:
    """Lists the files below a folder (name, state) and its folders (name, None), unsorted.

    Hidden ones are left out, and symbolic links to folders are followed at the top only.
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


def find_files(folder: Path, kind: Kind) -> list[File]:
    """Lists the files of a folder with their splits and classes, in the order of their names."""
    # Without the state of each, which takes more memory than its name.
    entries = sorted(
        ((name, stat is not None) for name, stat in _walk(folder, kind.endings)),
        key=lambda e: e[0].split("/"),
    )
    tops = {name for name, is_file in entries if not is_file and "/" not in name}
    given = (
        "train" in tops
        and tops <= set(SPLIT_FOLDERS)
        and not any(is_file and "/" not in name for name, is_file in entries)
    )
    files = []
    missing = set(SPLITS) - {SPLIT_FOLDERS[top] for top in tops} if given else set(SPLITS)
    for name, is_file in entries:
        if not is_file:
            continue
        if (readable := os.fsencode(name).decode(errors="replace")) != name:
            raise UserError(f"{folder} holds {readable}, whose name is not UTF-8: rename the file.")
        top, relative = name.split("/", 1) if given else ("", name)
        split = SPLIT_FOLDERS.get(top, "train")
        if split == "train":
            split = _split_of(relative, missing)
        label = relative.split("/")[0] if "/" in relative else None
        files.append(File(name, split, label))
    if not files:
        raise UserError(f"{folder} holds no {kind.name}: expected {kind.expected}.")
    if len({f.label is None for f in files}) > 1:
        raise UserError(
            f"{folder} holds {kind.name} both directly and in subfolders, so that their classes "
            "are not clear: move all into a subfolder for each class, or all out of them."
        )
    return files


def _split_of(name: str, missing: set[str]) -> str:
    """Returns the split of a file from its relative name alone: 80 % train, 10 % valid, 10 % test.

    Splits that the folder brings itself get nothing more. Names are compared in Unicode's composed
    form, because file systems differ in how they store accents.
    """
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).digest()
    tenth = int.from_bytes(digest[:8], "big") * 10 >> 64
    split = {8: "valid", 9: "test"}.get(tenth, "train")
    return split if split in missing else "train"


def _read(path: Path, work: Callable[[Image.Image], T]) -> T:
    """Opens a picture and returns what `work` makes of it; an unreadable one is a UserError."""
    # Pillow is loaded here, and not with the module, for the sake of commands that read no picture.
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if not picture.mode.startswith(("I", "F")):
                return work(picture)
            mode = picture.mode
    except Exception as error:  # Pillow's decoders raise errors of many kinds on a corrupt file
        raise UserError(
            f"{path} is corrupt or no image ({error}): replace or remove the file."
        ) from error
    raise UserError(f"{path} has more than 8 bits a value (mode {mode}): save it with 8.")


def _is_grey(path: Path) -> bool:
    return _read(path, lambda picture: picture.mode in {"1", "L", "LA", "La"})


def read_picture(path: Path, size: int | None, channels: int) -> NDArray[np.uint8]:
    """Reads a picture as uint8 of shape (C, H, W); what is transparent becomes white."""
    from PIL import Image, ImageOps

    def work(picture: Image.Image) -> NDArray[np.uint8]:
        picture = ImageOps.exif_transpose(picture)
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        picture = picture.convert("L" if channels == 1 else "RGB")
        if size is not None:
            side = min(picture.size)
            left, top = ((length - side) // 2 for length in picture.size)
            # Cropped first: a resize of a box would mix in what lies outside of it.
            picture = picture.crop((left, top, left + side, top + side))
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        x = np.asarray(picture, np.uint8)
        return x[None] if channels == 1 else x.transpose(2, 0, 1)

    return _read(path, work)


def _same_shape(
    path: Path, x: NDArray[np.uint8], first_path: Path, first: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    if x.shape != first.shape:
        (h, w), (first_h, first_w) = x.shape[1:], first.shape[1:]
        raise UserError(
            f"{path} is {w} x {h} pixels but {first_path} is {first_w} x {first_h}: give size to "
            "crop and resize all of them to one square."
        )
    return x
