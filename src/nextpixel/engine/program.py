"""Loads program.c, compiled on the user's machine, and describes its instructions."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from nextpixel.utils.compiling import load_c_library

__all__ = ["INSTRUCTION", "OPERATIONS", "load_program"]

SOURCE = Path(__file__).with_name("program.c")
REALS = {torch.float32: "float", torch.float64: "double"}

# The structs `operand` and `instruction` of program.c.
OPERAND = np.dtype(
    [("address", "i8"), ("per_row", "i8"), ("per_col", "i8"), ("strides", "i8", 3)], align=True
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
def load_program(dtype: torch.dtype) -> ctypes.CDLL | None:
    """Compiles program.c for a type of number, once, and loads it.

    Returns:
        The library; None if `NEXTPIXEL_ENGINE=0` switches it off, if the type is neither float32
        nor float64, or if there is no compiler that can compile it.
    """
    if os.environ.get("NEXTPIXEL_ENGINE") == "0" or dtype not in REALS:
        return None
    real = REALS[dtype]
    defines = (f"-DREAL={real}", f"-DIS_DOUBLE={int(real == 'double')}")
    library = load_c_library(SOURCE, f"engine-{real}", defines)
    if library is not None:
        library.replay.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 5]
        library.pack.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 4, ctypes.c_void_p]
        library.replay.restype = library.pack.restype = None
    return library
