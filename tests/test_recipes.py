"""Every recipe is one that `nextpixel train` takes, and says how to run it."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from nextpixel.autoregressive import AutoregressiveModel
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
    beside: tuple[int, int, int] | None = None


DATA = {
    facts.name: facts
    for facts in (
        Facts("mnist", (1, 28, 28), 256, 10),
        Facts("fashion-mnist", (1, 28, 28), 256, 10),
        Facts("binarized-mnist", (1, 28, 28), 2, None),
        Facts("cifar10", (3, 32, 32), 256, 10),
    )
}
CODES = {
    facts.name: facts
    for facts in (
        Facts("codes:runs/vq-vae-mnist", (1, 7, 7), 128, 10, codes_of=""),
        Facts("codes:runs/vq-vae-2-mnist", (1, 7, 7), 128, 10, codes_of=""),
        Facts("codes:runs/vq-vae-2-mnist#bottom", (1, 14, 14), 128, 10, "", beside=(128, 7, 7)),
    )
}


def recipe_model(path: Path) -> ImageModel:
    """Makes a recipe's model as `nextpixel train` does, but without memory for its weights."""
    settings = train_settings(["--config", str(ROOT / path), "--out", "x"])
    TrainArgs(**vars(settings.train))
    data = (DATA | CODES)[settings.data]
    with torch.device("meta"):
        return make_model(settings, data)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_recipe_makes_its_model(path: Path) -> None:
    model = recipe_model(path)
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
