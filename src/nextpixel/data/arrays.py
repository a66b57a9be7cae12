"""Creates data sets from arrays: .npz, .npy and IDX files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.images import (
    SPLITS,
    Dataset,
    Images,
    Unsplit,
    dataset_from_splits,
    refuse_all_zero,
)
from nextpixel.data.levels import requantise
from nextpixel.data.readers import read_idx_file, read_numpy
from nextpixel.errors import UserError
from nextpixel.noise import Stream

__all__ = ["dataset_from_arrays", "read_arrays", "read_idx_folder", "unsplit_from_arrays"]

SPLIT_SEED = 5_550_123  # never change it: images would move between splits
MAX_CLASSES = 65_536


# --- reading --------------------------------------------------------------------------------------


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Reads a .npz, .npy or IDX file; an array without a name of its own is called "x".

    Raises:
        UserError: If the file is corrupt or of another format.
    """
    if path.suffix in {".npz", ".npy"}:
        arrays = dict(read_numpy(path))
        return {"x": arrays["arr_0"]} if list(arrays) == ["arr_0"] else arrays
    arrays = {"x": read_idx_file(path)}
    labels = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if labels != path and labels.is_file():
        arrays["y"] = read_idx_file(labels)
    return arrays


def read_idx_folder(folder: Path) -> dict[str, NDArray[Any]]:
    """Reads those of MNIST's four IDX files that a folder holds, gzipped or not.

    Returns:
        Arrays named "x_train", "y_train", "x_test", "y_test"; empty if there is no such file.

    Raises:
        UserError: If a file is corrupt, or the training images are missing.
    """
    arrays = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        for key, kind in (("x", "images-idx3"), ("y", "labels-idx1")):
            for end in ("ubyte", "ubyte.gz"):
                file = folder / f"{prefix}-{kind}-{end}"
                if file.is_file():
                    arrays[f"{key}_{split}"] = read_idx_file(file)
    if arrays and "x_train" not in arrays:
        raise UserError(
            f"{folder} holds IDX files named like MNIST's, but no train-images-idx3-ubyte(.gz): "
            "add it, or give the path of one file instead of the folder."
        )
    return arrays


# --- from arrays to images ------------------------------------------------------------------------


def dataset_from_arrays(
    path: Path, arrays: dict[str, NDArray[Any]], channels: int | None, levels: int | None
) -> Dataset:
    """Creates a data set from named arrays, see `user_data.load_user_data`.

    Args:
        path: The path of the arrays, for messages.
        arrays: Images, class ids and the number of levels, by their names.
        channels: Number of channels, needed if the shape of the images is ambiguous.
        levels: Requantises to this number of levels; None leaves the arrays' levels.

    Raises:
        UserError: If the arrays are not images and class ids that belong together.
    """
    stated_levels = arrays.pop("levels", None)
    pairs = _name_splits(path, arrays)
    x = {split: _integers(path, x, channels) for split, (x, _) in pairs.items()}
    y = {split: _class_ids(path, y) for split, (_, y) in pairs.items() if y is not None}
    highest = max(int(a.max(initial=0)) for a in x.values())
    own_levels = _level_count(path, stated_levels, highest, levels)
    _add_missing_splits(path, x, y)
    splits = {split: Images(x[split], y.get(split), own_levels) for split in SPLITS}
    data = dataset_from_splits(path, splits, own_levels, _class_names(y.values()), unnamed=True)
    if levels is None:
        return data
    if stated_levels is None:
        refuse_all_zero(path, highest, own_levels, levels)
    return data.requantised(levels)


def unsplit_from_arrays(
    path: Path, arrays: dict[str, NDArray[Any]], channels: int | None, levels: int | None
) -> Unsplit:
    """Concatenates the images of all splits, with the arguments of `dataset_from_arrays`."""
    stated_levels, rows = arrays.pop("levels", None), arrays.pop("rows", None)
    pairs = _name_splits(path, arrays).values()
    x = np.concatenate([_integers(path, x, channels) for x, _ in pairs])
    ids = [_class_ids(path, y) for _, y in pairs if y is not None]
    y = np.concatenate(ids) if ids else None
    highest = int(x.max(initial=0))
    own_levels = _level_count(path, stated_levels, highest, levels)
    if levels is not None:
        if stated_levels is None:
            refuse_all_zero(path, highest, own_levels, levels)
        x = requantise(x, own_levels, levels)
    images = Images(x, y, levels or own_levels, rows=rows)
    return Unsplit(images, [str(i) for i in range(len(x))], _class_names(ids))


def _class_names(ids: Iterable[NDArray[np.int64]]) -> tuple[str, ...] | None:
    """Names the classes by their ids; None if there are no classes."""
    classes = 1 + max((int(y.max(initial=-1)) for y in ids), default=-1)
    return tuple(str(i) for i in range(classes)) or None


