"""`nextpixel train` on real digits: its run folder, interrupts, user-defined models, mistakes."""

import json
import shlex
import signal
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nextpixel import load, load_data
from nextpixel.cli.main import main
from nextpixel.cli.train_options import train_settings
from nextpixel.models import GatedPixelCNN
from nextpixel.models.base.image_model import find_class
from nextpixel.saving import Model
from nextpixel.training import TrainArgs, estimate, fit
from nextpixel.training.estimate import Estimate, duration, measure
from nextpixel.training.sizes import SIZES, Size, size_arguments
from tests.helpers import (
    DIGITS,
    TINY,
    assert_refused,
    command,
    no_space,
    process,
    refused,
    run,
    size,
    succeed,
)
from tests.training.runs import (
    assert_same_run,
    make,
    metrics_of,
    state_of,
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
    words = "--data pictures/photos --resize 14 --levels 4 --train.batch_size 2 --train.steps 1"
    model = "--model PixelCNN --model.width 8 --model.blocks 1"
    succeed(f"train --out own {model} {words}")
    capsys.readouterr()
    out = run("eval own", capsys)
    assert "own on photos (test, given the class)" in out
    count = len(load_data("pictures/photos", resize=14).test)
    assert f"({count} images)" in out  # all of them


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
        ("--model VQVAE --size small --out x", "--size is for PixelCNN, GatedPixelCNN"),
        ("--size huge --out x", "--size takes one of small, medium, paper, not huge"),
        ("--config recipe.yaml --size small --out x", "--config describes one: leave it out"),
        ("--from run --model PixelCNN --out x", "as it is: leave --model out"),
        ("--from run --size small --out x", "as it is: leave --size out"),
        ("--from nothing --out x", "nothing does not exist"),
        ("--model PixelCNN", "--out"),
        ("--model PixelCNN --out x --resume run", "--out"),
        ("--resume nothing", "no run in nothing"),
        ("--resume", "--resume"),
        (
            "--model PixelCNN --out x --model.wdth 3",
            "no --model.wdth (did you mean --model.width?)",
        ),
        ("--model PixelCNN --out x --model.levels 3", "PixelCNN takes no --model.levels"),
        ("--model my_file.MyNet --out x --model.wdth 3", "my_file.MyNet takes no --model.wdth"),
        ("--model PixelCNN --out x --model.width wide", "--model.width takes a whole number, not"),
        ("--model PixelCNN --out x --model.inputs raw", "one of scaled, embedded, not raw"),
        ("--model PixelCNN --out x --model.width -3", "width must be at least 1, not -3"),
        ("--model my_file.NoClasses --out x", "add --conditional false"),
        ("--model my_file.Narrow --out x", "Narrow cannot be made like this: width is at most 5."),
        ("--model Nothing --out x", "There is no model Nothing"),
        ("--model nothing.MyNet --out x", "No module named 'nothing'"),
        ("--model my_file.Nothing --out x", "no attribute 'Nothing'"),
        ("--model json.JSONEncoder --out x", "not a subclass"),
        ("--model PixelRNN --out x", "There is no model PixelRNN: give"),
        ("--model nextpixel.models.pixel_rnn.PixelRNN --out x", "does not define layer"),
        ("--model PixelCNN --out x --train.steps many", "--train.steps takes a whole number, not"),
        ("--model PixelCNN --out x --train.steps 0", "train.steps must be at least 1"),
        ("--model PixelCNN --out x --train.schedule up", "one of cosine, constant, not up"),
        ("--model PixelCNN --out x --levels few", "--levels takes a whole number, not few"),
        ("--model PixelCNN --out x --levels 1", "levels"),
        ("--model PixelCNN --out x --conditional so", "--conditional takes true or false, not so"),
        ("--model PixelCNN --out x --bogus 3", "--bogus"),
        ("--modle PixelCNN --out x", "no option --modle (did you mean --model?)"),
        ("--model PixelCNN --out x stray", "stray"),
        ("--model PixelCNN --out x --data nothing", "no data set, file or folder 'nothing'"),
        ("--model PixelCNN --out x --threads 0", "--threads must be at least 1"),
        ("--model PixelCNN --out x --device gpu", "Unknown device gpu"),
        ("--model PixelCNN --out run", "already holds a run"),
        ("--model PixelCNN --out seven.png", "seven.png"),
        ("--config nothing.yaml --out x", "nothing.yaml"),
        (
            "--config broken.yaml --out x",
            "corrupt or no YAML (in line 1): correct it.",
        ),
        ("--config text.yaml --out x", "hello"),
        ("--config binary.yaml --out x", "binary.yaml is truncated, corrupt or no YAML"),
        ("--config typo.yaml --out x", "no option --train.stpes (did you mean --train.steps?)"),
        ("--config no-model.yaml --out x", "Name the model to train, for example --model"),
        ("--config empty-train.yaml --out x", "train holds nothing, not options as in steps: 100"),
        ("--config number-train.yaml --out x", "train holds 3, not options as in steps: 100"),
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
    assert main(f"train {TINY} --train.steps 1 --out full".split()) == 2
    assert "disk is full" in capsys.readouterr().err


COMMAND = f"train {TINY} --threads 1 --train.valid_every 1000"


def test_ctrl_c_at_the_command_line(tmp_path: Path) -> None:
    out, steps = tmp_path / "run", 120
    training = subprocess.Popen(
        command(f"{COMMAND} --train.steps {steps} --out {out}"), stderr=subprocess.PIPE, text=True
    )
    metrics, until = out / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert training.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    training.send_signal(signal.SIGINT)
    _, stderr = training.communicate(timeout=600)
    assert training.returncode == 130, stderr
    assert f"nextpixel train --resume {out}" in stderr
    assert "Traceback" not in stderr
    saved = state_of(out)["step"]
    assert 3 <= saved < steps
    assert len(metrics_of(out)) == saved
    process(f"train --resume {out} --threads 1", cwd=tmp_path)
    torch.manual_seed(0)
    model = make(shape=(1, 28, 28))
    options = {"batch_size": 8, "valid_images": 16, "valid_every": 1000, "steps": steps}
    mnist = load_data("mnist", levels=4)
    assert_same_run(out, fit(model, mnist, out=tmp_path / "whole", **options))


def test_a_run_begun_before_muon_goes_on_by_adamw(here: Path) -> None:
    """Its configuration names no optimizer, because there was one only."""
    words = "--train.steps 2 --train.optimizer adamw --train.weight_decay 1e-4 --out old"
    succeed(f"{COMMAND} {words}")
    config = yaml.safe_load(Path("old/config.yaml").read_text())
    del config["train"]["optimizer"]
    Path("old/config.yaml").write_text(yaml.safe_dump(config))
    succeed("train --resume old --train.steps 4")
    assert len(metrics_of(Path("old"))) == 4
    assert yaml.safe_load(Path("old/config.yaml").read_text())["train"]["optimizer"] == "adamw"


def in_two_processes(program: str, words: str, cwd: Path) -> None:
    """Runs a command that must succeed, as two processes that train together."""
    start = "-m torch.distributed.run --standalone --nproc-per-node 2"
    arguments = [sys.executable, *f"{start} {program} {words}".split()]
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["1", "2"])
def test_two_processes_are_one_with_twice_the_batch(parts: str, tmp_path: Path) -> None:
    words = f"{COMMAND} --train.steps 8 --train.precision float32 --train.save_every 3"
    process(f"{words} --train.batch_size 16 --out one", cwd=tmp_path)
    in_two_processes("-m nextpixel", f"{words} --train.accumulate {parts} --out two", tmp_path)
    histories = [metrics_of(tmp_path / run) for run in ("one", "two")]
    for a, b in zip(*histories, strict=True):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
    states = [state_of(tmp_path / run)["model"] for run in ("one", "two")]
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_an_interrupt_of_one_process_stops_both(tmp_path: Path) -> None:
    """Only rank 0 gets the signal; all must save and stop at the same step, and not wait."""
    script = (
        "import os, signal, sys\n"
        "from nextpixel.cli import main; from nextpixel.training import trainer\n"
        "real = trainer.Run.batch\n"
        "def batch(run):\n"
        "    if run.step == 3 and run.fabric.is_global_zero:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return real(run)\n"
        "trainer.Run.batch = batch\n"
        "code = main.main(sys.argv[1:])\n"
        "assert code == 130, code\n"
    )
    (tmp_path / "script.py").write_text(script)
    in_two_processes("script.py", f"{COMMAND} --train.steps 1000000 --out run", tmp_path)
    assert state_of(tmp_path / "run")["step"] == 4
    assert len(metrics_of(tmp_path / "run")) == 4


