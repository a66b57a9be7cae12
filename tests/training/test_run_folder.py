"""A run folder belongs to one process at a time."""

import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.training import fit
from nextpixel.training.run_folder import LOCK, locked
from tests.helpers import ROOT
from tests.training.runs import OPTIONS, at_step, make

HOLD = """
import sys
from pathlib import Path
from nextpixel.training.run_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(out: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", HOLD, str(out)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named(data: Dataset, tmp_path: Path) -> None:
    process = holder(tmp_path / "run")
    with pytest.raises(UserError, match=f"trained in already, by process {process.pid} on"):
        fit(make(), data, out=tmp_path / "run", **OPTIONS)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    process.kill()  # the system releases what it held
    process.communicate()
    fit(make(), data, out=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_run_that_began_in_between_is_not_overwritten(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look at the folder and the lock."""
    out = tmp_path / "run"
    other = locked

    def late(path: Path) -> object:
        (out / "state.pt").parent.mkdir(exist_ok=True)
        (out / "state.pt").write_bytes(b"another run's")
        return other(path)

    monkeypatch.setattr("nextpixel.training.fitting.locked", late)
    with pytest.raises(UserError, match="already holds a run"):
        fit(make(), data, out=out, **OPTIONS)
    assert (out / "state.pt").read_bytes() == b"another run's"


def test_a_run_is_locked_while_it_trains(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[str]()
    at_step(monkeypatch, 2, lambda run: seen.append((tmp_path / "run" / LOCK).read_text()))
    fit(make(), data, out=tmp_path / "run", **OPTIONS)
    assert seen
    assert f"process {os.getpid()} on" in seen[0]


def one_of_many(out: str, index: int) -> bool:
    try:
        with locked(Path(out)):
            (Path(out) / f"{index}").touch()
            return True
    except UserError:
        return False


def test_a_file_system_without_locks_is_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(UserWarning, match="cannot be locked"), locked(tmp_path):
        assert (tmp_path / LOCK).exists()


def test_of_many_one_gets_it(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        got = pool.starmap(one_of_many, [(str(tmp_path), i) for i in range(8)])
    assert got == [False] * 8
    process.communicate("")
    assert one_of_many(str(tmp_path), 9)
