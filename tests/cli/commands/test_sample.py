"""`nextpixel sample`: the images that Python samples, grids, classes, and mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel import GatedPixelCNN, load
from nextpixel.data import DataRecord
from nextpixel.viz import images as pictures
from tests.helpers import arrays, assert_refused, no_space, pixels, process, refused, run, size


def test_the_command_and_python_sample_the_same(folder: Path) -> None:
    done = process(
        "sample run -n 6 --class 3 --seed 5 --out out/s.png --npz out/s.npz --gif out/s.gif",
        cwd=folder,
    )
    assert done.stdout == "Sampled 6 images: out/s.png, out/s.gif, out/s.npz\n"
    drawn = arrays(folder / "out" / "s.npz")
    expected = load(folder / "run").sample(6, torch.full((6,), 3), seed=5)
    np.testing.assert_array_equal(drawn["x"], expected.numpy())
    assert (drawn["y"].tolist(), drawn["levels"], drawn["x"].dtype) == ([3] * 6, 4, np.uint8)
    with Image.open(folder / "out" / "s.gif") as film:
        assert film.n_frames > 50
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["s.gif", "s.npz", "s.png"]


def test_one_image_is_no_plural(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sample run -n 1 --class 3 --out one.png", capsys) == "Sampled 1 image: one.png\n"
    assert "(1 image)" in run("eval run --limit 1", capsys)
    assert "of 1 image correctly" in run("eval run --limit 1 --classify", capsys)


def test_a_still_picture_is_no_film(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "sample run -n 1 --out film.gif"
    assert_refused(words, "--gif of nextpixel sample writes a film", here, capsys)


def test_each_row_shows_a_class(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Sampled 80 images" in run("sample run --out rows.png --npz rows.npz", capsys)
    drawn = arrays("rows.npz")
    assert drawn["y"].tolist() == 8 * list(range(10))
    x = drawn["x"].reshape(8, 10, 1, 28, 28).swapaxes(0, 1).reshape(-1, 1, 28, 28)
    expected = pictures.grid(x, 4, columns=8, row_labels=list("0123456789"))
    assert pixels("rows.png") == expected.tobytes()
    run("sample run -n 5 --class 3,7 --out rows.png --npz rows.npz", capsys)
    expected = pictures.grid(
        arrays("rows.npz")["x"], 4, columns=3, places=[0, 3, 1, 4, 2], row_labels=["3", "7"]
    )
    assert pixels("rows.png") == expected.tobytes()
    run("sample run -n 2 --class 3,7,9 --out few.png --npz few.npz", capsys)
    assert pixels("few.png") == pictures.grid(arrays("few.npz")["x"], 4).tobytes()
    run("sample run -n 5 --class 3,7 --columns 5 --out row.png", capsys)
    assert pixels("row.png") == pictures.grid(arrays("rows.npz")["x"], 4, columns=5).tobytes()


def test_sample_names_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = GatedPixelCNN(shape=(1, 4, 4), levels=2, classes=10, width=2, blocks=1)
    model.save(tmp_path / "ids")
    model.data_record = DataRecord(tuple(f"number {i}" for i in range(10)))
    model.save(tmp_path / "names")
    for name in ("ids", "names"):
        run(f"sample {tmp_path / name} --class 0,9 -n 2 --out {tmp_path / name}.png", capsys)
    assert size(tmp_path / "names.png")[0] > size(tmp_path / "ids.png")[0] + 40


def test_interpolation_keeps_the_noise_in_a_row(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "-n 2 --columns 3 --seed 5 --out i.png --npz i.npz"
    run(f"sample run --interpolate --class 3,8 {options}", capsys)
    mixes = torch.zeros(3, 10)
    mixes[:, 3], mixes[:, 8] = torch.tensor([1, 0.5, 0]), torch.tensor([0, 0.5, 1])
    expected = [load("run").sample(1, c, seed=5, numbers=[row]) for row in (0, 1) for c in mixes]
    drawn = arrays("i.npz")["x"]
    np.testing.assert_array_equal(drawn, torch.cat(expected).numpy())
    grid = pictures.grid(drawn, 4, columns=3, column_labels=["3", "50 %", "8"])
    assert pixels("i.png") == grid.tobytes()


def test_classes_in_turn_and_mixed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("sample run -n 4 --class 3,5 --out a.png --npz turn.npz", capsys)
    assert arrays("turn.npz")["y"].tolist() == [3, 5, 3, 5]
    run("sample run -n 4 --class 3=0.25,5=0.75 --out a.png --npz mix.npz", capsys)
    mix = torch.tensor([0, 0, 0, 0.25, 0, 0.75, 0, 0, 0, 0])
    drawn = arrays("mix.npz")
    np.testing.assert_array_equal(drawn["x"], load("run").sample(4, mix).numpy())
    assert "y" not in drawn


def test_all_at_once_is_shown_next_to_the_samples(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sample run -n 2 --out right.png", capsys)
    run("sample run -n 2 --all-at-once --out both.png", capsys)
    assert size("both.png")[0] > 2 * size("right.png")[0]


def test_a_full_disk_keeps_the_old_picture(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sample run -n 1 --out kept.png", capsys)
    before = Path("kept.png").read_bytes()
    files = sorted(here.rglob("*"))
    monkeypatch.setattr(Image.Image, "save", no_space)
    assert "disk is full" in refused("sample run -n 2 --out kept.png", capsys)
    assert Path("kept.png").read_bytes() == before
    assert sorted(here.rglob("*")) == files


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("sample run --class 10", "no class 10"),
        ("sample run --class=-1", "no class -1"),
        ("sample run --class x", "There is no class x"),
        ("sample run --class ²", "There is no class ²"),
        ("sample run --class 3=x", "3=x is no class with a weight"),
        ("sample run --class 3=nan", "sum to 1"),
        ("sample run --class=-1=1", "There is no class -1"),
        ("sample run --class 3,4=1", "3 is no class with a weight"),
        ("sample run --class 3,10", "no class 10"),
        ("sample run --interpolate", "two classes"),
        ("sample run --interpolate --class 3", "two classes"),
        ("sample run --interpolate --class 3,8,5", "two classes"),
        ("sample run --interpolate --class 3=0.5,8=0.5", "two classes"),
        ("sample run --interpolate --class 3,10", "no class 10"),
        ("sample run --interpolate --class 3,8 --columns 1", "at least 2 columns"),
        ("sample run --interpolate --class 3,8 --all-at-once", "--all-at-once"),
        ("sample run --all-at-once --guidance 2", "leave one out"),
        ("sample run --gif g.gif --sampler fixed-point", "one pixel after another"),
        ("sample run -n 0", "whole number above 0"),
        ("sample run --seed -1", "whole number from 0"),
        ("sample run --seed 9223372036854775808", "whole number from 0"),
        ("sample run --guidance 2", "trained without train.drop_context"),
        ("sample cifar10 --guidance 2", "trained without train.drop_context"),
        ("sample run --class 3=5,8=5", "The weights of a mix sum to 1"),
        ("sample run --class 3=0.5", "The weights of a mix sum to 1"),
        ("sample run --class 3=0.98", "The weights of a mix sum to 1"),
        ("sample run --class 3=0", "The weights of a mix sum to 1"),
        ("sample run --class 3=-1,8=2", "The weights of a mix sum to 1"),
        ("sample run --class 3.0", "There is no class 3.0"),
        ("sample run --temperature 0", "above 0"),
        ("sample run --temperature nan", "above 0"),
        ("sample run --temperature warm", "warm"),
        ("sample run --out grid", ".png"),
        ("sample run --out grid.txt", ".png"),
        ("sample run --out seven.png/grid.png", "no folder"),
        ("sample run --gif grid.png", "must end in .gif"),
        ("sample run --npz grid.png", "must end in .npz"),
        ("sample mnst", "did you mean mnist?"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(words, reason, here, capsys)
