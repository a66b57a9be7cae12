"""The layout: imports run downwards only, in no circle, between files that can be read at once."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nextpixel

SOURCE = Path(__file__).parents[1] / "src" / "nextpixel"
# Lowest first, as in docs/architecture.md: a module imports from its own room and those before it.
ROOMS = [
    "errors",
    "utils",
    "noise",
    "orders",
    "distributions",
    "context",
    "data",
    "viz",
    "model_folders",
    "saving",
    "nn",
    "conditioning",
    "engine",
    "sampling",
    "models",
    "latents",
    "evaluation",
    "tasks",
    "training",
    "comparison",
    "codec",
    "web",
    "cli",
]
TOP = 10  # modules in no room, at most
LINES = 500
LONG: dict[str, str] = {  # files that may have more lines, and why
}


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("nextpixel", *(part for part in parts if part != "__init__")))


FILES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported(source: str) -> set[str]:
    """Finds the modules of nextpixel that a source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(FILES)
            if names - set(FILES):
                found.add(node.module)
    ours = {name for name in found if name.partition(".")[0] == "nextpixel"}
    assert ours <= set(FILES), ours - set(FILES)
    return ours


IMPORTS = {name: imported(path.read_text()) - {name} for name, path in FILES.items()}
# The package itself shows names from all rooms, and is started by __main__.
INSIDE = [name for name in FILES if name not in ("nextpixel", "nextpixel.__main__")]


def room_of(name: str) -> str:
    return name.split(".")[1]


def test_rooms_are_those_of_the_document() -> None:
    assert {room_of(name) for name in INSIDE} == set(ROOMS)
    words = (SOURCE.parents[1] / "docs" / "architecture.md").read_text().split()
    written = " ".join(words)
    assert " -> ".join(ROOMS) in written


def test_no_circle() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", INSIDE)
def test_imports_run_downwards(name: str) -> None:
    assert "nextpixel" not in IMPORTS[name], "the package itself lies above all rooms"
    floor = ROOMS.index(room_of(name))
    assert [other for other in sorted(IMPORTS[name]) if ROOMS.index(room_of(other)) > floor] == []


def test_few_modules_at_the_top() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= TOP


def test_files_are_short() -> None:
    lines = {
        str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in FILES.values()
    }
    assert {name for name, count in lines.items() if count > LINES} == set(LONG)


def test_the_reference_names_the_public_api() -> None:
    page = (SOURCE.parents[1] / "docs" / "reference.md").read_text()
    assert set(re.findall(r"\bnpx\.(\w+)", page)) == set(nextpixel.__all__)
