"""Reads file formats: IDX (MNIST), amat (binarized MNIST), CIFAR-10's binary version and NumPy's.

The readers convert bytes to integers. Where files are and what their hashes are is not their task.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.checked import check_member
from nextpixel.errors import UserError
from nextpixel.utils.reading import (
    memory,
    open_regular,
    open_zip,
    read_exactly,
    read_regular,
    refuse_more_than_memory,
    refusing_damage,
)

__all__ = [
    "CIFAR_RECORD",
    "read_amat",
    "read_bytes",
    "read_cifar_binary",
    "read_cifar_delta",
    "read_idx",
    "read_idx_file",
    "read_numpy",
]

ZIP_HEADER = 30  # bytes before a member's name
DEFLATED = 1032  # bytes of content that a byte of DEFLATE can stand for, at most
BLOCK = 2**24  # bytes that are read at once
CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes of an image: its label, then its red, green and blue plane
IDX_DIMENSIONS = 4  # at most
PICKLE = b"\x80"  # how a file of pickled objects begins
PICKLED = (
    "{} holds pickled Python objects, which are never loaded because they can run code: save plain "
    "integer arrays with numpy.savez instead."
)
NPY_ENDS = ".npy"  # of the names of arrays in a .npz
AGAIN = "download it again"


def read_bytes(path: Path) -> bytes:
    """Reads a file, and decompresses it if its name ends in .gz.

    Raises:
        UserError: If the file cannot be read, is truncated or corrupt, or its content takes more
            than half of the memory.
    """
    with refusing_damage(path, "gzipped file", AGAIN):
        if path.suffix != ".gz":
            return read_regular(path)
        most = memory() // 2
        with open_regular(path) as packed, gzip.open(packed) as file:
            data = file.read(most + 1)
        refuse_more_than_memory(path, 2 * len(data))
        return data


def read_idx_file(path: Path) -> NDArray[np.uint8]:
    """Reads an IDX file, gzipped if its name ends in .gz, of no more bytes than its header says.

    Raises:
        UserError: If it cannot be read, see `read_idx`.
    """
    with refusing_damage(path, "IDX file", AGAIN), ExitStack() as stack:
        file = stack.enter_context(open_regular(path))
        packed = path.suffix == ".gz"
        return _read_idx(
            stack.enter_context(cast("BinaryIO", gzip.open(file))) if packed else file, path
        )


def read_idx(raw: bytes, path: Path) -> NDArray[np.uint8]:
    """Reads the content of an IDX file of unsigned bytes.

    Args:
        raw: Bytes of the file: two zeros, the type (8: unsigned byte), the number of dimensions,
            each dimension as a big-endian 32-bit integer, the values.
        path: The path of the file, for messages.

    Returns:
        uint8, of the shape in the file's header.

    Raises:
        UserError: If it is no such file, has more than four dimensions, or its length does not
            match its header.
    """
    with refusing_damage(path, "IDX file", AGAIN):
        return _read_idx(io.BytesIO(raw), path)


def _read_idx(file: IO[bytes], path: Path) -> NDArray[np.uint8]:
    """Reads an IDX file from an open file, see `read_idx`."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08":
        raise UserError(
            f"{path} is not an IDX file of unsigned bytes (it does not begin with 00 00 08): "
            "give an IDX file like MNIST's, a .npz, a .npy or a folder of images."
        )
    if not 1 <= magic[3] <= IDX_DIMENSIONS:
        raise ValueError(f"its header says {magic[3]} dimensions")
    shape = tuple(np.frombuffer(read_exactly(file, 4 * magic[3]), ">u4").tolist())
    size = math.prod(shape)
    refuse_more_than_memory(path, size)
    data = bytearray()
    while len(data) <= size and (block := file.read(min(2**24, size + 1 - len(data)))):
        data += block
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data):,}"
        raise ValueError(f"its header asks for {size:,} values, and it has {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)


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

    Uncompressed arrays of uint8 or uint16 are mapped into memory, read only, instead of being read;
    those of a .npz are checked first, see `check_member`.

    Raises:
        UserError: If the file is corrupt, holds pickled Python objects or something else than
            arrays, or takes more than the memory.
    """
    kind, remedy = "NumPy file", "save it again with numpy.savez or numpy.save"
    with refusing_damage(path, kind, remedy), open_regular(path) as file:
        if file.read(2) != b"PK":  # a .npy, and not a .npz
            file.seek(0)
            if file.read(1) == PICKLE:
                raise UserError(PICKLED.format(path))
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            mapped = _map_array(file, size)
            return {"x": _read_array(file, path, size) if mapped is None else mapped}
        arrays: dict[str, NDArray[Any]] = {}
        with open_zip(file) as archive:
            refuse_more_than_memory(path, sum(member.file_size for member in archive.infolist()))
            for member in archive.infolist():
                name = member.filename.removesuffix(NPY_ENDS)
                if not member.filename.endswith(NPY_ENDS):
                    raise ValueError(f"{member.filename} in it is no array")
                if name in arrays:
                    raise ValueError(f"it holds two arrays {name}")
                arrays[name] = _read_member(file, path, archive, member)
        return arrays


def _read_member(
    file: BinaryIO, path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> NDArray[Any]:
    """Maps or reads an array of a .npz."""
    if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:  # not encrypted
        # The extra field of the local header may differ from the one in the archive's directory.
        file.seek(member.header_offset)
        header = read_exactly(file, ZIP_HEADER)
        name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(
            header[28:30], "little"
        )
        begin = member.header_offset + ZIP_HEADER + name_and_extra
        file.seek(begin)
        mapped = _map_array(file, member.file_size)
        if mapped is not None:
            check_member(path, file, begin, member)
            return mapped
    deflated = member.compress_type == zipfile.ZIP_DEFLATED
    if deflated and member.file_size > DEFLATED * member.compress_size:
        raise ValueError(
            f"{member.filename} says {member.file_size:,} bytes, more than it can hold"
        )
    with archive.open(member) as content:
        array = _read_array(content, path, member.file_size)
        while content.read(2**20):  # to the end, where the checksum is compared
            pass
        return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Reads the header of a .npy: the shape, whether the first index runs fastest, and the type."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version}")
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _read_array(file: IO[bytes], path: Path, size: int) -> NDArray[Any]:
    """Reads the .npy array that begins at the file's position and takes so many bytes."""
    begin = file.tell()
    shape, fortran, dtype = _read_header(file)
    if dtype.hasobject:
        raise UserError(PICKLED.format(path))
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed != size - (file.tell() - begin):
        raise ValueError(f"{needed:,} bytes of {dtype} {shape} are not what it holds")
    refuse_more_than_memory(path, needed)
    data = np.empty(needed, np.uint8)
    for begin in range(0, needed, BLOCK):
        block = read_exactly(file, min(BLOCK, needed - begin))
        data[begin : begin + len(block)] = np.frombuffer(block, np.uint8)
    return data.view(dtype).reshape(shape, order="F" if fortran else "C")


def _map_array(file: BinaryIO, size: int) -> NDArray[Any] | None:
    """Maps the .npy array at the file's position; None if it is empty, or not uint8 or uint16."""
    begin = file.tell()
    shape, fortran, dtype = _read_header(file)
    known = dtype in (np.uint8, np.uint16)
    if not known or not shape or min(shape) < 1 or begin + size > os.fstat(file.fileno()).st_size:
        file.seek(begin)
        return None
    if math.prod(shape) * dtype.itemsize != size - (file.tell() - begin):
        raise ValueError(f"{size:,} bytes are not an array of {dtype} {shape}")
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(file, dtype, "r", file.tell(), shape, order)
