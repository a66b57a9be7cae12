"""Caches decoded images in the user's cache folder, from where they are mapped into memory.

A cached data set is one uncompressed .npz, written atomically. It may be deleted at any time.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.readers import read_numpy
from nextpixel.errors import UserError
from nextpixel.utils.files import atomic_write, cache_folder, remove_parts

# The shape of all images, (N, C, H, W); the images in blocks; small arrays to store with them.
Decoded = tuple[
    tuple[int, ...], Iterable[NDArray[np.unsignedinteger[Any]]], dict[str, NDArray[Any]]
]

__all__ = ["Decoded", "load", "load_or_decode", "locked", "path_of", "store"]

BYTES = np.dtype(np.uint8)


def path_of(source: Path, *options: object) -> Path:
    """Returns the path for caching a source, decoded with some options.

    It does not depend on the state of the source: a changed source replaces the old file, so that
    the cache does not fill up.
    """
    key = repr((os.fsencode(source.resolve()), options))
    try:
        folder = cache_folder()
    except UserError:  # no home folder, so nothing can be kept: `load_or_decode` says so
        folder = Path(os.devnull)
    return folder / "decoded" / hashlib.sha256(key.encode()).hexdigest()[:32] / "images.npz"


def load_or_decode(
    source: Path,
    path: Path,
    state: str,
    decode: Callable[[], Decoded],
    dtype: np.dtype[Any] = BYTES,
) -> Mapping[str, NDArray[Any]]:
    """Loads a source from the cache, and decodes and stores it first if necessary.

    If it cannot be stored, a warning is issued and the images are returned in memory.

    Args:
        source: The user's folder.
        path: Its path in the cache, see `path_of`.
        state: Fingerprint of the source now.
        decode: Starts to decode the source.
        dtype: The type of the images.

    Returns:
        The images, named `x`, and the other arrays by their names.
    """
    try:
        with locked(path):
            arrays = load(path, state)  # another process may have stored it while we waited
            if arrays is None:
                store(path, state, *decode(), dtype)
                arrays = load(path, state)
        if arrays is not None:
            return arrays
        reason = "what was written could not be read back"
    except OSError as error:
        reason = error.strerror or str(error)
    warnings.warn(
        f"Decoded data of {source} cannot be kept in {path.parent} ({reason}), so that it takes "
        "memory now and has to be decoded again next time: make room there, or set XDG_CACHE_HOME "
        "to a folder that can be written into.",
        stacklevel=5,
    )
    shape, blocks, others = decode()
    x = np.empty(shape, dtype)
    begin = 0
    for block in blocks:
        x[begin : begin + len(block)] = block
        begin += len(block)
    return {"x": x, **others}


def load(path: Path, state: str) -> Mapping[str, NDArray[Any]] | None:
    """Maps a cached file into memory; None if it is missing, damaged or of another state.

    Args:
        path: The file.
        state: Fingerprint that the source must have had when it was decoded.
    """
    if not path.is_file():
        return None
    try:
        arrays = read_numpy(path)
    except UserError:
        warnings.warn(
            f"The cached data in {path} are damaged, so that they are decoded again.", stacklevel=5
        )
        return None
    return arrays if "state" in arrays and str(arrays["state"]) == state else None


def store(
    path: Path,
    state: str,
    shape: tuple[int, ...],
    blocks: Iterable[NDArray[np.unsignedinteger[Any]]],
    others: Mapping[str, NDArray[Any]],
    dtype: np.dtype[Any] = BYTES,
) -> None:
    """Writes images block by block; the file appears when it is complete.

    Args:
        path: The file.
        state: Fingerprint of the source.
        shape: Shape of all images together, (N, C, H, W).
        blocks: The images, in order.
        others: Small arrays to store with them.
        dtype: The type of the images.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    size = math.prod(shape) * dtype.itemsize
    if shutil.disk_usage(path.parent).free < size:  # better to fail now than after an hour
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(block.tobytes())
        for name, array in {"state": np.array(state), **others}.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time write a file, if the system supports locks; others wait.

    A lock ends with its process, even a killed one, whose partial files are then removed.

    Raises:
        OSError: The folder cannot be written into.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("wb") as file:
        with suppress(ImportError, OSError):  # not all systems support locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        remove_parts(path.parent)
        yield
