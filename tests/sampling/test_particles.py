"""Particles sample from the exact posterior, which tiny images make countable."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import nextpixel as npx
from nextpixel.distributions import Categorical
from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.sampling.config import site_noise
from nextpixel.sampling.particles import _Weights, complete_with_particles, resampling_noise

LEVELS = 3
RUNS = 2000


def make(channels: int = 1, size: tuple[int, int] = (3, 3)) -> npx.GatedPixelCNN:
    """A small network with random weights everywhere, in float64."""
    torch.manual_seed(0)
    model = npx.GatedPixelCNN(
        shape=(channels, *size), levels=LEVELS, classes=3, width=6, blocks=3, kernel_size=3
    )
    for name, parameter in model.double().eval().named_parameters():
        # Without biases no level is much likelier than others: what counts are the other pixels.
        std = 0 if name.endswith("bias") else 2 / math.sqrt(parameter[0].numel())
        torch.nn.init.normal_(parameter, std=std)
    return model


@pytest.fixture
def model() -> npx.GatedPixelCNN:
    return make()


@pytest.fixture
def x(model: npx.GatedPixelCNN) -> Tensor:
    return model.sample(1, 0, seed=99)


@pytest.fixture
def mask() -> Tensor:
    """The last row and the last column are known."""
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[2] = mask[:, 2] = True
    return mask


def exact(model: npx.GatedPixelCNN, x: Tensor, mask: Tensor) -> tuple[Tensor, float]:
    """The probabilities of all completions, in the order of `number`, and of the known pixels."""
    every = torch.tensor(list(itertools.product(range(LEVELS), repeat=int((~mask).sum()))))
    images = x.repeat(len(every), 1, 1, 1)
    images[:, 0, ~mask] = every
    with torch.no_grad():
        joint = model.log_prob(images, 0).exp()
    return joint / joint.sum(), float(joint.sum())


def number(x: Tensor, mask: Tensor) -> Tensor:
    """Numbers completions by their hidden pixels, the last one changing fastest."""
    hidden = x[:, 0, ~mask]
    places = LEVELS ** torch.arange(hidden.shape[1] - 1, -1, -1)
    return (hidden * places).sum(1)


def distance(drawn: Tensor, probabilities: Tensor) -> float:
    """The total variation between what was drawn and what should have been."""
    often = torch.bincount(drawn, minlength=len(probabilities)) / len(drawn)
    return float((often - probabilities).abs().sum()) / 2


def test_particles_draw_from_the_posterior_and_plain_completion_does_not(
    model: npx.GatedPixelCNN, x: Tensor, mask: Tensor
) -> None:
    """Perfect draws would be 0.036 away on average; finitely many particles add some."""
    probabilities, _ = exact(model, x, mask)
    many = x.repeat(RUNS, 1, 1, 1)
    plain = npx.complete(model, many, mask, 0, seed=5, batch_size=RUNS)
    done = complete_with_particles(model, many, mask, 0, particles=64, seed=5, batch_size=16 * RUNS)
    assert torch.equal(done.x[:, 0, mask], many[:, 0, mask])
    assert int(done.resamplings.sum()) > RUNS // 2
    assert distance(number(done.x, mask), probabilities) < 0.1
    assert distance(number(plain, mask), probabilities) > 0.7


@pytest.mark.parametrize("particles", [4, 16])
def test_weighed_by_its_evidence_a_draw_is_exact(
    particles: int, model: npx.GatedPixelCNN, x: Tensor, mask: Tensor
) -> None:
    """With any number of particles, on average: the evidence, and each completion's share."""
    probabilities, evidence = exact(model, x, mask)
    done = complete_with_particles(
        model,
        x.repeat(RUNS, 1, 1, 1),
        mask,
        0,
        particles=particles,
        seed=1,
        batch_size=RUNS * particles,
    )
    ratios = done.log_evidence.exp() / evidence
    shares = torch.zeros(RUNS, len(probabilities)).double()
    shares[torch.arange(RUNS), number(done.x, mask)] = ratios
    likely = probabilities > 0.02
    assert 5 < int(likely.sum()) < 20
    found = torch.cat([ratios[:, None], shares[:, likely]], 1)
    expected = torch.cat([torch.ones(1), probabilities[likely]])
    errors = found.std(0) / math.sqrt(RUNS)
    assert float(errors[0]) < 0.15
    assert ((found.mean(0) - expected).abs() < 4 * errors).all()


