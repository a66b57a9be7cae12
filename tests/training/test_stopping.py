"""Stopping: by signals, by time, early; checkpoints by time; and going back after a jump."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nextpixel.data import Dataset
from nextpixel.errors import Stopped, UserError
from nextpixel.training import TrainArgs, fit, trainer
from nextpixel.training.config import learning_rate
from nextpixel.training.watch import PATIENCE, DivergenceError, LossWatch
from tests.helpers import ROOT
from tests.training.runs import (
    OPTIONS,
    assert_same_run,
    at_step,
    make,
    metrics_of,
    state_of,
)


@pytest.fixture(autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    """Lets SIGHUP end a process again, which `nohup make test` has all processes ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def reference(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    return fit(make(), data, out=tmp_path_factory.mktemp("runs") / "whole", **OPTIONS)


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_save_first(
    name: str, reference: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(signal, name)
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda run: signal.raise_signal(number))
        with pytest.raises(Stopped) as stopped:
            fit(make(), data, out=tmp_path / "run", **OPTIONS)
    assert stopped.value.signal == number
    assert signal.getsignal(number) is handler
    assert state_of(tmp_path / "run")["step"] == 5  # the step under way was finished
    fit(make(), data, out=tmp_path / "run", resume=True, **OPTIONS)
    assert_same_run(tmp_path / "run", reference)


def test_a_second_sigterm_does_not_prevent_saving(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timeouts and schedulers may send it twice; only a second Ctrl-C stops at once."""

    def twice(run: trainer.Run) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    at_step(monkeypatch, 5, twice)
    with pytest.raises(Stopped):
        fit(make(), data, out=tmp_path / "run", **OPTIONS)
    assert state_of(tmp_path / "run")["step"] == 5


def test_a_stop_after_a_jump_keeps_the_good_checkpoint(
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = trainer.Run.train_step

    def ruin(run: trainer.Run) -> dict[str, float]:
        jumped = run.step + 1 == 5
        return real(run) | ({"loss": 40.0} if jumped else {})

    monkeypatch.setattr(trainer.Run, "train_step", ruin)
    monkeypatch.setattr(LossWatch, "is_calm", lambda watch, loss: loss < 30)
    at_step(monkeypatch, 5, lambda run: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        fit(make(), data, out=tmp_path / "run", **OPTIONS)
    assert state_of(tmp_path / "run")["step"] == 4
    said = capsys.readouterr().err
    assert "The loss has just jumped: the checkpoint of step 4 is kept.\n" in said


def test_an_ignored_signal_stays_ignored(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(monkeypatch, 2, lambda run: signal.raise_signal(signal.SIGHUP))
        fit(make(), data, out=tmp_path / "run", **OPTIONS)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert state_of(tmp_path / "run")["step"] == 6


def test_an_interrupted_validation_is_done_on_resuming(
    reference: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long validation must not outlast the ten seconds that a container is given."""
    real = trainer.evaluate

    def interrupted(
        model: Any, images: Any, *, progress: Callable[[float], None], **how: Any
    ) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(model, images, progress=progress, **how)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", interrupted)
        with pytest.raises(Stopped):
            fit(make(), data, out=tmp_path / "run", **OPTIONS)
    state = state_of(tmp_path / "run")
    assert (state["step"], state["best"]) == (3, math.inf)
    assert state["pending"]["loss"] > 0
    assert not (tmp_path / "run" / "best").exists()
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [1, 2]
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3}\n')  # as from a validation after which the run was killed
    fit(make(), data, out=tmp_path / "run", resume=True, **OPTIONS)
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_the_command_saves_and_says_how_to_continue(name: str, status: int, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "nextpixel", "train", "--model", "GatedPixelCNN"),
        *("--model.width", "4", "--model.blocks", "1", "--model.kernel_size", "3"),
        *("--data", "binarized-mnist", "--out", str(tmp_path / "run"), "--threads", "1"),
        *("--train.batch_size", "2", "--train.steps", "100000", "--train.valid_every", "100000"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == status, errors
    assert f"nextpixel train --resume {tmp_path / 'run'}" in errors
    assert "Traceback" not in errors
    assert state_of(tmp_path / "run")["step"] == len(metrics_of(tmp_path / "run"))


# --- time -----------------------------------------------------------------------------------------


def test_checkpoints_by_time(
    reference: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment at most `save_minutes` are lost, whatever `save_every` is."""
    saved = []
    real = trainer.save_state
    monkeypatch.setattr(
        trainer, "save_state", lambda path, state: (saved.append(state["step"]), real(path, state))
    )
    options = {**OPTIONS, "save_every": 1000, "save_minutes": 2.0}
    monkeypatch.setattr(trainer.Run, "seconds", property(lambda run: 50.0 * run.step))
    fit(make(), data, out=tmp_path / "run", **options)
    # 120 seconds pass in three steps; before the validation of step 3 more than 30 have passed.
    assert saved == [0, 3, 6, 6]
    fit(make(), data, out=tmp_path / "longer", **{**options, "save_minutes": 10.0})
    assert saved[4:] == [0, 3, 6, 6]  # the validations
    saved.clear()
    fit(make(), data, out=tmp_path / "between", **{**options, "valid_every": 5})
    assert saved == [0, 3, 5, 6, 6]  # step 3 is neither a validation nor the last one


def test_a_run_ends_after_its_minutes(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.Run, "seconds", property(lambda run: 30.0 * run.step))
    options = {**OPTIONS, "steps": 1000, "minutes": 2.0, "warmup": 0}
    fit(make(), data, out=tmp_path / "run", **options)
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert "valid" in lines[-1]
    rates = [line["lr"] / OPTIONS["lr"] for line in lines]
    expected = [0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2 for done in (0, 0.25, 0.5, 0.75)]
    assert rates == pytest.approx(expected, rel=1e-3)  # the schedule follows the time


def test_the_schedule_follows_steps_or_time() -> None:
    args = TrainArgs(steps=100, lr=1.0, warmup=0, minutes=10.0)
    assert learning_rate(50, args, 0.0) == learning_rate(50, TrainArgs(steps=100, lr=1.0, warmup=0))
    assert learning_rate(50, args, 540.0) == pytest.approx(0.01 + 0.99 * 0.024472, rel=1e-4)
    assert learning_rate(1, args, 6000.0) == pytest.approx(0.01)
    warm = TrainArgs(steps=100, lr=1.0, warmup=50, minutes=10.0)
    assert learning_rate(1, warm, 15.0) == pytest.approx(0.5, rel=0.01)
    assert learning_rate(1, warm, 30.0) == pytest.approx(1.0, rel=0.01)


# --- early stopping -------------------------------------------------------------------------------


def test_training_stops_when_validation_stalls(
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {**OPTIONS, "steps": 100, "valid_every": 2, "ema": 0.0, "patience": 3}
    monkeypatch.setattr(trainer, "learning_rate", lambda s, a, t: 1e-2 if s <= 4 else 0.0)
    fit(make(), data, out=tmp_path / "run", **options)
    scores = [line["valid"] for line in metrics_of(tmp_path / "run") if "valid" in line]
    # From step 4 on nothing changes any more, and three validations bring nothing new.
    assert len(scores) == 5
    assert scores[1:] == [scores[1]] * 4
    state = state_of(tmp_path / "run")
    assert (state["step"], state["stale"]) == (10, 3)
    assert (tmp_path / "run" / "last" / "config.json").exists()
    early = "Stopped early, at step 10: 3 validations without a new best score.\n"
    assert capsys.readouterr().err.count(early) == 1
    fit(make(), data, out=tmp_path / "run", resume=True, **options)
    assert capsys.readouterr().err.endswith(f"Resuming at step 10.\n{early}")
    fit(make(), data, out=tmp_path / "run", resume=True, **{**options, "patience": 4})
    assert state_of(tmp_path / "run")["step"] == 12
    capsys.readouterr()
    fit(make(), data, out=tmp_path / "run", resume=True, **{**options, "steps": 12})
    assert "Stopped early" not in capsys.readouterr().err  # all steps are done


# --- training that goes wrong ---------------------------------------------------------------------


def feed(watch: LossWatch, steps: range, loss: float) -> None:
    for step in steps:
        watch.check(step, loss)


def test_a_jump_is_noticed_and_noise_is_not() -> None:
    watch = LossWatch(8.0, warmup=10)
    random = torch.Generator().manual_seed(0)
    for step in range(1, 201):
        noise = float(torch.randn((), generator=random))
        watch.check(step, 1.0 + 7 * 0.97**step + 0.3 * noise + (30 if step == 150 else 0))
    assert watch.lowest < 1.2
    assert watch.is_calm(2.0)
    assert not watch.is_calm(11.5)
    with pytest.raises(DivergenceError, match=r"At step 20\d the loss has risen to \d.* from 0\.9"):
        feed(watch, range(201, 211), 11.5)


@pytest.mark.parametrize("images", [4, 16, 64])
def test_a_few_hard_images_are_no_jump(images: int) -> None:
    """Two steps that go wrong are half a dozen hard images, if a step has four."""
    watch = LossWatch(8.0, warmup=300, images=images)
    feed(watch, range(1, 400), 5.7)
    with nullcontext() if images == 4 else pytest.raises(DivergenceError):
        feed(watch, range(400, 402), 30.0)
    with pytest.raises(DivergenceError):  # this goes on
        feed(watch, range(402, 420), 30.0)


def test_the_loss_of_a_stuck_binary_model_is_a_jump() -> None:
    """1.000 bits/dim is no more than a uniform guess, but what was learned is lost."""
    watch = LossWatch(1.0, warmup=0)
    feed(watch, range(1, 100), 0.155)
    with pytest.raises(DivergenceError, match="has risen"):
        feed(watch, range(100, 120), 1.0)


def test_a_loss_that_stays_above_a_uniform_guess() -> None:
    watch = LossWatch(8.0, warmup=50)
    with pytest.raises(DivergenceError, match=r"above the 8\.000 of a uniform guess"):
        feed(watch, range(1, 1000), 37.0)
    assert watch.lowest_step + PATIENCE < 1000
    falling = LossWatch(8.0, warmup=0)
    for step in range(1, 1000):
        falling.check(step, 15.0 - 0.005 * step)  # slow, but it learns
    feed(LossWatch(8.0, warmup=0), range(1, 1000), 8.02)  # noise cannot be learned


def test_going_back_halves_the_rate_and_is_said(
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second time nothing goes wrong; the run looks as if the failed steps had not been."""
    real = trainer.Run.train_step

    def ruin(run: trainer.Run) -> dict[str, float]:
        metrics = real(run)
        if run.step + 1 >= 30 and not run.setbacks:
            with torch.no_grad():
                next(iter(run.model.parameters())).add_(50.0)
            metrics["loss"] = 40.0
        return metrics

    monkeypatch.setattr(trainer.Run, "train_step", ruin)
    options = {**OPTIONS, "steps": 60, "save_every": 5, "valid_every": 60, "schedule": "constant"}
    out = fit(make(), data, out=tmp_path / "run", **options)
    said = capsys.readouterr().err
    assert "the loss has risen to" in said
    assert "going back to step 25 with half the learning rate (setback 1 of at most 2)" in said
    lines = metrics_of(out)
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert {line["lr"] for line in lines[2:25]} == {0.01}
    assert {line["lr"] for line in lines[25:]} == {0.005}
    assert max(line["loss"] for line in lines) < 3
    assert state_of(out)["setbacks"] == 1


@pytest.mark.parametrize("setbacks", [0, 2])
def test_after_the_last_setback_training_stops(
    setbacks: int, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.Run.backward

    def poisoned(run: trainer.Run, *batch: Any) -> Any:
        loss = real(run, *batch)
        return loss * math.nan if run.step == 4 else loss

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Run, "backward", poisoned)
        times = f", after going back {setbacks} times" * bool(setbacks)
        message = f"At step 5 the loss is nan .*{times}: training stops.* step 4 .* intact"
        with pytest.raises(UserError, match=message):
            fit(make(), data, out=tmp_path / "run", **{**OPTIONS, "setbacks": setbacks})
    state = state_of(tmp_path / "run")
    assert (state["step"], state["setbacks"]) == (4, setbacks)
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    fit(make(), data, out=tmp_path / "run", resume=True, **OPTIONS)
    assert metrics_of(tmp_path / "run")[-1]["lr"] == pytest.approx(
        learning_rate(6, TrainArgs(**OPTIONS)) * 0.5**setbacks
    )


def test_a_gradient_that_went_wrong_is_forgotten(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.Run.backward

    def poisoned(run: trainer.Run, *batch: Any) -> Any:
        loss = real(run, *batch)
        if run.step == 4 and not run.setbacks:
            next(iter(run.model.parameters())).grad.fill_(math.nan)  # type: ignore[union-attr]
        return loss

    monkeypatch.setattr(trainer.Run, "backward", poisoned)
    fit(make(), data, out=tmp_path / "run", **OPTIONS)
    state = state_of(tmp_path / "run")
    assert (state["step"], state["setbacks"]) == (6, 1)


def test_limits_of_the_watch_by_hand() -> None:
    """Half of what was learned may be lost, once a twentieth of the uniform guess is learned."""
    watch = LossWatch(8.0, warmup=0, images=8)
    assert watch.state() == {"average": None, "lowest": math.inf, "lowest_step": 0}
    watch.check(1, 6.0)
    assert watch.state() == {"average": 6.0, "lowest": 6.0, "lowest_step": 1}
    watch.check(2, 4.0)  # a step of 8 images weighs half of 0.1
    assert watch.average == pytest.approx(5.9)
    assert watch.lowest_step == 2
    watch.check(3, 1000.0)  # counts as twice the uniform guess
    assert watch.average == pytest.approx(5.9 + 0.05 * (16 - 5.9))
    assert (watch.lowest, watch.lowest_step) == (pytest.approx(5.9), 2)
    assert watch.limit == pytest.approx(5.9 + 1.05)
    for lowest, limit in ((7.61, math.inf), (7.5, 7.9), (7.2, 7.6), (2.0, 5.0)):
        watch.lowest = lowest
        assert watch.limit == pytest.approx(limit)
    assert watch.is_calm(5.0)
    assert not watch.is_calm(5.001)
    watch.lowest = 5.9
    other = LossWatch(8.0, warmup=0)
    assert other.images == 16
    other.restore(watch.state())
    assert other.state() == watch.state()
    other.check(4, 2.0)  # 16 images weigh 0.1, more do not weigh more
    more = LossWatch(8.0, warmup=0, images=32)
    more.restore(watch.state())
    more.check(4, 2.0)
    assert watch.average is not None
    assert other.average == more.average == pytest.approx(0.9 * watch.average + 0.2)


def test_a_loss_above_a_uniform_guess_has_a_hundred_steps() -> None:
    """After the warm-up, and after its lowest value."""
    for warmup, last in ((0, 101), (101, 101), (150, 150)):
        watch = LossWatch(8.0, warmup=warmup)
        feed(watch, range(1, last + 1), 9.0)
        with pytest.raises(DivergenceError, match=f"At step {last + 1} the loss is 9.000"):
            watch.check(last + 1, 9.0)
    feed(LossWatch(8.0, warmup=0), range(1, 300), 8.4)


# --- resuming -------------------------------------------------------------------------------------


def test_resuming_says_where(
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda run: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            fit(make(), data, out=tmp_path / "run", **OPTIONS)
    capsys.readouterr()
    fit(make(), data, out=tmp_path / "run", resume=True, **OPTIONS)
    assert "Resuming at step 5." in capsys.readouterr().err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["train"]["save_minutes"] == OPTIONS["save_minutes"]
