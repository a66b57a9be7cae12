"""Comparisons of models on real digits: what they write, resuming, measuring, and mistakes."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel import AutoregressiveModel, Categorical, PixelCNN, load, load_data
from nextpixel.cli.contenders import read_contender
from nextpixel.cli.main import main
from nextpixel.comparison import contenders
from nextpixel.comparison import page as comparison_page
from nextpixel.comparison import run as comparison_run
from nextpixel.comparison.contenders import Budget, Contender
from nextpixel.comparison.measure import (
    cached_seconds,
    classes_in_turn,
    naive_seconds,
    receptive_field,
)
from nextpixel.comparison.page import number
from nextpixel.data import DataRecord
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import evaluate
from nextpixel.training import trainer
from tests.helpers import refused, scoring_model, succeed

RECIPE = """
model: {class_path: %s, init_args: {width: 4, blocks: %d}}
train: {batch_size: 4, save_every: 1}
"""
DATA = "--data mnist --levels 4 --limit 20 --batch-size 2"
SMALL = "--data small.npz --levels 2 --limit 20 --batch-size 2"


def compare(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Runs a comparison that must succeed, and returns what it prints and its progress."""
    status = main(["compare", *words.split()])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two recipes, a comparison of them, and digits of a quarter the size."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "plain.yaml").write_text(RECIPE % ("PixelCNN", 1))
    (folder / "gated.yaml").write_text(RECIPE % ("GatedPixelCNN", 2))
    digits = load_data("mnist").train
    np.savez(folder / "small.npz", x=digits.x[:500, :, ::4, ::4], y=digits.y[:500])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(contenders, "VALIDATIONS", 1)
        patch.setattr(comparison_page, "VALIDATIONS", 1)
        words = f"gated.yaml simple=plain.yaml {DATA} --steps 3 --out out"
        succeed(f"compare {words}")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, as the current one, for comparisons that do not draw for long."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(contenders, "VALIDATIONS", 1)
    monkeypatch.setattr(comparison_page, "VALIDATIONS", 1)
    return folder


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "compare.json").read_text())


def net(**arguments: Any) -> PixelCNN:
    """A small network whose weights reach everything."""
    torch.manual_seed(0)
    model = PixelCNN(levels=4, width=8, head=8, **arguments)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


VALUED = """
import torch
from nextpixel import AutoregressiveModel, Categorical

class Valued(AutoregressiveModel):
    def __init__(self, *, shape, levels, classes=None, width: int = 3):
        super().__init__(shape=shape, levels=levels, classes=classes, width=width)
        if width > 5:
            raise ValueError("width is at most 5")
        self.logits = torch.nn.Parameter(torch.ones(*shape, levels))
        self.total = self.logits.sum().item()

    def forward(self, x, c=None):
        return Categorical(self.logits.expand(len(x), *self.logits.shape))
"""


class Uniform(AutoregressiveModel):
    """A model without a cached path, and without `encode`."""

    def __init__(self, *, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape=shape, levels=levels)

    def forward(self, x: torch.Tensor, c: object = None) -> Categorical:
        return Categorical(torch.zeros(*x.shape, self.levels))


# --- what is written ------------------------------------------------------------------------------


def test_numbers_are_those_of_the_runs(here: Path) -> None:
    written = results(here / "out")
    assert written["command"].startswith("nextpixel compare gated.yaml simple=plain.yaml --data")
    assert (written["data"], written["levels"]) == ("mnist", 4)
    gated, simple = written["models"]
    assert (gated["label"], gated["model"]) == ("gated", "GatedPixelCNN")
    assert (simple["label"], simple["model"]) == ("simple", "PixelCNN")
    test = load_data("mnist", levels=4).test.subset(20)
    for row in (gated, simple):
        run = here / "out" / row["label"]
        model = load(run)
        assert row["score"] == dataclasses.asdict(evaluate(model, test))
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert (row["steps"], row["batch_size"]) == (3, 4)
        assert row["seconds"] == lines[-1]["seconds"]
        assert row["images_per_second"] == np.median([x["images_per_second"] for x in lines])
        assert row["naive"] > row["cached"] > 0
        assert 0 < row["seen"] < row["earlier"] == 14 * 28 + 14
        assert row["loaded"] is False
        assert row["conditional"] is True


