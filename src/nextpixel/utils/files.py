"""Writing files so that a crash leaves the old one or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_write", "remove_parts", "replace_file"]

PART = ".part"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that takes its place once the block has ended without an error.

    Readers see the old content or the new one, never a part of it.

    Args:
        path: Where to write; missing folders are made.

    Yields:
        The open binary file.

    Raises:
        OSError: The file cannot be written, for example because the disk is full; the old one is
            then untouched.
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
        with suppress(OSError):  # the error in flight is the one to tell
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it was
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file in one go, see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(data)


def remove_parts(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left below a folder."""
    for part in folder.rglob(f".*.[0-9]*{PART}"):
        part.unlink(missing_ok=True)
