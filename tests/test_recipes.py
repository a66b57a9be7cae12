"""Every recipe is one that `nextpixel train` takes, and says how to run it."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nextpixel.autoregressive import AutoregressiveModel
from nextpixel.classifier import Classifier
from nextpixel.model import ImageModel, find_class
from nextpixel.models import __all__ as models
from nextpixel.train_options import make_model, train_settings
from nextpixel.training import TrainArgs

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml"))
FILES = {
    "pixel-cnn": "PixelCNN",
    "gated-pixel-cnn": "GatedPixelCNN",
    "row-lstm": "RowLSTM",
    "diagonal-bilstm": "DiagonalBiLSTM",
    "pixel-cnn-pp": "PixelCNNPP",
    "pixel-snail": "PixelSNAIL",
}


@dataclass(frozen=True)
class Facts:
    """What a model must know of a data set, without reading it."""

    name: str
    shape: tuple[int, int, int]
    levels: int
    classes: int | None
    codes_of: str | None = None
    coarse_codes: tuple[int, int, int] | None = None


DATA = {
    facts.name: facts
    for facts in (
        Facts("mnist", (1, 28, 28), 256, 10),
        Facts("fashion-mnist", (1, 28, 28), 256, 10),
        Facts("binarized-mnist", (1, 28, 28), 2, None),
        Facts("cifar10", (3, 32, 32), 256, 10),
    )
}
MADE = {
    facts.name: facts
    for facts in (
        Facts("spoken-digits", (1, 96, 40), 256, 60),
        Facts("runs/kodak-crops", (3, 128, 128), 256, None),
        Facts("codes:runs/vq-vae-mnist", (1, 7, 7), 128, 10, codes_of=""),
        Facts("codes:runs/vq-vae-cifar10", (1, 8, 8), 256, 10, codes_of=""),
        Facts("codes:runs/vq-vae-kodak", (1, 16, 16), 256, None, codes_of=""),
        Facts("codes:runs/vq-vae-spoken-digits", (1, 24, 10), 257, 60, codes_of=""),
        Facts("codes:runs/vq-vae-2-mnist", (1, 7, 7), 128, 10, codes_of=""),
        Facts(
            "codes:runs/vq-vae-2-mnist#bottom", (1, 14, 14), 128, 10, "", coarse_codes=(128, 7, 7)
        ),
    )
}


def recipe_model(path: Path, *told: str) -> ImageModel:
    """Makes a recipe's model as `nextpixel train` does, where it can without weights."""
    settings = train_settings(["--config", str(ROOT / path), "--out", "x", *told])
    TrainArgs(**vars(settings.train))
    with torch.device("cpu" if told else "meta"):  # a classifier's weights are read from a file
        return make_model(settings, (DATA | MADE)[settings.data])  # type: ignore[arg-type]


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_recipe_makes_its_model(path: Path, tmp_path: Path) -> None:
    told: list[str] = []
    if "--features" in (ROOT / path).read_text():
        Classifier(shape=(1, 28, 28), levels=256, classes=18, width=8).save(tmp_path)
        told = ["--features", str(tmp_path), "--layer", "embedding"]
    model = recipe_model(path, *told)
    stem = path.stem.removesuffix("-small")
    if path.parent.name in DATA:
        data = DATA[path.parent.name]
        assert (type(model).__name__, model.shape) == (FILES[stem], data.shape)
        assert model.levels == data.levels
    conditional = "conditional" in (ROOT / path).read_text().splitlines()[0]
    assert conditional == (model.classes is not None)
    parameters = sum(p.numel() for p in model.parameters())
    if path.stem.endswith("-small"):
        assert 50_000 < parameters < 1_500_000
        written = re.findall(r"^# ([\d,]+) parameters;", (ROOT / path).read_text(), re.MULTILINE)
        assert written == [f"{round(parameters, -3):,}"]  # in thousands


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_recipe_says_how_to_run_it(path: Path) -> None:
    lines = (ROOT / path).read_text().splitlines()
    comments = [line.removeprefix("#") for line in lines if line.startswith("#")]
    commands = [words for line in comments if "--config" in (words := line.split())]
    assert lines[0].startswith("# ")
    assert comments[1].split() in commands
    for words in commands:
        assert words[words.index("--config") - 2 :][:2] == ["nextpixel", "train"]
        assert words[words.index("--config") + 1] == path.as_posix()
        where = path.with_suffix("").relative_to("recipes").as_posix().replace("/", "-")
        assert words[words.index("--out") + 1] == f"runs/{where}"


def test_every_autoregressive_model_has_recipes_for_every_data_set() -> None:
    kinds = [name for name in models if issubclass(find_class(name), AutoregressiveModel)]
    assert sorted(FILES.values()) == sorted(kinds)
    for data in DATA:
        for stem in FILES:
            for name in (f"{stem}.yaml", f"{stem}-small.yaml"):
                assert Path("recipes", data, name) in RECIPES
