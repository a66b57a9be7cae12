"""Loads program.c, compiled on the user's machine, and describes its instructions."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from nextpixel.compiling import compiled

__all__ = ["INSTRUCTION", "OPERATIONS", "program"]

SOURCE = Path(__file__).with_name("program.c")
REALS = {torch.float32: "float", torch.float64: "double"}

OPERAND = np.dtype(
    [("place", "i8"), ("per_row", "i8"), ("per_col", "i8"), ("strides", "i8", 3)], align=True
)
INSTRUCTION = np.dtype(
    [
        *((name, "i8") for name in ("op", "outer", "inner", "depth", "weight", "relu")),
        *((name, OPERAND) for name in ("out", "a", "b", "more")),
        ("number", "f8"),
    ]
)
_NAMES = "product copy cast gather relu elu sigmoid tanh negate scale shift add subtract multiply"
OPERATIONS = {name: number for number, name in enumerate(_NAMES.split())}


@lru_cache
def program(dtype: torch.dtype) -> ctypes.CDLL | None:
    """Compiles program.c for a type of number, and declares its functions.

    Returns:
        The library; None where `NEXTPIXEL_TAPE=0` says so, for other types than float32 and
        float64, and where no compiler is found or none can compile it.
    """
    if os.environ.get("NEXTPIXEL_TAPE") == "0" or dtype not in REALS:
        return None
    real = REALS[dtype]
    defines = (f"-DREAL={real}", f"-DIS_DOUBLE={int(real == 'double')}")
    library = compiled(SOURCE, f"tape-{real}", defines)
    if library is not None:
        library.replay.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 5]
        library.pack.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 4, ctypes.c_void_p]
        library.replay.restype = library.pack.restype = None
    return library
