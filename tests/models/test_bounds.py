"""Bounds on log p(x), against a decoder whose log p(x) is known."""

import math

import torch
from torch import Tensor

from nextpixel.models.base.bounds import Gaussian, elbo_terms, importance_bound, log_weights

NUMBERS, SCALE = 3, 0.7
COLUMNS = torch.linalg.qr(torch.randn(6, NUMBERS, generator=torch.Generator().manual_seed(0)))[0]
# Columns that are orthogonal make the exact posterior diagonal.
MATRIX = COLUMNS.double() * torch.tensor([0.5, 1.0, 2.0]).double()
POINTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double()


def linear(z: Tensor) -> Tensor:
    """log p(x | z) of x = MATRIX z + SCALE noise, `(S, B, D)` -> `(S, B)`."""
    return torch.distributions.Normal(z @ MATRIX.T, SCALE).log_prob(POINTS).sum(-1)


def marginal() -> Tensor:
    covariance = MATRIX @ MATRIX.T + SCALE**2 * torch.eye(6).double()
    normal = torch.distributions.MultivariateNormal(torch.zeros(6).double(), covariance)
    return normal.log_prob(POINTS)


def exact_posterior() -> Gaussian:
    variance = 1 / (1 + MATRIX.square().sum(0) / SCALE**2)
    return Gaussian(POINTS @ MATRIX / SCALE**2 * variance, variance.log().expand(4, -1) / 2)


def wrong_posterior() -> Gaussian:
    mean, log_std = exact_posterior()
    return Gaussian(mean + 0.3, log_std + 0.2)


def normal_noise(samples: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 4, NUMBERS, generator=random, dtype=torch.float64)


def test_exact_posterior_gives_the_marginal_at_every_draw() -> None:
    weights = log_weights(linear, exact_posterior(), normal_noise(7))
    torch.testing.assert_close(weights, marginal().expand(7, 4))
    bound = importance_bound(linear, exact_posterior(), normal_noise(25))
    torch.testing.assert_close(bound, marginal())


def test_elbo_of_the_exact_posterior_is_the_marginal() -> None:
    of_draws = linear(exact_posterior().at(normal_noise(20_000)))
    reconstruction, kl = elbo_terms(linear, exact_posterior(), normal_noise(20_000))
    off = (reconstruction - kl.sum(1) - marginal()) / (of_draws.std(0) / math.sqrt(20_000))
    assert off.abs().max() < 4


def test_elbo_lies_below_the_marginal_by_the_divergence_of_the_posteriors() -> None:
    noise = normal_noise(20_000)
    reconstruction, kl = elbo_terms(linear, wrong_posterior(), noise)
    (mean, log_std), (other, other_log_std) = exact_posterior(), wrong_posterior()
    gap = torch.distributions.kl_divergence(
        torch.distributions.Normal(other, other_log_std.exp()),
        torch.distributions.Normal(mean, log_std.exp()),
    ).sum(1)
    error = linear(wrong_posterior().at(noise)).std(0) / math.sqrt(20_000)
    assert gap.min() > 0.05
    assert ((reconstruction - kl.sum(1) - (marginal() - gap)) / error).abs().max() < 4


def test_importance_bound_nears_the_marginal() -> None:
    weights = log_weights(linear, wrong_posterior(), normal_noise(20_000))
    bound = importance_bound(linear, wrong_posterior(), normal_noise(20_000))
    # The error of the logarithm of a mean, from the deviation of what is averaged.
    ratio = torch.exp(weights - bound)
    error = ratio.std(0) / math.sqrt(20_000)
    assert error.max() < 0.02
    assert ((bound - marginal()) / error).abs().max() < 4
    torch.testing.assert_close(ratio.mean(0), torch.ones(4).double())  # parts add up to a whole


def test_importance_bound_grows_with_the_draws_from_the_elbo() -> None:
    # 4,000 independent bounds of 1, 5 and 25 draws.
    weights = log_weights(linear, wrong_posterior(), normal_noise(100_000))
    groups = [weights.view(-1, k, 4)[:4000] for k in (1, 5, 25)]
    bounds = [g.logsumexp(1) - math.log(g.shape[1]) for g in groups]
    means = torch.stack([bound.mean(0) for bound in bounds])
    errors = torch.stack([bound.std(0) / math.sqrt(4000) for bound in bounds])
    reconstruction, kl = elbo_terms(linear, wrong_posterior(), normal_noise(100_000, 1))
    assert ((means[0] - (reconstruction - kl.sum(1))) / errors[0]).abs().max() < 4
    assert (means.diff(dim=0) > 0).all()
    assert (means[-1] < marginal() + 4 * errors[-1]).all()
    one = importance_bound(linear, wrong_posterior(), normal_noise(1))
    torch.testing.assert_close(one, log_weights(linear, wrong_posterior(), normal_noise(1))[0])


def test_divergence_from_the_prior() -> None:
    q = wrong_posterior()
    normal = torch.distributions.Normal(q.mean, q.log_std.exp())
    expected = torch.distributions.kl_divergence(
        normal, torch.distributions.Normal(torch.zeros(4, 3).double(), 1)
    )
    torch.testing.assert_close(q.kl(), expected)
    z = normal_noise(2)
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z).sum(-1))