def test_table_and_pictures(here: Path) -> None:
    page = (here / "out" / "compare.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| ")]
    row = next(line for line in table if line.startswith("| simple"))
    score = results(here / "out")["models"][1]["score"]
    assert f"{score['nats']:.2f} ± {score['nats_error']:.2f}" in row
    assert f"{score['bits_per_dim']:.4f} ± {score['bits_per_dim_error']:.4f}" in row
    assert re.search(r"\| +3 x 4 \| +12 \|", row)
    assert "| images seen |" in page
    assert "recipes with a larger batch see more" in page
    for word in ("compare.png", "completions.png", "PyTorch", "nextpixel compare gated.yaml"):
        assert word in page
    with Image.open(here / "out" / "compare.png") as picture:
        assert picture.width > 1000
    with Image.open(here / "out" / "completions.png") as picture:
        # Original, given and a row each; a column each digit.
        assert picture.width > 10 * 28
        assert picture.width / picture.height == pytest.approx(10 / 4, rel=0.2)


def test_trained_models_are_loaded(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = compare(f"out/gated other=out/simple/last {DATA} --out {tmp_path}", capsys)
    assert "steps\n" not in err
    assert out.count("3 x 4 (loaded)") == 2
    first, second = results(tmp_path)["models"]
    assert first["score"] == results(here / "out")["models"][0]["score"]
    assert (first["label"], second["label"]) == ("gated", "other")
    assert first["loaded"] is second["loaded"] is True
    assert {path.name for path in tmp_path.iterdir()} == {
        "compare.md",
        "compare.json",
        "compare.png",
        "completions.png",
    }


# --- going on, budgets ----------------------------------------------------------------------------


def test_second_call_trains_nothing_and_a_stopped_one_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"gated.yaml simple=plain.yaml {SMALL} --steps 3 --out stopped"
    trained: list[int] = []
    step = trainer.Run.train_step

    def counted(self: trainer.Run) -> dict[str, float]:
        if len(trained) == 4:
            trained.append(self.step)
            raise KeyboardInterrupt
        trained.append(self.step)
        return step(self)

    monkeypatch.setattr(trainer.Run, "train_step", counted)
    assert main(["compare", *words.split()]) == 130
    assert "Give the same command again" in capsys.readouterr().err
    assert trained == [0, 1, 2, 0, 1]
    compare(words, capsys)
    assert trained[5:] == [1, 2]  # from the second model's last checkpoint
    state = (here / "stopped" / "simple" / "state.pt").read_bytes()
    _, err = compare(words, capsys)
    assert len(trained) == 7
    assert err.count("is trained already") == 2
    assert (here / "stopped" / "simple" / "state.pt").read_bytes() == state


def test_samples_are_of_classes_that_had_training_images() -> None:
    model = scoring_model(classes=3)
    model.data_record = DataRecord(untrained=(1,))
    c = classes_in_turn(model, 5)
    assert c is not None
    assert c.tolist() == [0, 2, 0, 2, 0]
    assert classes_in_turn(scoring_model(), 5) is None


def test_seconds_become_steps(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def measure(contender: Contender, *rest: Any) -> float:
        measured.append(contender.label)
        seconds = seconds_per_step(contender, *rest)
        assert seconds > 0
        return 0.3

    seconds_per_step = comparison_run.seconds_per_step
    monkeypatch.setattr(comparison_run, "seconds_per_step", measure)
    for _ in range(2):
        _, err = compare(f"plain.yaml {SMALL} --seconds 1 --out seconds", capsys)
    assert measured == ["plain"]
    assert "is trained already" in err
    (row,) = results(here / "seconds")["models"]
    assert row["steps"] == 3
    assert "1 second of steps" in (here / "seconds" / "compare.md").read_text()


def test_options_keep_the_recipe_but_for_the_budget(here: Path) -> None:
    options = read_contender("plain.yaml", Path("out")).train_options(100)
    assert (options["steps"], options["batch_size"], options["warmup"]) == (100, 4, 25)
    assert (options["valid_every"], options["save_every"]) == (100, 1)


# --- measuring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_receptive_field_is_the_one_the_kernels_have(channels: int) -> None:
    model = net(shape=(channels, 13, 13), blocks=1)
    x = torch.randint(4, (8, channels, 13, 13), generator=torch.Generator().manual_seed(0))
    # 4 to the left; on the row d above 4 to the left and min(d, 2) + 2 to the right of the centre.
    pixels = 4 + sum(4 + 1 + min(up, 2) + 2 for up in range(1, 5))
    channel = channels // 2
    assert receptive_field(model, x) == (channels * pixels + channel, channels * 6 * 14 + channel)
    assert model.encode(x).shape == x.shape  # the model itself is as it was
    assert model.dtype == torch.float32


def test_a_model_without_a_cache_or_inputs_has_no_such_numbers() -> None:
    model = Uniform(shape=(1, 5, 5), levels=4)
    assert cached_seconds(model, 2, lambda done: None) is None
    assert naive_seconds(model, 2, lambda done: None) > 0
    assert receptive_field(model, torch.zeros(2, 1, 5, 5, dtype=torch.int64)) == (None, 12)


def test_full_passes_are_scaled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clock = net(shape=(1, 10, 10), blocks=1), [0.0]
    forward = model.forward

    def counted(x: torch.Tensor, c: object = None) -> Any:
        clock[0] += 2
        return forward(x, c)

    monkeypatch.setattr(model, "forward", counted)
    monkeypatch.setattr("nextpixel.comparison.measure.time.perf_counter", lambda: clock[0])
    assert naive_seconds(model, 4, lambda done: None) == pytest.approx(2 * 100 / 4)


def test_numbers_have_three_digits() -> None:
    values = {0.19: "0.190", 99.99: "100", 1234.5: "1,234", 40.26: "40.3", 0.0123: "0.0123"}
    assert {value: number(value) for value in values} == values
    assert number(None) == "-"


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("plain.yaml", "plain is to be trained: give every model the same budget"),
        ("plain.yaml --steps 3 --seconds 3", "give one of them"),
        ("plain.yaml --steps 0", "whole number above 0"),
        ("nothing.yaml --steps 3", "There is no recipe nothing.yaml"),
        ("NoSuchNet --steps 3", "NoSuchNet does not exist.*GatedPixelCNN"),
        ("no.such.Net --steps 3", "no.such.Net"),
        ("plain.yaml plain=gated.yaml --steps 3", "Two models are called plain"),
        ("a/b=plain.yaml --steps 3", "'a/b' cannot name a folder"),
        ("mnist", "mnist: The model is for .*256 levels"),
        ("gated=plain.yaml --steps 3 --out out", "out/gated holds another model than plain.yaml"),
        ("gated.yaml --steps 4 --out out", "out/gated was trained with steps=3, not 4"),
        ("levels.yaml --steps 3", "levels.yaml is for 2 levels.*give --levels 2"),
        ("broken.yaml --steps 3", "broken.yaml: There is no option --train.stpes"),
        ("wide.yaml --steps 3", "wide.yaml: width must be at least"),
        ("plain.yaml --steps 3 --device cuda:99", "no device cuda:99"),
    ],
)
def test_mistakes_get_one_sentence(
    here: Path, words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "levels.yaml").write_text("levels: 2\n" + RECIPE % ("PixelCNN", 1))
    (here / "broken.yaml").write_text("train: {stpes: 3}")
    (here / "wide.yaml").write_text(
        "model: {class_path: PixelCNN, init_args: {width: 0}}\ntrain: {batch_size: 4}\n"
    )
    out = "" if "--out" in words else "--out wrong"
    assert re.search(sentence, refused(f"compare {words} {DATA} {out}", capsys))
    assert not (here / "wrong").exists()