def _name_splits(
    path: Path, arrays: Mapping[str, NDArray[Any]]
) -> dict[str, tuple[NDArray[Any], NDArray[Any] | None]]:
    """Pairs images with class ids: {split: (x, y or None)}; "train" is always present."""
    valid = "val" if any("val" in name.split("_") for name in arrays) else "valid"
    names = {"train": "train", "valid": valid, "test": "test"}  # a split's name in the arrays'
    if "x" in arrays:
        keys = {"train": ("x", "y")}
    elif "train" in arrays:
        keys = {split: (name, f"y_{name}") for split, name in names.items()}
    elif "train_images" in arrays:  # as MedMNIST names them
        keys = {split: (f"{name}_images", f"{name}_labels") for split, name in names.items()}
    else:
        keys = {split: (f"x_{name}", f"y_{name}") for split, name in names.items()}
    pairs = {s: (arrays[x], arrays.get(y)) for s, (x, y) in keys.items() if x in arrays}
    unknown = set(arrays) - {name for s in pairs for name in keys[s]}
    if "train" not in pairs or unknown:
        raise UserError(
            f"{path} holds arrays named {', '.join(sorted(arrays)) or 'nothing'}: name the images "
            "x, or x_train, x_valid, x_test, the class ids y, or y_train, y_valid, y_test, the "
            "number of levels levels, and store nothing else."
        )
    if len({y is None for _, y in pairs.values()}) > 1:
        raise UserError(
            f"{path} has class ids for some splits only: give them for all splits or for none."
        )
    return pairs


def _integers(path: Path, x: NDArray[Any], channels: int | None) -> NDArray[np.uint8]:
    """Checks that x holds integers in [0, 256), and converts it to uint8, (N, C, H, W)."""
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
    # Without a copy if possible, so that a memory map remains one.
    suitable = x.dtype == np.uint8 and x.flags.c_contiguous
    return x if suitable else np.array(x, dtype=np.uint8, order="C")


def _channels_first(path: Path, x: NDArray[Any], channels: int | None) -> NDArray[Any]:
    if x.ndim == 3 and channels is None and x.shape[2] in (3, 4):
        raise UserError(
            f"{path} holds an array of shape {x.shape}, which could be one picture in colour or "
            f"{x.shape[0]} grey images {x.shape[2]} pixels wide: give channels=3 for the picture, "
            "or channels=1 (--channels on the command line)."
        )
    if x.ndim == 3 and channels in (None, 1):
        return x[:, None]
    if x.ndim == 3 and x.shape[2] == channels:
        x = x[None]
    possible = (1, 3) if channels is None else (channels,)
    first, last = (x.ndim == 4 and x.shape[axis] in possible for axis in (1, 3))
    if first and last and channels is None:
        raise UserError(
            f"{path} holds images of shape {x.shape}, whose channels could come first or last: "
            "give channels (if both axes fit, the first is used)."
        )
    if not first and not last:
        raise UserError(
            f"{path} holds images of shape {x.shape}, where (N, H, W), (N, C, H, W) or (N, H, W, "
            f"C) with C = {' or '.join(map(str, possible))} was expected: reshape them, or give "
            "channels."
        )
    return x if first else np.moveaxis(x, 3, 1)


def _class_ids(path: Path, y: NDArray[Any]) -> NDArray[np.int64]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    integers = y.dtype.kind in "ui" and y.ndim == 1
    if not integers or (y.size and not 0 <= y.min() <= y.max() < MAX_CLASSES):
        raise UserError(
            f"{path} has class ids that are not whole numbers from 0 to {MAX_CLASSES - 1:,}, one "
            f"per image (they are {y.dtype} of shape {y.shape}): number the classes from 0."
        )
    return y.astype(np.int64)


def _level_count(path: Path, stated: NDArray[Any] | None, highest: int, wanted: int | None) -> int:
    """Returns the stated number of levels; by default 2 if all values are 0 or 1, else 256.

    Black images could be either, and get 256 if more than 2 are wanted.
    """
    if stated is None:
        bits = highest == 1 or (highest == 0 and (wanted is None or wanted <= 2))
        return 2 if bits else 256
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


def _add_missing_splits(
    path: Path, x: dict[str, NDArray[np.uint8]], y: dict[str, NDArray[np.int64]]
) -> None:
    """Moves a tenth of the training images into each split that is missing."""
    n = len(x["train"])
    if y and any(len(x[split]) != len(y[split]) for split in x):
        raise UserError(f"{path} has not as many class ids as images: give one class id per image.")
    missing = [split for split in ("test", "valid") if split not in x]
    if not missing:
        return  # without copying the arrays
    if n < 10:
        raise UserError(
            f"{path} has {n} images, and a tenth is needed for each of {' and '.join(missing)}: "
            "give 10 or more, or those splits."
        )
    # The key is (seed, n) alone: the permutation is the same whichever splits are missing.
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