# --- the size of a new model, and its first weights -----------------------------------------------


def test_a_new_model_is_small_unless_asked() -> None:
    """Nobody waits 200 seconds for a step without having asked for the paper's network."""
    plain = train_settings(["--out", "x"])
    assert plain.model.class_path.endswith("PixelCNNPP")
    assert plain.model.init_args.width == SIZES["PixelCNNPP"]["small"]["width"]
    own = train_settings(
        ["--model.width", "7", "--size", "medium", "--model.blocks", "3", "--out", "x"]
    )
    assert (own.model.init_args.width, own.model.init_args.blocks) == (7, 3)
    assert own.model.init_args.components == SIZES["PixelCNNPP"]["medium"]["components"]
    for words in ("--model GatedPixelCNN --size paper", "--size=paper --model=GatedPixelCNN"):
        paper = train_settings(f"{words} --out x".split())
        defaults = signature(GatedPixelCNN).parameters
        assert paper.model.init_args.width == defaults["width"].default
    assert train_settings(["--data", "codes:run", "--out", "x"]).model.class_path.endswith(
        "GatedPixelCNN"
    )


@pytest.mark.parametrize("name", SIZES)
def test_sizes_grow(name: str) -> None:
    """Every size can be made, and the next one has more parameters."""
    cls = find_class(name)
    with torch.device("meta"):
        models = [
            cls(shape=(3, 32, 32), levels=256, **size_arguments(name, size))
            for size in get_args(Size)
        ]
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert counts == sorted(counts)
    assert counts[0] < 1_000_000 < counts[2]


