"""Packs programs for the files that hold them.

A program is cut into blocks: its instructions, which are stored column by column, and each of its
matrices. Weights that are multiples of a power of two, as `archive` rounds them, become whole
numbers of one or two bytes. A block is packed by itself, because the numbers of a matrix are alike.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nextpixel.engine.file import HEADER, INSTRUCTION, PARTS
from nextpixel.errors import UserError

__all__ = ["pack_program", "unpack_program"]

MOST_BYTES = 1 << 28  # of a program
MOST_VALUES = 1 << 16  # of a table, see `unpack_table`
MOST_BLOCKS = 1 << 16
SIZES = struct.Struct("<QQQ")  # bytes of the program, BLOCKS, bytes of the packed list of blocks
TABLE = struct.Struct("<QQ")  # bytes of the program, numbers of the table
BLOCKS = (1 << 64) - 1  # in place of the table's size


class Block(NamedTuple):
    """A block of a program, as the file lists it.

    Attributes:
        length: Its numbers of 4 bytes.
        size: Bytes that it takes packed.
        columns: Columns of the table that its numbers make, which is stored column by column; 0 if
            they are no table.
        width: Else the bytes of each number, stored as planes: 4 for its bits, fewer for a whole
            number that stands for a weight.
        exponent: Weights are whole numbers times 2^exponent.
    """

    length: int
    size: int
    columns: int
    width: int
    exponent: int


BLOCK = np.dtype(
    [("length", "<u4"), ("size", "<u4"), ("columns", "<u2"), ("width", "u1"), ("exponent", "i1")]
)
NUMBER_TYPES = {1: "u1", 2: "<u2", 4: "<u4"}  # of a number of so many bytes
STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE)


# --- packing --------------------------------------------------------------------------------------


def pack_program(file: bytes) -> bytes:
    """Packs a program's file."""
    numbers = np.frombuffer(file + bytes(-len(file) % 4), "<u4")
    blocks, bodies = list[Block](), list[bytes]()
    for begin, end, columns in cuts_of(file):
        some = numbers[begin:end]
        if columns:
            width, exponent, data = 4, 0, some.reshape(-1, columns).T.tobytes()
        else:
            width, exponent, whole = whole_numbers(some)
            data = planes_of(whole)
        body = min((deflate(data, strategy) for strategy in STRATEGIES), key=len)
        blocks.append(Block(len(some), len(body), columns, width, exponent))
        bodies.append(body)
    listed = zlib.compress(np.array(blocks, BLOCK).tobytes(), 9)
    return b"".join([SIZES.pack(len(file), BLOCKS, len(listed)), listed, *bodies])


