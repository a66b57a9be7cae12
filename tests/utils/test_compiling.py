"""Compiled libraries in the user's cache: damaged ones, and those of others, are not loaded."""

import os
from pathlib import Path

import pytest

from nextpixel.nn import native_conv, native_lstm, native_units
from nextpixel.utils import compiling
from nextpixel.utils.compiling import c_compiler, load_c_library
from tests.helpers import needs

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no user ids")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in C, and a cache of its own."""
    needs("cc", "gcc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }")
    return path


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """All libraries that are compiled."""
    done: list[Path] = []
    build = compiling.build
    monkeypatch.setattr(
        compiling, "build", lambda library, *rest: [done.append(library), build(library, *rest)]
    )
    return done


def answer(source: Path) -> int:
    """Loads the program as a new process would."""
    load_c_library.cache_clear()
    library = load_c_library(source, "answer")
    assert library is not None
    return int(library.answer())


def stored(source: Path) -> Path:
    return next((source.parent / "cache" / "nextpixel" / "compiled").glob("*.so"))


def test_it_is_compiled_once(source: Path, built: list[Path]) -> None:
    assert [answer(source), answer(source)] == [42, 42]
    assert len(built) == 1
    source.write_text("int answer(void) { return 43; }")
    assert answer(source) == 43


def test_programs_of_training_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("cc", "gcc")
    for module in (native_conv, native_lstm, native_units):
        module.program.cache_clear()
        monkeypatch.setenv("NEXTPIXEL_NATIVE", "0")
        assert module.program() is None
        monkeypatch.delenv("NEXTPIXEL_NATIVE")
        module.program.cache_clear()
        assert module is native_conv or module.program() is not None


def test_another_header_is_another_program(source: Path, built: list[Path]) -> None:
    source.write_text('#include "number.h"\nint answer(void) { return NUMBER; }')
    for number in (1, 2):
        (source.parent / "number.h").write_text(f"#define NUMBER {number}")
        assert answer(source) == number
    assert len(built) == 2


@pytest.mark.parametrize("damage", ["cut off", "empty", "hole", "no digest", "writable", "folder"])
def test_what_could_be_wrong_is_compiled_again(
    damage: str, source: Path, built: list[Path]
) -> None:
    answer(source)
    file = stored(source)
    whole = file.read_bytes()
    # A new file: the old one is loaded, and must not change under it.
    if damage in ("cut off", "empty", "hole"):
        file.unlink()
        size = {"cut off": len(whole) // 2, "empty": 0, "hole": 4096}[damage]
        rest = b"\0" * (len(whole) - size) if damage == "hole" else b""
        file.write_bytes(whole[:size] + rest)
        file.chmod(0o700)
    elif damage == "no digest":
        file.with_suffix(".sha256").unlink()
    elif damage == "writable":
        file.chmod(0o722)
    else:
        file.parent.chmod(0o777)
    assert answer(source) == 42
    assert len(built) == 2
    if damage != "folder":
        assert answer(source) == 42
        assert len(built) == 2  # it was stored again


def test_a_full_disk(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiling, "replace_file", full)
    assert answer(source) == 42


def test_a_failure_is_remembered_for_the_process_only(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    load_c_library.cache_clear()
    assert load_c_library(source, "answer") is None
    monkeypatch.delenv("CC")
    assert answer(source) == 42


def test_no_module_of_the_current_folder_is_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(compiling, "find_spec", lambda _: True)
    (tmp_path / "ziglang.py").write_text("print('planted')")
    monkeypatch.chdir(tmp_path)
    command = c_compiler()
    done = compiling.subprocess.run(command, capture_output=True, text=True)
    assert "planted" not in done.stdout
