"""Writes files atomically: a crash leaves the old file or the new one."""

from __future__ import annotations

import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from nextpixel.errors import UserError

__all__ = [
    "PART",
    "atomic_write",
    "cache_folder",
    "remove_parts",
    "replace_file",
    "try_lock",
    "unused",
    "user_path",
]

PART = ".npx-part"  # no other program writes files of this ending
LEFT = re.compile(rf"\..+\.(\d+|[a-z0-9_]{{8}}){re.escape(PART)}")
OLD = 24 * 60 * 60  # seconds after which a temporary file belongs to no living writer
_cleaned = set[Path]()  # folders in which this process has looked for such files


def cache_folder() -> Path:
    """Returns nextpixel's folder in the user's cache, which need not exist.

    Raises:
        UserError: If the user has no home folder, and XDG_CACHE_HOME is not set.
    """
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "nextpixel"
    try:
        return Path.home() / ".cache" / "nextpixel"
    except RuntimeError:
        raise UserError(
            "You have no home folder for cached files: set XDG_CACHE_HOME (or HOME) to a folder."
        ) from None


def user_path(path: str | os.PathLike[str]) -> Path:
    """Returns a path as a user writes it: ~ and ~name stand for home folders.

    Raises:
        UserError: There is no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path} begins with a home folder that is not known: write the whole path."
        ) from None


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` when the block ends without an error.

    Readers see the old content or the new content, never a part of it. Temporary files that killed
    writers left in the folder more than a day ago are removed.

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
    if path.parent not in _cleaned:
        _cleaned.add(path.parent)
        remove_old_parts(path.parent)
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


def remove_old_parts(folder: Path) -> None:
    """Removes temporary files that writers in a folder left more than a day ago."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not LEFT.fullmatch(entry.name):
                continue
            with suppress(OSError):
                folder_too = entry.is_dir(follow_symlinks=False)
                inside = list(os.scandir(entry)) if folder_too else []
                newest = max(each.stat(follow_symlinks=False).st_mtime for each in [entry, *inside])
                if time.time() - newest < OLD:
                    continue
                if folder_too:
                    shutil.rmtree(entry.path)
                else:
                    Path(entry).unlink()


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
