import math

import pytest
import torch
from torch import Tensor

from nextpixel.distributions import Bernoulli, Categorical, Distribution

EXTREMES = [-1e4, -300.0, -30.0, 0.0, 1e-3, 30.0, 300.0, 1e4]


def distributions(dtype: torch.dtype = torch.float64) -> list[Distribution]:
    random = torch.Generator().manual_seed(1)
    return [
        Bernoulli(3 * torch.randn(2, 1, 3, 4, generator=random, dtype=dtype)),
        Categorical(3 * torch.randn(2, 3, 3, 4, 7, generator=random, dtype=dtype)),
    ]


def shape(distribution: Distribution) -> torch.Size:
    return distribution.pmf().shape[:-1]


@pytest.mark.parametrize("which", [0, 1])
def test_pmf_sums_to_one_and_equals_exp_log_prob(which: int) -> None:
    distribution = distributions()[which]
    pmf = distribution.pmf()
    assert pmf.dtype == torch.float64
    assert pmf.shape[-1] == distribution.levels
    torch.testing.assert_close(pmf.sum(-1), torch.ones_like(pmf[..., 0]), rtol=0, atol=1e-12)
    for level in range(distribution.levels):
        x = torch.full(shape(distribution), level)
        torch.testing.assert_close(
            distribution.log_prob(x).exp(), pmf[..., level], rtol=1e-12, atol=1e-300
        )


@pytest.mark.parametrize("which", [0, 1])
def test_site_is_the_same_as_in_the_map(which: int) -> None:
    distribution = distributions()[which]
    torch.testing.assert_close(
        distribution.at(2, 1).pmf(), distribution.pmf()[:, :, 2, 1], rtol=0, atol=0
    )


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_samples_follow_the_pmf(which: int, temperature: float) -> None:
    """A chi-square test of 20,000 draws from one site, at one in a million."""
    site = distributions()[which].at(1, 1)
    pmf = site.pmf(temperature)[:1, :1]
    n = 20_000
    noise = torch.rand(n, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    one = Bernoulli(site.logits[:1, :1]) if which == 0 else Categorical(site.logits[:1, :1])
    many = type(one)(one.logits.expand(n, *one.logits.shape[1:]))
    counts = torch.bincount(many.sample(noise, temperature).flatten(), minlength=site.levels)
    expected = n * pmf.flatten()
    assert counts.sum() == n
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    freedom = site.levels - 1
    # Wilson and Hilferty's approximation of the quantile; z = 4.75 is one in a million.
    limit = freedom * (1 - 2 / (9 * freedom) + 4.75 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi_square < max(limit, 24.0)


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[[0.5, -1.0, 2.0]]], dtype=torch.float64)
    expected = torch.softmax(logits / 0.7, -1)
    torch.testing.assert_close(Categorical(logits).pmf(0.7), expected)
    two = torch.tensor([[1.3]], dtype=torch.float64)
    torch.testing.assert_close(Bernoulli(two).pmf(0.7)[..., 1], torch.sigmoid(two / 0.7))


def test_inverse_cdf_takes_the_smallest_level_above_the_noise() -> None:
    logits = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    noise = torch.tensor([0.0, 0.199, 0.201, 0.499, 0.501, 1 - 1e-16], dtype=torch.float64)
    drawn = Categorical(logits.expand(6, 1, 3)).sample(noise[:, None])
    assert drawn.flatten().tolist() == [0, 0, 1, 1, 2, 2]
    p = torch.tensor([0.3], dtype=torch.float64)
    two = Bernoulli((p / (1 - p)).log().expand(2, 1))
    assert two.sample(torch.tensor([[0.69], [0.71]], dtype=torch.float64)).flatten().tolist() == [
        0,
        1,
    ]


def test_impossible_levels_are_never_drawn() -> None:
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 0.0, -math.inf], dtype=torch.float64)
    noise = torch.tensor([0.0, 0.49, 0.51, 1 - 2**-53], dtype=torch.float64)[:, None]
    drawn = Categorical(logits.expand(4, 1, 5)).sample(noise)
    assert set(drawn.flatten().tolist()) == {1, 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_parameters_stay_finite(dtype: torch.dtype) -> None:
    values = torch.tensor(EXTREMES, dtype=dtype)
    logits = torch.cartesian_prod(values, values, values).view(-1, 1, 3).requires_grad_()
    for level in range(3):
        log_prob = Categorical(logits).log_prob(torch.full((len(logits), 1), level))
        assert_finite(log_prob, logits)
    two = values.clone().view(-1, 1).requires_grad_()
    for level in range(2):
        assert_finite(Bernoulli(two).log_prob(torch.full((len(two), 1), level)), two)


def assert_finite(log_prob: Tensor, parameters: Tensor) -> None:
    (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
    assert log_prob.isfinite().all()
    assert (log_prob <= 0).all()
    assert gradient.isfinite().all()


def test_half_precision_is_raised_to_float32() -> None:
    for distribution in distributions(torch.bfloat16):
        assert distribution.logits.dtype == torch.float32
        assert distribution.log_prob(torch.zeros(shape(distribution))).dtype == torch.float32
