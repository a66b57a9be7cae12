"""The codebook: nearest codes, gradients, running averages, codes that are placed anew."""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nextpixel.errors import UserError
from nextpixel.nn import Quantizer, perplexity
from nextpixel.nn.quantize import ENOUGH, PATIENCE, plus_plus
from nextpixel.training.checkpoint import load_state


def alone(x: Tensor) -> Tensor:
    """Gathers over one rank."""
    return x[None]


def vectors(n: int, size: int = 3, seed: int = 0, sites: tuple[int, int] = (2, 3)) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, size, *sites, generator=random, dtype=torch.float64)


def make(codes: int = 5, size: int = 3, **arguments: Any) -> Quantizer:
    """A quantizer whose codes have their places."""
    torch.manual_seed(0)
    quantizer = Quantizer(codes, size, **arguments).double()
    quantizer.idle.zero_()
    return quantizer


def test_nearest_code_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextpixel.nn.quantize.BLOCK", 7)
    quantizer, z = make(codes=11), vectors(4)
    quantized = quantizer(z)
    for image in range(4):
        for row in range(2):
            for col in range(3):
                vector = z[image, :, row, col]
                distances = [float((vector - code).norm()) for code in quantizer.codebook]
                code = distances.index(min(distances))
                assert quantized.codes[image, row, col] == code
                torch.testing.assert_close(
                    quantized.vectors[image, :, row, col], quantizer.codebook[code], rtol=0, atol=0
                )
    assert torch.equal(quantizer.vectors(quantized.codes), quantized.vectors)


@pytest.mark.parametrize("codebook", ["ema", "loss"])
def test_gradients_pass_straight_through(codebook: Any) -> None:
    quantizer = make(codebook=codebook, commitment=0.5)
    z = vectors(2).requires_grad_()
    weights = vectors(2, seed=1)
    quantized = quantizer(z)
    (gradient,) = torch.autograd.grad((quantized.vectors * weights).sum(), z, retain_graph=True)
    assert torch.equal(gradient, weights)
    off = z - quantized.vectors
    (pull,) = torch.autograd.grad(quantized.loss.sum(), z, retain_graph=True)
    torch.testing.assert_close(pull, 0.5 * 2 * off.detach() / 3)  # 3 numbers a vector
    squares = off.detach().square().mean(1)
    torch.testing.assert_close(quantized.loss, (0.5 + (codebook == "loss")) * squares)
    parameters = list(quantizer.parameters())
    assert len(parameters) == (codebook == "loss")
    if parameters:
        (gradient,) = torch.autograd.grad(quantized.loss.sum(), parameters)
        expected = torch.zeros_like(gradient)
        flat = off.detach().movedim(1, -1).reshape(-1, 3)
        expected.index_add_(0, quantized.codes.flatten(), -2 * flat / 3)
        torch.testing.assert_close(gradient, expected)


def test_forward_changes_nothing() -> None:
    quantizer = make().train()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(vectors(3))
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_averages_equal_a_loop() -> None:
    """By NumPy in float64, one vector after the other."""
    quantizer = make(codes=6, decay=0.9)
    quantizer.codebook[5] = 100.0  # never used
    book = quantizer.codebook.numpy().copy()
    counts, sums, idle = np.zeros(6), np.zeros((6, 3)), np.zeros(6)
    for step in range(20):
        z = vectors(2, seed=step, sites=(1, 2))
        new_counts, new_sums = np.zeros(6), np.zeros((6, 3))
        for vector in z.movedim(1, -1).reshape(-1, 3).numpy():
            code = np.argmin(((book - vector) ** 2).sum(1))
            new_counts[code] += 1
            new_sums[code] += vector
        for code in range(6):
            counts[code] = 0.9 * counts[code] + 0.1 * new_counts[code]
            sums[code] = 0.9 * sums[code] + 0.1 * new_sums[code]
            idle[code] = 0 if new_counts[code] else idle[code] + 1
            if counts[code] > ENOUGH:
                book[code] = sums[code] / counts[code]
        quantizer.update(z, alone, seed=step)
        np.testing.assert_allclose(quantizer.codebook, book, rtol=1e-12)
        np.testing.assert_allclose(quantizer.counts, counts, rtol=1e-12)
        np.testing.assert_array_equal(quantizer.idle, idle)
    assert idle[5] == 20
    assert (book[5] == 100).all()


def test_a_codebook_that_learns_by_its_loss_is_left_alone() -> None:
    quantizer = make(codebook="loss")
    before = quantizer.codebook.detach().clone()
    quantizer.update(vectors(3), alone, seed=0)
    assert torch.equal(quantizer.codebook, before)


@pytest.mark.parametrize("codebook", ["ema", "loss"])
def test_first_update_places_codes_among_the_data(codebook: Any) -> None:
    centres = torch.tensor([[50.0, 0, 0], [0, 50, 0], [0, 0, 50], [-50, -50, 0]]).double()
    z = vectors(16, sites=(1, 4)) + centres.T[None, :, None]
    quantizer = Quantizer(4, 3, codebook=codebook).double()
    quantizer.update(z, alone, seed=3)
    found = quantizer(centres.T[None, :, None]).vectors[0, :, 0].T
    assert (found - centres).norm(dim=1).max() < 5
    assert len(found.unique(dim=0)) == 4
    again = Quantizer(4, 3, codebook=codebook).double()
    again.update(z, alone, seed=3)
    assert torch.equal(again.codebook, quantizer.codebook)


