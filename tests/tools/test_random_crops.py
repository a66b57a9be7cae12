"""tools/random_crops.py: squares of pictures, of which no picture is in training and elsewhere."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel.data import load
from tests.helpers import ROOT

SCRIPT = str(ROOT / "tools" / "random_crops.py")


def crop(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, words)])
    runpy.run_path(SCRIPT, run_name="__main__")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Each has a colour of its own in its red, and its pixels' places in the others."""
    (folder := tmp_path / "pictures").mkdir()
    for k in range(10):
        rows, columns = np.indices((20, 24 + k))
        x = np.stack([np.full_like(rows, 10 * k), rows, columns], 2).astype(np.uint8)
        Image.fromarray(x).save(folder / f"{k}.png")
    return folder


def test_squares_are_parts_of_pictures_half_of_them_mirrored(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "squares.npz"
    crop(monkeypatch, pictures, out, "--size", 8, "--count", 300, "--scales", 1)
    data = load(out)
    assert (data.shape, len(data.train), len(data.valid)) == ((3, 8, 8), 300, 1000)
    x = data.train.x.astype(int)
    assert (x[:, 1] == x[:, 1, :1, :1] + np.arange(8)[:, None]).all()
    steps = x[:, 2, 0, 1] - x[:, 2, 0, 0]
    assert (x[:, 2] == x[:, 2, :1, :1] + steps[:, None, None] * np.arange(8)).all()
    assert 100 < (steps == -1).sum() < 200
    assert set(steps.tolist()) == {-1, 1}
    seen = {split: set(getattr(data, split).x[:, 0, 0, 0]) for split in ("train", "valid", "test")}
    assert seen == {"train": {*range(0, 80, 10), 90}, "valid": {80}, "test": {80}}


def test_smaller_scales_are_taken_less_often(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "squares.npz"
    crop(monkeypatch, pictures, out, "--size", 8, "--count", 600, "--scales", 1, 0.5)
    x = load(out).train.x.astype(int)
    whole = (x[:, 1, -1, 0] - x[:, 1, 0, 0] == 7).mean()
    assert 0.75 < whole < 0.85  # a picture of half the sides has a quarter of the pixels


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--scales", "0"), "scales are above 0"),
        (("--scales", "nan"), "scales are above 0"),
        (("--size", "21"), "No picture is 21 pixels"),
    ],
)
def test_mistakes_end_in_a_sentence(
    words: tuple[str, ...],
    reason: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        crop(monkeypatch, pictures, tmp_path / "a.npz", *words)
    assert reason in capsys.readouterr().err
    with pytest.raises(SystemExit):
        crop(monkeypatch, pictures, tmp_path / "a")
    assert "name a new .npz file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
