"""Resuming: a run that was killed at any point goes on bit by bit; good checkpoints are kept."""

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from nextpixel.data import DataRecord, Dataset
from nextpixel.errors import UserError
from nextpixel.models import PixelCNNPP
from nextpixel.models.base.image_model import load
from nextpixel.training import fit, trainer
from nextpixel.training.begun import begun_record
from tests.helpers import ROOT
from tests.training.runs import (
    OPTIONS,
    Dropout,
    assert_equal,
    assert_same_run,
    at_step,
    make,
    metrics_of,
    state_of,
)

KILLER = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
from tests.training import runs as t
from nextpixel.training import fit, trainer
from nextpixel.training.begun import begun_record

def kill(): os.kill(os.getpid(), signal.SIGKILL)
def killing(real, n, after):
    count = 0
    def call(*args, **options):
        nonlocal count
        count += 1
        if count == n and not after: kill()
        result = real(*args, **options)
        if count == n and after: kill()
        return result
    return call

data = t.tiny_mnist()
for where, n, out in (line.split() for line in sys.stdin):
    child = os.fork()
    if child == 0:
        if where == "write":  # a file is written, in full, but has not replaced the old one
            os.fsync = killing(os.fsync, int(n), True)
        elif where == "replaced":
            pathlib.Path.replace = killing(pathlib.Path.replace, int(n), True)
        elif where == "step":  # between the optimizer's step and the average's
            trainer.update_average = killing(trainer.update_average, int(n), False)
        fit(t.make(t.Dropout), data, out=out, **t.OPTIONS)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def reference(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed."""
    return fit(make(Dropout), data, out=tmp_path_factory.mktemp("runs") / "whole", **OPTIONS)


def test_killed_anywhere_and_resumed_is_bitwise_equal(
    reference: Path, data: Dataset, tmp_path: Path
) -> None:
    """SIGKILL in every step, and before and after every file that is replaced."""
    # The files in their order: the configuration (1), the checkpoint of step 0, which is last/
    # (2, 3) and the state (4), that of step 2 (5 to 7), best/ (8, 9), the checkpoint of step 4.
    points = [("step", n) for n in range(1, 7)]
    points += [(where, n) for where in ("write", "replaced") for n in (1, 2, 4, 5, 7, 8, 9, 11, 12)]
    lines = [f"{where} {n} {tmp_path / f'{where}-{n}'}\n" for where, n in points]
    result = subprocess.run(
        [sys.executable, "-c", KILLER, str(ROOT)],
        input="".join(lines),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        check=True,
    )
    assert result.stdout.split() == [str(-signal.SIGKILL)] * len(points), result.stderr
    resumed = 0
    for where, n in points:
        out = tmp_path / f"{where}-{n}"
        if not (out / "state.pt").exists():  # killed before the run had begun
            assert (where, n) in [("write", k) for k in (1, 2, 4)] + [
                ("replaced", k) for k in (1, 2)
            ]
            with pytest.raises(UserError, match="nothing to resume"):
                fit(make(Dropout), data, out=out, resume=True, **OPTIONS)
            continue
        fit(make(Dropout), data, out=out, resume=True, **OPTIONS)
        assert_same_run(out, reference)
        resumed += 1
    assert resumed >= 18


def test_second_ctrl_c_stops_at_once(
    reference: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(run: trainer.Run) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        at_step(patch, 4, twice)
        with pytest.raises(KeyboardInterrupt):
            fit(make(Dropout), data, out=tmp_path / "run", **OPTIONS)
    assert state_of(tmp_path / "run")["step"] == 2
    fit(make(Dropout), data, out=tmp_path / "run", resume=True, **OPTIONS)
    assert_same_run(tmp_path / "run", reference)


def test_resume_of_a_finished_run_with_more_steps_goes_on(data: Dataset, tmp_path: Path) -> None:
    options = {**OPTIONS, "schedule": "constant", "valid_every": 5}
    fit(make(), data, out=tmp_path / "a", **options)
    once = state_of(tmp_path / "a")
    fit(make(), data, out=tmp_path / "a", resume=True, **options)
    assert_equal(state_of(tmp_path / "a"), once)
    fit(make(), data, out=tmp_path / "a", resume=True, **{**options, "steps": 10})
    fit(make(), data, out=tmp_path / "b", **{**options, "steps": 10})
    assert_equal(state_of(tmp_path / "a")["model"], state_of(tmp_path / "b")["model"])
    assert [line["step"] for line in metrics_of(tmp_path / "a")] == list(range(1, 11))
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["train"]["steps"] == 10


def test_dropout_of_the_program_goes_on(data: Dataset, tmp_path: Path) -> None:
    """Which ELUs are dropped comes from PyTorch's generator, whose state is in the checkpoint."""

    def network() -> PixelCNNPP:
        torch.manual_seed(0)
        given = {"shape": (1, 7, 7), "levels": 4, "classes": 10, "components": 2}
        return PixelCNNPP(width=8, blocks=1, dropout=0.4, **given)

    options = {**OPTIONS, "schedule": "constant", "valid_every": 10, "save_every": 10}
    fit(network(), data, out=tmp_path / "whole", **options)
    fit(network(), data, out=tmp_path / "parts", **{**options, "steps": 3})
    fit(network(), data, out=tmp_path / "parts", resume=True, **options)
    whole, parts = (state_of(tmp_path / name)["model"] for name in ("whole", "parts"))
    assert_equal(whole, parts)


def test_a_resumed_run_takes_the_weight_decay_it_is_given(data: Dataset, tmp_path: Path) -> None:
    out = fit(make(), data, out=tmp_path / "run", **{**OPTIONS, "steps": 2, "weight_decay": 0.1})
    fit(make(), data, out=out, resume=True, **{**OPTIONS, "steps": 3, "weight_decay": 0.7})
    groups = state_of(out)["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.7, 0.7]


def test_half_a_line_and_later_ones_are_forgotten(data: Dataset, tmp_path: Path) -> None:
    out = fit(make(), data, out=tmp_path / "run", **OPTIONS)
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 7, "loss": 1.0}\n\xff\n[]\n{"step": 8, "lo')
    fit(make(), data, out=out, resume=True, **{**OPTIONS, "steps": 8})
    assert [line["step"] for line in metrics_of(out)] == list(range(1, 9))
    (out / "metrics.jsonl").unlink()
    fit(make(), data, out=out, resume=True, **{**OPTIONS, "steps": 9})
    assert [line["step"] for line in metrics_of(out)] == [9]


# --- numbers that are no longer numbers -----------------------------------------------------------


def assert_intact(out: Path, step: int, x: torch.Tensor) -> None:
    state = state_of(out)
    assert state["step"] == step
    tensors = [*state["model"].values(), *state["average"].values()]
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert load(out / "last", trust=True).log_prob(x, 0).isfinite().all()


def test_nan_stops_and_leaves_the_checkpoint(
    reference: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(run: trainer.Run) -> None:
        with torch.no_grad():
            next(iter(run.model.parameters())).fill_(math.nan)

    with monkeypatch.context() as patch:
        at_step(patch, 5, poison)
        with pytest.raises(UserError, match=r"At step 5 the loss is nan .* step 4 .* intact"):
            fit(make(Dropout), data, out=tmp_path / "run", setbacks=0, **OPTIONS)
    assert_intact(tmp_path / "run", 4, torch.from_numpy(data.valid.x[:2]))
    assert len(metrics_of(tmp_path / "run")) == 4
    fit(make(Dropout), data, out=tmp_path / "run", resume=True, **OPTIONS)
    assert_same_run(tmp_path / "run", reference)


def test_infinite_gradient_changes_nothing(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    parameter = next(iter(model.parameters()))
    parameter.register_hook(lambda gradient: gradient + math.inf)
    with pytest.raises(UserError, match=r"At step 1 .* norm (inf|nan).* step 0 .* intact"):
        fit(model, data, out=tmp_path / "run", setbacks=0, **OPTIONS)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert_intact(tmp_path / "run", 0, torch.from_numpy(data.valid.x[:2]))


def test_ruined_weights_do_not_replace_the_checkpoint(data: Dataset, tmp_path: Path) -> None:
    """The step before was fine, its loss and its gradient: only the new weights are not."""
    options = {**OPTIONS, "lr": 1e38, "warmup": 0, "save_every": 1, "ema": 0}
    with pytest.raises(UserError, match=r"At step 1 the norm of the weights is (inf|nan)"):
        fit(make(), data, out=tmp_path / "run", **options)
    assert_intact(tmp_path / "run", 0, torch.from_numpy(data.valid.x[:2]))


def test_a_full_disk_leaves_the_checkpoint(
    reference: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda run: patch.setattr(os, "fsync", no_space))
        with pytest.raises(OSError, match="No space"):
            fit(make(Dropout), data, out=tmp_path / "run", **OPTIONS)
    assert_intact(tmp_path / "run", 2, torch.from_numpy(data.valid.x[:2]))
    fit(make(Dropout), data, out=tmp_path / "run", resume=True, **OPTIONS)
    assert_same_run(tmp_path / "run", reference)


# --- folders that cannot be resumed ---------------------------------------------------------------


def test_a_folder_with_a_run_is_refused(reference: Path, data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    with pytest.raises(UserError, match="already holds a run"):
        fit(make(Dropout), data, out=out, **OPTIONS)
    assert_same_run(out, reference)


def test_nothing_to_resume(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        fit(make(), data, out=tmp_path, resume=True, **OPTIONS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "another model", "another state"])
def test_a_state_that_cannot_be_resumed(
    damage: str, reference: Path, data: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    state, arguments = (out / "state.pt").read_bytes(), {}
    if damage == "truncated":
        (out / "state.pt").write_bytes(state[:-100])
    elif damage == "another state":
        torch.save({"step": 3}, out / "state.pt")
    else:
        arguments["inputs"] = "embedded"
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    match = r"state\.pt is (damaged|not a checkpoint of this model: resume it with the model, the)"
    with pytest.raises(UserError, match=match) as error:
        fit(make(Dropout, **arguments), data, out=out, resume=True, **{**OPTIONS, "steps": 7})
    assert "\n" not in str(error.value)
    assert "state_dict" not in str(error.value)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_damaged_record_of_the_data_is_no_empty_one(tmp_path: Path) -> None:
    """Else nothing would be compared with the data that the run goes on with."""
    assert begun_record(tmp_path) == DataRecord()
    (tmp_path / "last").mkdir()
    for damaged in (b"{", b"[1]", b"\xff\xfe", b'{"spectrogram": 3}'):
        (tmp_path / "last" / "config.json").write_bytes(damaged)
        with pytest.raises(UserError, match="no configuration of a model"):
            begun_record(tmp_path)