class Rows(AutoregressiveModel):
    """A user's own model, with `forward` alone: a pixel is as the one above it, or it must be."""

    def __init__(self, *, shape: tuple[int, int, int], levels: int, strict: bool = False) -> None:
        super().__init__(shape=shape, levels=levels, strict=strict)

    def forward(self, x: Tensor, c: object = None) -> Categorical:
        above = torch.nn.functional.pad(x, (0, 0, 1, -1))
        same = torch.nn.functional.one_hot(above, self.levels).double()
        if not self.hyperparameters["strict"]:
            return Categorical(3 * same)
        logits = same.log()
        logits[:, :, 0] = 0
        return Categorical(logits)


def test_one_particle_is_plain_completion(model: npx.GatedPixelCNN, mask: Tensor) -> None:
    colour = make(channels=3, size=(4, 5))
    for net, known in ((model, mask), (colour, torch.rand(3, 4, 5) < 0.5)):
        x = net.sample(5, 1, seed=3)
        c = torch.tensor([0, 1, 2, 1, 0])
        done = complete_with_particles(
            net, x, known, c, particles=1, seed=4, numbers=[2, 3, 4, 5, 9]
        )
        assert torch.equal(done.x, npx.complete(net, x, known, c, seed=4, numbers=[2, 3, 4, 5, 9]))
        assert (done.effective == 1).all()
        assert not done.resamplings.any()


def test_an_image_does_not_depend_on_its_batch() -> None:
    model = make(channels=3, size=(4, 5))
    c = torch.tensor([0, 1, 2, 1, 0])
    x = model.sample(5, c, seed=3)
    mask = torch.zeros(5, 1, 4, 5, dtype=torch.bool)
    mask[:, :, 1:] = True
    mask[3, :, 1] = False  # not all are known at the same sites
    how: dict[str, Any] = {"particles": 12, "seed": 7}
    done = complete_with_particles(model, x, mask, c, **how)
    assert int(done.resamplings.max()) > 0
    others = [
        complete_with_particles(model, x, mask, c, **how, batch_size=24),
        complete_with_particles(model, x, mask, c, **how, batch_size=1),
        complete_with_particles(model, x, mask, c, **how, sampler="cached"),
        complete_with_particles(model, x, mask, c, **how, sampler="full"),
    ]
    for other in others:
        for one, same in zip(done, other, strict=True):
            torch.testing.assert_close(one, same, rtol=0, atol=1e-9)
    alone = complete_with_particles(model, x[3:4], mask[3:4], 1, **how, numbers=[3])
    for one, same in zip(done, alone, strict=True):
        torch.testing.assert_close(one[3:4], same, rtol=0, atol=1e-9)
    again = complete_with_particles(model, x, mask, c, particles=12, seed=8)
    assert not torch.equal(again.x, done.x)


def test_resampling_by_hand() -> None:
    """Systematic: a comb of as many teeth as particles is laid over the weights."""
    weights = _Weights(2, 3, torch.device("cpu"))
    weights.weigh(torch.tensor([0.5, 0.25, 0.25, 0, 0, 1]).log(), torch.tensor([True, True]))
    weights.weigh(torch.full((6,), -5.0), torch.tensor([False, False]))
    noise = torch.tensor([0.5, 0.0]).double()
    assert weights.pick(noise, 4).tolist() == [[0, 0, 1, 2], [5, 5, 5, 5]]
    few = weights.few()
    assert few.tolist() == [False, True]
    assert weights.effective.tolist() == pytest.approx([1 / (1 / 4 + 1 / 8), 1])
    assert weights.least.tolist() == pytest.approx(weights.effective.tolist())
    mean = weights.log_mean()
    assert mean.flatten().exp().tolist() == pytest.approx([1 / 3, 1 / 3])
    assert weights.resample(few, noise).tolist() == [0, 1, 2, 5, 5, 5]
    assert weights.log.exp().flatten().tolist() == pytest.approx([0.5, 0.25, 0.25, *[1 / 3] * 3])
    assert weights.resamplings.tolist() == [0, 1]
    assert torch.equal(weights.log_mean(), mean)


