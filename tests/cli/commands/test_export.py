"""`nextpixel export`: a program that draws and scores as the model does, and mistakes."""

import hashlib
import importlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nextpixel import PixelCNN, UserError, load
from nextpixel.data import DataRecord
from nextpixel.engine import Program
from tests.helpers import assert_refused, no_space, refused, run


def test_a_program_draws_and_scores_as_the_model(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run("export run --program new/digits.program", capsys)
    path = here / "new" / "digits.program"
    assert out.splitlines() == [
        f"Wrote new/digits.program, {path.stat().st_size / 1e6:.1f} MB: images of 1 x 28 x 28 "
        "with 4 levels, given one of 10 classes",
        "Try nextpixel sample new/digits.program; from Python, without PyTorch: "
        "nextpixel.engine.Program.load('new/digits.program')",
    ]
    assert list(path.parent.iterdir()) == [path]
    model, program = load("run"), Program.load(path)
    drawn = program.sample(2, classes=[3, 8], seed=4)
    assert np.array_equal(drawn, model.sample(2, [3, 8], seed=4).numpy())
    expected = model.score(torch.from_numpy(drawn), [3, 8]).detach()
    np.testing.assert_allclose(program.log_prob(drawn, classes=[3, 8]), expected, rtol=1e-4)


def test_a_program_says_which_model_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("export run --program a.program", capsys)
    config = json.loads(Path("run/best/config.json").read_text())
    weights = Path("run/best", config["weights"]).read_bytes()
    says = Program.load("a.program").description
    assert says["nextpixel"] == version("nextpixel")
    assert says["model"] == "GatedPixelCNN"
    assert says["sha256"] == hashlib.sha256(weights).hexdigest()
    assert says["hyperparameters"]["shape"] == [1, 28, 28]
    assert says["hyperparameters"]["levels"] == 4
    assert says["class_names"] == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("context", "words"),
    [
        ({}, "without a context\nTry nextpixel sample"),
        ({"vector": 3}, "given a vector of 3 numbers\nFrom Python"),
        ({"classes": 2, "vector": 3}, "given one of 2 classes and given a vector of 3 numbers\n"),
        ({"image": (1, 4, 4)}, "features of an image\nPyTorch computes these"),
    ],
)
def test_it_says_what_a_program_needs(
    context: dict[str, int], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PixelCNN(shape=(1, 4, 4), levels=2, width=4, blocks=1, **context).save(tmp_path)
    assert words in run(f"export {tmp_path} --program {tmp_path}/a.program", capsys)


def test_a_model_made_in_python_and_changed(tmp_path: Path) -> None:
    model = PixelCNN(shape=(1, 4, 4), levels=2, classes=2, width=4, blocks=1).eval()
    model.data_record = DataRecord(class_names=("dark", "light"))
    model.save_program(tmp_path / "a.program")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    model.save_program(tmp_path / "b.program")
    first, second = (Program.load(tmp_path / f"{name}.program") for name in "ab")
    assert first.description["class_names"] == ["dark", "light"]
    assert first.description["sha256"] != second.description["sha256"] == model.digest()
    assert np.array_equal(second.sample(8, classes=1), model.sample(8, 1).numpy())


class Odd(PixelCNN):
    """A network with an operation that the engine lacks."""

    def network(self, x: Tensor, biases: Any, cache: Any = None) -> Tensor:
        return super().network(x, biases, cache).erfinv()


def test_the_engine_cannot_run_all_models(tmp_path: Path) -> None:
    double = PixelCNN(shape=(1, 4, 4), levels=2, width=4, blocks=1).double()
    with pytest.raises(UserError, match="engine cannot run this model: its weights are not"):
        double.save_program(tmp_path / "a.program")
    with pytest.raises(UserError, match=r"engine cannot run this model: .*erfinv"):
        Odd(shape=(1, 4, 4), levels=2, width=4, blocks=1).save_program(tmp_path / "a.program")
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_cached_path(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(here)
    own = importlib.import_module("my_file").MyNet(shape=(1, 4, 4), levels=2)
    own.save(tmp_path / "own")
    words = f"export {tmp_path}/own --trust --program {tmp_path}/a.program"
    assert_refused(words, "own (MyNet) cannot be compiled: it has no cached", tmp_path, capsys)


def test_a_full_disk_keeps_the_old_program(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("export run --program kept.program", capsys)
    before, files = Path("kept.program").read_bytes(), sorted(here.rglob("*"))
    monkeypatch.setattr("os.fsync", no_space)
    assert "disk is full" in refused("export run --program kept.program", capsys)
    assert Path("kept.program").read_bytes() == before
    assert sorted(here.rglob("*")) == files


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("export run", "Say what to write: --program FILE or --web FILE.html"),
        ("export run --program a.bin", "must end in .program"),
        ("export run --program seven.png/a.program", "no folder"),
        ("export vq-mnist --program a.program", "holds a VQ-VAE and its prior"),
        ("export judge-mnist --program a.program", "holds a classifier"),
        ("export mnst --program a.program", "did you mean mnist?"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(words, reason, here, capsys)


def test_guidance_needs_a_model_that_was_trained_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    PixelCNN(shape=(1, 4, 5), levels=3, width=8, blocks=1, classes=4).save("own")
    for name in ("cifar10", "own"):
        run(f"export {name} --program {name}.program", capsys)
    sample = "sample {}.program --class 3 -n 1 --guidance 2"
    assert_refused(sample.format("cifar10"), "without train.drop_context", tmp_path, capsys)
    run(sample.format("own"), capsys)  # nobody knows how it was trained
