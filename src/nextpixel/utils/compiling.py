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

from nextpixel.errors import UserError
from nextpixel.utils.files import cache_folder, replace_file

__all__ = ["load_c_library", "trains_in_c"]

# GCC makes vectors of a choice between two numbers only if computing both can raise no signal.
OPTIONS = ("-O3", "-fno-math-errno", "-fno-trapping-math")
# Tried in this order. Apple's compiler has no OpenMP, and names the processor by -mcpu.
FLAGS = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())


@lru_cache
def load_c_library(source: Path, name: str, defines: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """Loads a C program from the user's cache, and compiles it first if it is not there.

    A library in the cache is loaded only if it is whole, as its digest says, and if nobody else
    could have written it. Where it cannot be stored it is compiled by each process.

    Args:
        source: The .c file. It may include the headers of its folder.
        name: Name of the library in the cache.
        defines: Options of the compiler.

    Returns:
        The library; None if there is no compiler, or it cannot compile the program.
    """
    compiler = c_compiler()
    if not compiler:
        return None
    try:
        headers = sorted(source.parent.glob("*.h"))
        text = b"".join(file.read_bytes() for file in (source, *headers))
        text += f"{compiler}{OPTIONS}{FLAGS}{defines}{processor()}".encode()
        file = f"{name}-{hashlib.sha256(text).hexdigest()[:16]}.so"
        stored = stored_library(file)
        if stored is not None:
            return ctypes.CDLL(str(stored))
        # A loaded library may be deleted.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            built = Path(folder) / file
            build(built, source, compiler, defines)
            return ctypes.CDLL(str(store(built) or built))
    except (OSError, subprocess.SubprocessError):
        return None


def trains_in_c() -> bool:
    """Returns whether training may use programs in C; `NEXTPIXEL_NATIVE=0` switches them off."""
    return os.environ.get("NEXTPIXEL_NATIVE") != "0"


def stored_library(file: str) -> Path | None:
    """Finds a library in the user's cache; None if it is not there, or must not be loaded."""
    try:
        path = private_folder() / file
        whole = hashlib.sha256(path.read_bytes()).hexdigest() == digest_file(path).read_text()
    except (OSError, ValueError):  # a UserError is a ValueError: no home folder
        return None
    return path if whole and is_private(path) else None


def store(library: Path) -> Path | None:
    """Copies a library to the user's cache; returns None where that is not possible."""
    try:
        path, data = private_folder() / library.name, library.read_bytes()
        replace_file(path, data)
        path.chmod(0o700)
        replace_file(digest_file(path), hashlib.sha256(data).hexdigest().encode())
    except (OSError, UserError):
        return None
    return stored_library(library.name)


def digest_file(library: Path) -> Path:
    """Returns the path of a stored library's digest."""
    return library.with_suffix(".sha256")


def private_folder() -> Path:
    """Makes the folder of compiled libraries, in which only the user can write.

    Raises:
        OSError: It cannot be made, or others could write in it.
        UserError: The user has no home folder.
    """
    folder = cache_folder() / "compiled"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(f"others can write in {folder}")
    return folder


def is_private(path: Path) -> bool:
    """Checks that a file or a folder is the user's own, and that nobody else can write to it."""
    if not hasattr(os, "getuid"):  # Windows: the user's profile is private
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def c_compiler() -> list[str]:
    """Finds a C compiler: `CC`, the system's, or that of the package ziglang; else returns []."""
    if found := os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc"):
        return shlex.split(found)
    # -P: no module of the current folder.
    return [sys.executable, "-P", "-m", "ziglang", "cc"] if find_spec("ziglang") else []


def processor() -> str:
    """Identifies the type of processor, as several machines may share a cache."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{platform.machine()} {platform.processor()} {sorted(features)}"


def build(library: Path, source: Path, compiler: Sequence[str], defines: Sequence[str]) -> None:
    """Compiles a program to a library.

    Raises:
        subprocess.SubprocessError: If the compiler fails.
        OSError: If it cannot be started.
    """
    for flags in FLAGS:
        command = [*compiler, *OPTIONS, "-shared", "-fPIC", *flags, *defines]
        result = subprocess.run(
            [*command, str(source), "-o", str(library), "-lm"], capture_output=True, timeout=120
        )
        if result.returncode == 0:
            return
    raise subprocess.SubprocessError(f"{compiler[0]} could not compile {source}")
