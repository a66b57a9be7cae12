"""Writes files atomically: a crash leaves the old file or the new one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

__all__ = ["atomic_write", "cache_folder", "remove_parts", "replace_file", "try_lock", "unused"]

PART = ".part"


def cache_folder() -> Path:
    """Returns nextpixel's folder in the user's cache, which need not exist.

    Raises:
        RuntimeError: If the user has no home folder, and XDG_CACHE_HOME is not set.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nextpixel"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` when the block ends without an error.

    Readers see the old content or the new content, never a part of it.

    Args:
        path: Where to write; missing folders are created.

    Yields:
        The open binary file.

    Raises:
        OSError: If the file cannot be written, for example because the disk is full; the old file
            is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):  # the first error is the one to raise
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk's error names no file
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Writes bytes to a file atomically, see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(data)


def try_lock(file: IO[Any]) -> bool:
    """Locks an open file for this process alone, until it is closed or the process ends.

    Returns:
        Whether no other process holds the lock; True on Windows, which has no such locks, and,
        with a warning, on a file system without them.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        warnings.warn(
            f"{file.name} cannot be locked ({error.strerror}): start no second process there.",
            stacklevel=2,
        )
    return True


def remove_parts(folder: Path) -> None:
    """Removes the temporary files that killed processes have left below a folder."""
    for part in folder.rglob(f".*.[0-9]*{PART}"):
        part.unlink(missing_ok=True)


def unused(path: Path) -> Path:
    """Returns the path, or with the first free number if that exists: a.png, a-2.png, a-3.png.

    So a file that the user has not named is never overwritten. An empty folder is free.
    """
    number, free = 1, path
    while free.exists() and not (free.is_dir() and not any(free.iterdir())):
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
