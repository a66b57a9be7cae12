"""The user's own images: NumPy arrays, IDX files and folders of pictures.

Whatever splits the data bring are kept, and the missing ones are taken out of the training images
by a rule that never changes: a tenth each, chosen by a fixed permutation (arrays) or by the hash of
the file's name (folders, where a new file therefore never moves another one).
"""

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

from nextpixel.data import kept
from nextpixel.data.images import Dataset, Images, requantise
from nextpixel.data.progress import shown
from nextpixel.data.readers import read_bytes, read_idx, read_numpy
from nextpixel.errors import UserError
from nextpixel.noise import Stream

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "File",
    "Kind",
    "Unsplit",
    "find_files",
    "folder_state",
    "from_kept",
    "load_own",
    "load_unsplit",
    "picture_names",
    "read_picture",
    "split_up",
]

T = TypeVar("T")
SPLITS = ("train", "valid", "test")
SPLIT_SEED = 5_550_123  # part of the rule: changing it would move images between splits
MOST_CLASSES = 65_536
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


def load_own(
    path: Path, *, size: int | None = None, channels: int | None = None, levels: int | None = None
) -> Dataset:
    """Loads the images at a path.

    - `.npz`: images as `x`, or as `x_train`, `x_valid`, `x_test` (or `train`, `valid`, `test`),
      class ids as `y`, or as `y_train`, `y_valid`, `y_test`; and, where the values are not 0 to
      255, a number `levels`. `.npy`: images.
    - An IDX file of images, gzipped or not; class ids are read from the file beside it whose name
      has labels-idx1 where this one has images-idx3. Or a folder of IDX files named as MNIST's.
    - A folder of PNG, JPEG and WebP files: directly in it, or in a subfolder for each class, or
      either of these in subfolders train, valid (or val) and test.

    Arrays are (N, H, W), or have their 1 or 3 channels first or last: (N, C, H, W), (N, H, W, C).
    Their values are integers, with 256 levels unless `levels` says otherwise or all are 0 or 1.

    A folder of pictures is decoded once: the integers are kept in the user's cache folder, and
    mapped into memory from there until the folder changes (a name, a size or a time of writing).

    Args:
        path: An existing file or folder.
        size: For folders: crops each picture to its central square and resizes it to size x size.
        channels: For folders, 1 (grey) or 3 (RGB); by default 1 if every file is stored as grey,
            else 3. For arrays, the number of channels, where the shape does not tell.
        levels: Requantises to so many levels; None keeps those of the source.

    Raises:
        UserError: If the images cannot be read, or their meaning is not clear.
    """
    if path.is_dir() and (files := _idx_files(path)):
        arrays = files
    elif path.is_dir():
        return _load_folder(path, size, channels, levels)
    else:
        arrays = _file_arrays(path)
    if size is not None:
        raise UserError(
            f"size is for a folder of pictures, and {path} holds arrays: leave size out, or resize "
            "the arrays first."
        )
    return _from_arrays(path, arrays, channels, levels)


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


def load_unsplit(
    path: Path, *, size: int | None = None, channels: int | None = None, levels: int | None = None
) -> Unsplit:
    """Loads all images at a path in the order of their names or numbers, however few there are.

    Images that the file or folder itself puts into splits come one split after the other. Nothing
    is kept of a folder: its pictures are decoded each time.

    Args:
        path: An existing file or folder, as for `load_own`.
        size: As for `load_own`.
        channels: As for `load_own`.
        levels: As for `load_own`.

    Raises:
        UserError: If the images cannot be read, or their meaning is not clear.
    """
    if path.is_dir() and not (arrays := _idx_files(path)):
        return _unsplit_folder(path, size, channels, levels or 256)
    if not path.is_dir():
        arrays = _file_arrays(path)
    stated_levels = arrays.pop("levels", None)
    pairs = _name_splits(path, arrays).values()
    x = np.concatenate([_integers(path, x, channels) for x, _ in pairs])
    ids = [_class_ids(path, y) for _, y in pairs if y is not None]
    y = np.concatenate(ids) if ids else None
    own_levels = _own_levels(path, stated_levels, int(x.max(initial=0)))
    if levels is not None:
        _refuse_blank(path, int(x.max(initial=0)), own_levels, levels)
        x = requantise(x, own_levels, levels)
    classes = 1 + int(y.max(initial=-1)) if y is not None else 0
    names = [str(i) for i in range(len(x))]
    return Unsplit(
        Images(x, y, levels or own_levels), names, tuple(str(i) for i in range(classes)) or None
    )


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