def cuts_of(file: bytes) -> Iterator[tuple[int, int, int]]:
    """Cuts a program's file into blocks: first number, number after the last, and columns."""
    header = np.frombuffer(file[: HEADER.itemsize], HEADER)[0]
    columns = INSTRUCTION.itemsize // 4
    instructions = int(header["instructions"]) // 4
    constants = int(header["constants"]) // 4
    matrices = np.frombuffer(
        file, PARTS["matrices"], int(header["matrix_count"]), int(header["matrices"])
    )
    edges = {
        0,
        instructions,
        instructions + columns * int(header["instruction_count"]),
        constants,
        *(constants + int(offset) for offset in matrices["offset"]),
        constants + int(header["constant_count"]),
        -(-len(file) // 4),
    }
    for begin, end in pairwise(sorted(edges)):
        yield begin, end, columns if begin == instructions else 0


def whole_numbers(bits: NDArray[np.uint32]) -> tuple[int, int, NDArray[Any]]:
    """Writes weights as whole numbers times a power of two, if they are such numbers.

    Returns:
        The bytes of a number, the power's exponent, and the numbers: 2 k for k >= 0, and -2 k - 1
        for others; 4, 0 and the bits if they are none.
    """
    values = bits.view("<f4").astype(np.float64)
    some = values[values != 0]
    if np.isfinite(some).all():
        mantissas, exponents = np.frexp(some)
        odd = np.abs(np.ldexp(mantissas, 24)).astype(np.int64)
        lowest = exponents - 24 + np.frexp((odd & -odd).astype(np.float64))[1] - 1
        exponent = int(lowest.min(initial=0 if not len(some) else 127))
        k = np.ldexp(values, -exponent)
        whole = np.where(k < 0, -2 * k - 1, 2 * k)
        width = next((w for w in NUMBER_TYPES if whole.max(initial=0) < 1 << 8 * w), 4)
        if width < 4 and exponent >= -128:
            numbers = whole.astype(NUMBER_TYPES[width])
            if np.array_equal(weights_of(numbers, exponent), bits):  # -0 is none of them
                return width, exponent, numbers
    return 4, 0, bits


def deflate(data: bytes, strategy: int) -> bytes:
    """Packs bytes, without a header (RFC 1951)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    return packer.compress(data) + packer.flush()


def planes_of(numbers: NDArray[Any]) -> bytes:
    """Returns the first bytes of all numbers, then all second ones, and so on."""
    width = numbers.itemsize
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, width).T.tobytes()


# --- unpacking ------------------------------------------------------------------------------------


def unpack_program(body: bytes) -> bytes:
    """Unpacks what `pack_program` packed.

    Raises:
        UserError: It is not that.
    """
    try:
        size, form = TABLE.unpack_from(body)
        if not 0 < size <= MOST_BYTES:
            raise ValueError
        numbers = unpack_blocks(body, size) if form == BLOCKS else unpack_table(body, size, form)
    except (struct.error, zlib.error, ValueError, KeyError, IndexError):
        raise UserError("the program in it is damaged.") from None
    return numbers.tobytes()[:size]


def unpack_blocks(body: bytes, size: int) -> NDArray[np.uint32]:
    """Returns the numbers of a program that was packed in blocks."""
    at = SIZES.size + SIZES.unpack_from(body)[2]
    listed = inflate(body[SIZES.size : at], None, zlib.MAX_WBITS)
    wanted, parts = -(-size // 4), list[NDArray[np.uint32]]()
    for block in (Block(*map(int, row)) for row in np.frombuffer(listed, BLOCK)):
        wanted -= block.length
        if wanted < 0:
            raise ValueError
        width, columns = block.width, block.columns
        if width not in NUMBER_TYPES or (columns and (width != 4 or block.length % columns)):
            raise ValueError
        data = inflate(body[at : at + block.size], block.length * width, -zlib.MAX_WBITS)
        at += block.size
        if columns:
            table = np.frombuffer(data, "<u4").reshape(columns, -1)
            parts.append(np.ascontiguousarray(table.T).ravel())
            continue
        numbers = numbers_of(data, width)
        parts.append(numbers if width == 4 else weights_of(numbers, block.exponent))
    if wanted or at != len(body):
        raise ValueError
    return np.concatenate(parts)


def unpack_table(body: bytes, size: int, count: int) -> NDArray[np.uint32]:
    """Returns the numbers of a program as it was packed before there were blocks."""
    numbers = -(-size // 4)
    if count > MOST_VALUES:
        raise ValueError
    planes = inflate(body[TABLE.size :], 4 * (numbers + count), zlib.MAX_WBITS)
    found = numbers_of(planes[4 * count :], 4)
    return numbers_of(planes[: 4 * count], 4)[found] if count else found


def weights_of(numbers: NDArray[Any], exponent: int) -> NDArray[np.uint32]:
    """Returns the bits of the weights that whole numbers stand for, see `whole_numbers`."""
    k = numbers.astype("<f4")  # exact, being below 2^16
    k[numbers & 1 == 1] = -1 - k[numbers & 1 == 1]
    with np.errstate(over="ignore", under="ignore"):
        weights: NDArray[np.uint32] = np.ldexp(k, exponent - 1).astype("<f4").view("<u4")
    return weights


def inflate(data: bytes, size: int | None, form: int) -> bytes:
    """Unpacks so many bytes; any number, at most those of `MOST_BLOCKS` blocks, for None."""
    unpacker = zlib.decompressobj(form)
    most = MOST_BLOCKS * BLOCK.itemsize if size is None else size
    found = unpacker.decompress(data, most + 1)  # with 0, it would set no limit
    if len(found) > most or (size is not None and len(found) < size) or not unpacker.eof:
        raise ValueError
    return found


def numbers_of(planes: bytes, width: int) -> NDArray[Any]:
    """Returns the numbers of which `planes_of` made planes."""
    by_number = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(width, -1).T)
    return by_number.view(NUMBER_TYPES[width]).ravel()
