"""Scores against numpy, on cases small enough to work out."""

import math

import numpy as np
import pytest
import torch

from nextpixel.data import Images
from nextpixel.errors import UserError
from nextpixel.evaluate import Score, evaluate
from nextpixel.models import GatedPixelCNN


def make(levels: int = 4, classes: int | None = 3) -> GatedPixelCNN:
    torch.manual_seed(0)
    model = GatedPixelCNN(
        shape=(1, 5, 6), levels=levels, classes=classes, width=4, blocks=2, kernel_size=3
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=2 / math.sqrt(max(1, parameter[0].numel())))
    return model


def images(n: int, levels: int = 4, classes: int | None = 3) -> Images:
    random = np.random.default_rng(0)
    x = random.integers(0, levels, (n, 1, 5, 6), dtype=np.uint8)
    return Images(x, None if classes is None else random.integers(0, classes, n), levels)


def nats_one_by_one(model: GatedPixelCNN, data: Images) -> np.ndarray:
    """The negative log-likelihoods of the images, each scored alone, in float64."""
    result = []
    for i in range(len(data)):
        x, y = data.batch(np.array([i]))
        c = None if y is None else torch.from_numpy(y)
        with torch.no_grad():
            result.append(-model.double().log_prob(torch.from_numpy(x), c).item())
    model.float()
    return np.array(result)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 13, 100])
def test_mean_and_standard_error(batch_size: int, classes: int | None) -> None:
    model, data = make(classes=classes), images(13, classes=classes)
    nats = nats_one_by_one(model, data)
    assert nats.std() > 1  # or a wrong weight for the last batch would not show
    score = evaluate(model, data, batch_size=batch_size)
    error = nats.std(ddof=1) / math.sqrt(13)
    bits = 30 * math.log(2)
    assert score.images == 13
    assert score.nats == pytest.approx(nats.mean(), rel=1e-6)
    assert score.nats_error == pytest.approx(error, rel=1e-5)
    assert score.bits_per_dim == pytest.approx(nats.mean() / bits, rel=1e-6)
    assert score.bits_per_dim_error == pytest.approx(error / bits, rel=1e-5)


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (7, 7), (13, 13), (50, 13)])
def test_limit_spreads_over_all(limit: int, count: int) -> None:
    model, data = make(), images(13)
    score = evaluate(model, data, limit=limit, batch_size=4)
    assert score.images == count
    kept = np.linspace(0, 12, count).round().astype(int)
    assert score.nats == pytest.approx(nats_one_by_one(model, data)[kept].mean(), rel=1e-6)
    assert math.isnan(score.nats_error) == (count == 1)


def test_progress_goes_up_to_one() -> None:
    done: list[float] = []
    evaluate(make(), images(10), batch_size=4, progress=done.append)
    assert done == [0.4, 0.8, 1.0]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = make().train(training)
    evaluate(model, images(3))
    assert model.training is training
    with pytest.raises(UserError, match="class"):
        evaluate(model, images(3, classes=None))
    assert model.training is training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="4 levels, but these have 2"):
        evaluate(make(), images(3, levels=2))
    with pytest.raises(UserError, match="nothing to score: 0 images"):
        evaluate(make(), images(0))
    with pytest.raises(UserError, match="nothing to score: 0 images"):
        evaluate(make(), images(3), limit=0)
    with pytest.raises(UserError, match="0 at a time"):
        evaluate(make(), images(3), batch_size=0)


def test_a_score_is_one_line() -> None:
    score = Score(0.92345, 0.00456, 501.829, 2.478, 10_000)
    assert str(score) == "0.9234 ± 0.0046 bits/dim, 501.83 ± 2.48 nats (10,000 images)"
