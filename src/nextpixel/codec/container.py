"""Reads and writes the records of a .npxz file; docs/format.md specifies them.

A file is a signature and records. Each record says what it is, how long it is and the CRC-32C of
both and of its body, so damage is noticed, and stays where it is. The last record is an index of
all others, so any of them can be read alone; where it is damaged, records are found by their marks.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nextpixel.engine.library import load_library
from nextpixel.errors import UserError
from nextpixel.utils.reading import open_regular, refusing_damage
from nextpixel.utils.words import count

__all__ = [
    "ADVICE",
    "NOTHING",
    "SIGNATURE",
    "VERSION",
    "Counts",
    "Reader",
    "Record",
    "Writer",
    "crc32c",
    "pack_json",
    "unpack_json",
]

VERSION = 1
SIGNATURE = b"\x89NPXZ\r\n\x1a" + struct.pack("<II", VERSION, 0)
MARK = b"npx>"
HEADER = struct.Struct("<4s4sQII")  # the mark, the kind, bytes and CRC-32C of the body, CRC-32C
LINE = struct.Struct("<4s7Q")  # of the index: the kind, where the record begins, its counts
END = struct.Struct("<Q4s")  # where the index begins, and the last mark
LAST = b"<npx"
INDEX = b"INDX"
MOST_JSON = 1 << 24  # bytes that JSON may unpack to
ADVICE = "nextpixel decompress --salvage brings what is left."
BLOCK = 1 << 20  # bytes in which marks are looked for at once


class Counts(NamedTuple):
    """What a record holds; zeros if it is no chunk.

    Attributes:
        first: The number of its first image in the file.
        images: Number of images.
        kept: How many of them are kept as files.
        levels: Levels that are coded.
        code: Bytes of their code.
        files: Bytes of the files.
    """

    first: int = 0
    images: int = 0
    kept: int = 0
    levels: int = 0
    code: int = 0
    files: int = 0


NOTHING = Counts()


@dataclass(frozen=True)
class Record:
    """A record, without its body.

    Attributes:
        kind: Four letters.
        begin: Where its body begins in the file.
        size: Bytes of the body.
        checksum: The body's CRC-32C.
        counts: What the index says about it; None if there is no index.
    """

    kind: bytes
    begin: int
    size: int
    checksum: int
    counts: Counts | None = None


def crc32c(data: bytes | NDArray[Any]) -> int:
    """Computes the CRC-32C (Castagnoli) of bytes, as in RFC 3720."""
    array = np.frombuffer(data, np.uint8)
    return int(load_library().np_crc32c(array.ctypes.data, array.nbytes))


def pack_json(x: Any) -> bytes:
    """Packs JSON by zlib."""
    text = json.dumps(x, ensure_ascii=False, separators=(",", ":"))
    return zlib.compress(text.encode(), 9)


def unpack_json(data: bytes) -> Any:
    """Unpacks what `pack_json` packed.

    Raises:
        UserError: It is not that, or longer than 16 MiB.
    """
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, MOST_JSON)
        if not unpacker.eof or unpacker.unused_data:
            raise ValueError
        return json.loads(text)
    except (zlib.error, ValueError, RecursionError):
        raise UserError("a description is damaged, or longer than 16 MiB.") from None


class Writer:
    """Writes records to a file.

    Args:
        file: An open file.

    Attributes:
        lines: The index: a line for each record.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.lines = file, list[bytes]()
        file.seek(0)
        file.write(SIGNATURE)

    def keep(self, record: Record, counts: Counts) -> None:
        """Keeps a record that the file already holds, after those before it."""
        self.lines.append(LINE.pack(record.kind, record.begin - HEADER.size, *counts))
        self.file.seek(record.begin + record.size)

    def add(self, kind: bytes, body: bytes, counts: Counts = NOTHING) -> None:
        """Writes a record."""
        begin = self.file.tell()
        head = MARK + kind + struct.pack("<QI", len(body), crc32c(body))
        self.file.write(head + struct.pack("<I", crc32c(head)))
        self.file.write(body)
        self.lines.append(LINE.pack(kind, begin, *counts))

    def has(self, kind: bytes) -> bool:
        """Whether the file holds a record of a kind."""
        return any(line.startswith(kind) for line in self.lines)

    def finish(self) -> None:
        """Writes the index."""
        begin = self.file.tell()
        self.add(INDEX, b"".join(self.lines))
        self.file.write(END.pack(begin, LAST))


