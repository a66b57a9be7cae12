"""Compiles small programs in C on the user's machine, once, and keeps them in the user's cache."""

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

__all__ = ["compiled"]

# The first that a compiler takes: Apple's has no OpenMP, and another word for this processor.
FLAGS = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())


@lru_cache
def compiled(source: Path, name: str, defines: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """Compiles a program, or finds it compiled in the user's cache.

    Args:
        source: The file.
        name: What the library is called in the cache.
        defines: Options of the compiler.

    Returns:
        The library; None where no compiler is found or none can compile it.
    """
    compiler = c_compiler()
    if not compiler:
        return None
    try:
        text = source.read_bytes() + f"{compiler}{FLAGS}{defines}{processor()}".encode()
        file = f"{name}-{hashlib.sha256(text).hexdigest()[:16]}.so"
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextpixel"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            return find(cache / file, source, compiler, defines)
        except OSError:  # it may not be written there, or nothing there may be run
            with tempfile.TemporaryDirectory() as folder:  # once loaded it may go
                return find(Path(folder) / file, source, compiler, defines)
    except (OSError, RuntimeError, subprocess.SubprocessError):  # there may be no home
        return None


def c_compiler() -> list[str]:
    """Finds a C compiler: `CC`, the system's, or the one in the package ziglang; none if `[]`."""
    if found := os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc"):
        return shlex.split(found)
    return [sys.executable, "-m", "ziglang", "cc"] if find_spec("ziglang") else []


def find(
    library: Path, source: Path, compiler: Sequence[str], defines: Sequence[str]
) -> ctypes.CDLL:
    """Loads the compiled program, made first if it is not there."""
    if not library.exists():
        build(library, source, compiler, defines)
    return ctypes.CDLL(str(library))


def processor() -> str:
    """Names this machine's kind of processor: a cache may be shared by several machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    known = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{platform.machine()} {platform.processor()} {sorted(known)}"


def build(library: Path, source: Path, compiler: Sequence[str], defines: Sequence[str]) -> None:
    """Compiles a program; the library appears whole or not at all.

    Raises:
        subprocess.SubprocessError: The compiler could not.
        OSError: Nothing could be written.
    """
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / "made.so"
        for flags in FLAGS:
            command = [*compiler, "-O3", "-fno-math-errno", "-shared", "-fPIC", *flags, *defines]
            done = subprocess.run(
                [*command, str(source), "-o", str(made), "-lm"], capture_output=True, timeout=120
            )
            if done.returncode == 0:
                made.replace(library)
                return
    raise subprocess.SubprocessError(f"{compiler[0]} could not compile {source}")
