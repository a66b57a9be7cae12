"""Writes the compressed files that must decode for ever, and what they decode to.

    python -m tests.codec.golden.make

It was run once for version 1 of the format, and later for what was new: orders.npxz, photos.npxz.
Add files for what is new; never write these again. The model that wrote digits.npxz, which does not
hold its program, was shipped then; it lies beside it.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

import nextpixel as npx
from nextpixel.codec import chunks
from nextpixel.codec.decompress import Compressed, Decoded
from nextpixel.codec.models import Coding
from nextpixel.codec.pictures import Item
from nextpixel.codec.skeletons import program_of
from nextpixel.data import Images
from tests.engine.test_same_bits import build

HERE = Path(__file__).parent
DIGESTS = HERE / "digests.json"
ONCE_SHIPPED = {"digits.npxz": "mnist-gated"}


def digest(image: Decoded) -> str:
    """Names an image by its name and all its values."""
    about = f"{image.name} {image.mode} {image.kind} {image.class_id}".encode()
    values = image.file if image.levels is None else image.levels.tobytes()
    return hashlib.sha256(about + b"\0" + (values or b"")).hexdigest()[:16]


def kept_program(name: str) -> bytes:
    """Puts together the program of a model that was shipped once, and now lies here."""
    (skeleton,), (weights,) = (
        (HERE / name).glob(f"*.{end}") for end in ("skeleton", "safetensors")
    )
    return program_of(skeleton.read_bytes(), weights.read_bytes())


@contextmanager
def opened(path: Path) -> Iterator[Compressed]:
    """Opens a file, with the program of a model that was shipped when it was written."""
    with tempfile.TemporaryDirectory() as folder:
        program = None
        if path.name in ONCE_SHIPPED:
            program = Path(folder) / "once-shipped.program"
            program.write_bytes(kept_program(ONCE_SHIPPED[path.name]))
        with Compressed(path, program=None if program is None else str(program)) as file:
            yield file


def digests(path: Path) -> list[str]:
    """Decodes a file and names its images."""
    with opened(path) as file:
        return [digest(image) for images in file.images() for image in images]


def pictures(folder: Path) -> Path:
    """Draws pictures of several kinds and sizes."""
    random = np.random.default_rng(0)
    for name, size in (("a", (6, 7, 3)), ("b", (17, 22, 3)), ("c", (9, 9, 4)), ("d", (5, 30))):
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(folder / f"{name}.png")
    rows = np.repeat(np.arange(0, 200, 5, dtype=np.uint8)[:, None], 40, 1)
    Image.fromarray(rows).save(folder / "e.png")
    return folder


def main() -> None:
    """Writes the files that are missing, and what all are decoded to."""
    if not (HERE / "bits.npxz").exists():
        write_first()
    if not (HERE / "orders.npxz").exists():
        write_orders()
    if not (HERE / "photos.npxz").exists():
        write_photos()
    found = {path.name: digests(path) for path in sorted(HERE.glob("*.npxz"))}
    DIGESTS.write_text(json.dumps(found, indent=1) + "\n")


def write_orders() -> None:
    """Writes images that are coded in different orders of their pixels."""
    x = np.random.default_rng(0).integers(0, 2, (20, 1, 5, 9), np.uint8)
    y = np.arange(20) % 2
    network = npx.GatedPixelCNN(shape=(1, 6, 6), levels=2, classes=2, orders=8, width=8, blocks=2)
    with keeping_as_files(lambda _: False):
        npx.compress(network, Images(x, y, 2), HERE / "orders.npxz", all_orders=True, threads=1)


@contextmanager
def keeping_as_files(kept: Callable[[Item], bool]) -> Iterator[None]:
    """Keeps fewer pictures as files: those here are smaller as a WebP, and are to be coded."""
    smallest = chunks.smallest_file
    chunks.smallest_file = lambda item, levels: smallest(item, levels) if kept(item) else None
    try:
        yield
    finally:
        chunks.smallest_file = smallest


def is_grey(item: Item) -> bool:
    return item.levels is None or bool((item.levels == item.levels[0]).all())


def write_photos() -> None:
    """Writes pictures by the programs of a pretrained model for pictures of any size."""
    with keeping_as_files(is_grey), tempfile.TemporaryDirectory() as folder:
        npx.compress("photos", pictures(Path(folder)), HERE / "photos.npxz", threads=1)


def write_first() -> None:
    """Writes the files of 2026-11-29."""
    with tempfile.TemporaryDirectory() as folder:
        with keeping_as_files(is_grey):
            for name, kind in (("colour", "PixelSNAIL"), ("mixture", "PixelCNNPP")):
                coding = Coding(name, build(kind))
                npx.compress(coding, pictures(Path(folder)), HERE / f"{name}.npxz", threads=1)
        npx.compress(None, Path(folder), HERE / "files.npxz", threads=1)
    random = np.random.default_rng(0)
    for name, kind, levels in (("classes", "PixelCNN", 16), ("bits", "PixelCNN of two levels", 2)):
        file = build(kind)
        shape = Coding(name, file).program.shape
        x = random.integers(0, levels, (20, *shape), np.uint8)
        y = np.arange(20) % 3 if name == "classes" else None
        npx.compress(Coding(name, file), Images(x, y, levels), HERE / f"{name}.npxz", threads=1)
    digits = npx.load_data("mnist").test.subset(30)
    coding = Coding("mnist-gated", kept_program("mnist-gated"), shipped=True)
    npx.compress(coding, digits, HERE / "digits.npxz", threads=1)


if __name__ == "__main__":
    main()