def test_dead_codes_revive() -> None:
    quantizer = make(codes=4)
    quantizer.codebook[:] = vectors(4, sites=(1, 1))[..., 0, 0]
    quantizer.codebook[2] = 1000.0
    z = vectors(8)
    for step in range(PATIENCE):
        assert quantizer.codebook[2, 0] == 1000, step
        quantizer.update(z, alone, seed=step)
    before = quantizer.codebook.clone()
    quantizer.update(z, alone, seed=PATIENCE)
    assert (quantizer(z).codes == 2).any()
    assert quantizer.idle.tolist() == [0, 0, 0, 0]
    assert quantizer.codebook[2].abs().max() < 10
    # Its neighbours lose vectors to it, but keep their past.
    assert (quantizer.codebook - before)[[0, 1, 3]].norm(dim=1).max() < 0.1


def test_plus_plus_prefers_far_points() -> None:
    points = torch.tensor([[0.0], [0.1], [10.0], [30.0]])
    random = torch.Generator().manual_seed(0)
    chosen = [float(plus_plus(points, points[:1], 1, random)) for _ in range(3000)]
    shares = np.array([chosen.count(float(x)) for x in points]) / 3000
    expected = np.array([0, 0.01, 100, 900]) / 1000.01
    assert np.abs(shares - expected).max() < 4 * math.sqrt(0.09 / 3000)
    same = plus_plus(points[:1], points[:0], 3, random)  # too few points
    assert same.tolist() == [[0], [0], [0]]


class Ranks:
    """Two ranks in two threads, that gather what both hand in."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.handed: list[Tensor | None] = [None, None]

    def gather(self, rank: int) -> Callable[[Tensor], Tensor]:
        def gather(x: Tensor) -> Tensor:
            self.handed[rank] = x.clone()
            self.barrier.wait(20)
            gathered = torch.stack([h for h in self.handed if h is not None])
            self.barrier.wait(20)
            return gathered

        return gather


@pytest.mark.parametrize("codes", [5, 30])  # more candidates than codes, and fewer
def test_two_ranks_are_one_with_both_batches(codes: int) -> None:
    ranks = Ranks()
    batches = [vectors(8, seed=seed) for seed in range(3)]

    def train(quantizer: Quantizer, part: slice, gather: Callable[[Tensor], Tensor]) -> None:
        for step, z in enumerate(batches):
            if step == 2:
                quantizer.idle[1] = PATIENCE
            quantizer.update(z[part], gather, seed=step)

    one, *two = (Quantizer(codes, 3).double() for _ in range(3))
    train(one, slice(None), alone)
    halves = slice(0, 4), slice(4, 8)
    threads = [
        threading.Thread(target=train, args=(two[rank], halves[rank], ranks.gather(rank)))
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, tensor in one.state_dict().items():
        assert torch.equal(two[0].state_dict()[name], two[1].state_dict()[name])
        torch.testing.assert_close(two[0].state_dict()[name], tensor)


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    train = [
        *("-m", "nextpixel", "train", "--data", "mnist", "--levels", "4", "--threads", "1"),
        *("--conditional", "false", "--model", "VQVAE", "--model.width", "4", "--model.codes", "8"),
        *("--model.code_size", "4", "--train.steps", "4", "--train.precision", "float32"),
        *("--train.valid_images", "8", "--model.components", "1"),
    ]
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    runs = {
        "one": [*train, "--train.batch_size", "8"],
        "two": [*ranks, *train, "--train.batch_size", "4"],
        "parts": [*train, "--train.batch_size", "8", "--train.accumulate", "3"],
    }
    states, losses = {}, {}
    for name, arguments in runs.items():
        out = tmp_path / name
        result = subprocess.run(
            [sys.executable, *arguments, "--out", str(out)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, result.stderr
        states[name] = load_state(out / "state.pt")["model"]
        lines = (out / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in lines]
    for name in ("two", "parts"):
        assert losses[name] == pytest.approx(losses["one"], rel=1e-4)
        for key in ("quantizer.codebook", "quantizer.counts", "quantizer.sums"):
            torch.testing.assert_close(states[name][key], states["one"][key], rtol=1e-3, atol=1e-3)


def test_perplexity() -> None:
    assert perplexity(torch.tensor([3, 3, 3, 3, 0])) == pytest.approx(4)
    assert perplexity(torch.tensor([0, 7])) == pytest.approx(1)
    shares = np.array([0.5, 0.25, 0.25])
    expected = 2 ** -(shares * np.log2(shares)).sum()
    assert perplexity(torch.tensor([2, 1, 1])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codes": 1}, "at least 2 codes"),
        ({"size": 0}, "at least 1 number"),
        ({"codebook": "gumbel"}, "learns by"),
        ({"decay": 1.0}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"commitment": -1.0}, "commitment"),
        ({"commitment": math.inf}, "commitment"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Quantizer(**{"codes": 4, "size": 2, **arguments})


def test_the_smallest_codebook() -> None:
    assert Quantizer(2, 1, decay=0.0, commitment=0.0).codebook.shape == (2, 1)
    plain = Quantizer(2, 1)
    assert (plain.averages, plain.decay, plain.commitment) == (True, 0.99, 0.25)
    assert plain.idle.tolist() == [20, 20]
