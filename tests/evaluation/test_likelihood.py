"""Scores against numpy, on small cases."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from nextpixel import AutoregressiveModel, Categorical
from nextpixel.data import Images
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import (
    Classification,
    Score,
    class_log_probs,
    classify,
    evaluate,
)
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


def test_the_error_of_padded_images_by_hand() -> None:
    """A ratio of two means, whose error is that of `nats - ratio * sites`."""
    nats, sites = [8.0, 13.0, 15.0, 4.0], [4, 8, 8, 2]
    ratio = 40 / 22
    squares = 0.0
    for value, count in zip(nats, sites, strict=True):
        squares += (value - ratio * count) ** 2
    score = Score.of(torch.tensor(nats), np.array(sites))
    assert score.bits_per_dim == pytest.approx(ratio / math.log(2))
    assert score.bits_per_dim_error == pytest.approx(math.sqrt(squares / 3 / 4) / 5.5 / math.log(2))
    assert score.nats == 10
    assert score.nats_error == pytest.approx(math.sqrt((4 + 9 + 25 + 36) / 3 / 4))


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


def test_data_that_do_not_fit_are_refused() -> None:
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
    assert (
        str(Score.of(torch.tensor([8.0]), np.array([16]))) == "0.7213 bits/dim, 8.00 nats (1 image)"
    )


# --- classes --------------------------------------------------------------------------------------


class Favourites(AutoregressiveModel):
    """Class c likes level c: the likeliest class of an image is its most frequent level."""

    def forward(self, x: Tensor, c: object = None) -> Categorical:
        context = self.context(c, len(x))
        assert context is not None
        assert context.classes is not None
        logits = context.classes.double()[:, None, None, None, :]
        return Categorical(logits.expand(*x.shape, self.levels))


def favourites() -> Favourites:
    return Favourites(shape=(1, 5, 6), levels=3, classes=3)


def counted(n: int) -> tuple[Images, np.ndarray]:
    """Images without a tie between their levels, and the most frequent level of each."""
    random = np.random.default_rng(0)
    x = random.integers(0, 3, (4 * n, 1, 5, 6), dtype=np.uint8)
    counts = (x.reshape(4 * n, -1, 1) == np.arange(3)).sum(1)
    clear = np.flatnonzero(np.diff(np.sort(counts), axis=1)[:, 1] > 0)[:n]
    return Images(x[clear], random.integers(0, 3, n), 3), counts[clear].argmax(1)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_classes_of_a_model_whose_likelihood_is_known(batch_size: int) -> None:
    data, likeliest = counted(23)
    assert data.y is not None
    expected = np.zeros((3, 3), int)
    for true, chosen in zip(data.y, likeliest, strict=True):
        expected[true, chosen] += 1
    assert (expected != expected.T).any()  # or rows could be columns
    share = (data.y == likeliest).mean()
    found = classify(favourites(), data, batch_size=batch_size)
    assert found.accuracy == pytest.approx(share)
    assert found.accuracy_error == pytest.approx(math.sqrt(share * (1 - share) / 22))
    assert found.images == 23
    np.testing.assert_array_equal(found.confusion, expected)
    right = classify(favourites(), Images(data.x, likeliest, 3))
    assert (right.accuracy, right.accuracy_error) == (1, 0)


def test_classes_of_a_network_by_scoring_each_image_under_each_class() -> None:
    model, labels = make(), np.arange(13) % 3
    x = model.sample(13, torch.from_numpy(labels)).numpy().astype(np.uint8)
    data = Images(x, labels, 4)
    nats = np.stack([nats_one_by_one(model, Images(data.x, np.full(13, c), 4)) for c in range(3)])
    with torch.no_grad():
        given = class_log_probs(model, torch.from_numpy(data.x))
    assert given.dtype == torch.float64
    np.testing.assert_allclose(given, -nats.T, rtol=1e-6)
    likeliest = nats.argmin(0)
    assert len(set(likeliest)) == 3  # or a constant answer would do
    assert classify(model, data, batch_size=4).accuracy == (likeliest == labels).mean()


def test_classes_of_some_images_with_progress() -> None:
    done: list[float] = []
    data, likeliest = counted(13)
    found = classify(favourites(), data, limit=5, batch_size=2, progress=done.append)
    kept = np.linspace(0, 12, 5).round().astype(int)
    assert data.y is not None
    assert found.accuracy == (likeliest == data.y)[kept].mean()
    assert found.confusion.sum() == found.images == 5
    assert done == [0.4, 0.8, 1.0]
    assert math.isnan(classify(favourites(), data, limit=1).accuracy_error)


def test_classification_is_refused_without_classes() -> None:
    with pytest.raises(UserError, match="unconditional and cannot classify"):
        classify(make(classes=None), images(3))
    with pytest.raises(UserError, match="from 0 to 2, but these have none"):
        classify(make(), images(3, classes=None))
    with pytest.raises(UserError, match="from 0 to 2, but one has 3"):
        classify(make(), Images(images(2).x, np.array([3, 0]), 4))
    with pytest.raises(UserError, match="4 levels, but these are"):
        classify(make(), images(3, levels=2))
    with pytest.raises(UserError, match="nothing to score: 0 images"):
        classify(make(), images(0))


def test_a_classification_is_one_line() -> None:
    found = Classification(0.97914, 0.00143, 10_000, np.eye(2, dtype=np.int64))
    assert str(found) == (
        "classifies 97.91 ± 0.14 % of 10,000 images correctly, by the likeliest class"
    )
