"""What the tests of the programs in C share."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nextpixel.nn import native_lstm, native_units
from nextpixel.utils.compiling import OPTIONS
from tests.helpers import needs


@pytest.fixture
def compiler() -> None:
    needs("cc", "gcc")


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n} threads")
def several_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def reloaded() -> Iterator[None]:
    """Lets the programs be loaded again after a test without them, or with others."""
    yield
    for module in (native_units, native_lstm):
        module.program.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch, module: ModuleType = native_units) -> None:
    """Takes a program away, as if there were no compiler."""
    monkeypatch.setattr(module, "load_c_library", lambda *_: None)
    module.program.cache_clear()
    assert module.program() is None


def compile_for(level: str, source: Path, library: Path, *options: str) -> str:
    """Compiles a program for a kind of x86-64 processors, and returns what GCC says."""
    needs("gcc", "gcc")
    command = ["gcc", *OPTIONS, f"-march={level}", "-fopenmp", *options, "-shared", "-fPIC"]
    result = subprocess.run(
        [*command, str(source), "-o", str(library)], capture_output=True, text=True, check=False
    )
    if "bad value" in result.stderr:
        pytest.skip(f"a compiler that does not know {level}")
    assert result.returncode == 0, result.stderr
    return result.stderr


def vectorized(level: str, source: Path, library: Path) -> list[tuple[str, int]]:
    """Lists the loops that should become vectors: some lines around each, how often it did."""
    said = compile_for(level, source, library, "-fopt-info-vec")
    found = Counter(int(n) for n in re.findall(r":(\d+):\d+: optimized: loop vectorized", said))
    lines = source.read_text().splitlines()
    loops = [n + 2 for n, line in enumerate(lines) if line.strip() == "#pragma omp simd"]
    # GCC names a loop's head or its first line.
    return [("\n".join(lines[n - 8 : n + 8]), found[n] + found[n + 1]) for n in loops]
