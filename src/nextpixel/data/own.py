"""The user's own images: NumPy arrays, IDX files and folders of pictures.

Whatever splits the data bring are kept, and the missing ones are taken out of the training images
by a rule that never changes: a tenth each, chosen by a fixed permutation (arrays) or by the hash of
the file's name (folders, where a new file therefore never moves another one).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.images import Dataset, Images
from nextpixel.data.readers import read_bytes, read_idx, read_numpy
from nextpixel.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["load_own", "read_picture"]

T = TypeVar("T")
SPLITS = ("train", "valid", "test")
SPLIT_SEED = 5_550_123  # part of the rule: changing it would move images between splits
MOST_CLASSES = 65_536
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}


def load_own(path: Path, *, size: int | None = None, channels: int | None = None) -> Dataset:
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

    Args:
        path: An existing file or folder.
        size: For folders: crops each picture to its central square and resizes it to size x size.
        channels: For folders, 1 (grey) or 3 (RGB); by default 1 if every file is stored as grey,
            else 3. For arrays, the number of channels, where the shape does not tell.

    Raises:
        UserError: If the images cannot be read, or their meaning is not clear.
    """
    if path.is_dir() and (files := _idx_files(path)):
        arrays = files
    elif path.is_dir():
        return _load_folder(path, size, channels)
    else:
        arrays = _file_arrays(path)
    if size is not None:
        raise UserError(
            f"size is for a folder of pictures, and {path} holds arrays: leave size out, or resize "
            "the arrays first."
        )
    return _from_arrays(path, arrays, channels)


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


def _from_arrays(path: Path, arrays: dict[str, NDArray[Any]], channels: int | None) -> Dataset:
    stated_levels = arrays.pop("levels", None)
    pairs = _name_splits(path, arrays)
    x = {split: _integers(path, x, channels) for split, (x, _) in pairs.items()}
    y = {split: _class_ids(path, y) for split, (_, y) in pairs.items() if y is not None}
    levels = _own_levels(path, stated_levels, max(int(a.max(initial=0)) for a in x.values()))
    _take_missing(path, x, y)
    splits = {split: Images(x[split], y.get(split), levels) for split in SPLITS}
    classes = 1 + max((int(ids.max(initial=0)) for ids in y.values()), default=-1)
    names = tuple(str(i) for i in range(classes)) or None
    return _dataset(path, splits, levels, names)


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
    if x.size and (x.min() < 0 or x.max() > 255):
        raise UserError(
            f"{path} holds values from {x.min()} to {x.max()}, where images have values from 0 to "
            "255: rescale them and save them as uint8."
        )
    return np.array(_channels_first(path, x, channels), dtype=np.uint8, order="C")


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
    if missing and n < 10:
        raise UserError(
            f"{path} has {n} images, and a tenth is needed for each of {' and '.join(missing)}: "
            "give 10 or more, or those splits."
        )
    # The whole key, n included, fixes the permutation: it is the same whichever splits are missing.
    key = np.array([SPLIT_SEED, n], dtype=np.uint64)
    order = np.random.Generator(np.random.Philox(key=key)).permutation(n)
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


@dataclass(frozen=True)
class _Picture:
    path: Path
    split: str
    label: str | None  # the class's name


def _load_folder(folder: Path, size: int | None, channels: int | None) -> Dataset:
    if channels not in (None, 1, 3):
        raise UserError(f"channels is {channels}: give 1 for grey or 3 for RGB.")
    if size is not None and size < 1:
        raise UserError(f"size is {size}: give the side of the square pictures, 1 or more.")
    pictures = _find_pictures(folder)
    if channels is None:
        channels = 1 if all(_is_grey(picture.path) for picture in pictures) else 3
    labels = sorted({p.label for p in pictures if p.label is not None})
    first = read_picture(pictures[0].path, size, channels)
    splits = {}
    for split in SPLITS:
        chosen = [p for p in pictures if p.split == split]
        x = np.empty((len(chosen), *first.shape), np.uint8)
        for i, picture in enumerate(chosen):
            x[i] = _same_shape(
                picture.path, read_picture(picture.path, size, channels), pictures[0].path, first
            )
        ids = [labels.index(p.label) for p in chosen if p.label is not None]
        splits[split] = Images(x, np.array(ids, np.int64) if labels else None, 256)
    return _dataset(folder, splits, 256, tuple(labels) or None)


def _find_pictures(folder: Path) -> list[_Picture]:
    """Lists the pictures of a folder with their splits and classes, in the order of their names."""
    entries = [entry for entry in folder.iterdir() if entry.name[0] != "."]
    tops = {entry.name for entry in entries if entry.is_dir()}
    given = (
        "train" in tops
        and tops <= set(SPLIT_FOLDERS)
        and not any(entry.suffix.lower() in PICTURES for entry in entries)
    )
    pictures = []
    missing = set(SPLITS) - {SPLIT_FOLDERS[top] for top in tops} if given else set(SPLITS)
    for top in sorted(tops) if given else [""]:
        for path in sorted((folder / top).rglob("*")):
            relative = path.relative_to(folder / top)
            hidden = any(part[0] == "." for part in relative.parts)
            if path.suffix.lower() not in PICTURES or hidden or not path.is_file():
                continue
            split = SPLIT_FOLDERS.get(top, "train")
            if split == "train":
                split = _split_of(relative.as_posix(), missing)
            label = relative.parts[0] if len(relative.parts) > 1 else None
            pictures.append(_Picture(path, split, label))
    if not pictures:
        raise UserError(
            f"{folder} holds no images: expected PNG, JPEG or WebP files in it or in a subfolder "
            "for each class, or IDX files named as MNIST's."
        )
    if len({p.label is None for p in pictures}) > 1:
        raise UserError(
            f"{folder} holds images both directly and in subfolders, so that their classes are not "
            "clear: move all into a subfolder for each class, or all out of them."
        )
    return pictures


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
        if not len(images):
            raise UserError(
                f"{path} leaves no image for the {split} split: give more images, or choose the "
                "splits yourself (subfolders, or arrays x_..., train, valid and test)."
            )
    return Dataset(
        name=path.stem if path.is_file() else path.resolve().name,
        train=splits["train"],
        valid=splits["valid"],
        test=splits["test"],
        levels=levels,
        class_names=None if class_names is None else tuple(class_names),
        source=f"own data, {path}",
    )
