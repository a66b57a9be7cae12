"""Loads the user's own images: NumPy arrays, IDX files and folders of pictures.

Splits given by the data are used as they are. Each missing split gets a tenth of the training
images, chosen by a rule that never changes: a fixed permutation for arrays, the hash of the file's
name for folders (so that adding a file moves no other file to another split).
"""

from __future__ import annotations

from pathlib import Path

from nextpixel.data.arrays import (
    dataset_from_arrays,
    read_arrays,
    read_idx_folder,
    unsplit_from_arrays,
)
from nextpixel.data.folders import load_folder, load_folder_unsplit
from nextpixel.data.images import Dataset, Unsplit
from nextpixel.errors import UserError

__all__ = ["load_unsplit", "load_user_data", "shape_options"]


def load_user_data(
    path: Path, *, resize: int | None = None, channels: int | None = None, levels: int | None = None
) -> Dataset:
    """Loads the images at a path as a data set of three splits.

    - `.npz`: images named `x`, or `x_train`, `x_valid` (or `x_val`), `x_test` (or `train`, `valid`,
      `test`, or as in MedMNIST `train_images`, ...), or a single array without a name; optional
      class ids named `y`, or `y_train`, `y_valid`, `y_test` (or `train_labels`, ...), (N,) or
      (N, 1); and the number `levels` if the values are levels below 256. `.npy`: images.
    - An IDX file of images, gzipped or not. Class ids are read from the file in the same folder
      that has labels-idx1 in its name instead of images-idx3. Or a folder of IDX files named like
      MNIST's.
    - A folder of pictures in the formats that Pillow reads: directly in it, in a subfolder per
      class, or either of these in subfolders train (or training), valid (val, validation, dev) and
      test (testing), in upper or lower case. Links to folders are followed, and subfolders without
      pictures do not count.

    Arrays have shape (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3. Their values are
    integers, of 256 levels unless `levels` says otherwise or all values are 0 or 1. They have class
    ids without names; a model takes them for its own ids, while folders are matched by name. Names
    that are all numbers are sorted as numbers.

    Broken links, pictures that cannot be read and other files are left out, with one warning when
    the folder is decoded.

    A folder of pictures is decoded once. The integers are stored in the user's cache folder and
    mapped into memory from there until the folder changes (a name, size or modification time).

    Args:
        path: An existing file or folder.
        resize: For folders: crops each picture to its central square and resizes it to this side.
        channels: For folders, 1 (grey) or 3 (RGB); by default 1 if all files are grey, else 3. For
            arrays, the number of channels, needed if the shape is ambiguous: 3 for one picture
            (H, W, 3), 1 for grey images of that shape.
        levels: Requantises to this number of levels; None leaves the source's levels.

    Raises:
        UserError: If the images cannot be read, or their layout is ambiguous.
    """
    check_channels(channels)
    if path.is_dir() and (idx_arrays := read_idx_folder(path)):
        arrays = idx_arrays
    elif path.is_dir():
        return load_folder(path, resize, channels, levels)
    else:
        arrays = read_arrays(path)
    if resize is not None:
        raise UserError(
            f"resize is for a folder of pictures, and {path} holds arrays: leave it out, or resize "
            "the arrays first."
        )
    return dataset_from_arrays(path, arrays, channels, levels)


def check_channels(channels: int | None) -> None:
    """Checks the option `channels`.

    Raises:
        UserError: It is neither 1 nor 3.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels is 1 for grey or 3 for colour, not {channels}.")


def shape_options(shape: tuple[int, int, int], path: Path) -> tuple[int | None, int | None]:
    """Returns the options `resize` and `channels` that load what is at a path in this shape.

    There is nothing at the path of a name such as codes:RUN, which takes no options.
    """
    if not path.exists():
        return None, None
    channels, height, width = shape
    if path.is_file():
        return None, channels
    holds_arrays = any(path.glob("*-ubyte*"))  # IDX files, which have their size
    return height if height == width and not holds_arrays else None, channels


def load_unsplit(
    path: Path, *, resize: int | None = None, channels: int | None = None, levels: int | None = None
) -> Unsplit:
    """Loads all images at a path in the order of their names or numbers, without splits.

    Splits of a file or folder are concatenated. Folders are decoded each time, without the cache.

    Args:
        path: An existing file or folder, as for `load_user_data`.
        resize: As for `load_user_data`.
        channels: As for `load_user_data`.
        levels: As for `load_user_data`.

    Raises:
        UserError: If the images cannot be read, or their layout is ambiguous.
    """
    check_channels(channels)
    if path.is_dir() and not (arrays := read_idx_folder(path)):
        return load_folder_unsplit(path, resize, channels, levels or 256)
    if not path.is_dir():
        arrays = read_arrays(path)
    return unsplit_from_arrays(path, arrays, channels, levels)
