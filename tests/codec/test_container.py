"""Records of a .npxz, and what damage does to them."""

import random
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from nextpixel.codec.container import (
    SIGNATURE,
    Counts,
    Reader,
    Writer,
    crc32c,
    pack_json,
    unpack_json,
)
from nextpixel.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.npxz"
    with path.open("w+b") as file:
        writer = Writer(file)
        for number in range(5):
            writer.add(b"CHNK", bytes([number]) * 1000, Counts(images=number))
        writer.finish()
    return path


def test_the_checksum_is_crc_32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_records_are_read_as_they_were_written(path: Path) -> None:
    with Reader(path) as reader:
        assert [reader.body(r) for r in reader.records] == [bytes([n]) * 1000 for n in range(5)]
        counts = [record.counts for record in reader.records]
        assert [count.images for count in counts if count is not None] == list(range(5))


@pytest.mark.parametrize("size", [0, 5, 16, 100, 1100, -13, -1])
def test_a_file_that_is_cut_off_is_refused_and_salvaged(path: Path, size: int) -> None:
    data = path.read_bytes()[:size]
    path.write_bytes(data)
    with pytest.raises(UserError):
        Reader(path)
    if len(data) < len(SIGNATURE):
        return
    with Reader(path, salvage=True) as reader:
        assert reader.faults
        whole = (len(data) - len(SIGNATURE)) // 1024
        assert len(reader.records) == min(whole, 5)


def test_damage_stays_in_its_record(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = len(SIGNATURE) + 1024 + 24 + 500  # in the second body
    data[at] ^= 1
    path.write_bytes(data)
    with Reader(path) as reader:
        bodies = [reader.body(record)[0] for k, record in enumerate(reader.records) if k != 1]
        assert bodies == [0, 2, 3, 4]
        with pytest.raises(UserError, match="damaged"):
            reader.body(reader.records[1])


def test_threads_read_one_file_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has one position: nobody may move it between another one's seek and read."""
    with Reader(path) as reader:
        bodies = [reader.body(record) for record in reader.records]

        class Slow:
            """A file of which a seek takes its time."""

            def __init__(self, file: BinaryIO) -> None:
                self.file, self.read, self.close = file, file.read, file.close

            def seek(self, at: int) -> int:
                found = self.file.seek(at)
                time.sleep(0.001)
                return found

        monkeypatch.setattr(reader, "file", Slow(reader.file))
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(reader.body, reader.records * 20))
    assert found == bodies * 20


def test_a_damaged_header_loses_one_record(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(SIGNATURE) + 1024 + 9] ^= 1  # the length of the second record
    path.write_bytes(data)
    with pytest.raises(UserError, match="--salvage"):
        Reader(path)
    with Reader(path, salvage=True) as reader:
        assert [reader.body(record)[0] for record in reader.records] == [0, 2, 3, 4]


def test_other_files_and_versions_are_refused(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8] + struct.pack("<I", 2) + data[12:])
    with pytest.raises(UserError, match="newer nextpixel"):
        Reader(path)
    path.write_bytes(b"PK" + data[2:])
    with pytest.raises(UserError, match=r"no \.npxz"):
        Reader(path)
    with pytest.raises(UserError, match="cannot be read"):
        Reader(path.with_name("none.npxz"))


def read_all(path: Path) -> None:
    with Reader(path) as reader:
        for record in reader.records:
            reader.body(record)


def test_any_damaged_byte_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    chosen = random.Random(0)
    for _ in range(500):
        wrong = bytearray(data)
        wrong[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(wrong)
        with pytest.raises(UserError):
            read_all(path)


def test_json_is_bounded() -> None:
    assert unpack_json(pack_json({"ä": [1, None]})) == {"ä": [1, None]}
    long = pack_json("x" * (1 << 24))
    assert len(long) < 1 << 16
    for wrong in (b"", b"x", pack_json([1])[:-3], pack_json([1]) + b"x", long):
        with pytest.raises(UserError):
            unpack_json(wrong)
