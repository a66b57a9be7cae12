"""What tests of compressed files share: sources, files there and back, odd pictures."""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms

from nextpixel.codec.compress import Totals, compress
from nextpixel.codec.container import HEADER, MARK, SIGNATURE, crc32c
from nextpixel.codec.decompress import Compressed, Restored, decompress
from nextpixel.codec.models import Coding, compiled
from nextpixel.codec.pictures import Item
from nextpixel.codec.sources import Source
from nextpixel.engine import Program
from nextpixel.models import PixelCNN

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@dataclass(frozen=True)
class ItemSource(Source):
    """Images that a test makes."""

    some: Callable[[int], Iterator[Item]]

    def sizes(self) -> list[tuple[int, int]]:
        return []

    def items(self, coding: Coding | None, first: int = 0) -> Iterator[Item]:
        return self.some(first)


def source_of(items: Sequence[Item], digest: str = "") -> ItemSource:
    size = sum(0 if item.levels is None else item.levels.nbytes for item in items)
    return ItemSource(len(items), digest, size, lambda first: iter(items[first:]))


def pack(source: Any, path: Path, file: bytes, *, embed: bool = True, threads: int = 1) -> Totals:
    return compress(Coding("a model", file), source, path, embed=embed, threads=threads)


def back(path: Path, out: Path, *, salvage: bool = False, threads: int = 1) -> Restored:
    return decompress(path, out, salvage=salvage, threads=threads)


def some_items(file: bytes, n: int = 20) -> list[Item]:
    program = Program(file)
    x = np.random.default_rng(0).integers(0, program.levels, (n, *program.shape), np.uint8)
    return [Item("", levels) for levels in x]


def images_of(path: Path, *, salvage: bool = False) -> tuple[list[Any], list[str]]:
    with Compressed(path, salvage=salvage) as compressed:
        found = [x.levels for images in compressed.images() for x in images]
        return found, compressed.faults


def repaired(data: bytes) -> bytes:
    """Makes all checksums of records fit, as far as their lengths let them."""
    fixed, at = bytearray(data), len(SIGNATURE)
    while at + HEADER.size <= len(fixed) and fixed[at : at + 4] == MARK:
        size = struct.unpack_from("<Q", fixed, at + 8)[0]
        body = bytes(fixed[at + HEADER.size : at + HEADER.size + size])
        if len(body) < size:
            break
        struct.pack_into("<I", fixed, at + 16, crc32c(body))
        struct.pack_into("<I", fixed, at + 20, crc32c(bytes(fixed[at : at + 20])))
        at += HEADER.size + size
    return bytes(fixed)


def write_png(path: Path, depth: int, colour_type: int, row: bytes, *more: bytes) -> None:
    """Writes a PNG of 4 x 3 pixels as Pillow does not; `more` are a chunk's kind and data."""

    def part(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = part(b"IHDR", struct.pack(">IIBBBBB", 4, 3, depth, colour_type, 0, 0, 0))
    data = part(*more) if more else b""
    data += part(b"IDAT", zlib.compress(3 * (b"\0" + row))) + part(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)


KEPT = {  # as their own files, byte by byte
    *("broken.png", "film.gif", "deep.png", "deep-colour.png", "turned.jpg", "cmyk.jpg"),
    "clear.png",
}


def pixels(path: Path) -> tuple[str, NDArray[Any]]:
    with Image.open(path) as picture:
        return picture.mode, np.asarray(picture)


def plain(levels: int) -> bytes:
    """Compiles a small network without classes."""
    torch.manual_seed(0)
    return compiled(PixelCNN(shape=(1, 9, 8), levels=levels, width=4, blocks=1).eval())
