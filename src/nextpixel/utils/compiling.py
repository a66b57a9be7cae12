"""Compiles small C programs on the user's machine, once, and stores them in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from nextpixel.utils.files import cache_folder

__all__ = ["load_c_library"]

# Tried in this order. Apple's compiler has no OpenMP, and names the processor by -mcpu.
FLAGS = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())


@lru_cache
def load_c_library(source: Path, name: str, defines: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """Loads a C program from the user's cache, and compiles it first if it is not there.

    Args:
        source: The .c file.
        name: Name of the library in the cache.
        defines: Options of the compiler.

    Returns:
        The library; None if there is no compiler, or it cannot compile the program.
    """
    compiler = c_compiler()
    if not compiler:
        return None
    try:
        text = source.read_bytes() + f"{compiler}{FLAGS}{defines}{processor()}".encode()
        file = f"{name}-{hashlib.sha256(text).hexdigest()[:16]}.so"
        cache = cache_folder()
        try:
            cache.mkdir(parents=True, exist_ok=True)
            return _build_and_load(cache / file, source, compiler, defines)
        except OSError:  # the cache may be read-only, or on a disk mounted without execution
            with tempfile.TemporaryDirectory() as folder:  # a loaded library may be deleted
                return _build_and_load(Path(folder) / file, source, compiler, defines)
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: no home folder
        return None


def c_compiler() -> list[str]:
    """Finds a C compiler: `CC`, the system's, or that of the package ziglang; else returns []."""
    if found := os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc"):
        return shlex.split(found)
    return [sys.executable, "-m", "ziglang", "cc"] if find_spec("ziglang") else []


def _build_and_load(
    library: Path, source: Path, compiler: Sequence[str], defines: Sequence[str]
) -> ctypes.CDLL:
    """Loads a library, and builds it first if the file does not exist."""
    if not library.exists():
        build(library, source, compiler, defines)
    return ctypes.CDLL(str(library))


def processor() -> str:
    """Identifies the type of processor, as several machines may share a cache."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{platform.machine()} {platform.processor()} {sorted(features)}"


def build(library: Path, source: Path, compiler: Sequence[str], defines: Sequence[str]) -> None:
    """Compiles a program to a library, atomically.

    Raises:
        subprocess.SubprocessError: If the compiler fails.
        OSError: If the library cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        output = Path(folder) / "output.so"
        for flags in FLAGS:
            command = [*compiler, "-O3", "-fno-math-errno", "-shared", "-fPIC", *flags, *defines]
            result = subprocess.run(
                [*command, str(source), "-o", str(output), "-lm"], capture_output=True, timeout=120
            )
            if result.returncode == 0:
                output.replace(library)
                return
    raise subprocess.SubprocessError(f"{compiler[0]} could not compile {source}")
