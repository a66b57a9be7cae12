"""Compares an array of a .npz that is mapped into memory with its checksum, which mapping skips."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from nextpixel.errors import UserError
from nextpixel.utils.files import cache_folder, replace_file
from nextpixel.utils.progress import track

__all__ = ["check_member"]

BLOCK = 2**22
ALWAYS = 2**26  # bytes: checking less takes no time to speak of, so it is done each time


def check_member(path: Path, file: BinaryIO, begin: int, member: zipfile.ZipInfo) -> None:
    """Compares the content of an uncompressed member with its CRC-32.

    A large one is checked when the file, of this size and time, is used first; that is noted in the
    user's cache.

    Args:
        path: The .npz.
        file: The open file; its position is changed.
        begin: Where the content begins.
        member: The member.

    Raises:
        ValueError: It is damaged.
    """
    note = None if member.file_size <= ALWAYS else _note(path, file, member)
    if note is not None and note.exists():
        return
    file.seek(begin)
    checksum, left = 0, member.file_size
    blocks = range(0, left, BLOCK)
    for _ in track(blocks, f"checking {path}, once", len(blocks)) if note else blocks:
        block = file.read(min(BLOCK, left))
        checksum = zlib.crc32(block, checksum)
        left -= len(block)
    if left or checksum != member.CRC:
        raise ValueError(f"the checksum of {member.filename} is wrong")
    if note is not None:
        with suppress(OSError):  # without the note it is checked again
            replace_file(note, b"")


def _note(path: Path, file: BinaryIO, member: zipfile.ZipInfo) -> Path | None:
    """Returns the file whose existence says that this member was right."""
    with suppress(UserError):  # a user without a home folder
        found = os.fstat(file.fileno())
        key = (os.fsencode(path.resolve()), found.st_size, found.st_mtime_ns, member.filename)
        name = hashlib.sha256(repr((*key, member.CRC)).encode()).hexdigest()[:32]
        return cache_folder() / "checked" / name
    return None
