"""Distributions against their formulas, in as many digits as it takes, and their samples."""

import itertools
import math

import mpmath
import pytest
import torch
from torch import Tensor

from nextpixel.distributions import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Distribution,
    guided,
)

EXTREMES = [-1e4, -300.0, -30.0, 0.0, 1e-3, 30.0, 300.0, 1e4]


def distributions(dtype: torch.dtype = torch.float64) -> list[Distribution]:
    random = torch.Generator().manual_seed(1)
    return [
        Bernoulli(3 * torch.randn(2, 1, 3, 4, generator=random, dtype=dtype)),
        Categorical(3 * torch.randn(2, 3, 3, 4, 7, generator=random, dtype=dtype)),
        mixture((2, 3, 3, 4), 5, levels=9, dtype=dtype),
    ]


def mixture(
    batch_shape: tuple[int, ...], components: int, *, levels: int, dtype: torch.dtype
) -> DiscretizedLogisticMixture:
    random = torch.Generator().manual_seed(2)
    logits, means, log_scales = torch.randn(
        3, *batch_shape, components, generator=random, dtype=dtype
    )
    return DiscretizedLogisticMixture(logits, means, log_scales - 2, levels=levels)


def shape(distribution: Distribution) -> torch.Size:
    return distribution.pmf().shape[:-1]


@pytest.mark.parametrize("which", [0, 1, 2])
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


@pytest.mark.parametrize("which", [0, 1, 2])
def test_site_is_the_same_as_in_the_map(which: int) -> None:
    distribution = distributions()[which]
    for channel, expected in enumerate(distribution.pmf()[:, :, 2, 1].unbind(1)):
        torch.testing.assert_close(distribution.at(2, 1, channel).pmf(), expected, rtol=0, atol=0)


