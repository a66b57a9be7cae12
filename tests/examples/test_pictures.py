"""The notebook on pictures runs, cell by cell."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT

NOTEBOOK = json.loads((ROOT / "examples" / "pictures.ipynb").read_text())


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
    assert (tmp_path / "digit-3.png").exists()
    assert (tmp_path / "run" / "best" / "config.json").exists()
    assert scope["restored"].shape == (2, 1, 28, 28)


def test_it_is_saved_without_outputs() -> None:
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    for cell in cells:
        ast.parse("".join(cell["source"]))
