"""Damaged files, files that lie, and compressions that were interrupted."""

import io
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextpixel.codec import compress as compressing
from nextpixel.codec.chunks import CHUNK, counts_of
from nextpixel.codec.container import (
    HEADER,
    MARK,
    SIGNATURE,
    Counts,
    Reader,
    Writer,
    pack_json,
    unpack_json,
)
from nextpixel.codec.decompress import Compressed, decompress
from nextpixel.codec.head import HEAD
from nextpixel.codec.models import Coding
from nextpixel.codec.pictures import Item
from nextpixel.codec.sources import FileSource, find_files
from nextpixel.errors import UserError
from tests.codec.files import (
    ItemSource,
    back,
    images_of,
    pack,
    some_items,
    source_of,
)
from tests.engine.test_same_bits import build
from tests.fuzz.run import faults, inputs, shown


def test_damage_stays_in_its_chunk(compressed: Path) -> None:
    whole, _ = images_of(compressed)
    with Reader(compressed) as reader:
        third = [record for record in reader.records if record.kind == CHUNK][2]
    data = bytearray(compressed.read_bytes())
    data[third.begin + third.size - 3] ^= 4
    compressed.write_bytes(data)
    with pytest.raises(UserError, match="--salvage"):
        images_of(compressed)
    rest, faults = images_of(compressed, salvage=True)
    assert len(faults) == 1
    assert "4 images" in faults[0]
    assert np.array_equal(rest, [x for k, x in enumerate(whole) if k // 4 != 2])


def test_another_program_is_refused(tmp_path: Path) -> None:
    file, other = build("PixelCNN of two levels"), build("PixelCNN")
    path, given = tmp_path / "a.npxz", tmp_path / "b.program"
    pack(source_of(some_items(file, 3)), path, file, embed=False)
    with pytest.raises(UserError, match="--program"):
        images_of(path)
    given.write_bytes(other)
    with (
        pytest.raises(UserError, match="is not the program"),
        Compressed(path, program=str(given)) as wrong,
    ):
        list(wrong.images())
    given.write_bytes(file)
    with Compressed(path, program=str(given)) as right:
        assert len(next(right.images())) == 3


def test_names_do_not_lead_out_of_the_folder(tmp_path: Path, colours: bytes) -> None:
    for name in ("../a.png", "/a.png", "a/../../b.png", "..\\a.png", "", "C:/a.png", "nul.png"):
        path = tmp_path / "a.npxz"
        item = Item(name, np.zeros((3, 6, 7), np.uint8), "RGB")
        pack(source_of([item]), path, colours)
        with pytest.raises(UserError, match="no name"):
            back(path, tmp_path / "back")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npxz"]


def test_damaged_files_end_in_a_sentence() -> None:
    """5,000 of them, within a minute and a gigabyte each; checksums are made to fit in a third."""
    found = faults(list(inputs(5000, 0, ("npxz", "npxz salvaged", "npxz repaired"))))
    assert not found, shown(found)


def altered(x: Any, chosen: random.Random) -> Any:
    """Alters something in JSON."""
    if isinstance(x, dict) and x:
        key = chosen.choice(list(x))
        return {**x, key: altered(x[key], chosen)}
    if isinstance(x, list) and x and chosen.random() < 0.8:
        at = chosen.randrange(len(x))
        return [*x[:at], altered(x[at], chosen), *x[at + 1 :]]
    return chosen.choice(
        (
            0,
            1,
            -1,
            2,
            10**30,
            1 << 31,
            0.5,
            None,
            True,
            [],
            {},
            "",
            "a/" * 1900 + "b",
            [10**30, 3],
            "x",
        )
    )


def with_descriptions_altered(data: bytes, chosen: random.Random) -> bytes:
    """Alters a description, and makes lengths, checksums and the index fit."""
    file = io.BytesIO()
    writer, at, records = Writer(file), len(SIGNATURE), []
    while data[at : at + 4] == MARK and data[at + 4 : at + 8] != b"INDX":
        size = struct.unpack_from("<Q", data, at + 8)[0]
        records.append((data[at + 4 : at + 8], data[at + HEADER.size : at + HEADER.size + size]))
        at += HEADER.size + size
    wrong = chosen.randrange(len(records))
    for number, (kind, body) in enumerate(records):
        packed, counts = body, Counts()
        if kind == CHUNK:
            counts = counts_of(body, 1)
            length = struct.unpack_from("<I", body)[0]
            text = pack_json(altered(unpack_json(body[4 : 4 + length]), chosen))
            packed = struct.pack("<I", len(text)) + text + body[4 + length :]
            if chosen.random() < 0.2:
                counts = Counts(*(chosen.choice((n, n + 1, 1 << 63)) for n in counts))
        elif kind == b"HEAD":
            packed = pack_json(altered(unpack_json(body), chosen))
        both = (kind == b"HEAD" and wrong == 0) or number == wrong
        writer.add(kind, packed if both else body, counts)
    writer.finish()
    return file.getvalue()


def test_descriptions_that_lie_end_in_a_sentence(compressed: Path) -> None:
    """Everything else about these files is right."""
    data, chosen, whole = compressed.read_bytes(), random.Random(0), images_of(compressed)[0]
    refused = 0
    for number in range(1000):
        compressed.write_bytes(with_descriptions_altered(data, chosen))
        out = compressed.with_name(f"{number}")
        try:
            found, _ = images_of(compressed, salvage=chosen.random() < 0.5)
            assert all(any(np.array_equal(x, y) for y in whole) for x in found if x is not None)
            decompress(compressed, out, salvage=chosen.random() < 0.5)
        except UserError:
            refused += 1
    assert refused > 500


def test_an_interrupted_compression_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: Path
) -> None:
    file, path = build("PixelCNN of two levels"), tmp_path / "b.npxz"
    all_items = some_items(file)

    def interrupted(first: int) -> Iterator[Item]:
        yield from all_items[first:14]
        raise KeyboardInterrupt

    source = source_of(all_items)
    with pytest.raises(KeyboardInterrupt):
        pack(replace(source, some=interrupted), path, file)
    assert not path.exists()
    totals = pack(source, path, file)
    assert 4 <= totals.resumed <= 12
    assert path.read_bytes() == compressed.read_bytes()
    assert list(tmp_path.glob(".*")) == []
    with pytest.raises(KeyboardInterrupt):
        pack(replace(source, some=interrupted), path, file)
    other = pack(replace(source, digest="others"), path, file)
    assert other.resumed == 0  # begun anew


def interrupt(source: ItemSource, path: Path, file: bytes, *, after: int, embed: bool) -> None:
    items = list(source.some(0))

    def interrupted(first: int) -> Iterator[Item]:
        yield from items[first:after]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(replace(source, some=interrupted), path, file, embed=embed)


def test_who_resumes_may_embed_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some images, and where nothing but the end of the file is missing."""
    monkeypatch.setattr(compressing, "MOST_IMAGES", 4)
    file, path = build("PixelCNN of two levels"), tmp_path / "a.npxz"
    source = source_of(some_items(file))
    interrupt(source, path, file, after=14, embed=False)
    assert 4 <= pack(source, path, file).resumed <= 12
    assert len(images_of(path)[0]) == 20

    def stopped(_: Writer) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            pack(source, path, file, embed=False)
    assert pack(source, path, file).resumed == 20
    assert len(images_of(path)[0]) == 20


def test_another_model_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressing, "MOST_IMAGES", 4)
    file, path = build("PixelCNN of two levels"), tmp_path / "a.npxz"
    source = source_of(some_items(file))
    interrupt(source, path, file, after=14, embed=True)
    assert compressing.compress(Coding("another", file), source, path).resumed == 0


def test_without_coded_images_there_is_no_program(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "a.npxz"
    totals = pack(find_files([folder / "alpha.png"]), path, build("PixelCNN of two levels"))
    assert totals.kept == totals.images == 1
    with Reader(path) as reader:
        assert [record.kind for record in reader.records] == [HEAD, CHUNK, HEAD]


def test_a_changed_picture_is_read_again(
    folder: Path, colours: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same size, and older than the unfinished file."""
    monkeypatch.setattr(compressing, "MOST_IMAGES", 1)
    picture, path = folder / "same.bmp", tmp_path / "a.npxz"
    monkeypatch.setattr(FileSource, "items", interrupted_items(FileSource.items, 16))
    with pytest.raises(KeyboardInterrupt):
        pack(find_files([folder]), path, colours)
    assert list(tmp_path.glob(".a.npxz.part"))
    monkeypatch.undo()
    data = bytearray(picture.read_bytes())
    data[-1] ^= 255
    picture.write_bytes(data)
    os.utime(picture, (1e9, 1e9))
    assert pack(find_files([folder]), path, colours).resumed == 0


def interrupted_items(items: Any, after: int) -> Any:
    def some(self: FileSource, coding: Coding | None, first: int = 0) -> Iterator[Item]:
        for k, item in enumerate(items(self, coding, first)):
            if k == after:
                raise KeyboardInterrupt
            yield item

    return some


def test_both_descriptions_are_enough(compressed: Path) -> None:
    """The file says twice what it holds."""
    whole = images_of(compressed)[0]
    data = bytearray(compressed.read_bytes())
    data[len(SIGNATURE) + HEADER.size + 20] ^= 1
    compressed.write_bytes(data)
    assert np.array_equal(images_of(compressed, salvage=True)[0], whole)


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX")
def test_a_killed_compression_leaves_no_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npxz"
    code = f"""
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from tests.codec.files import *
from tests.codec.test_damage import build, compressing
compressing.MOST_IMAGES = 4
file = build("PixelCNN of two levels")
everything = some_items(file, 60)
def slowly(first):
    for item in everything[first:]:
        print(flush=True)
        time.sleep({{}})
        yield item
pack(replace(source_of(everything), some=slowly), {str(path)!r}, file)
"""
    words = [sys.executable, "-c", code.replace("{}", "0.05")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(30):
            child.stdout.readline()
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert list(tmp_path.glob(".a.npxz.part"))
    file = build("PixelCNN of two levels")
    totals = pack(source_of(some_items(file, 60)), path, file)
    assert totals.images == 60
    assert len(images_of(path)[0]) == 60