def test_a_site_keeps_a_larger_limit_of_the_scales() -> None:
    """Models from before there was a limit have 40."""
    parameters = torch.randn(1, 6, 1, 1, generator=torch.Generator().manual_seed(1)).double()
    parameters[:, 4:] = 9.0
    whole = DiscretizedLogisticMixture.from_pixel_parameters(
        parameters, torch.zeros(1, 1, 1, 1), levels=16, max_log_scale=40.0
    )
    assert whole.log_scales.eq(9).all()
    assert torch.equal(whole.at(0, 0, 0).pmf(), whole.pmf()[:, 0, 0, 0])


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_samples_follow_the_pmf(which: int, temperature: float) -> None:
    """A chi-square test of 20,000 draws from one site, at one in a million."""
    n = 20_000
    site = distributions()[which].at(1, 1, 0)[torch.zeros(n, dtype=torch.int64)]
    noise = torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    counts = torch.bincount(site.sample(noise, temperature), minlength=site.levels)
    expected = n * site.pmf(temperature)[0]
    assert counts.sum() == n
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    freedom = site.levels - 1
    # Wilson and Hilferty's approximation of the quantile; z = 4.75 is one in a million.
    limit = freedom * (1 - 2 / (9 * freedom) + 4.75 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi_square < max(limit, 24.0)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_without_noise_the_default_generator_draws(which: int) -> None:
    distribution = distributions()[which]
    torch.manual_seed(5)
    drawn = distribution.sample()
    assert (drawn.shape, drawn.dtype) == (shape(distribution), torch.int64)
    other = distribution.sample(temperature=2.0)
    torch.manual_seed(5)
    noise, others = torch.rand(2, *shape(distribution), dtype=torch.float64)
    assert torch.equal(drawn, distribution.sample(noise))
    assert torch.equal(other, distribution.sample(others, 2.0))
    assert not torch.equal(noise, others)
    at_site = distribution.at(2, 1, 0)
    assert at_site.sample().shape == (2,)


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
    # Ten times 0.1 is less than 1 by as much as the largest noise is.
    logits = torch.tensor([[0.0] * 10 + [-math.inf]], dtype=torch.float64)
    assert Categorical(logits).sample(noise[-1]).tolist() == [9]


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


MEANS = [-1e3, -30.0, -1.5, -1.0, -0.37, 0.0, 0.013, 1.0, 1.7, 1e3]
LOG_SCALES = [-9.0, -7.0, -5.3, -3.0, 0.0, 2.0, 7.0]


def some_levels(levels: int) -> list[int]:
    """The edge bins, their neighbours and some between."""
    return sorted({*range(min(levels, 3)), levels // 3, levels // 2, levels - 2, levels - 1})


def exact_log_prob(
    x: int, logits: list[float], means: list[float], log_scales: list[float], levels: int
) -> float:
    """The formula of the paper as it stands, in 60 digits."""
    with mpmath.workdps(60):
        pi = [mpmath.exp(logit) for logit in logits]
        parts = [
            weight * exact_bin(x, mean, log_scale, levels) / mpmath.fsum(pi)
            for weight, mean, log_scale in zip(pi, means, log_scales, strict=True)
        ]
        return float(mpmath.log(mpmath.fsum(parts)))


def exact_bin(x: int, mean: float, log_scale: float, levels: int) -> mpmath.mpf:
    scale = mpmath.exp(min(max(log_scale, -7), 5))
    lower = (mpmath.mpf(2 * x - levels) / (levels - 1) - mean) / scale
    upper = (mpmath.mpf(2 * x - levels + 2) / (levels - 1) - mean) / scale
    lower = -mpmath.inf if x == 0 else lower
    upper = mpmath.inf if x == levels - 1 else upper
    if lower + upper > 0:  # Far above the mean 60 digits do not show how far the CDF is from 1.
        lower, upper = -upper, -lower
    return 1 / (1 + mpmath.exp(-upper)) - 1 / (1 + mpmath.exp(-lower))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 3, 16, 256])
def test_mixture_log_prob_is_the_formula(levels: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(5)
    grid = torch.cartesian_prod(
        torch.tensor(some_levels(levels), dtype=dtype),
        torch.tensor(MEANS, dtype=dtype),
        torch.tensor(LOG_SCALES, dtype=dtype),
    )
    x, mean, log_scale = grid[:, 0].long(), grid[:, 1:2], grid[:, 2:3]
    # Half of the sites have one component, the others three.
    for others in (0, 2):
        more = torch.randn(3, len(x), others, generator=random, dtype=dtype)
        logits = torch.cat([torch.zeros_like(mean), more[0]], -1)
        means = torch.cat([mean, more[1]], -1)
        log_scales = torch.cat([log_scale, more[2] - 3], -1)
        made = DiscretizedLogisticMixture(logits, means, log_scales, levels=levels)
        columns = [column.tolist() for column in (x, logits, means, log_scales)]
        exact = torch.tensor(
            [exact_log_prob(*row, levels) for row in zip(*columns, strict=True)],
            dtype=torch.float64,
        )
        # A mean or a level that is rounded moves its distance over the scale by eps e^7.
        eps = torch.finfo(dtype).eps
        log_prob = made.log_prob(x)
        assert log_prob.dtype == dtype
        torch.testing.assert_close(log_prob.double(), exact, rtol=4 * eps, atol=eps * math.exp(7))


@pytest.mark.parametrize("levels", [2, 3, 16, 256, 1024])
def test_mixture_pmf_is_exact_far_from_the_mean(levels: int) -> None:
    """Differences of the CDF would be wrong by 1e-16, which is much beside 1e-12."""
    means, log_scales = torch.cartesian_prod(
        torch.tensor(MEANS, dtype=torch.float64), torch.tensor(LOG_SCALES, dtype=torch.float64)
    ).T[..., None]
    site = DiscretizedLogisticMixture(torch.zeros_like(means), means, log_scales, levels=levels)
    pmf = site.pmf()
    torch.testing.assert_close(pmf.sum(-1), torch.ones(len(means)).double(), rtol=0, atol=1e-14)
    for level in some_levels(levels):
        log_prob = site.log_prob(torch.full((len(means),), level))
        torch.testing.assert_close(pmf[:, level], log_prob.exp(), rtol=1e-12, atol=1e-25)


@pytest.mark.parametrize("levels", [2, 256])
def test_scales_far_above_the_limit_come_back(levels: int) -> None:
    """After a jump of the weights all scales may be huge; the gradient must lead back."""
    x = torch.arange(64) % levels
    parameters = torch.zeros(3, 64, 2, dtype=torch.float64)
    parameters[1] = torch.tensor([0.5, -0.5])
    parameters[2] = 50.0
    parameters.requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        loss = -DiscretizedLogisticMixture(*parameters, levels=levels).log_prob(x).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.7 * math.log(levels)


def test_scales_outside_the_limits_are_not_pushed_further_out() -> None:
    """Levels 0 and 255 want wider scales, and a level at a mean a narrower one."""
    log_scales = torch.tensor([[9.0], [-9.0]], requires_grad=True)
    zeros = torch.zeros(2, 1)
    far_and_near = torch.tensor([255, 127])
    made = DiscretizedLogisticMixture(zeros, zeros, log_scales, levels=256)
    made.log_prob(far_and_near).sum().neg().backward()
    assert log_scales.grad is not None
    assert not log_scales.grad.any()


@pytest.mark.parametrize("levels", [2, 3, 256, 1024])
def test_mixture_stays_finite_and_right_in_float32(levels: int) -> None:
    values = [some_levels(levels), MEANS, LOG_SCALES, [-1e4, 0.0, 1e4]]
    grid = torch.cartesian_prod(*(torch.tensor(axis, dtype=torch.float32) for axis in values))
    x, mean, log_scale, logit = grid.T
    parameters = torch.stack(
        [
            torch.stack([logit, torch.zeros_like(logit)], -1),
            torch.stack([mean, -mean], -1),
            torch.stack([log_scale, log_scale.flip(0)], -1),
        ]
    )
    single, double = (
        value_and_gradient(parameters.to(dtype), x.long(), levels)
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single[0].double(), double[0], rtol=1e-6, atol=1e-3)
    # The gradient of a mean is of the order of 1 / scale. Where two components at 1e4 nats are
    # nearly even, float32 knows the share of each to 1e-3 only.
    inverse = parameters[2].clamp(min=-7).neg().exp()
    for gradient, expected, unit in zip(single[1], double[1], (1, inverse, 1), strict=True):
        torch.testing.assert_close(gradient.double() / unit, expected / unit, rtol=1e-2, atol=1e-3)


def value_and_gradient(parameters: Tensor, x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    parameters = parameters.clone().requires_grad_()
    log_prob = DiscretizedLogisticMixture(*parameters, levels=levels).log_prob(x)
    (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()
    return log_prob.detach(), gradient


def test_mixture_temperature_divides_logits_and_multiplies_scales() -> None:
    made = mixture((50,), 4, levels=16, dtype=torch.float64)
    for temperature in (0.3, 1.0, 2.5):
        by_hand = DiscretizedLogisticMixture(
            made.logits / temperature,
            made.means,
            made.log_scales + math.log(temperature),
            levels=16,
        )
        torch.testing.assert_close(made.pmf(temperature), by_hand.pmf(), rtol=1e-12, atol=1e-25)


@pytest.mark.parametrize("temperature", [1e-6, 1e-12])
@pytest.mark.parametrize("levels", [2, 16, 256])
def test_mixture_near_temperature_0_is_the_likeliest_mean(levels: int, temperature: float) -> None:
    made = mixture((200,), 4, levels=levels, dtype=torch.float64)
    best = made.means.gather(-1, made.logits.argmax(-1, keepdim=True))
    nearest = ((best + 1) / 2 * (levels - 1)).round().clamp(0, levels - 1).long()
    expected = torch.zeros(200, levels, dtype=torch.float64).scatter_(-1, nearest, 1.0)
    torch.testing.assert_close(made.pmf(temperature), expected, rtol=0, atol=1e-6)


def pixels(channels: int, levels: int) -> Tensor:
    """Every pixel there is, `(levels^C, C, 1, 1)`."""
    return torch.tensor(list(itertools.product(range(levels), repeat=channels)))[..., None, None]


def scaled(x: Tensor, levels: int) -> Tensor:
    return 2 * x.double() / (levels - 1) - 1


def colour_parameters(channels: int, components: int, *sites: int) -> Tensor:
    count = DiscretizedLogisticMixture.parameter_count(channels, components)
    random = torch.Generator().manual_seed(7)
    return torch.randn(sites[0], count, *sites[1:], generator=random, dtype=torch.float64)


def joint(parameters: list[float], pixel: list[int], components: int, levels: int) -> float:
    """The probability of a whole pixel, `sum_k pi_k prod_c p_k(x_c)`, straight from the paper."""
    channels = len(pixel)
    rows = [parameters[i : i + components] for i in range(0, len(parameters), components)]
    pi = torch.softmax(torch.tensor(rows[0], dtype=torch.float64), 0).tolist()
    means, log_scales = rows[1 : 1 + channels], rows[1 + channels : 1 + 2 * channels]
    couplings = iter(rows[1 + 2 * channels :])
    value = [2 * v / (levels - 1) - 1 for v in pixel]
    for c in range(channels):
        for earlier in range(c):
            row = next(couplings)
            means[c] = [
                m + math.tanh(a) * value[earlier] for m, a in zip(means[c], row, strict=True)
            ]
    return sum(
        pi[k]
        * math.prod(
            float(exact_bin(pixel[c], means[c][k], log_scales[c][k], levels))
            for c in range(channels)
        )
        for k in range(components)
    )


@pytest.mark.parametrize("levels", [2, 4])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_coloured_channels_multiply_to_the_joint(channels: int, levels: int) -> None:
    x = pixels(channels, levels)
    parameters = colour_parameters(channels, 3, 1, 1, 1)
    made = DiscretizedLogisticMixture.from_pixel_parameters(
        parameters.expand(len(x), -1, 1, 1), scaled(x, levels), levels=levels
    )
    log_prob = made.log_prob(x)
    assert log_prob.shape == x.shape
    probability = log_prob.sum((1, 2, 3)).exp()
    torch.testing.assert_close(probability.sum().item(), 1.0, rtol=0, atol=1e-12)
    expected = [
        joint(parameters.flatten().tolist(), pixel, 3, levels) for pixel in x.flatten(1).tolist()
    ]
    torch.testing.assert_close(
        probability, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("channel", range(3))
def test_coloured_channel_sees_only_those_before_it(channel: int) -> None:
    parameters = colour_parameters(3, 4, 2, 3, 5)
    x = 2 * torch.rand(2, 3, 3, 5, generator=torch.Generator().manual_seed(8)).double() - 1
    made = DiscretizedLogisticMixture.from_pixel_parameters(parameters, x, levels=16)
    for other in (-0.3, 1e30, math.nan):
        changed = x.clone()
        changed[:, channel:] = other
        again = DiscretizedLogisticMixture.from_pixel_parameters(parameters, changed, levels=16)
        for name in ("logits", "means", "log_scales"):
            before, after = getattr(made, name), getattr(again, name)
            assert torch.equal(before[:, : channel + 1], after[:, : channel + 1])


def test_coloured_jacobian_is_that_of_the_order() -> None:
    parameters = colour_parameters(3, 4, 1, 2, 2)
    x = 2 * torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(9)).double() - 1
    level = torch.full((1, 3, 2, 2), 5)

    def log_prob(x: Tensor) -> Tensor:
        made = DiscretizedLogisticMixture.from_pixel_parameters(parameters, x, levels=16)
        return made.log_prob(level).flatten(2)

    jacobian = torch.autograd.functional.jacobian(log_prob, x).flatten(5)[0, :, :, 0]
    for c, site, earlier, other in itertools.product(range(3), range(4), range(3), range(4)):
        depends = bool(jacobian[c, site, earlier, other] != 0)
        assert depends == (earlier < c and site == other)


def test_coloured_at_one_pixel_is_the_same_as_in_the_map() -> None:
    parameters = colour_parameters(3, 4, 2, 3, 5)
    x = 2 * torch.rand(2, 3, 3, 5, generator=torch.Generator().manual_seed(8)).double() - 1
    whole = DiscretizedLogisticMixture.from_pixel_parameters(parameters, x, levels=16)
    one = DiscretizedLogisticMixture.from_pixel_parameters(
        parameters[..., 2, 1], x[..., 2, 1], levels=16
    )
    torch.testing.assert_close(one.pmf(), whole.pmf()[:, :, 2, 1], rtol=1e-12, atol=0)


def test_coloured_works_in_float32_under_autocast() -> None:
    parameters = colour_parameters(3, 4, 2, 3, 5).bfloat16()
    x = torch.randint(256, (2, 3, 3, 5), generator=torch.Generator().manual_seed(8))
    expected = DiscretizedLogisticMixture.from_pixel_parameters(
        parameters.double(), scaled(x, 256), levels=256
    ).log_prob(x)
    with torch.autocast("cpu", torch.bfloat16):
        made = DiscretizedLogisticMixture.from_pixel_parameters(
            parameters, scaled(x, 256).float(), levels=256
        )
        log_prob = made.log_prob(x)
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-5, atol=1e-5)


def test_parameters_of_a_pixel_are_counted_as_in_the_paper() -> None:
    assert DiscretizedLogisticMixture.parameter_count(3, 10) == 100
    assert DiscretizedLogisticMixture.parameter_count(1, 10) == 30


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_multiplies_the_difference_of_log_probabilities(guidance: float) -> None:
    """Classifier-free guidance (Ho and Salimans, 2022); the null context comes second."""
    probabilities = torch.tensor([[[0.5, 0.3, 0.2]], [[0.1, 0.3, 0.6]]], dtype=torch.float64)
    found = guided(Categorical(probabilities.log()), guidance).pmf()
    weights = [
        null * (given / null) ** guidance
        for given, null in zip([0.5, 0.3, 0.2], [0.1, 0.3, 0.6], strict=True)
    ]
    expected = torch.tensor([[[w / sum(weights) for w in weights]]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
