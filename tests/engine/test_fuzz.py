"""Damaged and hostile programs end in a sentence, never in memory that is not theirs."""

import subprocess
from pathlib import Path

import pytest

from tests.engine.test_same_bits import HERE, MODELS, NATIVE, build
from tests.helpers import needs

TIMES = 640  # for each model: 5,120 in all
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiles the engine with sanitizers that end it at the first fault."""
    needs("gcc", "gcc")
    program = tmp_path_factory.mktemp("fuzz") / "fuzz"
    sources = [HERE / "fuzz.c", NATIVE / "engine.c", NATIVE / "run.c"]
    # All products count as large, so that helpers take part.
    flags = ["-w", "-ffp-contract=off", "-pthread", "-DNP_LARGE=1", f"-I{NATIVE}"]
    words = ["gcc", *SANITIZERS, *flags, *map(str, sources)]
    subprocess.run([*words, "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("name", MODELS)
def test_damaged_programs(name: str, fuzz: Path, tmp_path: Path) -> None:
    """Numbers of the header, the instructions and the matrices change; the checksum is made to fit.

    A third or so still opens, and is run.
    """
    path = tmp_path / "model.program"
    path.write_bytes(build(name))
    done = subprocess.run(
        [str(fuzz), str(path), str(TIMES), "0"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    opened, _, times, _, helped, *_ = done.stdout.split()
    assert int(times) == TIMES
    assert TIMES / 8 < int(opened) < TIMES
    assert int(helped) > 0
