"""The tool that ships a trained model."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT


@pytest.mark.parametrize("recipe", ["", "--recipe recipes/nothing.yaml"])
def test_shipping_needs_a_recipe(recipe: str) -> None:
    script = ROOT / "tools" / "ship_model.py"
    words = [sys.executable, script, "no-run", "no-name", *recipe.split()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no recipe" in done.stderr
