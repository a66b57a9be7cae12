"""`nextpixel check`: a line for each check, and an exit status."""

from pathlib import Path

import pytest

from nextpixel.cli.main import main
from nextpixel.evaluation import model_checks
from tests.helpers import ROOT, enter, refused, run, scoring_model, size, succeed

LEAKY = """
import torch
from nextpixel import AutoregressiveModel, Categorical


class MyNet(AutoregressiveModel):
    def __init__(self, *, shape, levels, width=8):
        super().__init__(shape=shape, levels=levels, width=width)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(shape[0], width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(width, shape[0] * levels, 1),
        )

    def forward(self, x, c=None):
        logits = self.layers(x.to(self.dtype)).unflatten(1, (self.shape[0], self.levels))
        return Categorical(logits.movedim(2, -1))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a leaky class, and a saved model."""
    enter(tmp_path, monkeypatch)
    (tmp_path / "leaky_file.py").write_text(LEAKY)
    (tmp_path / "right_file.py").write_text((ROOT / "examples" / "own_model.py").read_text())
    scoring_model(levels=4).save("saved")
    return tmp_path


def test_right_models_pass(capsys: pytest.CaptureFixture[str]) -> None:
    for words, blind in (
        ("saved", "-"),  # not a fault
        ("right_file.MyNet width=8 window=5", "-"),
        ("PixelCNN --shape 3,6,6", "pass"),
    ):
        lines = run(f"check {words}", capsys).splitlines()
        names = [line[:10].rstrip() for line in lines]
        assert names == ["causal", "sums to 1", "cached", "gradients", "blind spot"]
        marks = [line[12:16].strip() for line in lines if not line.startswith("cached")]
        assert marks == ["pass", "pass", "pass", blind]


def test_a_leak_fails_with_a_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "leaky_file.MyNet", "--shape", "1,8,8", "--out", "leak.png"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert "causal      FAIL  row " in out
    assert "sums to 1   FAIL" in out
    assert min(size("leak.png")) > 300


def test_training_by_command_looks_for_a_leak_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searches = []
    real = model_checks.find_leak
    monkeypatch.setattr(
        model_checks, "find_leak", lambda *a, **how: searches.append(1) or real(*a, **how)
    )
    words = "train --data mnist --levels 4 --train.steps 1 --conditional false --model"
    assert main([*words.split(), "leaky_file.MyNet", "--out", "leaky"]) == 2
    assert "MyNet is not causal" in capsys.readouterr().err
    assert not (folder / "leaky").exists()
    succeed(f"{words} right_file.MyNet --model.width 4 --train.batch_size 2 --out right")
    assert len(searches) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("check nowhere.MyNet", "There is no model nowhere.MyNet"),
        ("check saved --levels 3", "A saved model has its own shape"),
        ("check right_file.MyNet width", "given as width=16, not width"),
        ("check right_file.MyNet height=3", "MyNet cannot be made like this"),
        ("check right_file.MyNet width=-3", "MyNet cannot be made like this"),
        ("check right_file.MyNet --shape 3", "--shape takes 3 whole numbers"),
        ("check missing-model", "does not exist"),
    ],
)
def test_mistakes(words: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason in refused(words, capsys)
