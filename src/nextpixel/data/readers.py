"""Reads file formats: IDX (MNIST), amat (binarized MNIST), CIFAR-10's binary version and NumPy's.

The readers convert bytes to integers. Where files are and what their hashes are is not their task.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError

__all__ = [
    "CIFAR_RECORD",
    "read_amat",
    "read_bytes",
    "read_cifar_binary",
    "read_cifar_delta",
    "read_idx",
    "read_numpy",
]

ZIP_HEADER = 30  # bytes before a member's name
CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes of an image: its label, then its red, green and blue plane


def read_bytes(path: Path) -> bytes:
    """Reads a file, and decompresses it if its name ends in .gz.

    Raises:
        UserError: If the file cannot be read, or is truncated or corrupt.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path} is truncated or corrupt (gzip: {error}): download it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): check the file and its permissions."
        ) from error


def read_idx(raw: bytes, path: Path) -> NDArray[np.uint8]:
    """Reads an IDX file of unsigned bytes.

    Args:
        raw: Bytes of the file: two zeros, the type (8: unsigned byte), the number of dimensions,
            each dimension as a big-endian 32-bit integer, the values.
        path: The path of the file, for messages.

    Returns:
        uint8, of the shape in the file's header.

    Raises:
        UserError: If it is no such file, or its length does not match its header.
    """
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise UserError(
            f"{path} is not an IDX file of unsigned bytes (it does not begin with 00 00 08): "
            "give an IDX file like MNIST's, a .npz, a .npy or a folder of images."
        )
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start], ">u4").tolist()) if len(raw) >= start else (0,)
    expected = start + int(np.prod(shape, dtype=object))
    if len(raw) != expected:
        raise UserError(
            f"{path} is truncated or corrupt ({len(raw):,} bytes, where its header asks for "
            f"{expected:,}): download it again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def read_amat(raw: bytes) -> NDArray[np.uint8]:
    """Reads binarized MNIST's text: lines of 784 digits 0 or 1, with one space between two digits.

    Args:
        raw: Bytes of the file.

    Returns:
        uint8, 0 or 1, shape (N, 1, 28, 28).
    """
    digits = np.frombuffer(raw, np.uint8)[::2]
    return (digits - ord("0")).reshape(-1, 1, 28, 28)


def read_cifar_binary(
    raw: bytes | memoryview, path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Reads a batch of CIFAR-10's binary version.

    Args:
        raw: Bytes of the file: for each image a label, then its red, green and blue plane.
        path: The path of the file, for messages.

    Returns:
        Images, uint8, shape (N, 3, 32, 32), a view of `raw`, and class ids, int64, shape (N,).

    Raises:
        UserError: If the file does not end with a whole image.
    """
    if not raw or len(raw) % CIFAR_RECORD:
        raise UserError(
            f"{path} is truncated or corrupt ({len(raw):,} bytes, where each image takes "
            f"{CIFAR_RECORD:,}): download it again."
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def read_cifar_delta(path: Path) -> bytes:
    """Reads CIFAR-10 images from a delta-coded .npz, as the bytes of the binary version.

    The array `delta` (3, N, 32, 32) holds red - green, green and blue - green, as differences down
    the rows and along the columns, all modulo 256; `labels` (N,) holds the class ids.

    Raises:
        UserError: If the file is corrupt or holds other arrays.
    """
    arrays = read_numpy(path)
    delta, labels = (arrays.get(name, np.empty(0)) for name in ("delta", "labels"))
    if delta.dtype != np.uint8 or delta.shape != (3, len(labels), 32, 32):
        raise UserError(
            f"{path} is not a delta-coded CIFAR-10 file (uint8 `delta` of shape (3, N, 32, 32) and "
            "`labels`): use CIFAR-10's binary version instead."
        )
    x = np.cumsum(np.cumsum(delta, axis=3, dtype=np.uint8), axis=2, dtype=np.uint8)
    x[[0, 2]] += x[1]
    records = np.empty((len(labels), CIFAR_RECORD), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = x.swapaxes(0, 1).reshape(len(labels), -1)
    return records.tobytes()


def read_numpy(path: Path) -> Mapping[str, NDArray[Any]]:
    """Reads all arrays of a .npz, or the array of a .npy under the name "x", without unpickling.

    Uncompressed arrays of uint8 or uint16 are mapped into memory, read only, instead of being read.

    Raises:
        UserError: If the file is corrupt, or holds pickled Python objects.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":  # a .npy, and not a .npz
                file.seek(0)
                mapped = _map_array(file)
                file.seek(0)
                return {"x": np.load(file, allow_pickle=False) if mapped is None else mapped}
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            arrays = _map_members(file, loaded.zip)
            return arrays | {name: loaded[name] for name in loaded.files if name not in arrays}
    except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error):
            raise UserError(
                f"{path} holds pickled Python objects, which are never loaded because they can run "
                "code: save plain integer arrays with numpy.savez instead."
            ) from error
        raise UserError(
            f"{path} is unreadable, truncated or no NumPy file ({error}): save it again with "
            "numpy.savez or numpy.save."
        ) from error


def _map_members(file: BinaryIO, archive: zipfile.ZipFile) -> dict[str, NDArray[Any]]:
    """Maps the arrays of a .npz that are uncompressed, and uint8 or uint16."""
    arrays = {}
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED:
            continue
        # The extra field of the local header may differ from the one in the archive's directory.
        file.seek(member.header_offset)
        header = file.read(ZIP_HEADER)
        name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(
            header[28:30], "little"
        )
        file.seek(member.header_offset + ZIP_HEADER + name_and_extra)
        if (mapped := _map_array(file)) is not None:
            arrays[member.filename.removesuffix(".npy")] = mapped
    return arrays


def _map_array(file: BinaryIO) -> NDArray[Any] | None:
    """Maps the .npy array at the file's position; None if it is empty, or not uint8 or uint16."""
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        return None
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype not in (np.uint8, np.uint16) or not shape or 0 in shape:
        return None
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(file, dtype, "r", file.tell(), shape, order)
