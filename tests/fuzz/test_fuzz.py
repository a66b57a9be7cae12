"""Damaged files end in one sentence, or are noticed; and the fuzzer finds what does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fuzz import run
from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.run import Input, faults, inputs, shown

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").iterdir())


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "cifar tar.gz"])
def test_undamaged_files_are_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else damaged ones would be refused for another reason; CIFAR-10's must be the real one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    KINDS[kind].read(tmp_path, KINDS[kind].content())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_once_failed(path: Path) -> None:
    """Inputs that ended in a traceback, hung, took gigabytes, or gave other pixels."""
    found = faults([Input(path.name.rpartition(".")[0], path.read_bytes())])
    assert not found, shown(found)


def test_300_damaged_inputs() -> None:
    found = faults(list(inputs(300, seed=0)))
    assert not found, shown(found)


@pytest.mark.slow
def test_10_000_damaged_inputs() -> None:
    found = faults(list(inputs(10_000, seed=1)))
    assert not found, shown(found)


def in_parallel(folder: Path, data: bytes) -> None:
    torch.zeros(10_000_000)


def test_threads_of_the_parent_do_not_stop_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with a large bias once waited for ever, where this process had run in parallel."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.zeros(10_000_000)
        monkeypatch.setitem(KINDS, "zeros", Kind(lambda: b"", in_parallel))
        monkeypatch.setattr(run, "SECONDS", 20)
        assert not faults([Input("zeros", b"")])
    finally:
        torch.set_num_threads(threads)


def fail(folder: Path, data: bytes) -> None:
    raise KeyError(data)


def hang(folder: Path, data: bytes) -> None:
    time.sleep(100)


def fill(folder: Path, data: bytes) -> None:
    np.ones(2**25)


def die(folder: Path, data: bytes) -> None:
    run.os._exit(3)


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (fail, "KeyError: b'x'"),
        (hang, "it took more than 3 seconds"),
        (fill, "it took 0."),
        (die, "the process ended with 3"),
    ],
)
def test_the_fuzzer_finds(
    read: Callable[[Path, bytes], None], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault between two good inputs is found, and they are still read."""
    monkeypatch.setattr(run, "SECONDS", 3 if read is hang else 60)
    monkeypatch.setattr(run, "MEMORY", 2**26)
    monkeypatch.setitem(KINDS, "bad", Kind(bytes, read))  # type: ignore[misc]
    good = Input("npy", KINDS["npy"].content())
    found = faults([good, Input("bad", b"x"), good])
    assert [fault.input.data for fault in found] == [b"x"]
    assert what in found[0].what