class Reader:
    """Reads records from a file.

    Args:
        path: The file.
        salvage: Whether to go on after damage.

    Attributes:
        records: All records but the index, in order.
        faults: What is wrong, in sentences; without `salvage` only what does no harm.

    Raises:
        UserError: It cannot be read, is no such file, or of a newer version; without `salvage`,
            also where a record is missing.
    """

    def __init__(self, path: str | os.PathLike[str], *, salvage: bool = False) -> None:
        self.path, self.faults = os.fspath(path), list[str]()
        self._lock = threading.Lock()  # of the file, which has one position for all threads
        with refusing_damage(self.path, "compressed images", "give a .npxz"):
            self.file: BinaryIO = open_regular(path)
        try:
            self.size = os.fstat(self.file.fileno()).st_size
            self._check_signature()
            try:
                self.records = self._by_index(salvage)
            except UserError as error:
                if not salvage:
                    raise UserError(f"{self.path}: {error} {ADVICE}") from None
                self.faults.append(str(error))
                self.records = list(self._by_marks())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def body(self, record: Record) -> bytes:
        """Reads the body of a record.

        Raises:
            UserError: It is damaged.
        """
        body = self._read(record.begin, record.size)
        if len(body) != record.size or crc32c(body) != record.checksum:
            end = record.begin + record.size
            raise UserError(f"its bytes {record.begin:,} to {end:,} are damaged.")
        return body

    def whole_records(self) -> Iterator[Record]:
        """Yields the records that follow each other from the beginning on."""
        at = len(SIGNATURE)
        while (record := self._record_at(at)) is not None and record.kind != INDEX:
            yield record
            at = record.begin + record.size

    def _read(self, begin: int, size: int) -> bytes:
        try:
            with self._lock:
                self.file.seek(begin)
                return self.file.read(size)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}.") from None

    def _check_signature(self) -> None:
        found = self._read(0, len(SIGNATURE))
        if found[:8] != SIGNATURE[:8] or len(found) < len(SIGNATURE):
            raise UserError(f"{self.path} is no .npxz file.")
        version, zero = struct.unpack_from("<II", found, 8)
        if version > VERSION:
            raise UserError(f"{self.path} was written by a newer nextpixel: update nextpixel.")
        if version < 1 or zero:
            raise UserError(f"{self.path} is damaged at its beginning.")

    def _by_index(self, salvage: bool) -> list[Record]:
        """Finds the records by the index; they follow each other without a gap."""
        end = self._read(self.size - END.size, END.size) if self.size >= END.size else b""
        if len(end) != END.size or end[-len(LAST) :] != LAST:
            raise UserError("it does not end as it should: it is cut off, or something was added.")
        begin = END.unpack(end)[0]
        index = self._record_at(begin)
        if index is None or index.kind != INDEX:
            raise UserError("its index is damaged.")
        if index.begin + index.size != self.size - END.size:
            raise UserError("its index is damaged.")
        if index.size % LINE.size:
            raise UserError("its index is damaged.")
        lines = list(LINE.iter_unpack(self.body(index)))
        starts = [at for _, at, *_ in lines]
        if starts[:1] != [len(SIGNATURE)]:
            raise UserError("its index is damaged.")
        records = []
        for (kind, at, *counts), stop in zip(lines, [*starts[1:], begin], strict=True):
            record = self._record_at(at)
            if record is None or record.begin + record.size != stop:
                fault = f"the header of the record at byte {at:,} is damaged."
                if not salvage:
                    raise UserError(fault)
                self.faults.append(f"{count(counts[1], 'image')} lost: {fault}")
            elif record.kind != kind:
                raise UserError("its index is damaged.")
            else:
                records.append(replace(record, counts=Counts(*counts)))
        return records

    def _by_marks(self) -> Iterator[Record]:
        """Finds records wherever their mark stands and their header is whole; notes gaps."""
        at = len(SIGNATURE)
        while at < self.size:
            record = self._record_at(at)
            if record is None:
                begin, at = at, next(self._records_from(at), self.size)
                self.faults.append(f"bytes {begin:,} to {at:,} are no record.")
                continue
            if record.kind != INDEX:
                yield record
            at = record.begin + record.size

    def _records_from(self, begin: int) -> Iterator[int]:
        """Yields where records begin, from a byte on."""
        while begin < self.size:
            block = self._read(begin, BLOCK)
            at = block.find(MARK)
            while at >= 0:
                if self._record_at(begin + at) is not None:
                    yield begin + at
                at = block.find(MARK, at + 1)
            begin += BLOCK - len(MARK) + 1

    def _record_at(self, at: int) -> Record | None:
        """Returns the record that begins at a byte; None if there is none."""
        if not 0 <= at <= self.size - HEADER.size:
            return None
        head = self._read(at, HEADER.size)
        if len(head) < HEADER.size:
            return None
        mark, kind, size, checksum, of_head = HEADER.unpack(head)
        begin = at + HEADER.size
        if mark != MARK or of_head != crc32c(head[:-4]) or size > self.size - begin:
            return None
        return Record(kind, begin, size, checksum)
