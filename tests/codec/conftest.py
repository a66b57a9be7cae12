"""Pictures and compressed files for the tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nextpixel.codec import compress as compressing
from tests.codec.files import PROFILE, pack, some_items, source_of, write_png
from tests.engine.test_same_bits import build


@pytest.fixture
def colours() -> bytes:
    """A program of small colour pictures of 256 levels."""
    return build("PixelSNAIL")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Makes pictures of many kinds."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 256, (9, 11, 4), np.uint8)

    def save(name: str, x: NDArray[Any], mode: str, **how: Any) -> None:
        Image.fromarray(x).convert(mode).save(folder / name, **how)

    save("colour.png", values[..., :3], "RGB")
    save("flat.png", np.zeros((40, 50, 3), np.uint8), "RGB")
    save("grey.png", values[..., 0], "L")
    save("sub/bits.png", values[..., 0], "1")
    save("palette.png", values[..., :3], "P")
    save("alpha.png", values, "RGBA")
    save("same.bmp", values[..., :3], "RGB")
    save("same.png", values[::-1, :, :3], "RGB")
    save("photo.jpg", values[..., :3], "RGB")
    Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    write_png(folder / "deep-colour.png", 16, 2, bytes(range(24)))  # Pillow drops low bytes
    save("cmyk.jpg", values[..., :3], "CMYK")
    Image.fromarray(values).save(folder / "alpha.tif")
    save("IN-CAPITALS.PNG", values[..., :3], "RGB")
    write_png(folder / "clear.png", 4, 0, b"\x12\x34", b"tRNS", b"\0\1")  # which it does not scale
    exif = Image.Exif()
    exif[0x112] = 6
    save("turned.jpg", values[..., :3], "RGB", exif=exif)
    save("profile.png", np.zeros((40, 50, 3), np.uint8), "RGB", icc_profile=PROFILE)
    frames = [Image.fromarray(values[..., k]) for k in range(3)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    (folder / "broken.png").write_bytes(b"\x89PNG no more")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compresses 20 images in 5 chunks."""
    monkeypatch.setattr(compressing, "MOST_IMAGES", 4)
    file = build("PixelCNN of two levels")
    pack(source_of(some_items(file)), tmp_path / "a.npxz", file)
    return tmp_path / "a.npxz"
