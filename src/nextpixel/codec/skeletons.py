"""Programs without their weights: those are in the file of the model.

Nearly all constants of a program are weights of its model, in another order. A skeleton says where
each is, so a pretrained model brings its program in some kilobytes, and everybody who has the model
has the same bytes without PyTorch.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from nextpixel.engine.file import HEADER
from nextpixel.errors import UserError

__all__ = ["make_skeleton", "program_of"]

SIZES = struct.Struct("<QQQ")  # bytes of the head, numbers of the constants, bytes of the tail
PASSES = 64  # over places, to have them in long rows


def numbers_of(weights: bytes) -> NDArray[np.uint32]:
    """Returns the numbers of a .safetensors file, all of 4 bytes, as bits."""
    begin = 8 + int.from_bytes(weights[:8], "little")
    return np.frombuffer(weights[begin : begin + (len(weights) - begin) // 4 * 4], "<u4")


def make_skeleton(file: bytes, weights: bytes) -> bytes:
    """Makes the skeleton of a program.

    Args:
        file: The program's file.
        weights: The .safetensors of its model.
    """
    header = np.frombuffer(file[: HEADER.itemsize], HEADER)[0]
    begin, count = int(header["constants"]), int(header["constant_count"])
    constants = np.frombuffer(file, "<u4", count, begin)
    places = places_of(constants, numbers_of(weights))
    others = constants[places < 0]
    rows = np.where(places < 0, 0, places + 1).astype("<i4")
    steps = np.diff(rows, prepend=np.int32(0)).astype("<i4")
    parts = [
        file[:begin],
        file[begin + 4 * count :],
        steps.view(np.uint8).reshape(-1, 4).T.tobytes(),  # equal bytes stand together
        others.tobytes(),
    ]
    sizes = SIZES.pack(begin, count, len(parts[1]))
    return sizes + zlib.compress(b"".join(parts), 9)


def places_of(constants: NDArray[np.uint32], weights: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Finds a place of each constant among the weights; -1 if there is none, or it is 0.

    Of several places the one that goes on as before is best, because that packs well.
    """
    order = np.argsort(weights, kind="stable")
    found = order[np.minimum(np.searchsorted(weights[order], constants), len(weights) - 1)]
    places = np.where((weights[found] == constants) & (constants != 0), found, -1)
    for _ in range(PASSES):
        guess = np.clip(2 * places[1:-1] - places[:-2], 0, len(weights) - 1)
        goes_on = (places[1:-1] >= 0) & (places[:-2] >= 0) & (weights[guess] == constants[2:])
        better = goes_on & (constants[2:] != 0) & (guess != places[2:])
        if not better.any():
            break
        places[2:][better] = guess[better]
    return places


def program_of(skeleton: bytes, weights: bytes) -> bytes:
    """Puts a program together.

    Raises:
        UserError: These are not a skeleton and the weights that it was made with.
    """
    try:
        head, count, tail = SIZES.unpack_from(skeleton)
        rest = zlib.decompress(skeleton[SIZES.size :])
        steps = np.frombuffer(rest, np.uint8, 4 * count, head + tail).reshape(4, -1).T
        rows = np.cumsum(np.ascontiguousarray(steps).view("<i4").ravel(), dtype=np.int32)
        constants = numbers_of(weights)[np.maximum(rows - 1, 0)]
        constants[rows == 0] = np.frombuffer(rest, "<u4", -1, head + tail + 4 * count)
    except (struct.error, zlib.error, ValueError, IndexError):
        raise UserError("A pretrained model is damaged: install nextpixel again.") from None
    return rest[:head] + constants.tobytes() + rest[head : head + tail]
