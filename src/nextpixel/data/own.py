"""The user's own images: NumPy arrays, IDX files and folders of pictures.

Whatever splits the data bring are kept, and the missing ones are taken out of the training images
by a rule that never changes: a tenth each, chosen by a fixed permutation (arrays) or by the hash of
the file's name (folders, where a new file therefore never moves another one).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nextpixel.data.arrays import (
    _class_ids,
    _file_arrays,
    _from_arrays,
    _idx_files,
    _integers,
    _name_splits,
    _own_levels,
)
from nextpixel.data.folders import Unsplit, _load_folder, _unsplit_folder
from nextpixel.data.images import Dataset, Images, _refuse_blank, requantise
from nextpixel.errors import UserError

__all__ = ["load_own", "load_unsplit"]


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
