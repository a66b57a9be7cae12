"""Every recipe is one that `nextpixel train` takes, says how to run it, and is in the index."""

import json
import re
import runpy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from nextpixel.cli.train_options import recipe_of, train_settings
from nextpixel.conditioning.classifier import Classifier
from nextpixel.model_folders import bundles, shipped
from nextpixel.models import __all__ as models
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.models.base.image_model import ImageModel, find_class
from nextpixel.training import TrainArgs
from tests.helpers import ROOT

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
        Facts("runs/photos.npz", (3, 32, 32), 256, None),
        Facts("runs/sounds.npz", (1, 32, 40), 256, None),
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
        data = (DATA | MADE)[settings.data]
        data = replace(data, levels=settings.levels or data.levels)
        return recipe_of(settings).make_model(data)  # type: ignore[arg-type]


def index() -> dict[Path, int]:
    """The recipes of recipes/README.md, and their numbers of parameters."""
    rows = re.findall(
        r"^\| \[(.+?)\]\((.+?)\) \| [^|]+ \| ([\d,]+) \| [^|]+ \| [^|]+ \|$",
        (ROOT / "recipes" / "README.md").read_text(),
        re.MULTILINE,
    )
    assert all(name == Path(path).stem for name, path, _ in rows)
    parameters = {Path("recipes", path): int(count.replace(",", "")) for _, path, count in rows}
    assert len(parameters) == len(rows)
    return parameters


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_recipe_makes_its_model(path: Path, tmp_path: Path) -> None:
    told: list[str] = []
    if "--features" in (ROOT / path).read_text():
        Classifier(shape=(1, 28, 28), levels=16, classes=18, width=8).save(tmp_path)
        told = ["--features", str(tmp_path), "--layer", "embedding"]
    model = recipe_model(path, *told)
    stem = path.stem.removesuffix("-small")
    if stem in FILES:
        folder = path.parent.name
        data = DATA["binarized-mnist" if folder == "papers" else folder]
        assert (type(model).__name__, model.shape) == (FILES[stem], data.shape)
        assert model.levels == data.levels
    conditional = "conditional" in (ROOT / path).read_text().splitlines()[0]
    assert conditional == (model.classes is not None)
    parameters = sum(p.numel() for p in model.parameters())
    assert index()[path] == parameters
    if path.stem.endswith("-small"):
        assert 50_000 < parameters < 1_500_000
        written = re.findall(r"^# ([\d,]+) parameters;", (ROOT / path).read_text(), re.MULTILINE)
        assert written == [f"{round(parameters, -3):,}"]  # in thousands


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_a_recipe_names_the_command_that_runs_it(path: Path) -> None:
    lines = (ROOT / path).read_text().splitlines()
    comments = [line.removeprefix("#") for line in lines if line.startswith("#")]
    commands = [words for line in comments if "--config" in (words := line.split())]
    assert lines[0].startswith("# ")
    assert comments[1].split() in commands
    for words in commands:
        assert words[words.index("--config") - 2 :][:2] == ["nextpixel", "train"]
        assert words[words.index("--config") + 1] == path.as_posix()
        one_of_each = path.stem.removesuffix("-small") in FILES
        run = f"{path.parent.name}-{path.stem}" if one_of_each else path.stem
        assert words[words.index("--out") + 1] == f"runs/{run}"


def test_the_index_names_every_recipe_and_nothing_else() -> None:
    assert sorted(index()) == RECIPES
    links = re.findall(r"\]\(([^)]+\.ya?ml)\)", (ROOT / "recipes" / "README.md").read_text())
    assert sorted(Path("recipes", link) for link in links) == RECIPES


def test_tools_find_a_recipe_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    find_recipe = runpy.run_path(str(ROOT / "tools" / "ship_bundle.py"))["find_recipe"]
    for folder in (shipped() | bundles()).values():
        card = json.loads((folder / "card.json").read_text())
        recipes = [
            part["recipe"]
            for part in (card, *card.values())
            if isinstance(part, dict) and "recipe" in part
        ]
        assert recipes
        for recipe in map(Path, recipes):
            assert find_recipe(recipe.stem) == ROOT / recipe
    assert find_recipe("pixel-cnn") is None  # one for each data set
    assert find_recipe("nothing") is None


def test_every_autoregressive_model_has_recipes_for_every_data_set() -> None:
    kinds = [name for name in models if issubclass(find_class(name), AutoregressiveModel)]
    assert sorted(FILES.values()) == sorted(kinds)
    published = {"pixel-cnn", "row-lstm", "diagonal-bilstm"}  # scores on binarized MNIST
    for data in DATA:
        for stem in FILES:
            assert Path("recipes", data, f"{stem}-small.yaml") in RECIPES
            folder = "papers" if data == "binarized-mnist" and stem in published else data
            assert Path("recipes", folder, f"{stem}.yaml") in RECIPES