def test_training_starts_from_another_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--data-dir . --levels 4 --train.batch_size 4 --train.steps 1 --train.lr 1e-9"
    succeed(f"train --from run {words} --out same")
    assert "Starting from the weights of run." in capsys.readouterr().out
    source, same = load("run"), load("same/last")
    assert same.hyperparameters == source.hyperparameters
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], tensor, rtol=0, atol=1e-6)
    # Fewer classes: the weights of the classes are new, all others are those of the model.
    np.savez("few.npz", x=load_data("mnist").train.x[:60], y=np.arange(60) % 3)
    succeed(f"train --from run --data few.npz {words} --out other")
    assert "but for condition" in capsys.readouterr().out
    other = load("other/last")
    assert other.classes == 3
    kept = [name for name in source.state_dict() if not name.startswith("condition")]
    for name in kept:
        expected = source.state_dict()[name]
        torch.testing.assert_close(other.state_dict()[name], expected, rtol=0, atol=1e-6)
    succeed("train --resume same --train.steps 2")  # does not start from the model again
    assert "Starting from" not in capsys.readouterr().out
    np.savez("colour.npz", x=np.arange(60 * 3 * 28 * 28).reshape(60, 3, 28, 28) % 256)
    assert "cannot start from" in refused(
        f"train --from run --data colour.npz {words} --out no", capsys
    )


def test_a_long_training_asks_first(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = Estimate(1_234_567, 2.5, 2.5 * 5000, 2 * 10**9)
    monkeypatch.setattr("nextpixel.training.estimate.measure", lambda *_: long)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    words = f"train {TINY} --train.steps 2 --out long"
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert "about 3 h 28 min: add --yes to start" in said.err
    assert "PixelCNN: 1,234,567 parameters, 2.0 GB of memory, 2.5 s a step" in said.out
    assert not Path("long").exists()
    succeed(f"{words} --yes")
    assert "Bits/dim on a scale, the lowest first: " in capsys.readouterr().out
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    succeed(f"train {TINY} --train.steps 2 --out script")


def test_the_commands_to_go_on_with_can_be_copied(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a folder has a space in its name."""
    assert main([*f"train {TINY} --train.steps 1 --out".split(), "my run"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    _, _, commands = said.partition(": try nextpixel ")
    assert [shlex.split(command) for command in commands.split(", nextpixel ")] == [
        ["eval", "my run"],
        ["sample", "my run"],
    ]


def test_the_estimate_changes_nothing(here: Path) -> None:
    data = load_data("mnist", levels=4)
    model = make(shape=data.shape)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    args = TrainArgs(steps=1000, batch_size=2, minutes=5.0)
    estimate = measure(model, data, args)
    assert estimate.parameters == sum(p.numel() for p in model.parameters())
    assert 0 < estimate.step_seconds < 60
    assert estimate.seconds == min(300.0, 1000 * estimate.step_seconds)
    assert estimate.memory > 10**8  # PyTorch alone takes more
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "3 s"), (59, "1 min"), (600, "10 min"), (12_000, "3 h 20 min"), (400_000, "5 days")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("alone", "kept"), [(0.5, 1), (2.0, None)])
def test_threads_that_wait_for_each_other_are_not_used(
    alone: float,
    kept: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Beside other programs one thread may be faster than all; the run keeps their number."""

    def measured(*_: object) -> Estimate:
        return Estimate(1, alone if torch.get_num_threads() == 1 else 1.0, 1.0, 1)

    monkeypatch.setattr(estimate, "measure", measured)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (
            main([*f"train {TINY} --device cpu --train.steps 2 --out {tmp_path}/run".split()]) == 0
        )
        assert torch.get_num_threads() == (kept or 2)
    finally:
        torch.set_num_threads(before)
    said = "One thread is faster than 2 now: other programs use the processor."
    assert (said in capsys.readouterr().out) == (kept is not None)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config.get("threads") == kept
