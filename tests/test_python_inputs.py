"""What Python callers pass by mistake or out of habit: converted, or refused in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nextpixel as npx
from nextpixel import UserError
from tests.helpers import scoring_model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, out: m.sample(1, seed=1.5), "A seed is a whole number, not 1.5"),
        (lambda m, out: m.sample(1, seed="1"), "A seed is a whole number, not '1'"),
        (lambda m, out: m.sample(1, numbers=[0.5]), "The number of an image is a whole number"),
        (lambda m, out: m.sample(2.5), "A number of images is a whole number, not 2.5"),
        (lambda m, out: npx.fit(m, "mnist", out=out, seed=0.5), "train.seed is a whole number"),
        (lambda m, out: npx.fit(m, "mnist", out=out, steps=2.5), "train.steps is a whole number"),
        (lambda m, out: npx.load("mnist-gated", device="tpu"), "Unknown device tpu"),
        (lambda m, out: npx.load("mnist-gated", device="cuda:99"), "no device cuda:99 here"),
        (lambda m, out: npx.load_classifier("judge-mnist", device="cuda:99"), "no device cuda:99"),
        (lambda m, out: npx.fit(m, "mnist", out=out, device="cuda:99"), "no device cuda:99"),
    ],
)
def test_wrong_values_are_refused(
    call: Callable[[Any, Path], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        call(scoring_model(shape=(1, 28, 28)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_integers_of_numpy_and_pytorch_are_integers() -> None:
    model = scoring_model(levels=4)
    expected = model.sample(2, seed=3, numbers=[5, 6])
    numbers = torch.tensor([5, 6])
    for how in ({"seed": np.int64(3), "numbers": np.array([5, 6])}, {"numbers": list(numbers)}):
        assert torch.equal(model.sample(np.int64(2), **{"seed": 3, **how}), expected)
