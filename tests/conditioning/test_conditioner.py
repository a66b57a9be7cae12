"""Coarse codes as conditioning."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextpixel.conditioning.conditioner import CoarseCodes
from nextpixel.context import ContextSpec
from nextpixel.data import Dataset, Images
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import evaluate
from nextpixel.models import GatedPixelCNN
from nextpixel.training import fit


def with_coarse_codes(n: int = 40, codes: int = 3) -> Images:
    """Images of 2 levels, in which a pixel is 1 where its coarse code is."""
    random = np.random.default_rng(n)
    top = random.integers(0, codes, (n, 1, 2, 2)).astype(np.uint8)
    x = (top == 1).astype(np.uint8)
    return Images(x, random.integers(0, 2, n), 2, coarse_codes=Images(top, None, codes))


def test_coarse_codes_become_one_hot_planes() -> None:
    split = with_coarse_codes()
    model = GatedPixelCNN(shape=(1, 2, 2), levels=2, classes=2, image=(3, 2, 2), width=8, blocks=1)
    model.conditioner = CoarseCodes()
    numbers = np.array([5, 2])
    x, given = model.inputs(split, numbers)
    assert given.context is not None
    assert given.context.image is not None
    assert torch.equal(x, torch.from_numpy(split.x[numbers]))
    top = torch.from_numpy(split.coarse_codes.x[numbers, 0].astype(np.int64))  # type: ignore[union-attr]
    for code in range(3):
        assert torch.equal(given.context.image[:, code], (top == code).float())
    few = split.subset(4)
    assert few.coarse_codes is not None
    assert np.array_equal(few.coarse_codes.x, split.coarse_codes.x[[0, 13, 26, 39]])  # type: ignore[union-attr]
    with pytest.raises(UserError, match="coarse codes with one channel"):
        replace(split, coarse_codes=few.coarse_codes)
    takes = ContextSpec(image=(3, 2, 2))
    one = takes.read(torch.zeros(2, 2, dtype=torch.int64), 5)
    assert one is not None
    assert one.image is not None
    assert one.image.sum((1, 2, 3)).tolist() == [4] * 5
    with pytest.raises(UserError, match=r"lie in \[0, 3\)"):
        takes.read(torch.full((2, 2), 3), 5)


def test_a_prior_learns_to_use_its_context(tmp_path: Path) -> None:
    train, valid = with_coarse_codes(400), with_coarse_codes(60)
    data = Dataset("repeated", train, valid, valid, 2, ("a", "b"), "made up")
    assert data.coarse_codes == (3, 2, 2)
    torch.manual_seed(0)
    model = GatedPixelCNN(shape=(1, 2, 2), levels=2, image=(3, 2, 2), width=8, blocks=1)
    options: Any = {"batch_size": 32, "warmup": 5, "lr": 0.02, "precision": "float32", "ema": 0.9}
    options["optimizer"] = "adamw"  # Muon is slower in so few steps
    fit(model, data, out=tmp_path / "run", steps=60, **options)
    assert (tmp_path / "run" / "samples" / "step-0000060.png").exists()
    wrong = replace(valid, coarse_codes=replace(valid.coarse_codes, x=valid.coarse_codes.x[::-1]))  # type: ignore
    assert evaluate(model, valid).bits_per_dim < 0.3  # not told, they take 0.92
    assert evaluate(model, wrong).bits_per_dim > 1
    deaf = GatedPixelCNN(shape=(1, 2, 2), levels=2, width=8, blocks=1)
    with pytest.raises(UserError, match="not conditioned on them"):
        fit(deaf, data, out=tmp_path / "deaf", steps=1)
