"""Frozen classifier features as conditioning."""

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nextpixel import AutoregressiveModel, Bernoulli, load, load_data
from nextpixel.cli.describe import layers as describe_layers
from nextpixel.conditioning.classifier import Classifier, load_classifier
from nextpixel.conditioning.features import Features
from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.models import GatedPixelCNN
from nextpixel.training import fit
from tests.helpers import (
    context_of,
    dark_and_light,
    features_model,
    small_classifier,
)

LAYERS = ["conv1", "conv3", "embedding", "logits"]
SHAPE = (1, 8, 8)


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    file = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(file, x=dark_and_light(120).numpy(), y=np.arange(120) % 2)
    return load_data(file)


# --- the context ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_the_context_is_the_layer_of_each_image(layer: str) -> None:
    model, x = features_model(layer).double(), dark_and_light(4)
    assert model.conditioner is not None
    context = context_of(model, x)
    part = context.vector if model.conditioner.part == "vector" else context.image
    expected = model.conditioner.classifier.features(x, layer)
    torch.testing.assert_close(part, expected.float())
    assert not part.requires_grad
    assert torch.equal(model.log_prob(x, context), model.log_prob(x, context_of(model, x)))
    alone = torch.cat([model.log_prob(one, context_of(model, one)) for one in x.split(1)])
    torch.testing.assert_close(alone, model.log_prob(x, context), rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", ["conv2", "embedding"])
def test_probabilities_of_images_sum_to_one_under_a_fixed_context(layer: str) -> None:
    """The sum is over all values of the last pixels."""
    model, x = features_model(layer).double(), dark_and_light(2)[1:]
    context = context_of(model, x)
    endings = torch.tensor(list(itertools.product((0, 1), repeat=6)))
    every = x.flatten(1).long().repeat(len(endings), 1)
    every[:, -6:] = endings
    before = torch.ones(64, dtype=torch.bool)
    before[-6:] = False
    same = context[torch.zeros(len(endings), dtype=torch.long)]
    nats = model.log_prob(every.unflatten(1, SHAPE), same, before.view(SHAPE))
    torch.testing.assert_close(nats.exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-6)
    # The features see the whole image: with features of each ending, the sum is not 1.
    anew = context_of(model, every.unflatten(1, SHAPE))
    total = model.log_prob(every.unflatten(1, SHAPE), anew, before.view(SHAPE)).exp().sum()
    assert abs(total.item() - 1) > 1e-4


@pytest.mark.parametrize("layer", LAYERS)
def test_a_saved_model_needs_no_other_folder(layer: str, tmp_path: Path) -> None:
    small_classifier().save(tmp_path / "classifier")
    model = features_model(layer, load_classifier(tmp_path / "classifier"))
    model.save(tmp_path / "model")
    shutil.rmtree(tmp_path / "classifier")
    loaded = load(tmp_path / "model")
    x = dark_and_light(3)
    assert isinstance(loaded, GatedPixelCNN)
    assert torch.equal(
        loaded.log_prob(x, context_of(loaded, x)), model.log_prob(x, context_of(model, x))
    )
    assert loaded.conditioner is not None
    assert not any(p.requires_grad for p in loaded.conditioner.parameters())
    assert not loaded.train().conditioner.classifier.training  # type: ignore[union-attr]


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    features_model("embedding").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["features"]["classifier"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no configuration of a GatedPixelCNN"):
        load(tmp_path)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_leaves_the_classifier_alone(ema: float, data: Dataset, tmp_path: Path) -> None:
    model = features_model("embedding")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    options = {"batch_size": 8, "lr": 0.1, "warmup": 0, "weight_decay": 0.5, "ema": ema}
    fit(model, data, out=tmp_path, steps=3, valid_images=4, **options)  # type: ignore[arg-type]
    for state in (model.state_dict(), load(tmp_path / "last").state_dict()):
        frozen = [name for name in before if name.startswith("conditioner.")]
        assert len(frozen) == len(small_classifier().state_dict())
        assert all(torch.equal(state[name], before[name]) for name in frozen)
        learned = [name for name in before if name not in frozen]
        assert not any(torch.equal(state[name], before[name]) for name in learned)


def test_the_description_counts_frozen_parameters() -> None:
    model = features_model("embedding")
    frozen = sum(p.numel() for p in small_classifier().parameters())
    line = next(s for s in describe_layers(model).splitlines() if "not trained" in s)
    assert line.split()[-1] == f"{frozen:,}"
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == frozen


class Own(AutoregressiveModel):
    """Takes no context, and keeps a network of its own under a name that is taken."""

    def __init__(self, *, shape: tuple[int, int, int], levels: int = 2) -> None:
        super().__init__(shape=shape, levels=levels)
        self.conditioner = torch.nn.Sequential()  # type: ignore[assignment]

    def forward(self, x: Tensor, c: object = None) -> Bernoulli:
        return Bernoulli(torch.zeros(x.shape))


def test_models_that_do_not_fit_their_features(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give your Sequential another name"):
        fit(Own(shape=SHAPE), data, out=tmp_path)
    model = GatedPixelCNN(shape=SHAPE, levels=2, vector=5, width=4, blocks=1)
    model.conditioner = Features(small_classifier(), "embedding")
    with pytest.raises(
        UserError, match=r"features of the image \(embedding\): make it with vector=6"
    ):
        fit(model, data, out=tmp_path)
    model.conditioner = Features(Classifier(shape=(1, 9, 9), levels=2, classes=2), "embedding")
    with pytest.raises(UserError, match=r"images \(1, 9, 9\) with 2"):
        fit(model, data, out=tmp_path)


# --- interpolation --------------------------------------------------------------------------------


def test_interpolated_embeddings_stay_on_the_sphere() -> None:
    features = Features(small_classifier(), "embedding")
    a, b = features(dark_and_light(2)).double().split(1)
    angle = torch.cosine_similarity(a, b).acos()
    for t in (0.0, 0.25, 0.5, 1.0):
        c = features.between(a, b, t)
        torch.testing.assert_close(c.norm(), torch.tensor(math.sqrt(6)).double())
        torch.testing.assert_close(
            torch.cosine_similarity(a, c).clamp(max=1).acos(), t * angle, rtol=0, atol=1e-6
        )
    for end in (a, -a):  # nothing between, and any way
        assert features.between(a, end, 0.5).isfinite().all()
    torch.testing.assert_close(features.between(a, a, 0.3), a, rtol=0, atol=1e-6)


def test_other_layers_are_interpolated_linearly() -> None:
    features = Features(small_classifier(), "conv1")
    a, b = features(dark_and_light(2)).split(1)
    torch.testing.assert_close(features.between(a, b, 0.25), 0.75 * a + 0.25 * b)
