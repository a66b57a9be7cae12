"""tools/cut_crops.py: crops of pictures, of which no pixel is in two splits."""

import runpy
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel.data import load
from tests.helpers import ROOT

SCRIPT = str(ROOT / "tools" / "cut_crops.py")
SPLITS = ("train", "valid", "test")


def crop(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, words)])
    runpy.run_path(SCRIPT, run_name="__main__")


def numbered(first: int, height: int, width: int) -> Image.Image:
    """A picture whose pixels' colours are all different: their numbers, in three bytes."""
    numbers = first + np.arange(height * width).reshape(height, width)
    colours = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=2)
    return Image.fromarray(colours.astype(np.uint8))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    numbered(0, 40, 100).save(folder / "wide.png")
    numbered(10_000, 110, 31).save(folder / "high.png")
    return folder


def test_no_pixel_is_in_two_splits(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "crops"
    crop(monkeypatch, pictures, out, "--size", 9, "--stride", 4)
    data = load(out)
    assert (data.shape, data.classes) == ((3, 9, 9), None)
    pixels = {}
    for split in SPLITS:
        x = getattr(data, split).x.astype(np.int64)
        pixels[split] = x[:, 0] << 16 | x[:, 1] << 8 | x[:, 2]
    # In files' order: high (31 columns), then wide (100 columns), each a square of its picture.
    for numbers in pixels.values():
        columns = np.where(numbers[:, 0, 0] < 10_000, 100, 31)
        rows = np.arange(9)[:, None] * columns[:, None, None] + np.arange(9)
        assert np.array_equal(numbers, numbers[:, :1, :1] + rows)
    for one, other in combinations(SPLITS, 2):
        assert not np.isin(pixels[one], pixels[other]).any()
    # Wide is cut at columns 80 and 90, high at rows 88 and 99.
    assert len(pixels["train"]) == 8 * 18 + 20 * 6
    for split in ("valid", "test"):
        assert len(pixels[split]) == 4 + 3
        assert len(np.unique(pixels[split])) == pixels[split].size


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("{out}", "--size", 36), "wide.png is 100 x 40 pixels"),  # high.png would do
        (("{pictures}",), "exists: remove it"),
        (("{out}", "--stride", 0), "not a whole number above 0"),
    ],
)
def test_refused(
    words: tuple[object, ...],
    reason: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    numbered(0, 120, 40).save(pictures / "high.png")
    out = tmp_path / "crops"
    filled = [str(word).format(out=out, pictures=pictures) for word in words]
    with pytest.raises(SystemExit) as stop:
        crop(monkeypatch, pictures, *filled)
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err
    assert not out.exists()


def test_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        crop(monkeypatch, tmp_path, tmp_path / "crops")
    assert "no pictures" in capsys.readouterr().err


def test_a_damaged_picture_is_named(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = (pictures / "wide.png").read_bytes()
    (pictures / "wide.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit) as stop:
        crop(monkeypatch, pictures, tmp_path / "crops", "--size", 10)
    assert stop.value.code == 2
    assert "wide.png" in capsys.readouterr().err
