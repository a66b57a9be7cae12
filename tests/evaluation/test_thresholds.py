"""Thresholds of the combined score: chosen, saved and read again for the same model only."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextpixel.errors import UserError
from nextpixel.evaluation.thresholds import Threshold, model_digest
from nextpixel.evaluation.typicality import FEATURES, Ordinary
from tests.helpers import ROOT

MODEL = "0123"


def fitted() -> Threshold:
    features = np.random.default_rng(0).normal(size=(30, len(FEATURES)))
    return Threshold.fit(Ordinary(features), 0.9, "30 digits", MODEL)


def test_the_threshold_is_that_of_the_ordinary_images() -> None:
    made = fitted()
    assert made.value == made.ordinary.threshold(0.9)
    assert made.value > made.ordinary.threshold(0.5)
    with pytest.raises(UserError):
        Threshold.fit(made.ordinary, 1.5, "30 digits", MODEL)


def test_a_threshold_is_saved_and_loaded(tmp_path: Path) -> None:
    made, path = fitted(), tmp_path / "threshold.json"
    made.save(path)
    record = json.loads(path.read_text())
    assert record.pop("ordinary_features") == made.ordinary.features.tolist()
    assert record == {
        "score": "combined_score",
        "threshold": made.value,
        "quantile": 0.9,
        "ordinary": "30 digits",
        "model": MODEL,
        "features": list(FEATURES),
    }
    found = Threshold.load(path, MODEL)
    np.testing.assert_array_equal(found.ordinary.features, made.ordinary.features)
    names = ("quantile", "what", "model", "value")
    assert [getattr(found, name) for name in names] == [getattr(made, name) for name in names]


@pytest.mark.parametrize(
    "change",
    [
        {"features": [*FEATURES[1:], FEATURES[0]]},
        {"ordinary_features": [[0.0] * (len(FEATURES) - 1)] * 30},
        {"ordinary_features": 3},
        {"threshold": "high"},
        {"quantile": None},
        {"threshold": math.nan},
        {"quantile": math.inf},
        {"ordinary_features": [[math.nan] * len(FEATURES)] * 30},
    ],
)
def test_another_file_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "threshold.json"
    fitted().save(path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | change))
    with pytest.raises(UserError, match="is truncated, corrupt or no threshold"):
        Threshold.load(path, MODEL)
    del record["model"]
    for text in (json.dumps(record), "{", "[]"):
        path.write_text(text)
        with pytest.raises(UserError, match="is truncated, corrupt or no threshold"):
            Threshold.load(path, MODEL)


def test_a_threshold_belongs_to_a_model(tmp_path: Path) -> None:
    path = tmp_path / "threshold.json"
    with pytest.raises(UserError, match="There is no threshold"):
        Threshold.load(path, MODEL)
    fitted().save(path)
    with pytest.raises(UserError, match="was fitted for another model"):
        Threshold.load(path, "4567")
    folder = ROOT / "tests" / "golden" / "gated"
    config = (folder / "config.json").read_bytes()
    assert model_digest(folder) == hashlib.sha256(config).hexdigest()
