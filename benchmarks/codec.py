"""Compares the codec with other lossless codecs, on whole test sets.

    pip install '.[benchmarks]'
    python benchmarks/codec.py mnist
    python benchmarks/codec.py kodak --model runs/photos
    python benchmarks/codec.py signs --archive 10

Bytes are those of whole files, headers included. Other codecs compress each image by itself, and
all of them as one large picture ("mosaic", where they are of one size), which is fairer for small
images. Speeds are raw bytes a second, each codec right after the other.
"""

from __future__ import annotations

import argparse
import io
import lzma
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import oxipng
from numpy.typing import NDArray
from PIL import Image
from yardstick import print_table, write_json

import nextpixel as npx
from nextpixel.codec.archive import archive
from nextpixel.codec.models import coding_of
from nextpixel.codec.packing import pack_program
from nextpixel.codec.sources import source_of
from nextpixel.data.images import Images
from nextpixel.utils.machine import machine

Picture = NDArray[np.uint8]  # (H, W) or (H, W, C)
DATA = Path("../shared/data")
KINDS = ("mnist", "fashion-mnist", "cifar10", "spoken-digits", "signs", "tiles", "emoji", "kodak")


class Codec(NamedTuple):
    """Another codec: from a picture to bytes and back."""

    encode: Callable[[Picture], bytes]
    decode: Callable[[bytes], Any]


def png(x: Picture) -> bytes:
    """Writes a PNG, optimised by oxipng."""
    memory = io.BytesIO()
    Image.fromarray(x).save(memory, "PNG")
    return bytes(oxipng.optimize_from_memory(memory.getvalue(), level=4))


def webp(x: Picture) -> bytes:
    """Writes a lossless WebP with the most effort."""
    memory = io.BytesIO()
    Image.fromarray(x).save(memory, "WEBP", lossless=True, quality=100, method=6, exact=True)
    return memory.getvalue()


def opened(data: bytes) -> Picture:
    """Decodes what Pillow reads."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


CODECS = {
    "PNG (oxipng)": Codec(png, opened),
    "WebP": Codec(webp, opened),
    "JPEG XL, effort 9": Codec(
        lambda x: bytes(imagecodecs.jpegxl_encode(x, lossless=True, effort=9)),
        imagecodecs.jpegxl_decode,
    ),
    "xz of the raw pixels": Codec(lambda x: lzma.compress(x.tobytes(), preset=9), lzma.decompress),
}


# --- data -----------------------------------------------------------------------------------------


def load(name: str, limit: int | None) -> tuple[Any, list[Picture]]:
    """Loads a test set: as `nextpixel.compress` takes it, and picture by picture."""
    if name in ("signs", "emoji", "kodak"):
        paths = sorted((DATA / name).rglob("*.png"))[:limit]
        whole: Any = DATA / name if limit is None else paths
        return whole, [np.asarray(as_plain(Image.open(path))) for path in paths]
    if name == "tiles":
        with np.load(DATA / "tiles" / "magnetic_tile_patches32.npz") as arrays:
            images = Images(good_tiles(arrays)[:limit, None], None, 256)
    else:
        images = npx.load_data(name, data_dir=DATA).test.subset(limit)
    x = images.batch(np.arange(len(images)))[0].transpose(0, 2, 3, 1)
    return images, list(x[..., 0] if x.shape[-1] == 1 else x)


def as_plain(picture: Image.Image) -> Image.Image:
    """Returns a picture without a palette."""
    return picture.convert("RGBA") if picture.mode == "P" else picture


def good_tiles(arrays: Any) -> Picture:
    """Returns the test patches without a fault."""
    x: Picture = arrays["test"]
    return x[arrays["test_label"] == 0]


def mosaic(pictures: list[Picture]) -> Picture | None:
    """Lays pictures of one size side by side, in as many columns as rows; None if they differ."""
    if len({x.shape for x in pictures}) > 1:
        return None
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    all_ = pictures + [np.zeros_like(pictures[0])] * (rows * columns - len(pictures))
    lines = [np.concatenate(all_[r * columns : (r + 1) * columns], 1) for r in range(rows)]
    return np.concatenate(lines)


# --- measuring ------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What a codec needed; times in seconds, None where they were not measured."""

    codec: str
    bytes: int
    with_model: int
    encode: float | None = None
    decode: float | None = None


