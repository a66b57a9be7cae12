"""The engine's libraries: all there, not stale, reproducible; a damaged one is not loaded."""

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nextpixel.engine import library
from nextpixel.errors import UserError
from tests.helpers import ROOT

SCRIPT = ROOT / "tools" / "build_engine.py"
TOOL = runpy.run_path(str(SCRIPT))


def files() -> dict[str, Path]:
    return {path.name: path for path in library.LIBRARIES.iterdir()}


def test_all_libraries_are_there() -> None:
    assert set(files()) == {*TOOL["TARGETS"], "digests.json"}
    assert set(library.NAMES.values()) <= set(files())
    assert sum(path.stat().st_size for path in files().values()) < 2_000_000


@pytest.mark.parametrize("name", TOOL["TARGETS"])
def test_a_library_is_built_from_these_sources(name: str) -> None:
    built = b"nextpixel engine " + TOOL["digest"]().encode()
    data = files()[name].read_bytes()
    assert built in data, "run make engine"
    assert json.loads(files()["digests.json"].read_text())[name] == hashlib.sha256(data).hexdigest()
    assert str(ROOT).encode() not in data


def test_a_build_gives_the_same_bytes() -> None:
    pytest.importorskip("ziglang", reason="there is no ziglang, which the extra dev installs")
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_digest_changes_with_a_source(tmp_path: Path) -> None:
    tool: dict[str, Any] = runpy.run_path(str(SCRIPT))
    before = tool["digest"]()
    shutil.copytree(tool["SOURCES"], tmp_path / "native")
    digest = tool["digest"]
    digest.__globals__["SOURCES"] = tmp_path / "native"
    assert digest() == before
    with (tmp_path / "native" / "functions.h").open("a") as source:
        source.write("\n")
    assert digest() != before


def test_the_functions_have_the_types_of_the_header() -> None:
    header = (library.LIBRARIES.parent / "native" / "engine.h").read_text()
    declared = {
        words.partition("(")[0].split()[-1].lstrip("*"): words.count(",") + ("void)" not in words)
        for words in header.replace("\n", " ").split("NP_API ")[1:]
        if words.startswith(("const", "int64_t", "void", "float", "uint"))
        for words in [words.partition(";")[0]]
    }
    assert declared == {name: len(arguments) for name, (_, arguments) in library.FUNCTIONS.items()}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies the libraries; returns the path of the one for this machine."""
    folder = tmp_path / "libraries"
    shutil.copytree(library.LIBRARIES, folder)
    monkeypatch.setattr(library, "LIBRARIES", folder)
    return library.find_library()


load = library.load_library.__wrapped__  # not the one that is loaded already


def test_a_truncated_library_is_not_loaded(copied: Path) -> None:
    load()
    os.truncate(copied, copied.stat().st_size // 2)
    with pytest.raises(UserError, match="is damaged"):
        load()


def test_a_missing_library_is_a_users_error(copied: Path) -> None:
    copied.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load()


def test_a_library_that_the_system_refuses_is_a_users_error(copied: Path) -> None:
    copied.write_bytes(b"no library")
    digests = {copied.name: hashlib.sha256(b"no library").hexdigest()}
    (copied.parent / "digests.json").write_text(json.dumps(digests))
    with pytest.raises(UserError, match="cannot be loaded"):
        load()


def test_another_machine_is_a_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(UserError, match="no engine for this machine"):
        load()


def test_instructions_are_those_that_the_processor_has() -> None:
    engine = library.load_library()
    choices = [engine.np_choose(wanted) for wanted in (-1, 0, 1, 2, 99)]
    assert choices[:2] == [0, 0]
    assert choices == sorted(choices)
    assert choices[2] <= 1
    assert choices[3] == choices[4] <= 2
    if Path("/proc/cpuinfo").exists():
        flags = set(Path("/proc/cpuinfo").read_text().split())
        avx512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags
        assert choices[3] == (2 if avx512 else 1 if "avx2" in flags else 0)
