"""Writing files so that a crash leaves the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["remove_parts", "replace_file"]

PART = ".part"


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file in one go: readers see the old content or the new one, never a part.

    Args:
        path: The file; its folder must exist.
        data: The new content.

    Raises:
        OSError: The file cannot be written, for example because the disk is full; the old one is
            then untouched.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_parts(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left below a folder."""
    for part in folder.rglob(f".*{PART}"):
        part.unlink(missing_ok=True)
