"""Interpolation between images, and models that can be compared."""

from typing import Any

import pytest
import torch

from nextpixel.errors import UserError
from nextpixel.tasks.variations import interpolate, order_by_layer
from tests.helpers import context_of, dark_and_light, features_model, small_classifier

SHAPE = (1, 8, 8)
HOW: dict[str, Any] = {"seed": 5, "sampler": "cached"}  # quickest for a few tiny images


def test_interpolation_keeps_the_noise_along_a_row() -> None:
    model, x = features_model("embedding").double(), dark_and_light(3)
    context = context_of(model, x)
    assert context.vector is not None
    still = interpolate(model, context[torch.tensor([0, 0])], draws=3, steps=4, **HOW)
    assert still.shape == (1, 3, 4, *SHAPE)
    assert (still == still[:, :, :1]).all()
    assert len({tuple(row.flatten().tolist()) for row in still[0, :, 0]}) == 3
    seen: list[float] = []
    way = interpolate(model, context, draws=2, steps=3, progress=seen.append, **HOW)
    assert seen == pytest.approx([1 / 3, 2 / 3, 1])
    # The ends are drawn from the images' own features: rows are numbered way by way.
    rows = torch.arange(2).repeat_interleave(2)
    assert torch.equal(way[:, :, 0].flatten(0, 1), model.sample(4, context[rows], **HOW))
    assert torch.equal(way[:, :, -1].flatten(0, 1), model.sample(4, context[rows + 1], **HOW))


def test_layers_of_different_classifiers_are_not_compared() -> None:
    other = features_model("conv1", small_classifier(1))
    with pytest.raises(UserError, match=r"different classifiers \(embedding and conv1\)"):
        order_by_layer([features_model("embedding"), other])
    models = order_by_layer([features_model("logits"), features_model("conv2")])
    assert [model.conditioner.layer for model in models if model.conditioner] == ["conv2", "logits"]