# --- arrays ---------------------------------------------------------------------------------------


def _file_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if path.suffix in {".npz", ".npy"}:
        return dict(read_numpy(path))
    arrays = {"x": read_idx(read_bytes(path), path)}
    labels = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if labels != path and labels.is_file():
        arrays["y"] = read_idx(read_bytes(labels), labels)
    return arrays


def _idx_files(folder: Path) -> dict[str, NDArray[Any]]:
    """Reads what there is of the four files of MNIST's naming, gzipped or not."""
    arrays = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        for key, kind in (("x", "images-idx3"), ("y", "labels-idx1")):
            for end in ("ubyte", "ubyte.gz"):
                file = folder / f"{prefix}-{kind}-{end}"
                if file.is_file():
                    arrays[f"{key}_{split}"] = read_idx(read_bytes(file), file)
    if arrays and "x_train" not in arrays:
        raise UserError(
            f"{folder} holds IDX files named as MNIST's, but no train-images-idx3-ubyte(.gz): add "
            "it, or give the path of one file instead of the folder."
        )
    return arrays


def _from_arrays(
    path: Path, arrays: dict[str, NDArray[Any]], channels: int | None, levels: int | None
) -> Dataset:
    stated_levels = arrays.pop("levels", None)
    pairs = _name_splits(path, arrays)
    x = {split: _integers(path, x, channels) for split, (x, _) in pairs.items()}
    y = {split: _class_ids(path, y) for split, (_, y) in pairs.items() if y is not None}
    highest = max(int(a.max(initial=0)) for a in x.values())
    own_levels = _own_levels(path, stated_levels, highest)
    _take_missing(path, x, y)
    splits = {split: Images(x[split], y.get(split), own_levels) for split in SPLITS}
    classes = 1 + max((int(ids.max(initial=0)) for ids in y.values()), default=-1)
    names = tuple(str(i) for i in range(classes)) or None
    data = _dataset(path, splits, own_levels, names)
    if levels is None:
        return data
    _refuse_blank(path, highest, own_levels, levels)
    return data.requantised(levels)


def _name_splits(
    path: Path, arrays: Mapping[str, NDArray[Any]]
) -> dict[str, tuple[NDArray[Any], NDArray[Any] | None]]:
    """Pairs images with class ids: {split: (x, y or None)}, with "train" always there."""
    if "x" in arrays:
        keys = {"train": ("x", "y")}
    elif "train" in arrays:
        keys = {split: (split, f"y_{split}") for split in SPLITS}
    else:
        keys = {split: (f"x_{split}", f"y_{split}") for split in SPLITS}
    pairs = {s: (arrays[x], arrays.get(y)) for s, (x, y) in keys.items() if x in arrays}
    unknown = set(arrays) - {name for s in pairs for name in keys[s]}
    if "train" not in pairs or unknown:
        raise UserError(
            f"{path} holds arrays named {', '.join(sorted(arrays)) or 'nothing'}: name the images "
            "x, or x_train, x_valid, x_test, the class ids y, or y_train, y_valid, y_test, the "
            "number of levels levels, and store nothing else."
        )
    if len({y is None for _, y in pairs.values()}) > 1:
        raise UserError(f"{path} has class ids for some splits only: give them for all or none.")
    return pairs