def test_nothing_is_resampled_after_the_last_row() -> None:
    """Its weights already choose the particle that is returned."""
    model = make(size=(1, 6))
    x, mask = model.sample(8, 0), torch.tensor([False, True, False, True, False, True])
    completed = complete_with_particles(model, x, mask, 0, particles=40)
    assert bool((completed.effective < 20).any())
    assert not completed.resamplings.any()


def test_resampling_is_at_the_ends_of_rows() -> None:
    """Where known rows surprise most particles: once for each of them."""
    model, x = Rows(shape=(1, 5, 4), levels=3), torch.zeros(2, 1, 5, 4, dtype=torch.int64)
    x[:, :, 1] = 2
    mask = torch.tensor([False, True, False, True, False])[:, None]
    completed = complete_with_particles(model, x, mask, particles=60)
    assert completed.resamplings.tolist() == [2, 2]


def test_noise_of_resampling_is_its_own() -> None:
    noise = [resampling_noise(seed, range(3), row) for seed in (0, 5) for row in range(28)]
    sites = site_noise((3, 28, 28), 0, range(3)).flatten()
    everything = torch.cat([sites, site_noise((3, 28, 28), 5, range(3)).flatten(), *noise])
    assert len(everything.unique()) == len(everything)
    assert torch.equal(resampling_noise(5, range(1, 2), 27), noise[-1][1:2])


def test_evidence_of_whole_images_is_their_likelihood(model: npx.GatedPixelCNN) -> None:
    x = model.sample(4, 2, seed=3)
    everything = torch.ones(3, 3, dtype=torch.bool)
    done = complete_with_particles(model, x, everything, 2, particles=5)
    assert torch.equal(done.x, x)
    with torch.no_grad():
        torch.testing.assert_close(done.log_evidence, model.log_prob(x, 2), rtol=0, atol=1e-9)
    nothing = complete_with_particles(model, x, ~everything, 2, particles=5)
    assert not nothing.log_evidence.any()
    torch.testing.assert_close(nothing.least_effective, torch.full((4,), 5.0).double())


def test_a_model_with_forward_alone() -> None:
    model = Rows(shape=(1, 4, 5), levels=3)
    x = torch.arange(20).view(1, 1, 4, 5) % 3
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[3] = True
    agree = [
        float((drawn[:, :, 2] == x[:, :, 3]).double().mean())
        for drawn in (
            npx.complete(model, x.repeat(40, 1, 1, 1), mask),
            complete_with_particles(model, x.repeat(40, 1, 1, 1), mask, particles=50).x,
        )
    ]
    assert agree[0] < 0.45
    assert agree[1] > 0.6


def test_progress_ends_at_one() -> None:
    parts: list[float] = []
    model = Rows(shape=(1, 2, 3), levels=2)
    x, mask = model.sample(3), torch.ones(2, 3, dtype=torch.bool)
    complete_with_particles(model, x, mask, particles=2, batch_size=4, progress=parts.append)
    assert parts == sorted(parts)
    assert (len(parts), parts[-1]) == (12, 1.0)


def test_mistakes_are_told(model: npx.GatedPixelCNN, x: Tensor, mask: Tensor) -> None:
    with pytest.raises(UserError, match="at least one image and one particle"):
        complete_with_particles(model, x, mask, 0, particles=0)
    with pytest.raises(UserError, match="pixel by pixel"):
        complete_with_particles(model, x, mask, 0, particles=2, sampler="fixed-point")
    with pytest.raises(UserError, match="booleans"):
        complete_with_particles(model, x, mask.int(), 0, particles=2)
    with pytest.raises(UserError, match="needs a class"):
        complete_with_particles(model, x, mask, particles=2)
    strict = Rows(shape=(1, 2, 6), levels=3, strict=True)
    half = torch.tensor([[False] * 6, [True] * 6])
    with pytest.raises(UserError, match="Take more particles"):
        complete_with_particles(strict, strict.sample(1, seed=1), half, particles=1)
