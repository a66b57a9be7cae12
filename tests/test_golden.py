"""What an earlier version saved must load, keep its numbers, and train on: see golden/make.py."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nextpixel as npx
from nextpixel.conditioning.classifier import load_classifier
from nextpixel.conditioning.degradation import Task
from nextpixel.conditioning.features import Features
from nextpixel.data import Images
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.latents.generator import LatentGenerator
from nextpixel.models.base.latent import LatentModel
from nextpixel.nn.context_bias import ContextBias
from tests.helpers import succeed

GOLDEN = Path(__file__).parent / "golden"
FEATURES = 8  # for `ContextBias.features`
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture(autouse=True)
def _small_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the network that reads a context's image as small as it is in the golden models.

    Its width is a constant and no hyperparameter. With the usual one each of these files would be
    ten times as large; the shipped models, which have it, are tested elsewhere.
    """
    monkeypatch.setattr(ContextBias, "features", FEATURES)


def pixels(count: int, shape: tuple[int, ...], levels: int) -> Tensor:
    """Makes images that look like noise, by a rule that depends on no generator."""
    return (torch.arange(count * math.prod(shape)) * 7919 // 13 % levels).view(count, *shape)


def measure(name: str) -> dict[str, Any]:
    """Scores three fixed images, in nats, and draws one image, in float64."""
    model = npx.load(GOLDEN / name).double()
    x = pixels(3, model.shape, model.levels).numpy().astype(np.uint8)
    y = np.arange(3) % (model.classes or 1)
    _, given = model.inputs(Images(x, y, model.levels), np.arange(3))
    with torch.no_grad():
        nats = -model.score(torch.from_numpy(x), given.context, given.mask)
        c: Any = None if given.context is None else given.context[:1]
        if isinstance(model, LatentModel) and not model.has_prior:
            c = model.embed(torch.from_numpy(x[:1]))
    return {"nats": nats.tolist(), "pixels": model.sample(1, c, seed=0).flatten().tolist()}


def draw_from_bundle(name: str) -> list[int]:
    """Draws one image from a bundle, codes and pixels, in float64."""
    bundle = LatentGenerator.load(GOLDEN / name)
    for model in (bundle.decoder, *bundle.priors):
        model.double()
    c = None if bundle.classes is None else 1
    return bundle.sample(1, c, seed=0, pixels="draw").flatten().tolist()


def classify(name: str) -> list[list[float]]:
    """Computes a classifier's logits of three fixed images in float64."""
    classifier = load_classifier(GOLDEN / name).double()
    return classifier(pixels(3, classifier.shape, classifier.levels)).tolist()


def metrics(run: str) -> list[dict[str, float]]:
    """Reads what a run in the current folder logged at each step, the times left out."""
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


@pytest.mark.parametrize("name", EXPECTED["models"])
def test_a_model_keeps_its_scores_and_its_pixels(name: str) -> None:
    measured, expected = measure(name), EXPECTED["models"][name]
    assert measured["nats"] == pytest.approx(expected["nats"], rel=0, abs=1e-9)
    assert measured["pixels"] == expected["pixels"]


@pytest.mark.parametrize("name", EXPECTED["bundles"])
def test_a_bundle_keeps_its_pixels(name: str) -> None:
    assert draw_from_bundle(name) == EXPECTED["bundles"][name]


@pytest.mark.parametrize("name", EXPECTED["logits"])
def test_a_classifier_keeps_its_logits(name: str) -> None:
    expected = [pytest.approx(row, rel=0, abs=1e-9) for row in EXPECTED["logits"][name]]
    assert classify(name) == expected


def test_what_is_saved_beside_the_weights() -> None:
    assert npx.load(GOLDEN / "inpaint").conditioner == Task("inpaint", holes="boxes")
    assert npx.load(GOLDEN / "spectrogram").data_record.spectrogram == Spectrogram(
        bands=4, frames=4, levels=4
    )
    assert npx.load(GOLDEN / "class-names").data_record.class_names == ("ant", "bee", "fly")
    features = npx.load(GOLDEN / "features-embedding").conditioner
    assert isinstance(features, Features)
    assert features.layer == "embedding"
    codes = npx.load(GOLDEN / "stopped" / "vq")
    assert npx.load(GOLDEN / "bundle" / "prior").data_record.codes_of == codes.digest()
    codes = npx.load(GOLDEN / "bundle-two-grids" / "decoder")
    for part, grid in (("prior", "top"), ("bottom-prior", "bottom")):
        model = npx.load(GOLDEN / "bundle-two-grids" / part)
        assert model.data_record.codes_of == f"{codes.digest()}/{grid}"


@pytest.mark.parametrize("name", EXPECTED["stopped"])
def test_a_stopped_run_goes_on(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends like the run that was never stopped.

    The tolerance is for processors that sum float32 in another order: in these few steps that
    changes a number by some 1e-7 of it. A random stream or a part of the state that got lost
    changes some of them by more than 4e-4.
    """
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(tmp_path / "golden")  # paths in config.yaml begin here
    run = f"stopped/{name}"
    assert len(metrics(run)) == 2
    succeed(f"train --resume {run}")
    assert metrics(run) == [pytest.approx(line, rel=1e-4) for line in EXPECTED["stopped"][name]]