def _integers(path: Path, x: NDArray[Any], channels: int | None) -> NDArray[np.uint8]:
    """Checks that x holds integers in [0, 256), and makes it uint8 of shape (N, C, H, W)."""
    if x.dtype.kind not in "bui":
        raise UserError(
            f"{path} holds {x.dtype} where images are integers: turn them into 0 to 255 and save "
            "them as uint8."
        )
    if x.dtype != np.uint8 and x.size and (x.min() < 0 or x.max() > 255):
        raise UserError(
            f"{path} holds values from {x.min()} to {x.max()}, where images have values from 0 to "
            "255: rescale them and save them as uint8."
        )
    x = _channels_first(path, x, channels)
    # A memory map is left one, where it can be.
    kept = x.dtype == np.uint8 and x.flags.c_contiguous
    return x if kept else np.array(x, dtype=np.uint8, order="C")


def _channels_first(path: Path, x: NDArray[Any], channels: int | None) -> NDArray[Any]:
    if x.ndim == 3 and channels in (None, 1):
        return x[:, None]
    possible = (1, 3) if channels is None else (channels,)
    first, last = (x.ndim == 4 and x.shape[axis] in possible for axis in (1, 3))
    if first and last and channels is None:
        raise UserError(
            f"{path} holds images of shape {x.shape}, whose channels could come first or last: "
            "give channels (if it fits both, they are taken to come first)."
        )
    if not first and not last:
        raise UserError(
            f"{path} holds images of shape {x.shape}, where (N, H, W), (N, C, H, W) or (N, H, W, "
            f"C) with C = {' or '.join(map(str, possible))} was expected: reshape them, or give "
            "channels."
        )
    return x if first else np.moveaxis(x, 3, 1)


def _class_ids(path: Path, y: NDArray[Any]) -> NDArray[np.int64]:
    whole = y.dtype.kind in "ui" and y.ndim == 1
    if not whole or (y.size and not 0 <= y.min() <= y.max() < MOST_CLASSES):
        raise UserError(
            f"{path} has class ids that are not whole numbers from 0 to {MOST_CLASSES - 1:,}, one "
            f"an image (they are {y.dtype} of shape {y.shape}): number the classes from 0."
        )
    return y.astype(np.int64)


def _own_levels(path: Path, stated: NDArray[Any] | None, highest: int) -> int:
    """Returns the stated number of levels, or else 2 for values 0 and 1, and 256 for others."""
    if stated is None:
        return 2 if highest <= 1 else 256
    if (
        stated.dtype.kind not in "ui"
        or stated.size != 1
        or not max(2, highest + 1) <= stated <= 256
    ):
        raise UserError(
            f"{path} states levels = {stated}, but its highest value is {highest}: state one whole "
            f"number from {max(2, highest + 1)} to 256."
        )
    return int(stated.item())


def _take_missing(
    path: Path, x: dict[str, NDArray[np.uint8]], y: dict[str, NDArray[np.int64]]
) -> None:
    """Moves a tenth of the training images into each split that is missing."""
    n = len(x["train"])
    if y and any(len(x[split]) != len(y[split]) for split in x):
        raise UserError(f"{path} has not as many class ids as images: give one an image.")
    missing = [split for split in ("test", "valid") if split not in x]
    if not missing:
        return  # and copy nothing
    if n < 10:
        raise UserError(
            f"{path} has {n} images, and a tenth is needed for each of {' and '.join(missing)}: "
            "give 10 or more, or those splits."
        )
    # The whole key, n included, fixes the permutation: it is the same whichever splits are missing.
    order = Stream.SPLITS.generator(SPLIT_SEED, n).permutation(n)
    tenths = {"test": order[: n // 10], "valid": order[n // 10 : 2 * (n // 10)]}
    rest = np.ones(n, bool)
    train_x, train_y = x["train"], y.get("train")
    for split in missing:
        rest[tenths[split]] = False
        chosen = np.sort(tenths[split])
        x[split] = train_x[chosen]
        if train_y is not None:
            y[split] = train_y[chosen]
    x["train"] = train_x[rest]
    if train_y is not None:
        y["train"] = train_y[rest]


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
        found = kept.find(kept.place(folder, *options, levels), state)
        if found is not None and _fits(found["x"].shape, size, channels):
            return from_kept(folder, found, levels)

    place = kept.place(folder, size, channels, levels)
    made = kept.made(folder, place, state, lambda: _decode(folder, size, channels, table))
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
) -> kept.Decoded:
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
