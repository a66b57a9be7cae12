"""Finds the program that a .npxz file needs."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextpixel.codec.coding import Plan, bytes_of_tiles
from nextpixel.codec.container import Reader
from nextpixel.codec.skeletons import program_of
from nextpixel.engine import Program
from nextpixel.engine.program import memory_of
from nextpixel.errors import UserError
from nextpixel.model_folders import shipped

__all__ = [
    "PROGRAM",
    "find_plan",
    "pack_program",
    "program_file",
    "shipped_programs",
    "unpack_program",
]

PROGRAM = b"PROG"
MEMORY = 1 << 30  # bytes that a program, and the tiles that it takes side by side, may need
MOST_PACKED = 4  # times the size of a program's file that it may need besides
MOST_BYTES = 1 << 28  # of a program
MOST_VALUES = 1 << 16  # in a table
SIZES = struct.Struct("<QQ")  # bytes of the program, numbers in its table (0 for none)


def pack_program(file: bytes) -> bytes:
    """Packs a program by zlib: its numbers of 4 bytes by planes, or as places in a table of them.

    A table is smaller if many numbers are equal, as the rounded weights of `archive` are.
    """
    numbers = np.frombuffer(file + bytes(-len(file) % 4), "<u4")
    table, places = np.unique(numbers, return_inverse=True)
    packed = [zlib.compress(planes_of(numbers), 9)]
    if len(table) <= MOST_VALUES:
        by_value = np.argsort(table.view("<f4"), kind="stable")  # near numbers have near places
        rank = np.empty(len(table), "<u4")
        rank[by_value] = np.arange(len(table), dtype="<u4")
        packed.append(zlib.compress(planes_of(table[by_value]) + planes_of(rank[places]), 9))
    best = min(packed, key=len)
    count = 0 if best is packed[0] else len(table)
    return SIZES.pack(len(file), count) + best


def unpack_program(body: bytes) -> bytes:
    """Unpacks what `pack_program` packed.

    Raises:
        UserError: It is not that.
    """
    unpacker = zlib.decompressobj()
    try:
        size, count = SIZES.unpack_from(body)
        numbers = -(-size // 4)
        wanted = 4 * (numbers + count)
        if not (0 < size <= MOST_BYTES and count <= MOST_VALUES):
            raise ValueError
        planes = unpacker.decompress(body[SIZES.size :], wanted)
        if len(planes) != wanted or unpacker.decompress(unpacker.unconsumed_tail, 1):
            raise ValueError
        found = numbers_of(planes[4 * count :])
        if count:
            found = numbers_of(planes[: 4 * count])[found]
    except (struct.error, zlib.error, ValueError, IndexError):
        raise UserError("the program in it is damaged.") from None
    return found.tobytes()[:size]


def planes_of(numbers: NDArray[np.uint32]) -> bytes:
    """Returns the first bytes of all numbers, then all second ones, and so on."""
    return np.ascontiguousarray(numbers, "<u4").view(np.uint8).reshape(-1, 4).T.tobytes()


def numbers_of(planes: bytes) -> NDArray[np.uint32]:
    """Returns the numbers of which `planes_of` made planes."""
    return (
        np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(4, -1).T).view("<u4").ravel()
    )


def find_plan(reader: Reader, head: Mapping[str, Any], given: str | None = None) -> Plan | None:
    """Finds the program that a file was written with, see `program_file`; None if it has none.

    Raises:
        UserError: There is none that is the same, or it needs more memory than nextpixel's do.
    """
    if head["program"] is None:
        return None
    file = program_file(reader, head, given)
    size = memory_of(file)
    if size > MEMORY + MOST_PACKED * len(file):
        raise UserError(f"The program of {reader.path} needs {size:,} bytes: it is none of ours.")
    program = Program(file)
    if (list(program.shape), program.levels) != (head["shape"], head["levels"]):
        raise UserError(f"{reader.path} says another size of images than its program.")
    if (size := bytes_of_tiles(program, head["together"])) > MEMORY:
        raise UserError(f"Images of {reader.path} need {size:,} bytes: it is none of ours.")
    above, beside = head["context"]
    return Plan(program, (above, beside), head["together"])


def program_file(reader: Reader, head: Mapping[str, Any], given: str | None = None) -> bytes:
    """Finds the bytes of a program: in the file, the one given, or by the name of its model.

    Args:
        reader: The file.
        head: What `read_head` returned.
        given: A .program that somebody gave; or None.

    Raises:
        UserError: There is none that is the same.
    """
    for what, file in _candidates(reader, head, given):
        if hashlib.sha256(file).hexdigest() == head["program"]:
            return file
        if what is not None:
            raise UserError(f"{what} is not the program that {reader.path} was compressed with.")
    raise UserError(
        f"{reader.path} was compressed with the program {head['program'][:12]} of "
        f"{head['model']!r}, which is not here: give it by --program FILE."
    )


def _candidates(
    reader: Reader, head: Mapping[str, Any], given: str | None
) -> Iterator[tuple[str | None, bytes]]:
    """Yields programs; with the name of those that must be the right one."""
    if given is not None:
        try:
            yield given, Path(given).read_bytes()
        except OSError as error:
            raise UserError(f"{given} cannot be read: {error.strerror}.") from None
    for record in reader.records:
        if record.kind == PROGRAM:
            yield f"The program in {reader.path}", unpack_program(reader.body(record))
    for file in shipped_programs(head["model"]).values():
        yield None, file


def shipped_programs(name: str) -> dict[tuple[int, int], bytes]:
    """Puts together the programs that a pretrained model brings, by their height and width.

    Raises:
        UserError: They are damaged.
    """
    folder = shipped().get(name)
    programs = dict[tuple[int, int], bytes]()
    for path in sorted(folder.glob("*.skeleton")) if folder else ():
        weights = next(folder.glob("*.safetensors")) if folder else path
        height, width = path.stem.split("-")[-1].split("x")
        programs[int(height), int(width)] = program_of(path.read_bytes(), weights.read_bytes())
    return programs
