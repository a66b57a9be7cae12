"""Decoded images, kept in the user's cache folder and mapped into memory from there.

What is kept is a .npz without compression: one file, which is there as a whole or not at all. It
may be deleted at any time.
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
from nextpixel.utils.files import atomic_write, remove_parts

# The shape of all images together, (N, C, H, W); them block by block; small arrays beside them.
Decoded = tuple[
    tuple[int, ...], Iterable[NDArray[np.unsignedinteger[Any]]], dict[str, NDArray[Any]]
]

__all__ = ["Decoded", "cache_folder", "find", "keep", "locked", "made", "place"]


BYTES = np.dtype(np.uint8)


def cache_folder() -> Path:
    """Returns the user's cache folder, which need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextpixel"


def place(source: Path, *options: object) -> Path:
    """Returns where to keep what was made of a source with some options.

    What is made of a changed source takes the old one's place, so that the cache does not fill up.
    """
    key = repr((os.fsencode(source.resolve()), options))
    return cache_folder() / "decoded" / hashlib.sha256(key.encode()).hexdigest()[:32] / "images.npz"


def made(
    source: Path,
    place: Path,
    state: str,
    decode: Callable[[], Decoded],
    dtype: np.dtype[Any] = BYTES,
) -> Mapping[str, NDArray[Any]]:
    """Returns what was made of a source, which is decoded and kept if it has not been.

    Where it cannot be kept there is a warning, and it takes memory.

    Args:
        source: The user's folder.
        place: Where to keep it, see `place`.
        state: What the source looks like now.
        decode: Begins to decode the source.
        dtype: The type of the images.

    Returns:
        The images as `x`, and the arrays beside them.
    """
    try:
        with locked(place):
            found = find(place, state)  # another process may have made it while we waited
            if found is None:
                keep(place, state, *decode(), dtype)
                found = find(place, state)
        if found is not None:
            return found
        reason = "what was written could not be read back"
    except OSError as error:
        reason = error.strerror or str(error)
    warnings.warn(
        f"What was made of {source} cannot be kept in {place.parent} ({reason}), so that it takes "
        "memory now and will be made again next time: make room there, or set XDG_CACHE_HOME to a "
        "folder that can be written into.",
        stacklevel=5,
    )
    shape, blocks, others = decode()
    x = np.empty(shape, dtype)
    begin = 0
    for block in blocks:
        x[begin : begin + len(block)] = block
        begin += len(block)
    return {"x": x, **others}


def find(path: Path, state: str) -> Mapping[str, NDArray[Any]] | None:
    """Maps what was kept, or returns None if it is not there, not whole, or of another state.

    Args:
        path: Where it would be.
        state: What the source must have looked like when it was made.
    """
    try:
        arrays = read_numpy(path)
    except UserError:
        return None
    return arrays if "state" in arrays and str(arrays["state"]) == state else None


def keep(
    path: Path,
    state: str,
    shape: tuple[int, ...],
    blocks: Iterable[NDArray[np.unsignedinteger[Any]]],
    others: Mapping[str, NDArray[Any]],
    dtype: np.dtype[Any] = BYTES,
) -> None:
    """Writes images block by block; the file appears when it is whole.

    Args:
        path: Where to.
        state: What the source looks like.
        shape: That of all images together, (N, C, H, W).
        blocks: The images, in order.
        others: Small arrays to keep with them.
        dtype: The type of the images.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if (
        shutil.disk_usage(path.parent).free < math.prod(shape) * dtype.itemsize
    ):  # known now, and not in an hour
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
    """Lets only one process at a time make a file, where the system can; others wait.

    A lock ends with its process, however that ends; then its leavings are removed.

    Raises:
        OSError: The folder cannot be written into.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("wb") as file:
        with suppress(ImportError, OSError):  # not every system or file system can; none must
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        remove_parts(path.parent)
        yield
