"""`nextpixel start`: from a folder of pictures to a page."""

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nextpixel import load, load_data
from nextpixel.cli.commands import start
from nextpixel.cli.main import main, read
from nextpixel.cli.train_options import train_settings
from nextpixel.data import DataRecord, Dataset, Images
from nextpixel.models import GatedPixelCNN, PixelCNNPP
from nextpixel.training import TrainArgs, choosing
from nextpixel.training.choosing import Plan, choose
from nextpixel.training.estimate import Estimate
from tests.helpers import refused, size


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 60 small pictures in two classes, two of them the same."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for i in range(60):
        path = tmp_path / "pictures" / ("dark", "light")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        x = random.integers(0, 60, (8, 8, 3)) + 120 * (i % 2)
        Image.fromarray(x.astype(np.uint8)).save(path)
    (tmp_path / "pictures/dark/copy.png").write_bytes(
        (tmp_path / "pictures/dark/0.png").read_bytes()
    )
    return tmp_path


def test_from_a_folder_to_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "pictures", "--minutes", "0.1", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    out = Path("runs/pictures")
    data = load_data("pictures")
    assert f"{len(data.train):,} train" in said
    assert "Duplicates: 1" in said
    assert re.search(r"2: dark \(\d+\), light \(\d+\)\n", said)
    assert "-n 64 --class dark --out" in said
    assert "PixelCNN++ of width 16" in said
    assert size(out / "pictures.png") > (50, 50)
    page = (out / "report.html").read_text()
    for heading in (
        "The pictures",
        "How well it predicts",
        "New pictures",
        "Most and least likely test pictures",
        "Hidden halves",
        "Learning curve",
        "What next",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "bytes as PNG files" in page
    assert "PNG" in said
    assert load(out).classes == 2
    # The command that does the same is one that the parser takes, and describes this run.
    command = re.search(r"by hand:\n  nextpixel (.*)", said)
    assert command is not None
    config = yaml.safe_load((out / "config.yaml").read_text())
    words = command[1].split()
    assert words[words.index("--model.width") + 1] == str(config["model"]["init_args"]["width"])
    assert words[words.index("--train.steps") + 1] == str(config["train"]["steps"])
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["seconds"] < 60
    assert "already holds a run" in refused("start pictures --minutes 0.1", capsys)


def test_a_file_is_no_run_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("mine")
    assert "taken is a file" in refused("start pictures --out taken", capsys)
    assert Path("taken").read_text() == "mine"


def test_stopped_while_the_page_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is trained and saved by then, and the last line says how to go on."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "report", stop)
    assert main(["start", "pictures", "--minutes", "0.05", "--threads", "1"]) == 130
    assert "Continue with: nextpixel train --resume runs/pictures" in capsys.readouterr().err
    assert load("runs/pictures").classes == 2


def test_next_commands_are_whole(tmp_path: Path) -> None:
    """Names with spaces are quoted, and a class is named unless its name is taken for an id."""

    def commands(*names: str, untrained: tuple[int, ...] = ()) -> str:
        model = GatedPixelCNN(shape=(1, 4, 4), levels=4, classes=2, width=4, blocks=1)
        model.data_record = DataRecord(class_names=names, untrained=untrained)
        return start.next_commands(model, tmp_path / "my run", 1.0, 10)

    assert f"sample '{tmp_path}/my run' -n 64 --class 'stop sign' --out" in commands(
        "stop sign", "x"
    )
    assert "--class x " in commands("stop sign", "x", untrained=(0,))
    assert "--class 0 " in commands("1", "2")
    assert "--class 0 " in commands("a,b", "c")


def test_what_is_left_out_is_on_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the folder is in the cache already, so that no warning names it."""
    Path("pictures/dark/broken.png").write_bytes(b"no picture")
    Path("pictures/notes.txt").write_text("hello")
    with pytest.warns(UserWarning, match="Left out of pictures"):
        load_data("pictures")
    sections = start.look("pictures", load_data("pictures"), folder)
    missing = "1 unreadable file (dark/broken.png), 1 file without images (notes.txt)"
    assert ("Left out", missing) in sections[0].table
    assert main(["data", "pictures"]) == 0
    assert f"  left out: {missing}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "",
        "nothing",
        "pictures --minutes 0",
        "pictures --minutes nan",
        "pictures --device nowhere",
    ],
)
def test_mistakes(words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(f"start {words}", capsys)
    assert not Path("runs").exists()
    Path("taken").write_text("")
    assert "taken is a file: name another" in refused("start pictures --out taken", capsys)


def test_large_or_mixed_pictures_are_resized(folder: Path) -> None:
    assert start.side_for("pictures") is None
    Image.new("RGB", (9, 8)).save("pictures/dark/wide.png")
    assert start.side_for("pictures") == start.RESIZED
    Path("large").mkdir()
    Image.new("RGB", (300, 300)).save("large/0.png")
    assert start.side_for("large") == start.RESIZED
    for path in Path("pictures/dark").iterdir():
        path.write_bytes(b"not a picture")  # loading names them
    assert start.side_for("pictures") is None


def test_the_command_that_does_the_same_is_one(tmp_path: Path) -> None:
    """Also where a fast machine takes millions of steps."""
    data = noise((1, 8, 8))
    model = PixelCNNPP(shape=(1, 8, 8), levels=256, width=16, blocks=1, stages=1)
    options = choosing.training_options(4e4, 10.0, data, 4e-3, "cpu")
    assert options["steps"] == 96_000_000
    words = ["my pictures", "--data-dir", "else", "--channels", "1"]
    words += ["--threads", "3", "--device", "cpu"]
    args = read("start", start, words)
    command = start.by_hand(args, Plan(model, options, 4e4, "why"), 8, tmp_path / "run")
    program, name, *rest = shlex.split(command)
    settings = train_settings(rest)
    assert (program, name) == ("nextpixel", "train")
    assert (settings.data, settings.data_dir, settings.resize) == ("my pictures", "else", 8)
    assert (settings.channels, settings.threads, settings.device) == (1, 3, "cpu")
    assert vars(settings.train) == asdict(TrainArgs(**options))
    assert settings.model.init_args.width == 16


def test_what_next_goes_on(tmp_path: Path) -> None:
    """Longer than before, also after an early stop; and with a class that was learned."""
    model = GatedPixelCNN(shape=(1, 4, 4), levels=4, classes=3, width=4, blocks=1)
    model.data_record = DataRecord(("a", "b", "c"), untrained=(0,))
    lines = start.next_commands(model, tmp_path, 90.0, 200_000).splitlines()
    assert "--class b " in lines[0]
    assert lines[-1].endswith("--train.minutes 540 --train.steps 2000000 --train.patience 20")


def test_without_time_one_batch_is_scored_and_one_row_sampled(tmp_path: Path) -> None:
    """The last part of a run on a busy machine is short; what is scored is spread evenly."""
    data = noise((1, 4, 4), 4, count=130)
    model = GatedPixelCNN(shape=(1, 4, 4), levels=4, width=4, blocks=1).eval()
    numbers, score, bits = start.score_each(model, data, 0.0)
    assert score.images == len(bits) == len(numbers) == 22  # of six batches
    assert sorted(np.diff(numbers)) == [6] * 21
    every, _, bits_of_all = start.score_each(model, data, 100.0)
    assert sorted(every) == list(range(130))
    assert bits == pytest.approx(bits_of_all[np.argsort(every)][numbers])
    short = start.pictures_of(model, data, tmp_path, 0.0)
    one = size(tmp_path / "samples.png")
    long = start.pictures_of(model, data, tmp_path, 100.0)
    assert size(tmp_path / "samples.png")[1] > 3 * one[1]
    assert short[1].image.width < long[1].image.width  # type: ignore[union-attr]


# --- the choice -----------------------------------------------------------------------------------


def noise(shape: tuple[int, int, int], levels: int = 256, count: int = 40) -> Dataset:
    random = np.random.default_rng(0)
    images = Images(random.integers(0, levels, (count, *shape)).astype(np.uint8), None, levels)
    return Dataset("noise", images, images, images, levels, None, "made up")


@pytest.mark.parametrize(("speed", "width"), [(1e9, 64), (20, 16), (84, 32)])
def test_the_widest_model_that_sees_enough(
    speed: float, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`speed` is that of the smallest model; others are slower by their parameters."""

    def measure(model: GatedPixelCNN, _: Dataset, args: TrainArgs, __: str) -> Estimate:
        seconds = args.batch_size / speed * (model.hyperparameters["width"] / 16)
        return Estimate(1, seconds, 1.0, 1)

    monkeypatch.setattr(choosing, "measure", measure)
    plan = choose(noise((1, 8, 8)), 10.0, say=lambda line: None)
    assert plan.model.hyperparameters["width"] == width
    assert plan.options["minutes"] == 10.0
    assert plan.options["lr"] == (4e-3 if width < 48 else 3e-3)
    # The time ends it: 16 times the steps that the speed allows would take 16 times as long.
    seen = plan.options["steps"] * plan.options["batch_size"]
    assert seen == pytest.approx(16 * 600 * plan.speed, rel=0.1)
    assert ("would be better" in plan.reason) == (speed == 20)


@pytest.mark.parametrize(("alone", "together", "chosen"), [(9.0, 1.0, 1), (1.0, 2.0, 2)])
def test_threads_that_wait_for_each_other_are_not_used(
    alone: float, together: float, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()

    def measure(*_: object) -> Estimate:
        return Estimate(1, 1 / (alone if torch.get_num_threads() == 1 else together), 1.0, 1)

    monkeypatch.setattr(choosing, "measure", measure)
    try:
        torch.set_num_threads(2)
        assert choosing.choose_threads(noise((1, 8, 8)), 1.0) == chosen
        assert torch.get_num_threads() == chosen
    finally:
        torch.set_num_threads(before)


def test_a_pretrained_model_that_fits_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fits digits, and not noise of the same shape."""
    monkeypatch.setattr(choosing, "measure", lambda *_: Estimate(1, 0.5, 1.0, 1))
    digits = load_data("mnist")
    few = Images(digits.valid.x[:40], digits.valid.y[:40], 256)  # type: ignore[index]
    data = Dataset("digits", few, few, few, 256, digits.class_names, "MNIST")
    plan: Plan = choose(data, 5.0, say=lambda line: None)
    assert plan.start == "mnist"
    assert isinstance(plan.model, PixelCNNPP)
    assert plan.options["lr"] == 1e-3
    assert choose(noise((1, 28, 28)), 5.0, say=lambda line: None).start is None
