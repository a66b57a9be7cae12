"""Two threads at one image: the same bits, whatever the second one does."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nextpixel import GatedPixelCNN, PixelCNN, PixelCNNPP, PixelSNAIL
from nextpixel.engine import Images, Program, Session
from nextpixel.engine.compile import compile_model
from nextpixel.engine.library import load_library
from nextpixel.models import DiagonalBiLSTM, RowLSTM
from nextpixel.noise import site_noise
from tests.engine.test_fuzz import SANITIZERS
from tests.engine.test_same_bits import HERE, NATIVE
from tests.helpers import needs

NO_LEAKS = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # helper.c ends without freeing
MODELS: dict[str, Any] = {
    "PixelCNN": (PixelCNN, {"shape": (1, 6, 7), "levels": 16, "width": 128}),
    "GatedPixelCNN": (GatedPixelCNN, {"shape": (1, 7, 6), "width": 128, "classes": 3}),
    "RowLSTM": (RowLSTM, {"shape": (1, 5, 6), "levels": 16, "width": 96}),
    "DiagonalBiLSTM": (DiagonalBiLSTM, {"shape": (1, 5, 6), "levels": 16, "width": 96}),
    "PixelCNNPP": (PixelCNNPP, {"shape": (3, 8, 8), "blocks": 1, "width": 80}),
    "PixelSNAIL": (PixelSNAIL, {"shape": (1, 6, 7), "levels": 16, "width": 80}),
}


def large(name: str) -> NDArray[np.uint8]:
    """Compiles a model that has products of more columns than a thread computes at once."""
    torch.manual_seed(0)
    cls, arguments = MODELS[name]
    model = cls(**{"blocks": 2, **arguments}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # those of contexts begin at 0
            parameter += 0.02 * torch.randn_like(parameter)
    return compile_model(model)


def intervals_of(program: Program, *, threads: int, guidance: float = 1) -> NDArray[np.uint32]:
    """Draws an image and returns the integer CDF at its levels."""
    inputs = {}
    if "classes" in program.inputs:
        inputs["classes"] = np.array([[0, 1, 0], [0, 0, 0]], np.float32)[: 1 + (guidance != 1)]
        inputs["present"] = np.array([[1], [0]], np.float32)[: 1 + (guidance != 1)]
    found = np.zeros((1, *program.shape, 2), np.uint32)
    images = Images(
        np.zeros((1, *program.shape), np.int64),
        inputs,
        noise=site_noise(program.shape, 0, range(1)),
        intervals=found,
    )
    program.run(images, threads=threads, guidance=guidance)
    return found


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the pieces that helpers take."""
    taken: list[int] = []
    original = Session.helper

    @contextmanager
    def helper(session: Session) -> Iterator[None]:
        library = session.program.library

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(library, name)

            def np_help(self, program: int, crew: int) -> int:
                taken.append(library.np_help(program, crew))
                return taken[-1]

        session.program.library = Counting()  # type: ignore[assignment]
        try:
            with original(session):
                yield
        finally:
            session.program.library = library

    monkeypatch.setattr(Session, "helper", helper)
    return taken


def check_help(program: Program, helped: list[int], guidance: float = 1) -> None:
    """Compares an image with and without help, until the system has run the helper beside it."""
    alone = intervals_of(program, threads=1, guidance=guidance)
    assert not helped
    for _ in range(100):
        assert np.array_equal(intervals_of(program, threads=2, guidance=guidance), alone)
        if sum(helped):
            break
    assert sum(helped) > 0


@pytest.mark.parametrize("name", MODELS)
def test_a_helper_changes_no_bits(name: str, helped: list[int]) -> None:
    check_help(Program(large(name)), helped)


def test_a_helper_with_guidance(helped: list[int]) -> None:
    program = Program(large("GatedPixelCNN"))
    guided = intervals_of(program, threads=1, guidance=2)
    assert not np.array_equal(guided, intervals_of(program, threads=1))
    check_help(program, helped, guidance=2)


@pytest.mark.parametrize("instructions", [0, 1, 2], ids=["baseline", "AVX2", "AVX-512"])
def test_a_helper_by_other_instructions(instructions: int, helped: list[int]) -> None:
    """Their panels are of other widths."""
    library = load_library()
    try:
        if library.np_choose(instructions) != instructions:
            pytest.skip("this processor does not have these instructions")
        check_help(Program(large("PixelSNAIL")), helped)
    finally:
        library.np_choose(2)


def test_an_interrupt_ends_the_helper() -> None:
    program = Program(large("PixelCNN"))
    noise = site_noise(program.shape, 0, range(1))
    session = program.begin(Images(np.zeros((1, *program.shape), np.int64), {}, noise))

    def interrupted() -> None:
        with session.helper():
            session.run_rows(0, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [t for t in threading.enumerate() if t.name == "nextpixel helper"]
    session.run_rows(1, 2)  # alone


def test_a_system_without_threads_draws_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    program = Program(large("PixelCNN"))
    alone = intervals_of(program, threads=1)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert np.array_equal(intervals_of(program, threads=2), alone)


def test_small_products_are_not_shared(helped: list[int]) -> None:
    program = Program(compile_model(PixelCNN(shape=(1, 6, 7), levels=16, width=16).eval()))
    intervals_of(program, threads=2)
    assert not helped


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("gcc", "gcc")
    program = tmp_path_factory.mktemp("helper") / "helper"
    words = ["gcc", *SANITIZERS, "-w", "-ffp-contract=off", "-pthread", f"-I{NATIVE}"]
    sources = [str(HERE / "helper.c"), str(NATIVE / "engine.c")]
    subprocess.run([*words, *sources, "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("name", ["PixelCNN", "PixelSNAIL"])
def test_helpers_that_misbehave(name: str, compiled: Path, tmp_path: Path) -> None:
    """One that helps, one that never finishes, one that is late, and one that lies."""
    path = tmp_path / "model.program"
    path.write_bytes(large(name).tobytes())
    program = Program.load(path)
    alone = intervals_of(program, threads=1)
    checksum = f"{program.library.np_checksum(alone.ctypes.data, alone.nbytes):016x}"
    for kind in range(4):
        words = [str(compiled), str(path), str(kind)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=NO_LEAKS)
        assert done.returncode == 0, done.stderr[-3000:]
        found, taken = done.stdout.split()
        assert found == checksum
        assert int(taken) > 0
