"""The notebooks run, cell by cell, and are saved without outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from tests.helpers import ROOT, enter

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    """Reads the cells of code."""
    return [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs a notebook in a folder, and returns its names."""
    enter(folder, monkeypatch)
    scope: dict[str, Any] = {}
    for cell in cells(ROOT / "examples" / f"{name}.ipynb"):
        exec("".join(cell["source"]), scope)
    return scope


def test_first_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = run("first-steps", tmp_path, monkeypatch)
    assert (scope["guesses"] == scope["classes"][:8]).sum() == 7  # it takes a nine for an eight
    assert scope["of_noise"].mean() > 8 > scope["of_drawn"].mean()


def test_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = run("own-data", tmp_path, monkeypatch)
    assert scope["score"].bits_per_dim < 0.5
    assert (tmp_path / "runs/shapes/report.html").is_file()


def test_inside_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mpl.rc_context():
        mpl.use("agg")
        scope = run("inside-a-model", tmp_path, monkeypatch)
        scope["plt"].close("all")
    assert scope["surprise"].sum() == pytest.approx(592.8, abs=1)  # as in docs/receptive-fields.md


def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = run("pictures", tmp_path, monkeypatch)
    assert (tmp_path / "digit-3.png").exists()
    assert (tmp_path / "run" / "best" / "config.json").exists()
    assert scope["restored"].shape == (2, 1, 28, 28)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_saved_without_outputs(notebook: Path) -> None:
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells(notebook))
    for cell in cells(notebook):
        ast.parse("".join(cell["source"]))
