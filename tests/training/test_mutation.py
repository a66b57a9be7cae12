"""Mutated training images, whose models are the background of anomaly scores."""

import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nextpixel.data import Images, batch_indices, mutate
from nextpixel.errors import UserError
from nextpixel.models import GatedPixelCNN
from nextpixel.training import TrainArgs, fit
from nextpixel.training.fitting import prepare
from tests.training.runs import (
    OPTIONS,
    assert_same_run,
    at_step,
    make,
    state_of,
    tiny_mnist,
)


def test_mutate_replaces_the_stated_share_uniformly() -> None:
    x = np.full((400, 1, 10, 10), 3, np.uint8)
    mutated = mutate(x, 0.3, 4, (5, 6))
    assert mutated.dtype == np.uint8
    counts = np.bincount(mutated.ravel(), minlength=4) / x.size
    # A quarter of what is replaced is 3 again; five standard deviations.
    expected = np.array([0.075, 0.075, 0.075, 0.775])
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected * (1 - expected) / x.size)).all()
    np.testing.assert_array_equal(mutate(x, 0.3, 4, (5, 6)), mutated)
    for other in ((5, 7), (6, 6)):
        assert (mutate(x, 0.3, 4, other) != mutated).mean() > 0.2
    assert (x == 3).all()  # what was given is left as it was
    np.testing.assert_array_equal(mutate(x, 0, 4, (5, 6)), x)
    assert set(np.unique(mutate(x, 1, 256, (0, 0)))) == set(range(256))


def test_training_images_are_mutated_and_those_of_the_validation_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = tiny_mnist(), []
    real = GatedPixelCNN.log_prob

    def log_prob(model: GatedPixelCNN, x: torch.Tensor, *given: object) -> torch.Tensor:
        seen.append((model.training, x.numpy().copy()))
        return real(model, x, *given)

    def is_of(images: Images, x: np.ndarray) -> bool:
        return any((x == other).all() for other in images.x)

    monkeypatch.setattr(GatedPixelCNN, "log_prob", log_prob)
    fit(make(), data, out=tmp_path / "run", **{**OPTIONS, "steps": 3, "mutate": 0.5})
    batches = [batch for training, batch in seen if training]
    for step, batch in enumerate(batches):  # each has noise of its own
        x, _ = data.train.batch(batch_indices(100, 8, step))
        np.testing.assert_array_equal(batch, mutate(x, 0.5, 4, (0, step)))
    trained = [x for batch in batches for x in batch]
    validated = [x for training, batch in seen if not training for x in batch]
    assert len(trained) == 24
    assert not any(is_of(data.train, x) for x in trained)
    assert len(validated) == 20
    assert all(is_of(data.valid, x) for x in validated)


def test_interrupted_and_resumed_with_mutation_is_bitwise_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = tiny_mnist(), {**OPTIONS, "mutate": 0.3}
    whole = fit(make(), data, out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda run: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(make(), data, out=tmp_path / "run", **options)
    assert state_of(tmp_path / "run")["step"] == 3
    fit(make(), data, out=tmp_path / "run", resume=True, **options)
    assert_same_run(tmp_path / "run", whole)
    other = fit(make(), data, out=tmp_path / "other", **{**options, "mutate": 0.2})
    states = [state_of(out)["model"] for out in (whole, other)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(UserError, match=r"train\.mutate"):
        TrainArgs(mutate=share)


def test_padding_is_not_mutated() -> None:
    data = tiny_mnist()
    padded = replace(data, train=replace(data.train, rows=np.full(100, 5)))
    with pytest.raises(UserError, match=r"Training with train\.mutate"):
        prepare(make(), padded, TrainArgs(mutate=0.1))
    assert prepare(make(), data, TrainArgs(mutate=0.1)).train.mutation_rate == 0.1
    assert prepare(make(), data, TrainArgs()).train.mutation_rate == 0
