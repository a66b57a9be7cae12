"""Finds the program that a .npxz file needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from nextpixel.codec.coding import Plan, bytes_of_tiles
from nextpixel.codec.container import Reader
from nextpixel.codec.packing import unpack_program
from nextpixel.codec.skeletons import program_of
from nextpixel.engine import Program
from nextpixel.engine.file import memory_of
from nextpixel.errors import UserError
from nextpixel.model_folders import shipped
from nextpixel.utils.reading import read_regular, refusing_damage

__all__ = [
    "PROGRAM",
    "find_plan",
    "program_file",
    "shipped_programs",
]

PROGRAM = b"PROG"
MEMORY = 1 << 30  # bytes that a program, and the tiles that it takes side by side, may need
MOST_PACKED = 4  # times the size of a program's file that it may need besides


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
    orders = head.get("orders", 1)
    if orders not in (1, program.orders):
        raise UserError(f"{reader.path} says {orders} orders, and its program {program.orders}.")
    return Plan(program, (above, beside), head["together"], orders=orders)


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
        with refusing_damage(given, "program", "give another"):
            program = read_regular(given)
        yield given, program
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
