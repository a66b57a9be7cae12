"""Compiles program.c on the user's machine and describes its instructions."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

__all__ = ["INSTRUCTION", "OPERATIONS", "program"]

SOURCE = Path(__file__).with_name("program.c")
REALS = {torch.float32: "float", torch.float64: "double"}
# The first that a compiler takes: Apple's has no OpenMP, and another word for this processor.
FLAGS = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())

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
    """Compiles program.c for a type of number, or finds it compiled in the user's cache.

    Returns:
        The library; None where `NEXTPIXEL_TAPE=0` says so, for other types than float32 and
        float64, and where no compiler is found or none can compile it.
    """
    compiler = shlex.split(os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "")
    if os.environ.get("NEXTPIXEL_TAPE") == "0" or dtype not in REALS or not compiler:
        return None
    try:
        text = SOURCE.read_bytes() + f"{compiler}{FLAGS}{processor()}".encode()
        name = f"tape-{REALS[dtype]}-{hashlib.sha256(text).hexdigest()[:16]}.so"
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextpixel"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            return find(cache / name, compiler, dtype)
        except OSError:  # it may not be written there, or nothing there may be run
            with tempfile.TemporaryDirectory() as folder:
                return find(Path(folder) / name, compiler, dtype)  # once loaded it may go
    except (OSError, RuntimeError, subprocess.SubprocessError):  # there may be no home
        return None


def find(library: Path, compiler: list[str], dtype: torch.dtype) -> ctypes.CDLL:
    """Loads the compiled program, made first if it is not there, and declares its functions."""
    if not library.exists():
        build(library, compiler, REALS[dtype])
    loaded = ctypes.CDLL(str(library))
    loaded.replay.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 5]
    loaded.pack.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 4, ctypes.c_void_p]
    loaded.replay.restype = loaded.pack.restype = None
    return loaded


def processor() -> str:
    """Names this machine's kind of processor: a cache may be shared by several machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    known = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{platform.machine()} {platform.processor()} {sorted(known)}"


def build(library: Path, compiler: list[str], real: str) -> None:
    """Compiles program.c; the library appears whole or not at all.

    Raises:
        subprocess.SubprocessError: The compiler could not.
        OSError: Nothing could be written.
    """
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / "tape.so"
        define = [f"-DREAL={real}", f"-DIS_DOUBLE={int(real == 'double')}"]
        for flags in FLAGS:
            command = [*compiler, "-O3", "-fno-math-errno", "-shared", "-fPIC", *flags, *define]
            done = subprocess.run(
                [*command, str(SOURCE), "-o", str(made), "-lm"], capture_output=True, timeout=120
            )
            if done.returncode == 0:
                made.replace(library)
                return
    raise subprocess.SubprocessError(f"{compiler[0]} could not compile {SOURCE}")
