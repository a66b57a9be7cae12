"""`nextpixel train` on real digits: what it leaves, models of your own, and mistakes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from nextpixel import load, load_data
from nextpixel.cli.main import main
from nextpixel.saving import Model
from tests.helpers import (
    DIGITS,
    TINY,
    assert_refused,
    command,
    no_space,
    refused,
    run,
    size,
    succeed,
)


def test_train_leaves_a_run(folder: Path) -> None:
    run = folder / "run"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))
    assert size(run / "samples" / "step-0000008.png") > (100, 100)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["width"] == 8
    assert load(run).hyperparameters["levels"] == 4


def test_a_model_trained_on_a_folder_is_scored_on_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = load_data("mnist").test
    for number in range(60):
        path = Path("pictures/photos") / str(test.y[number] % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.x[number, 0]).save(path)
    words = "--data pictures/photos --size 14 --levels 4 --train.batch_size 2 --train.steps 1"
    model = "--model PixelCNN --model.width 8 --model.blocks 1"
    succeed(f"train --out own {model} {words}")
    capsys.readouterr()
    assert "own on photos (test, given the class)" in run("eval own", capsys)


def test_a_model_of_your_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--train.steps 2 --model my_file.MyNet --model.scale 2 --out mine"
    script = Path(sys.executable).with_name("nextpixel")  # Python itself does not look here then
    subprocess.run([script, "train", *f"{DIGITS} {words}".split()], cwd=here, check=True)
    config = yaml.safe_load(Path("mine/config.yaml").read_text())
    assert config["model"] == {"class_path": "my_file.MyNet", "init_args": {"scale": 2.0}}
    assert (
        main(["train", "--resume", "mine", "--trust", "--train.steps", "3", "--data-dir", "."]) == 0
    )
    assert "nextpixel eval mine --trust, nextpixel sample mine --trust" in capsys.readouterr().out
    assert len(Path("mine/metrics.jsonl").read_text().splitlines()) == 3
    assert "my_file.MyNet" in run("models mine --trust", capsys)
    run("sample mine --trust -n 1 --out a.png", capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--out x", "Say which model"),
        ("--model PixelCNN", "--out"),
        ("--model PixelCNN --out x --resume run", "--out"),
        ("--resume nothing", "no run in nothing"),
        ("--resume", "--resume"),
        ("--model PixelCNN --out x --model.wdth 3", "Option 'wdth' is not accepted by PixelCNN"),
        ("--model PixelCNN --out x --model.levels 3", "'levels' is not accepted by PixelCNN"),
        ("--model my_file.MyNet --out x --model.wdth 3", "not accepted by my_file.MyNet"),
        ("--model PixelCNN --out x --model.width wide", "--model.width takes a whole number, not"),
        ("--model PixelCNN --out x --model.inputs raw", "one of ['scaled', 'embedded'], not raw"),
        ("--model PixelCNN --out x --model.width -3", "width must be at least 1, not -3"),
        ("--model my_file.NoClasses --out x", "add --conditional false"),
        ("--model my_file.Narrow --out x", "Narrow cannot be made like this: width is at most 5."),
        ("--model.width 3 --out x", "Say which model"),
        ("--model Nothing --out x", "There is no model Nothing"),
        ("--model nothing.MyNet --out x", "No module named 'nothing'"),
        ("--model my_file.Nothing --out x", "no attribute 'Nothing'"),
        ("--model json.JSONEncoder --out x", "not a subclass"),
        ("--model PixelCNN --out x --train.steps many", "--train.steps takes a whole number, not"),
        ("--model PixelCNN --out x --train.steps 0", "train.steps must be at least 1"),
        ("--model PixelCNN --out x --train.schedule up", "['cosine', 'constant'], not up"),
        ("--model PixelCNN --out x --levels few", "--levels takes a whole number, not few"),
        ("--model PixelCNN --out x --levels 1", "levels"),
        ("--model PixelCNN --out x --conditional so", "--conditional takes true or false, not so"),
        ("--model PixelCNN --out x --bogus 3", "--bogus"),
        ("--modle PixelCNN --out x", "no option --modle (did you mean model?)"),
        ("--model PixelCNN --out x stray", "stray"),
        ("--model PixelCNN --out x --data nothing", "no data set, file or folder 'nothing'"),
        ("--model PixelCNN --out x --threads 0", "--threads must be at least 1"),
        ("--model PixelCNN --out x --device gpu", "Unknown device gpu"),
        ("--model PixelCNN --out run", "already holds a run"),
        ("--model PixelCNN --out seven.png", "seven.png"),
        ("--config nothing.yaml --out x", "nothing.yaml"),
        ("--config broken.yaml --out x", "broken.yaml is not YAML (line 1)"),
        ("--config text.yaml --out x", "hello"),
        ("--config binary.yaml --out x", "not text"),
        ("--config typo.yaml --out x", "no option --train.stpes (did you mean steps?)"),
        ("--model PixelCNN --out x --levels", "--levels takes a whole number, not nothing"),
        ("--model PixelCN --out x", "(did you mean PixelCNN?)"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "" if "--model PixelCNN" not in words else "--model.blocks 1 --model.width 4"
    words = words.replace("PixelCNN", f"PixelCNN {small}")
    assert "class '" not in assert_refused(f"train {words}", reason, here, capsys)


def test_a_full_disk_stops_training(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Model, "save", no_space)
    assert "disk is full" in refused(f"train {TINY} --train.steps 1 --out full", capsys)


def test_ctrl_c_saves_a_training_run(here: Path) -> None:
    words = command(f"train {TINY} --train.steps 100000 --out stopped")
    with subprocess.Popen(words, cwd=here, stderr=subprocess.PIPE, text=True) as training:
        metrics = here / "stopped" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        training.send_signal(signal.SIGINT)
        _, err = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "Traceback" not in err
    assert "nextpixel train --resume stopped" in err
    steps = len(metrics.read_text().splitlines())
    succeed(f"train --resume stopped --train.steps {steps + 1}")
    assert len(metrics.read_text().splitlines()) == steps + 1
