"""Evaluation mode: exact numbers, while the model itself stays as it is."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import nextpixel as npx
from nextpixel.data import Images
from nextpixel.evaluation.likelihood import evaluate, surprisal
from nextpixel.nn import Pointwise
from nextpixel.utils.inference import evaluation_mode
from tests.engine.test_same_bits import MODELS
from tests.helpers import randomize


def modes(model: torch.nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.fixture
def model() -> npx.PixelCNNPP:
    """Makes a model in training mode, one part of it in evaluation mode; dropout is heavy."""
    torch.manual_seed(0)
    model = npx.PixelCNNPP(shape=(3, 8, 8), levels=16, width=8, blocks=1, dropout=0.5)
    randomize(model)
    model.train()
    list(model.modules())[-1].eval()
    return model


def test_the_model_stays_in_training_mode(model: npx.PixelCNNPP) -> None:
    x = torch.randint(16, (6, *model.shape))
    images = Images(x.numpy().astype("uint8"), None, 16)
    before, seen = modes(model), []
    score = evaluate(model, images, batch_size=2, progress=lambda _: seen.append(modes(model)))
    assert len(seen) >= 3
    assert all(now == before for now in [*seen, modes(model)])
    assert score == evaluate(model.eval(), images, batch_size=2)


def test_threads_do_not_disturb_each_other(model: npx.PixelCNNPP) -> None:
    """One scores a model in training mode, one samples from it by steps in PyTorch."""
    x = torch.randint(16, (2, *model.shape))
    bits, drawn = surprisal(model, x), model.sample(2, sampler="cached")
    with ThreadPoolExecutor(2) as pool:
        scored = [pool.submit(surprisal, model, x) for _ in range(40)]
        sampled = [pool.submit(model.sample, 2, sampler="cached") for _ in range(4)]
    assert all(torch.equal(each.result(), bits) for each in scored)
    assert all(torch.equal(each.result(), drawn) for each in sampled)


def test_a_model_that_cannot_be_copied_is_switched_and_restored(model: npx.PixelCNNPP) -> None:
    model.measure = lambda: model.training  # type: ignore[assignment]
    before = modes(model)

    def interrupted() -> None:
        with evaluation_mode(model) as network:
            assert network is model
            assert not any(modes(model))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert modes(model) == before


@pytest.mark.parametrize("name", MODELS)
def test_networks_are_copied_with_the_same_tensors(name: str) -> None:
    cls, arguments = MODELS[name]
    network = cls(**{"width": 8, "blocks": 2, **arguments}).train()
    with evaluation_mode(network) as twin:
        assert twin is not network
        assert not any(modes(twin))
        for a, b in zip(network.parameters(), twin.parameters(), strict=True):
            assert a is b


def test_parametrized_layers_are_scored_in_training_mode(model: npx.PixelCNNPP) -> None:
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d | Pointwise))
    torch.nn.utils.parametrizations.weight_norm(layer)
    x = torch.randint(16, (2, *model.shape))
    bits = surprisal(model, x)
    assert torch.equal(bits, surprisal(model.eval(), x))


class Branches(torch.nn.Module):
    """Holds its layers in a plain list, too, through which it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Dropout(0.5)
        self.pairs = [("a", self.layer)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pairs[0][1](x)


def test_layers_in_lists_are_switched_too() -> None:
    branches, x = Branches(), torch.ones(100)
    with evaluation_mode(branches) as network:
        assert torch.equal(network(x), x)
    assert modes(branches) == [True, True]
