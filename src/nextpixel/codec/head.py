"""What a .npxz file says about all its images: the record HEAD."""

from __future__ import annotations

import math
import re
from typing import Any

from nextpixel.codec.coding import TOGETHER
from nextpixel.codec.container import ADVICE, Reader, unpack_json
from nextpixel.errors import UserError

__all__ = ["HEAD", "read_head"]

HEAD = b"HEAD"
MOST = 1 << 48  # of anything that is counted
MOST_LEVELS = 1 << 29  # of an image of an array
MOST_SITES = 1 << 27  # of a canvas


def read_head(reader: Reader) -> dict[str, Any]:
    """Reads what a file says about all its images. It says it twice; one of them is enough.

    If one of them is damaged, that is one of the reader's faults.

    Raises:
        UserError: It says nothing, or nothing that nextpixel writes.
    """
    found, faults = list[dict[str, Any]](), list[str]()
    for record in (record for record in reader.records if record.kind == HEAD):
        try:
            x = unpack_json(reader.body(record))
        except UserError as error:
            faults.append(str(error))
            continue
        if isinstance(x, dict) and is_head(x):
            found.append(x)
        else:
            faults.append("it says nothing that nextpixel writes.")
    if not found:
        fault = faults[-1] if faults else f"it does not say what it holds. {ADVICE}"
        raise UserError(f"{reader.path}: {fault}")
    reader.faults += [f"one of its two descriptions is damaged: {fault}" for fault in faults]
    return found[0]


def is_head(x: dict[str, Any]) -> bool:
    """Whether these are entries of a HEAD, all within bounds."""
    lengths = {"shape": 3, "context": 2}
    if not all(are_counts(x.get(name), length) for name, length in lengths.items()):
        return False
    if not are_counts([x.get(name) for name in ("levels", "bytes", "images", "together")], 4):
        return False
    (_, height, width), (above, beside) = x["shape"], x["context"]
    array = x.get("array")
    return (
        names_program(x.get("model"), x.get("program"))
        and 4 * above <= height
        and 4 * beside <= width
        and math.prod(x["shape"]) <= MOST_SITES
        and 1 <= x["together"] <= TOGETHER
        and type(x.get("orders", 1)) is int
        and x.get("orders", 1) in (1, 4, 8)
        and x["levels"] >= 2
        and (array is None or (are_counts(array, 3) and math.prod(array) <= MOST_LEVELS))
    )


def names_program(model: Any, program: Any) -> bool:
    """Whether these are a model's name and a hash, or both None."""
    if model is None:
        return program is None
    return (
        isinstance(model, str)
        and isinstance(program, str)
        and bool(re.fullmatch("[0-9a-f]{64}", program))
    )


def are_counts(x: Any, count: int) -> bool:
    """Whether these are so many numbers, none of them negative or huge."""
    return (
        isinstance(x, list) and len(x) == count and all(type(n) is int and 0 <= n < MOST for n in x)
    )
