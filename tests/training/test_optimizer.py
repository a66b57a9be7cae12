"""Muon, the default optimizer: its steps by singular value decomposition, and its weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.models import (
    DiagonalBiLSTM,
    GatedPixelCNN,
    PixelCNN,
    PixelCNNPP,
    PixelSNAIL,
    RowLSTM,
)
from nextpixel.models.base.image_model import ImageModel
from nextpixel.training import fit
from nextpixel.training.optimizer import Muon, matrices, orthogonalized
from tests.training.runs import OPTIONS, make


def by_singular_values(gradient: Tensor) -> Tensor:
    """The definition: the polynomial of the singular values, of a matrix of norm 1."""
    u, s, v = torch.linalg.svd(gradient / gradient.norm(), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    result: Tensor = u @ torch.diag(s) @ v
    return result


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 7), (7, 1)])
def test_orthogonalized_is_the_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    gradients = torch.randn(3, *shape, dtype=torch.float64)
    results = orthogonalized(gradients)
    for gradient, result in zip(gradients, results, strict=True):
        torch.testing.assert_close(result, by_singular_values(gradient), rtol=1e-9, atol=1e-9)
    values = torch.linalg.svdvals(orthogonalized(torch.randn(20, 8, 40)))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_a_gradient_of_zeros_is_no_step() -> None:
    assert not orthogonalized(torch.zeros(1, 3, 4)).any()


def test_two_steps_by_hand() -> None:
    """A convolution and a linear layer by Muon, biases by AdamW."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, (2, 3)), nn.Flatten(), nn.Linear(20, 6)).double()
    others = [nn.Parameter(p.detach().clone()) for p in model.parameters() if p.ndim == 1]
    weights = [p.detach().clone() for p in model.parameters() if p.ndim > 1]
    momenta = [torch.zeros_like(p) for p in weights]
    squares = [0.0 for _ in weights]
    optimizer, adamw = Muon(model, 0.01, 0.3), torch.optim.AdamW(others, lr=0.01, weight_decay=0.3)
    for step in range(1, 3):
        x = torch.randn(2, 3, 3, 4, dtype=torch.float64)
        model(x).square().sum().backward()
        ahead, agreement = [], []
        seen = 1 - 0.95 ** torch.tensor(float(step))
        for i, p in enumerate(p for p in model.parameters() if p.ndim > 1):
            momenta[i] = 0.95 * momenta[i] + 0.05 * p.grad
            squares[i] = 0.95 * squares[i] + 0.05 * p.grad.square().sum()
            ahead.append(0.05 * p.grad + 0.95 * momenta[i])
            agreement.append((momenta[i] / seen).norm() / (squares[i] / seen).sqrt())
        agree = bool((torch.stack(agreement) > 1 - 1e-6).all())
        assert agree == (step == 1)  # the first gradient agrees with itself
        for p, other in zip((p for p in model.parameters() if p.ndim == 1), others, strict=True):
            other.grad = p.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        adamw.step()
        for i, gradient in enumerate(ahead):
            flat = gradient.flatten(1)
            direction = by_singular_values(flat).view_as(gradient)
            length = 0.01 * 1.5 * agreement[i] * max(flat.shape) ** 0.5
            weights[i] = weights[i] * (1 - 0.01 * 0.3) - length * direction
        for p, weight in zip((p for p in model.parameters() if p.ndim > 1), weights, strict=True):
            torch.testing.assert_close(p.detach(), weight, rtol=1e-9, atol=1e-9)
        for p, other in zip((p for p in model.parameters() if p.ndim == 1), others, strict=True):
            torch.testing.assert_close(p, other, rtol=1e-9, atol=1e-9)


SMALL = {"levels": 4, "classes": 3}
GREY = (1, 4, 4)


@pytest.mark.parametrize(
    ("model", "others"),
    [
        (
            PixelCNN(shape=GREY, width=4, blocks=2, head=8, inputs="embedded", **SMALL),
            {"embedding.weight", "head.3.weight"},
        ),
        (GatedPixelCNN(shape=(3, 4, 4), width=6, blocks=2, **SMALL), {"head.3.weight"}),
        (
            RowLSTM(shape=GREY, width=4, blocks=1, **SMALL),
            {"blocks.0.lstm.state_to_state", "head.3.weight"},
        ),
        (
            DiagonalBiLSTM(shape=GREY, width=4, blocks=1, **SMALL),
            {"blocks.0.lstm.state_to_state", "head.3.weight"},
        ),
        (
            PixelCNNPP(shape=GREY, width=4, blocks=1, stages=2, inputs="embedded", **SMALL),
            {
                "embedding.weight",
                "vertical.inner.stage.smaller.up.weight",
                "horizontal.smaller.up",
                "last.weight",
            },
        ),
        (PixelSNAIL(shape=GREY, width=4, blocks=1, **SMALL), {"last.weight"}),
    ],
    ids=["PixelCNN", "Gated", "RowLSTM", "DiagonalBiLSTM", "PixelCNNPP", "PixelSNAIL"],
)
def test_what_is_no_matrix(model: ImageModel, others: set[str]) -> None:
    """Embeddings, biases by class, the last layer, and what has its outputs elsewhere."""
    groups = Muon(model, 0.01, 0.0).param_groups
    by_adamw, by_muon = (
        {id(p) for group in groups if group["matrices"] is which for p in group["params"]}
        for which in (False, True)
    )
    assert not by_adamw & by_muon
    assert by_adamw | by_muon == {id(p) for p in model.parameters()}
    assert by_muon == {id(p) for p in matrices(model)}
    large = {name for name, p in model.named_parameters() if p.ndim > 1 and id(p) in by_adamw}
    assert large == others


def test_frozen_weights_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = Muon(model, 0.1, 0.5)
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_a_run_does_not_change_its_optimizer(data: Dataset, tmp_path: Path) -> None:
    out = fit(make(), data, out=tmp_path / "run", **{**OPTIONS, "optimizer": "adamw", "steps": 2})
    with pytest.raises(UserError, match="the optimizer that the run was started with"):
        fit(make(), data, out=out, resume=True, **{**OPTIONS, "steps": 3})
