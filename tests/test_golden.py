"""A tiny checkpoint whose scores must never change: old models keep their meaning."""

from pathlib import Path

import pytest
import torch

import nextpixel as npx

GOLDEN = Path(__file__).parent / "golden"
NATS = {
    "gated": [48.663883993560304, 44.691747705131625, 47.82175452915532],
    "plain": [784.6673820380697, 591.7530949001389, 795.0567857170506],
}


@pytest.mark.parametrize("name", NATS)
def test_scores_of_a_committed_checkpoint(name: str) -> None:
    model = npx.load(GOLDEN / name).double()
    x = (torch.arange(90) * 7919 // 13 % model.levels).view(3, *model.shape)
    c = None if model.classes is None else torch.tensor([0, 1, 2])
    assert (-model.log_prob(x, c)).tolist() == pytest.approx(NATS[name], abs=1e-9)
