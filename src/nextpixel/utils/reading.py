"""Reads files that somebody gives: whatever their readers raise becomes one sentence."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from nextpixel.errors import UserError

__all__ = [
    "dump_yaml",
    "is_utf8",
    "mapping",
    "memory",
    "open_regular",
    "open_zip",
    "parse_yaml",
    "read_exactly",
    "read_json",
    "read_regular",
    "read_text",
    "read_yaml",
    "refuse_more_than_memory",
    "refusing_damage",
]

# Windows would translate line ends, and elsewhere opening a pipe would wait for who writes to it.
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
MOST_COMMENT = 2**16  # bytes at the end of a zip archive
MOST_TEXT = 16 * 2**20  # bytes of a file of JSON, YAML or CSV
MOST_YAML = 2**17  # characters
MOST_MERGED = 3
MOST_VALUES = 100_000  # of a file of YAML, with each alias counted as what it stands for
MOST_NESTED = 50


@contextmanager
def refusing_damage(path: str | Path, kind: str, remedy: str) -> Iterator[None]:
    """Turns whatever is raised while a file is read into a `UserError`.

    A damaged file can make a reader raise anything: libraries check what they expected to go wrong.

    Args:
        path: The file, for the message.
        kind: What it should be, such as "NumPy file".
        remedy: What to do, after a colon.

    Raises:
        UserError: The block raised an exception.
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            f"{path} asks for more memory than there is: it is damaged, or too large for this "
            "machine."
        ) from error
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise UserError(_damaged(path, kind, error, remedy)) from error
        reason = error.strerror or os.strerror(error.errno)
        raise UserError(
            f"{path} cannot be read ({reason}): check the file and its permissions."
        ) from error
    except Exception as error:
        raise UserError(_damaged(path, kind, error, remedy)) from error


def _damaged(path: str | Path, kind: str, error: Exception, remedy: str) -> str:
    """Returns the sentence about a damaged file; long reasons are cut."""
    reason = " ".join(str(error).split()).rstrip(".")
    if not reason or isinstance(error, KeyError):  # whose text is the key alone
        reason = f"{type(error).__name__} {reason}".strip()
    reason = reason if len(reason) <= 200 else f"{reason[:200]}..."
    return f"{path} is truncated, corrupt or no {kind} ({reason}): {remedy}."


# --- bytes ----------------------------------------------------------------------------------------


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file to read; nothing else, as a pipe would wait for somebody to write.

    Raises:
        OSError: It cannot be opened.
        UserError: It is no regular file.
    """
    descriptor = os.open(path, FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is a pipe, a device or a folder: give a file.")
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | Path, most: int | None = None) -> bytes:
    """Reads a file, see `open_regular`.

    Args:
        path: The file.
        most: Refuses a longer file.

    Raises:
        OSError: It cannot be read.
        UserError: It is no regular file, too long, or longer than the memory.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise UserError(f"{path} has {size:,} bytes, where at most {most:,} are expected.")
        refuse_more_than_memory(path, size)
        return file.read()


def read_exactly(file: IO[bytes], size: int) -> bytes:
    """Reads as many bytes as a header promises.

    Raises:
        EOFError: There are fewer.
    """
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"{size:,} bytes are promised, {len(data):,} are there")
    return data


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Opens a zip archive for reading.

    Raises:
        ValueError: Its directory holds more or fewer files than its last record says: one can be
            hidden by a wrong length in the entry before it, which `zipfile` passes over.
        Exception: What `zipfile` raises; all within `refusing_damage`.
    """
    archive = zipfile.ZipFile(file)
    file.seek(-min(MOST_COMMENT + 22, file.seek(0, os.SEEK_END)), os.SEEK_END)
    tail = file.read()
    end = tail.rindex(b"PK\5\6")
    files = int.from_bytes(tail[end + 10 : end + 12], "little")
    if files not in (len(archive.infolist()), 0xFFFF):  # more are counted elsewhere
        raise ValueError(f"it says {files:,} files, and lists {len(archive.infolist()):,}")
    return archive


def memory() -> int:
    """Returns the memory of this machine in bytes; 16 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 16 * 2**30


def refuse_more_than_memory(path: str | Path, size: int) -> None:
    """Refuses a file whose content takes more bytes than this machine has.

    Raises:
        UserError: It does.
    """
    if size > memory():
        raise UserError(
            f"{path} asks for {size / 1e9:,.1f} GB of memory, and this machine has "
            f"{memory() / 1e9:,.1f}: it is damaged, or too large for this machine."
        )


# --- text -----------------------------------------------------------------------------------------


def read_text(path: str | Path) -> str:
    """Reads a text file in UTF-8 of at most 16 MiB.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no text.
        UserError: It is no regular file, or too long.
    """
    return read_regular(path, MOST_TEXT).decode("utf-8")


def read_json(path: str | Path) -> Any:
    """Reads a file of JSON; see `read_text` for errors."""
    return json.loads(read_text(path))


def read_yaml(path: str | Path) -> Any:
    """Reads a file of YAML; see `read_text` and `parse_yaml` for errors."""
    return parse_yaml(read_text(path))


def parse_yaml(text: str) -> Any:
    """Reads YAML that is not nested deeply; a few letters of aliases may stand for millions.

    Bytes among its options are paths that are not UTF-8, see `dump_yaml`.

    Raises:
        ValueError: It is no YAML, or too much of it.
    """
    import yaml  # takes a while

    if len(text) > MOST_YAML:  # its parser takes a minute for some of a megabyte
        raise ValueError(f"{len(text):,} characters, where at most {MOST_YAML:,} are expected")
    if text.count("<<") > MOST_MERGED:  # the parser itself copies what they name
        raise ValueError(f"more than {MOST_MERGED} merge keys")
    try:
        found = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # most errors have a position
        raise ValueError(f"in line {mark.line + 1}" if mark else "unreadable") from None
    if count_values(found) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    if isinstance(found, dict):
        found = {k: os.fsdecode(v) if isinstance(v, bytes) else v for k, v in found.items()}
    return found


def dump_yaml(options: Mapping[str, Any]) -> bytes:
    """Writes YAML, which cannot hold the letters by which Python shows paths that are not UTF-8."""
    import yaml  # takes a while

    stored = {k: v if is_utf8(v) else os.fsencode(v) for k, v in options.items()}
    return yaml.safe_dump(stored, sort_keys=False).encode()


def is_utf8(value: Any) -> bool:
    """Whether a value is no text with letters that stand for bytes outside UTF-8."""
    return not isinstance(value, str) or value.encode(errors="ignore").decode() == value


def count_values(found: Any, depth: int = 0) -> int:
    """Counts the values in nested mappings and lists, up to some more than `MOST_VALUES`.

    Raises:
        ValueError: They are nested too deeply.
    """
    if not isinstance(found, Mapping | list | tuple | set):
        return 1
    if depth == MOST_NESTED:
        raise ValueError("it is nested too deeply")
    total = 1
    for value in [*found, *found.values()] if isinstance(found, Mapping) else found:
        total += count_values(value, depth + 1)
        if total > MOST_VALUES:
            break
    return total


def mapping(found: Any) -> dict[str, Any]:
    """Returns what JSON or YAML holds, if it is values by name.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise TypeError(f"it holds {type(found).__name__}, where values by name are expected")
    return dict(found)
