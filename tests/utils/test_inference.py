"""Evaluation mode: exact numbers, while the model itself stays as it is."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import nextpixel as npx
from nextpixel.data import Images
from nextpixel.evaluation.likelihood import evaluate, surprisal
from nextpixel.utils.inference import evaluation_mode
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
