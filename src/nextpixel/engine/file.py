"""Writes program files: the header, the instructions, the matrices and the constants.

The structures are those of `native/engine.h`, which also says what the numbers mean. All are
little-endian, and every place is a multiple of 8 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nextpixel.engine.library import aligned, load_library
from nextpixel.errors import UserError

__all__ = [
    "CONSTANTS",
    "DISTRIBUTIONS",
    "INPUTS",
    "NOWHERE",
    "OPERATIONS",
    "STATE",
    "Kind",
    "Line",
    "Matrix",
    "Place",
    "memory_of",
    "orders_of",
    "read_description",
    "write_program",
]

MAGIC, VERSION = b"NPXPROG\n", 1
OPERATIONS = (
    "product",
    "attention",
    "gather",
    "copy",
    "relu",
    "elu",
    "sigmoid",
    "tanh",
    "negate",
    "scale",
    "shift",
    "add",
    "subtract",
    "multiply",
    "fill",
)
DISTRIBUTIONS = ("bernoulli", "categorical", "mixture")
INPUTS = ("classes", "vector", "present", "map")
STATE, CONSTANTS = 1, 2  # the spaces of `np_operand`; 0 is nowhere


class Place(NamedTuple):
    """A tensor of an instruction, `np_operand`: a space, and numbers counted in it."""

    space: int
    offset: int
    per_row: int
    per_col: int
    per_outer: int
    per_inner: int


NOWHERE = Place(0, 0, 0, 0, 0, 0)


class Line(NamedTuple):
    """An instruction with its memory, `np_instruction`."""

    operation: int
    inner: int
    depth: int
    relu: int
    outer: int
    outer_per_row: int
    outer_per_col: int
    weight: int
    out: Place
    a: Place
    b: Place
    more: Place
    number: float


class Matrix(NamedTuple):
    """The matrix of a product, `np_matrix`."""

    offset: int
    depth: int
    columns: int


class Kind(NamedTuple):
    """The instructions of a kind of sites, `np_kind`."""

    first: int
    length: int
    out: Place


def structure(fields: type, **types: Any) -> np.dtype[Any]:
    """Makes the NumPy type of a named tuple: 4-byte integers, or the types given by name."""
    names: tuple[str, ...] = fields._fields  # type: ignore[attr-defined]
    return np.dtype([(name, types.get(name, "<i4")) for name in names])


OPERAND = structure(Place)
INSTRUCTION = structure(
    Line, out=OPERAND, a=OPERAND, b=OPERAND, more=OPERAND, number=np.dtype("<f8")
)
PARTS = {  # of a file, in order: the type of an element
    "kinds": structure(Kind, out=OPERAND),
    "instructions": INSTRUCTION,
    "matrices": structure(Matrix, offset="<i8", depth="<i8", columns="<i8"),
    "constants": np.dtype("<f4"),
    "description": np.dtype("u1"),
}
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<i8"),
        ("size", "<i8"),
        ("checksum", "<u8"),
        ("channels", "<i8"),
        ("height", "<i8"),
        ("width", "<i8"),
        ("levels", "<i8"),
        ("groups", "<i8"),
        ("period", "<i8"),
        ("distribution", "<i8"),
        ("components", "<i8"),
        ("parameters", "<i8"),
        ("max_log_scale", "<f8"),
        ("state", "<i8"),
        ("newest", "<i8"),
        ("newest_count", "<i8"),
        ("inputs", "<i8", len(INPUTS)),
        ("input_counts", "<i8", len(INPUTS)),
        ("kinds", "<i8"),
        ("kind_count", "<i8"),
        ("instructions", "<i8"),
        ("instruction_count", "<i8"),
        ("matrices", "<i8"),
        ("matrix_count", "<i8"),
        ("constants", "<i8"),
        ("constant_count", "<i8"),
        ("plain_count", "<i8"),
        ("description", "<i8"),
        ("description_size", "<i8"),
    ]
)
COUNTS = {
    "kinds": "kind_count",
    "instructions": "instruction_count",
    "matrices": "matrix_count",
    "constants": "constant_count",
    "description": "description_size",
}
CHECKED = int(HEADER.fields["channels"][1])  # type: ignore[index]  # where the checksum begins


def write_program(
    numbers: Mapping[str, Any],
    kinds: Sequence[Kind],
    lines: Sequence[Line],
    matrices: Sequence[Matrix],
    constants: Sequence[NDArray[np.float32]],
    description: Mapping[str, Any],
) -> NDArray[np.uint8]:
    """Writes a program.

    Args:
        numbers: The fields of the header that do not follow from the other arguments.
        kinds: The kinds of sites, in the order of `np_kind_of`.
        lines: The instructions.
        matrices: The matrices of products.
        constants: Arrays that follow each other: the plain constants, then the matrices.
        description: What people may want to know, stored as JSON.

    Returns:
        The bytes of the file.
    """
    text = json.dumps(description, ensure_ascii=False).encode()
    parts: dict[str, Sequence[NDArray[Any]]] = {
        "kinds": [np.array(kinds, PARTS["kinds"])],
        "instructions": [np.array(lines, PARTS["instructions"])],
        "matrices": [np.array(matrices, PARTS["matrices"])],
        "constants": constants,
        "description": [np.frombuffer(text, np.uint8)],
    }
    header, size = np.zeros((), HEADER), HEADER.itemsize
    for name, arrays in parts.items():
        count = sum(array.size for array in arrays)
        header[name], header[COUNTS[name]] = size, count
        size += -(-count * PARTS[name].itemsize // 8) * 8
    for name, value in {"magic": MAGIC, "version": VERSION, "size": size, **numbers}.items():
        header[name] = value
    file = np.zeros(size, np.uint8)
    for name, arrays in parts.items():
        at = int(header[name])
        for array in arrays:
            file[at : at + array.nbytes] = np.ascontiguousarray(array).view(np.uint8).ravel()
            at += array.nbytes
    file[: HEADER.itemsize] = np.frombuffer(header.tobytes(), np.uint8)
    checksum = load_library().np_checksum(file[CHECKED:].ctypes.data, size - CHECKED)
    header["checksum"] = checksum
    file[: HEADER.itemsize] = np.frombuffer(header.tobytes(), np.uint8)
    return file


def read_description(text: bytes) -> dict[str, Any]:
    """Reads what a file says about itself.

    Raises:
        UserError: It is no JSON object.
    """
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise UserError("This is no program: its description cannot be read.")
    return description


def orders_of(description: Mapping[str, Any], choices: int) -> int:
    """Reads the number of orders from a program's description; 1 where it says none.

    Args:
        description: The description.
        choices: How many weights of classes and orders the program takes.

    Raises:
        UserError: It takes fewer.
    """
    hyperparameters = description.get("hyperparameters")
    orders = hyperparameters.get("orders", 1) if isinstance(hyperparameters, Mapping) else 1
    if type(orders) is not int or orders not in (4, 8):
        return 1
    if choices < orders:
        raise UserError(f"This program says {orders} orders, and takes {choices or 'none'}.")
    return orders


def memory_of(file: bytes) -> int:
    """Returns the bytes of memory that a program needs; minus an error if it is none."""
    data = aligned(len(file))
    data[:] = np.frombuffer(file, np.uint8)
    return int(load_library().np_memory(data.ctypes.data, len(data)))
