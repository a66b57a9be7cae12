"""Loads the engine's library for this machine.

The libraries are built ahead for all machines by `tools/build_engine.py`.
"""

import ctypes
import hashlib
import json
import platform
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError

__all__ = ["CoderState", "Job", "aligned", "failed", "load_library"]

LIBRARIES = Path(__file__).parent / "libraries"
NAMES = {  # by sys.platform and platform.machine()
    ("linux", "x86_64"): "engine-linux-x86_64.so",
    ("linux", "aarch64"): "engine-linux-aarch64.so",
    ("darwin", "x86_64"): "engine-macos-x86_64.dylib",
    ("darwin", "arm64"): "engine-macos-arm64.dylib",
    ("win32", "AMD64"): "engine-windows-x86_64.dll",
}
AVX512 = 2  # the best that np_choose knows; it takes what the processor has


class CoderState(ctypes.Structure):
    """The struct `np_coder` of engine.h."""

    _fields_ = (
        ("bytes", ctypes.c_void_p),
        ("at", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("number", ctypes.c_uint64),
        ("range", ctypes.c_uint64),
        ("decodes", ctypes.c_int64),
    )


class Job(ctypes.Structure):
    """The struct `np_job` of engine.h; the pointers are addresses, or None."""

    _fields_ = (
        ("levels", ctypes.c_void_p),
        ("noise", ctypes.c_void_p),
        ("known", ctypes.c_void_p),
        ("intervals", ctypes.c_void_p),
        ("temperature", ctypes.c_double),
        ("guidance", ctypes.c_double),
        ("images", ctypes.c_int64),
        ("crew", ctypes.c_void_p),
        ("coder", ctypes.POINTER(CoderState)),
    )


POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int64
FUNCTIONS = {  # engine.h: the result and the arguments
    "np_memory": (INTEGER, (POINTER, INTEGER)),
    "np_open": (POINTER, (POINTER, INTEGER, POINTER)),
    "np_encode": (None, (ctypes.POINTER(CoderState), POINTER, INTEGER)),
    "np_finish": (INTEGER, (ctypes.POINTER(CoderState),)),
    "np_decode": (None, (ctypes.POINTER(CoderState), POINTER, INTEGER)),
    "np_code_numbers": (INTEGER, (ctypes.POINTER(CoderState), POINTER, INTEGER, INTEGER)),
    "np_error": (ctypes.c_char_p, (INTEGER,)),
    "np_number_of": (INTEGER, (POINTER, INTEGER)),
    "np_state_bytes": (INTEGER, (POINTER, INTEGER)),
    "np_begin": (None, (POINTER, POINTER, INTEGER)),
    "np_input_at": (POINTER, (POINTER, POINTER, INTEGER, INTEGER)),
    "np_prepare": (None, (POINTER, POINTER, INTEGER)),
    "np_run": (INTEGER, (POINTER, POINTER, ctypes.POINTER(Job), INTEGER, INTEGER)),
    "np_crew_bytes": (INTEGER, (POINTER, INTEGER)),
    "np_help": (INTEGER, (POINTER, POINTER)),
    "np_parameters": (POINTER, (POINTER, POINTER, INTEGER, INTEGER)),
    "np_noise": (None, (ctypes.c_uint64, ctypes.c_uint64, POINTER, INTEGER)),
    "np_choose": (INTEGER, (INTEGER,)),
    "np_crc32c": (ctypes.c_uint32, (POINTER, INTEGER)),
    "np_checksum": (ctypes.c_uint64, (POINTER, INTEGER)),
    "np_build": (ctypes.c_char_p, ()),
}


@cache
def load_library() -> ctypes.CDLL:
    """Loads the engine with the best instructions that this processor has.

    Returns:
        The library, its functions with their types.

    Raises:
        UserError: There is no library for this machine, or it cannot be loaded.
    """
    path = find_library()
    check(path)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(f"The engine {path} cannot be loaded: {error}.") from None
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.np_choose(AVX512)
    return library


def find_library() -> Path:
    """Finds the library for this machine.

    Raises:
        UserError: There is none.
    """
    name = NAMES.get((sys.platform, platform.machine()))
    if name is None or sys.maxsize < 2**32:  # a Python of 32 bits
        bits = " with a Python of 32 bits" if sys.maxsize < 2**32 else ""
        machine = f"{platform.machine()} under {platform.system()}{bits}"
        raise UserError(f"nextpixel has no engine for this machine ({machine}).")
    return LIBRARIES / name


def check(path: Path) -> None:
    """Checks that a library is the one that was built: a damaged one could crash the process.

    Raises:
        UserError: It is not.
    """
    try:
        digest = json.loads((path.parent / "digests.json").read_text())[path.name]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The engine {path} cannot be read: {error}.") from None
    if found != digest:
        raise UserError(f"The engine {path} is damaged: install nextpixel again.")


def failed(error: int, what: str = "The engine stopped") -> UserError:
    """Makes the error of a function of the engine that returned minus one of its errors."""
    return UserError(f"{what}: {load_library().np_error(-error).decode()}.")


def aligned(size: int) -> NDArray[np.uint8]:
    """Makes an array of bytes that begins at a multiple of 64."""
    whole = np.empty(size + 64, np.uint8)
    begin = -whole.ctypes.data % 64
    return whole[begin : begin + size]