@pytest.fixture
def valued(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's model in the current folder, whose `__init__` reads values of its weights."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "valued", raising=False)
    (here / "valued.py").write_text(VALUED)


@pytest.mark.usefixtures("valued")
def test_a_model_that_reads_its_weights_is_compared(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = compare(f"mine=valued.Valued {SMALL} --steps 1 --out mine", capsys)
    assert "valued.Valued" in out


@pytest.mark.usefixtures("valued")
def test_a_model_that_refuses_its_arguments(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "valued.yaml").write_text("model: {class_path: valued.Valued, init_args: {width: 9}}")
    error = refused(f"compare valued.yaml {SMALL} --steps 1 --out refused", capsys)
    assert "valued.yaml: Valued cannot be made like this: width is at most 5." in error


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"simple": 3}'])
@pytest.mark.parametrize("file", ["steps.json", "simple/last/config.json", "simple/config.yaml"])
def test_damaged_files_get_one_sentence(
    file: str, content: bytes, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("state.pt", "config.yaml", "last"):
        source, copy = here / "out" / "simple" / name, tmp_path / "simple" / name
        copy.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
    (tmp_path / file).write_bytes(content)
    error = refused(f"compare simple=plain.yaml {DATA} --seconds 1 --out {tmp_path}", capsys)
    assert f"{tmp_path / file} is truncated, corrupt or no file of a comparison" in error


def test_a_damaged_run_is_noticed_before_it_is_measured(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("out/simple", tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("train: {}")
    words = f"other={tmp_path}/run plain.yaml {DATA} --steps 3 --out {tmp_path}/new"
    error = refused(f"compare {words}", capsys)
    assert f"{tmp_path}/run/config.yaml is truncated, corrupt or no file" in error


def test_budget_is_one_number() -> None:
    with pytest.raises(UserError, match="give one of them"):
        Budget(1, 1)
    assert not Budget().given
    assert Budget(seconds=3).given
