"""Pretrained models match their cards."""

import hashlib
import json
import math
import re
from pathlib import Path

import pytest
import torch

from nextpixel import LatentGenerator, load, load_data
from nextpixel.cli import main as cli
from nextpixel.cli.train_options import read_recipe
from nextpixel.data import Images, list_datasets
from nextpixel.data.levels import level_type
from nextpixel.evaluation.likelihood import evaluate
from nextpixel.evaluation.whole import bits_per_dim, score_whole
from nextpixel.model_folders import bundles, judges, shipped
from tests.helpers import ROOT


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_model_matches_its_card(name: str) -> None:
    folder = shipped()[name]
    card = json.loads((folder / "card.json").read_text())
    (weights,) = folder.glob("*.safetensors")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]
    assert weights.stat().st_size == card["bytes"] <= 5_000_000
    model = load(name)
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    assert card.get("task") == (model.conditioner and model.conditioner.settings())
    recipe = read_recipe("--config", str(ROOT / card["recipe"]))
    assert recipe.model.split(".")[-1] == card["model"] == type(model).__name__
    given = recipe.arguments
    assert {key: model.hyperparameters[key] for key in given} == given
    assert card["data"] in {entry.name for entry in list_datasets()} or "whole" in card["scores"]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_the_score_of_a_shipped_model_matches_its_card(name: str, shared_data: Path) -> None:
    card = json.loads((shipped()[name] / "card.json").read_text())
    model = load(name)
    if "whole" in card["scores"]:
        path = shared_data / "kodak" / "kodim23.png"
        found = score_whole(model, name, [path])
        expected = card["scores"]["whole"]["pictures"][path.name]
        assert bits_per_dim(found) == pytest.approx(expected, rel=1e-4)
        return
    data = load_data(card["data"], levels=model.levels, data_dir=shared_data)
    score = evaluate(model, data.test, limit=100)
    whole = card["scores"]["test"]
    # The hundred images are some of the whole test set's: they differ by chance alone.
    assert abs(score.nats - whole["nats"]) < 4 * score.nats_error
    deviation, expected = score.nats_error * 10, whole["nats_error"] * whole["images"] ** 0.5
    assert 0.5 < deviation / expected < 2


@pytest.mark.parametrize("name", sorted(shipped() | bundles() | judges()))
def test_the_commands_on_a_card_are_commands_of_today(name: str) -> None:
    card = ((shipped() | bundles() | judges())[name] / "card.json").read_text()
    commands = re.findall(r'"command": "nextpixel (.*)"', card)
    assert commands
    for line in commands:
        command, *rest = line.split()
        assert command in cli.COMMANDS
        cli.read(command, cli.command(command), rest)  # raises a UserError for unknown options


@pytest.mark.parametrize("name", sorted(bundles()))
def test_a_shipped_bundle_matches_its_card(name: str, shared_data: Path) -> None:
    folder = bundles()[name]
    card = json.loads((folder / "card.json").read_text())
    generator = LatentGenerator.load(name)
    for part, model in (("decoder", generator.decoder), ("prior", generator.prior)):
        about = card[part]
        assert sum(p.numel() for p in model.parameters()) == about["parameters"]
        recipe = read_recipe("--config", str(ROOT / about["recipe"]))
        assert recipe.model.split(".")[-1] == about["model"] == type(model).__name__
        given = recipe.arguments
        assert {key: model.hyperparameters[key] for key in given} == given
    files = list(folder.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) == card["bytes"] <= 8_000_000
    assert generator.data_record.class_names is not None
    assert len(generator.data_record.class_names) == card["classes"]

    # A hundred images are some of the whole test set's: they differ by chance alone.
    test = load_data(card["data"], data_dir=shared_data).test.subset(100)
    codes = generator.codes(torch.tensor(test.x))
    ended = (codes == generator.decoder.code_count).any(3).cumsum(2)[:, 0]
    rows = (ended <= 1).sum(1).numpy()  # with the one that says so
    x = codes.numpy().astype(level_type(generator.prior.levels))
    images = Images(x, test.y, generator.prior.levels, rows=rows)
    score = evaluate(generator.prior, images)
    assert abs(score.bits_per_dim - card["codes"]["bits_per_code"]) < 4 * score.bits_per_dim_error
    residual = evaluate(generator.decoder, test)
    expected = card["codes"]["residual_bits_per_image"]
    assert abs(residual.nats / math.log(2) - expected) < 4 * residual.nats_error / math.log(2)
