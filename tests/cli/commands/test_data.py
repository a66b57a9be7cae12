"""`nextpixel data`: lists and describes data sets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel import load_data
from nextpixel.data.sound_files import write_wav
from tests.helpers import assert_refused, process, run, size


def test_data_lists_the_data_sets(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("data", capsys)
    for name in ("mnist", "fashion-mnist", "cifar10", "binarized-mnist", "mnist-dynamic"):
        assert f"\n{name} " in f"\n{out}"


def test_data_describes_a_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("data mnist-dynamic --out shown/dynamic.png", capsys)
    assert "1 x 28 x 28, 2 levels" in out
    assert "train   55,000 images, mean 0.1307" in out
    assert "test    10,000 images, mean 0.132" in out
    assert "0 (5434), 1 (6212)" in out
    with Image.open("shown/dynamic.png") as picture:
        assert set(np.unique(np.asarray(picture))) == {0, 244, 255}  # bits, and the paper


def test_data_describes_your_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = load_data("mnist").test
    np.savez("own.npz", x=test.x[:40], y=test.y[:40])
    assert "train       32 images" in run("data own.npz", capsys)
    assert size("own.png") > (100, 100)


def test_a_warning_is_one_sentence(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 24_000)
    for number in range(30):
        write_wav(tmp_path / "long" / f"{number}.wav", noise if number == 0 else noise[:800], 8000)
    done = process("data wavs:long --out some.png", cwd=tmp_path)
    assert done.stderr == (
        "nextpixel: 1 of the 30 sounds of long are longer than 2.30 s, and only their beginnings "
        "are used: cut them into pieces if the rest matters.\n"
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("data nothing", "no data set, file or folder 'nothing'"),
        ("data mnist --levels 300", "300"),
        ("data mnist --resize 14", "resize"),
        ("data mnist --channels 2", "channels"),
        ("data mnist --out x", ".png"),
        ("data --levels 4", "name it, or leave them out"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(words, reason, here, capsys)
