"""The same bits on every machine: one hash of integer CDFs for each kind of model.

The weights are multiples of a power of 1/2, so that folding them is exact and a program has the
same numbers wherever it is compiled. The hashes are committed; every processor, compiler and batch
must give them.
"""

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextpixel.engine import Images, Program, library
from nextpixel.engine.compile import compile_model
from nextpixel.engine.library import load_library
from nextpixel.models import (
    DiagonalBiLSTM,
    GatedPixelCNN,
    PixelCNN,
    PixelCNNPP,
    PixelSNAIL,
    RowLSTM,
)
from nextpixel.noise import Stream
from tests.helpers import needs

HERE = Path(__file__).parent / "native"
NATIVE = Path(library.__file__).parent / "native"
IMAGES = 7
MODELS: dict[str, Any] = {
    "PixelCNN": (PixelCNN, {"shape": (3, 6, 7), "levels": 16, "classes": 3}),
    "PixelCNN of two levels": (PixelCNN, {"shape": (1, 9, 8), "levels": 2}),
    "GatedPixelCNN": (GatedPixelCNN, {"shape": (1, 7, 6), "levels": 256, "vector": 3}),
    "GatedPixelCNN of codes": (
        GatedPixelCNN,
        {"shape": (1, 5, 6), "levels": 600, "inputs": "embedded", "classes": 3, "vector": 2},
    ),
    "RowLSTM": (RowLSTM, {"shape": (3, 5, 6), "levels": 16}),
    "DiagonalBiLSTM": (DiagonalBiLSTM, {"shape": (3, 5, 6), "levels": 16}),
    "PixelCNNPP": (PixelCNNPP, {"shape": (3, 9, 10), "levels": 256, "blocks": 1, "classes": 3}),
    "PixelSNAIL": (PixelSNAIL, {"shape": (3, 6, 7), "levels": 256}),
}
HASHES = {
    "PixelCNN": "8bfba22e34266afb",
    "PixelCNN of two levels": "84f860ef978116c6",
    "GatedPixelCNN": "ce686295c613c2ff",
    "GatedPixelCNN of codes": "28c7e9509fe57dae",
    "RowLSTM": "91a7c5a426f00f1d",
    "DiagonalBiLSTM": "8cd760c69a1cac58",
    "PixelCNNPP": "a4980f11d169027f",
    "PixelSNAIL": "9b848effe293035c",
}


def build(name: str) -> bytes:
    """Compiles a model whose weights are the same on all machines."""
    cls, arguments = MODELS[name]
    model = cls(**{"width": 8, "blocks": 2, **arguments})
    random = np.random.Generator(np.random.Philox(key=[0, 0]))
    with torch.no_grad():
        for parameter in model.parameters():
            numbers = random.integers(-32, 33, parameter.shape) / (
                256 if model.whole_pixels else 64
            )
            parameter.copy_(torch.from_numpy(numbers))
    return compile_model(model).tobytes()


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.program"
    path.write_bytes(build(name))
    return path


def hash_of(
    program: Program, *, numbers: range = range(IMAGES), threads: int = 1, last: int = IMAGES
) -> str:
    """Draws images and hashes the integer CDFs of the first ones, or the last, as hash.c does."""
    n, inputs = len(numbers), {}
    if "present" in program.inputs:
        inputs["present"] = np.ones((n, 1), np.float32)
    if size := program.inputs.get("classes"):
        inputs["classes"] = np.eye(size, dtype=np.float32)[[k % size for k in numbers]]
    if size := program.inputs.get("vector"):
        vectors = [[(i + k) % 3 - 1 for i in range(size)] for k in numbers]
        inputs["vector"] = np.array(vectors, np.float32)
    noise = np.stack([Stream.PIXELS.generator(0, k).random(program.shape) for k in numbers])
    intervals = np.zeros((*noise.shape, 2), np.uint32)
    levels = np.zeros(noise.shape, np.int64)
    program.run(Images(levels, inputs, noise, intervals=intervals), threads=threads)
    return hash_of_intervals(intervals[:IMAGES][-last:])


def hash_of_intervals(intervals: Any) -> str:
    return f"{load_library().np_checksum(intervals.ctypes.data, intervals.nbytes):016x}"


@pytest.fixture
def any_instructions() -> Iterator[None]:
    yield
    load_library().np_choose(2)


@pytest.mark.parametrize("instructions", [0, 1, 2], ids=["baseline", "AVX2", "AVX-512"])
@pytest.mark.usefixtures("any_instructions")
def test_every_set_of_instructions(name: str, file: Path, instructions: int) -> None:
    if load_library().np_choose(instructions) != instructions:
        pytest.skip("this processor does not have these instructions")
    assert hash_of(Program.load(file)) == HASHES[name]


def test_every_batch_and_number_of_threads(name: str, file: Path) -> None:
    program = Program.load(file)
    assert hash_of(program, numbers=range(64), threads=2) == HASHES[name]
    assert hash_of(program, threads=2) == HASHES[name]
    last = range(IMAGES - 1, IMAGES)
    assert hash_of(program, numbers=last) == hash_of(program, last=1)


def output(*command: object) -> str:
    words = list(map(str, command))
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles hash.c and the engine with a command, once."""
    folder = tmp_path_factory.mktemp("compiled")

    @cache
    def compiled(*command: str) -> Path:
        program = folder / str(len(list(folder.iterdir())))
        sources = [HERE / "hash.c", NATIVE / "engine.c", NATIVE / "run.c"]
        output(*command, "-w", "-ffp-contract=off", f"-I{NATIVE}", *sources, "-o", program)
        return program

    return compiled


@pytest.mark.parametrize(
    "flags",
    [("-O3", "-march=x86-64"), ("-O1", "-mavx2", "-mfma"), ("-O3", "-march=native")],
    ids=["baseline", "FMA", "native"],
)
def test_another_compiler(name: str, file: Path, flags: tuple[str, ...], compiled: Compile) -> None:
    """Also where a processor could contract a product and a sum."""
    needs("gcc", "gcc")
    if platform.machine() not in ("x86_64", "AMD64") and flags[-1] != "-march=native":
        pytest.skip("this is no x86-64 processor")
    if "-mfma" in flags and load_library().np_choose(2) < 1:
        pytest.skip("this processor has no AVX2")
    assert output(compiled("gcc", *flags), file, IMAGES) == HASHES[name]


def test_another_processor(name: str, file: Path, compiled: Compile) -> None:
    """AArch64, in QEMU."""
    needs("qemu-aarch64", "qemu-user")
    pytest.importorskip("ziglang", reason="there is no ziglang, which the extra dev installs")
    zig = (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static")
    assert output("qemu-aarch64", compiled(*zig, "-O3"), file, IMAGES) == HASHES[name]


def test_a_browsers_machine(name: str, file: Path) -> None:
    """WebAssembly, in Node."""
    needs("node", "nodejs")
    wasm = NATIVE.parent / "libraries" / "engine-wasm32.wasm"
    assert output("node", HERE / "hash.mjs", wasm, file, IMAGES) == HASHES[name]
