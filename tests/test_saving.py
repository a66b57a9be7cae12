"""Which saved models load, and which are refused."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import nextpixel as npx
from nextpixel.cli.main import main
from nextpixel.conditioning.classifier import load_classifier
from tests.helpers import succeed

GOLDEN = Path(__file__).parent / "golden"
MODULE = """
from pathlib import Path

(Path(__file__).parent / "was-run").touch()

from nextpixel import PixelCNN


class Net(PixelCNN):
    pass
"""


def not_ours(folder: Path, kind: str) -> Path:
    """Makes a folder with a model whose class lies in a module beside it."""
    shutil.copytree(GOLDEN / kind, folder / "model")
    (folder / "strangers.py").write_text(MODULE)
    file = folder / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "strangers.Net"}))
    return folder / "model"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strangers", raising=False)
    return tmp_path


def test_a_strangers_class_is_not_imported_unless_it_is_trusted(here: Path) -> None:
    folder = not_ours(here, "pixel-cnn")
    with pytest.raises(npx.UserError, match=r"strangers\.Net.*--trust"):
        npx.load(folder)
    assert not (here / "was-run").exists()
    assert type(npx.load(folder, trust=True)).__name__ == "Net"
    assert (here / "was-run").exists()


def test_no_command_or_loader_imports_a_strangers_class(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = not_ours(here, "pixel-cnn")
    for words in (
        "sample model",
        "eval model",
        "models model",
        "bundle model model --out x",
        "score pixel-cnn mnist --background model",
        "compare model --data mnist --out x",
        "data codes:model",
    ):
        assert main([*words.replace("pixel-cnn", str(GOLDEN / "pixel-cnn")).split()]) == 2, words
        assert not (here / "was-run").exists(), words
        assert capsys.readouterr().err.startswith("nextpixel: ")
    with pytest.raises(npx.UserError, match="--trust"):
        load_classifier(folder)
    assert not (here / "was-run").exists()
    succeed("sample model --trust -n 1")
    assert (here / "was-run").exists()


def test_a_strangers_run_is_not_resumed_unless_it_is_trusted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "strangers.py").write_text(MODULE)
    (here / "run").mkdir()
    (here / "run" / "config.yaml").write_text("model: {class_path: strangers.Net}")
    assert main(["train", "--resume", "run"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not (here / "was-run").exists()
    assert main(["train", "--resume", "run", "--trust"]) == 2  # there is nothing to resume
    assert (here / "was-run").exists()


@pytest.mark.parametrize("name", ["PixelCNN", "nextpixel.models.PixelCNN"])
def test_our_own_classes_need_no_trust(name: str, here: Path) -> None:
    folder = not_ours(here, "pixel-cnn")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": name}))
    assert isinstance(npx.load(folder), npx.PixelCNN)