def others(pictures: list[Picture]) -> list[Row]:
    """Measures the other codecs."""
    rows, large = list[Row](), mosaic(pictures)
    for name, codec in CODECS.items():
        if not name.startswith("xz"):
            rows.append(measured(f"{name}, each", codec, pictures))
        if large is not None:
            rows.append(measured(f"{name}, mosaic", codec, [large]))
    return rows


def measured(name: str, codec: Codec, pictures: list[Picture]) -> Row:
    """Measures a codec on some pictures."""
    began = time.perf_counter()
    files = [codec.encode(x) for x in pictures]
    middle = time.perf_counter()
    for file in files:
        codec.decode(file)
    end = time.perf_counter()
    total = sum(map(len, files))
    print(f"  {name}: {total:,} bytes", flush=True)
    return Row(name, total, total, middle - began, end - middle)


def ours(model: str, images: Any, threads: int, folder: Path, all_orders: bool) -> Row:
    """Measures nextpixel; what is decoded is checked by the sums of its pixels."""
    source = source_of(images)
    coding = coding_of(model, source.sizes())
    out = folder / f"{threads}.npxz"
    began = time.perf_counter()
    options = {"embed": False, "verify": False, "all_orders": all_orders}
    npx.compress(coding, source, out, threads=threads, **options)
    encoded = time.perf_counter() - began
    program = folder / "m.program"
    program.write_bytes(coding.file)
    began = time.perf_counter()
    with npx.Compressed(out, program=str(program)) as file:
        for _ in file.images(threads):
            pass
    decoded = time.perf_counter() - began
    size = out.stat().st_size
    both = size + len(pack_program(coding.file))
    print(f"  nextpixel, {threads} threads: {size:,} bytes", flush=True)
    return Row(f"nextpixel, {coding.name}, {threads} threads", size, both, encoded, decoded)


def archived(images: Any, minutes: float, folder: Path) -> Row:
    """Measures an archive; the time to encode includes training and verification."""
    out = folder / "archive.npxz"
    began = time.perf_counter()
    archive(images, out, minutes=minutes)
    encoded = time.perf_counter() - began
    began = time.perf_counter()
    with npx.Compressed(out) as file:
        for _ in file.images(2):
            pass
    decoded = time.perf_counter() - began
    size = out.stat().st_size
    return Row(f"nextpixel archive, {minutes:g} minutes", size, size, encoded, decoded)


def main() -> None:
    """Measures the codecs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=KINDS)
    parser.add_argument("--model", help="name, run folder or .program of the model")
    parser.add_argument("--all-orders", action="store_true", help="as of nextpixel compress")
    parser.add_argument("--archive", type=float, metavar="M", help="train a model for M minutes")
    parser.add_argument("--limit", type=int, metavar="N", help="only N images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    args = parser.parse_args()
    images, pictures = load(args.data, args.limit)
    raw = sum(x.nbytes for x in pictures)
    rows = others(pictures)
    with tempfile.TemporaryDirectory() as folder:
        if args.model:
            for threads in (1, 2):
                rows.append(ours(args.model, images, threads, Path(folder), args.all_orders))
        if args.archive:
            rows.append(archived(images, args.archive, Path(folder)))

    def rate(seconds: float | None) -> str:
        return "" if seconds is None else f"{raw / seconds / 1000:,.0f}"

    print(f"{args.data}: {len(pictures):,} images, {raw:,} bytes; {machine()}")
    print_table(
        ["codec", "bytes", "bits/dim", "bits/dim with the model", "encoded KB/s", "decoded KB/s"],
        [
            [
                row.codec,
                f"{row.bytes:,}",
                f"{8 * row.bytes / raw:.3f}",
                f"{8 * row.with_model / raw:.3f}",
                rate(row.encode),
                rate(row.decode),
            ]
            for row in rows
        ],
    )
    write_json(args.json, {row.codec: row._asdict() for row in rows} | {"raw": raw})


if __name__ == "__main__":
    main()
