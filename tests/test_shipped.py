"""The trained models that come along are those that their cards describe."""

import hashlib
import json
from pathlib import Path

import pytest

from nextpixel import load, load_data
from nextpixel.data import known
from nextpixel.evaluate import evaluate
from nextpixel.model import shipped
from nextpixel.train_options import train_settings

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_model_is_what_its_card_says(name: str) -> None:
    folder = shipped()[name]
    card = json.loads((folder / "card.json").read_text())
    (weights,) = folder.glob("*.safetensors")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]
    assert weights.stat().st_size == card["bytes"] <= 5_000_000
    model = load(name)
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    assert card.get("task") == (model.task and model.task.settings())
    recipe = train_settings(["--config", str(ROOT / card["recipe"]), "--out", "x"])
    assert recipe.model.class_path.split(".")[-1] == card["model"] == type(model).__name__
    given = recipe.model.init_args.as_dict()
    assert {key: model.hyperparameters[key] for key in given} == given
    assert card["data"] in {entry.name for entry in known()}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_model_scores_what_its_card_says(name: str) -> None:
    card = json.loads((shipped()[name] / "card.json").read_text())
    model = load(name)
    score = evaluate(model, load_data(card["data"], levels=model.levels).test, limit=100)
    whole = card["scores"]["test"]
    # The hundred images are some of the whole test set's: they differ by chance alone.
    assert abs(score.nats - whole["nats"]) < 4 * score.nats_error
    deviation, expected = score.nats_error * 10, whole["nats_error"] * whole["images"] ** 0.5
    assert 0.5 < deviation / expected < 2
