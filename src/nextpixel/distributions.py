"""Distributions over integer levels, one at every site.

A network returns a distribution, which gives the loss, the score, samples and heat maps.
`batch_shape` below is `(B, C, H, W)` for a whole map and `(B,)` at one site (a channel of a pixel).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiscretizedLogisticMixture",
    "Distribution",
    "guided",
]

TINY = 1e-300  # stands for a probability of 0 in a logarithm
_MIN_LOG_SCALE = -7.0  # narrower logistics would fit noise


class Distribution(ABC):
    """A distribution over the integers `0 .. levels - 1` at every site."""

    levels: int

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Computes log p(x) in nats at every site.

        Args:
            x: Integers in `[0, levels)`, of `batch_shape`.

        Returns:
            Log-probabilities, of `batch_shape`, float32 or better.
        """

    @abstractmethod
    def pmf(self, temperature: float = 1.0) -> Tensor:
        """Computes the probability of every level in float64, `(*batch_shape, levels)`.

        At a temperature T the probabilities are those of the logits divided by T (and, in a
        mixture, of the scales multiplied by it).
        """

    @abstractmethod
    def __getitem__(self, sites: Any) -> Distribution:
        """Picks out sites: indices and slices into `batch_shape`."""

    def at(self, row: int, col: int, channel: int) -> Distribution:
        """Picks out one site of a whole map; its `batch_shape` is `(B,)`."""
        return self[:, channel, row, col]

    def sample(self, noise: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Samples a level at every site: turns uniform noise into levels by the inverse CDF.

        Args:
            noise: Uniform numbers in `[0, 1)`, float64, of `batch_shape`. By default they come from
                PyTorch's default generator: `torch.manual_seed` makes them repeatable.
            temperature: See `pmf`; below 1, likely levels become more likely.

        Returns:
            Levels, int64, of `batch_shape`: the smallest k with `P(x <= k) > noise`, in float64.
        """
        cdf = self.pmf(temperature).cumsum(-1)
        if noise is None:
            noise = torch.rand(cdf.shape[:-1], dtype=cdf.dtype, device=cdf.device)
        # Rounding may leave the last sum slightly off 1; scaling the noise by it makes sure that
        # the sampled level has a positive probability.
        threshold = noise.to(cdf).unsqueeze(-1) * cdf[..., -1:]
        level = torch.searchsorted(cdf, threshold, right=True).squeeze(-1)
        return level.clamp_(max=self.levels - 1)


class Bernoulli(Distribution):
    """Two levels: `p(1) = sigmoid(logits)`.

    Args:
        logits: Real numbers, of `batch_shape`.
    """

    levels = 2

    def __init__(self, logits: Tensor) -> None:
        self.logits = _at_least_float32(logits)

    def log_prob(self, x: Tensor) -> Tensor:
        """Computes log p(x), see `Distribution.log_prob`."""
        return F.logsigmoid(torch.where(x > 0, self.logits, -self.logits))

    def pmf(self, temperature: float = 1.0) -> Tensor:
        """Computes `(p(0), p(1))`, see `Distribution.pmf`."""
        logits = self.logits.double() / temperature
        return torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1)

    def __getitem__(self, sites: Any) -> Bernoulli:
        """Picks out sites, see `Distribution`."""
        return Bernoulli(self.logits[sites])


class Categorical(Distribution):
    """Any number of levels: `p = softmax(logits)`, with no order among the levels.

    Args:
        logits: Real numbers, `(*batch_shape, levels)`.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = _at_least_float32(logits)
        self.levels = logits.shape[-1]

    def log_prob(self, x: Tensor) -> Tensor:
        """Computes log p(x), see `Distribution.log_prob`."""
        logits = self.logits.reshape(-1, self.levels)
        nats = F.cross_entropy(logits, x.reshape(-1).long(), reduction="none")
        return -nats.view(x.shape)

    def pmf(self, temperature: float = 1.0) -> Tensor:
        """Computes the probability of every level, see `Distribution.pmf`."""
        logits = self.logits if temperature == 1 else self.logits.double() / temperature
        return torch.softmax(logits, -1, dtype=torch.float64)

    def __getitem__(self, sites: Any) -> Categorical:
        """Picks out sites, see `Distribution`."""
        return Categorical(self.logits[sites])


def guided(distribution: Distribution, guidance: float) -> Categorical:
    """Applies classifier-free guidance, level by level.

    Args:
        distribution: The batch with its context, followed by the same batch with the null context.
        guidance: g in `log p = log p_null + g (log p_context - log p_null)`, up to a constant.

    Returns:
        The distribution of the batch, in float64.
    """
    given, null = distribution.pmf().clamp_min(TINY).log().chunk(2)
    return Categorical(null + guidance * (given - null))


class DiscretizedLogisticMixture(Distribution):
    """Levels with an order, such as brightness: a mixture of logistics cut into bins.

    Level v is at `2 v / (levels - 1) - 1`, and its bin reaches half a step to either side; the bins
    of the first and the last level reach to infinity. With b and a the lower and the upper edge of
    the bin,

        p(v) = sum_k pi_k (sigmoid((a - mu_k) / s_k) - sigmoid((b - mu_k) / s_k)).

    Args:
        logits: Unnormalised log pi of the components, `(*batch_shape, K)`.
        means: Their means mu, where [-1, 1] runs from the first level to the last, same shape.
        log_scales: Their log s, same shape, clamped to [-7, max_log_scale].
        levels: Number of levels, at least 2.
        max_log_scale: The largest log s. Much wider logistics put all levels but the first and the
            last at 0 and have no gradient.

    References:
        Salimans, Karpathy, Chen, Kingma: PixelCNN++, 2017 (https://arxiv.org/abs/1701.05517),
        sections 2.1 and 2.2.
    """

    def __init__(
        self,
        logits: Tensor,
        means: Tensor,
        log_scales: Tensor,
        *,
        levels: int,
        max_log_scale: float = 5.0,
    ) -> None:
        self.logits = _at_least_float32(logits)
        self.means = _at_least_float32(means)
        self.log_scales = _clamp_scales(_at_least_float32(log_scales), max_log_scale)
        self.levels, self.max_log_scale = levels, max_log_scale

    @staticmethod
    def parameter_count(channels: int, components: int) -> int:
        """Computes the number of parameters of one pixel for `from_pixel_parameters`."""
        return components * (1 + 2 * channels + channels * (channels - 1) // 2)

    @classmethod
    def from_pixel_parameters(
        cls, parameters: Tensor, x: Tensor, *, levels: int, max_log_scale: float = 5.0
    ) -> DiscretizedLogisticMixture:
        """Makes the conditionals of the channels from one output for the whole pixel.

        The channels of a pixel share the component, and the mean of each is linear in the channels
        before it. So channel c given these is a mixture too, with shifted means, and with the
        posterior of the component as its weights,

            mu_c + sum_{c' < c} tanh(coupling_cc') x_c',   logits + sum_{c' < c} log p_k(x_c').

        Args:
            parameters: `(B, P, *sites)` with `P = parameter_count(C, K)`: K logits; for every
                channel K means; for every channel K log-scales; for every pair of channels
                (1, 0), (2, 0), (2, 1), ... K couplings.
            x: The pixels, scaled to [-1, 1], `(B, C, *sites)`. Channel c depends only on the
                channels before it, so the last one is not used.
            levels: Number of levels, at least 2.
            max_log_scale: The largest log-scale, see the class.

        Returns:
            A distribution of batch_shape `(B, C, *sites)`. A temperature applies to each channel
            separately, given the channels before it.

        References:
            Salimans et al., 2017, section 2.2; the tanh is from the authors' code.
        """
        channels = x.shape[1]
        logits, means, log_scales, couplings = _split(parameters, channels, max_log_scale)
        x = x.to(means.dtype).movedim(1, -1)[..., None]
        posteriors, centres = [logits], [means[..., 0, :]]
        for c in range(1, channels):
            newest, scale = x[..., c - 1, :], log_scales[..., c - 1, :]
            posteriors.append(posteriors[-1] + _log_bin(newest, centres[-1], scale, levels))
            # Not a matrix product, which autocast would compute in half precision.
            pull = couplings[..., c * (c - 1) // 2 : c * (c + 1) // 2, :] * x[..., :c, :]
            centres.append(means[..., c, :] + pull.sum(-2))
        log_scales = log_scales.movedim(-2, 1)
        return cls(
            torch.stack(posteriors, 1),
            torch.stack(centres, 1),
            log_scales,
            levels=levels,
            max_log_scale=max_log_scale,
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Computes log p(x), see `Distribution.log_prob`."""
        # Twice the level is an integer, so this rounds once.
        scaled = (2 * x.to(self.means.dtype) - (self.levels - 1)) / (self.levels - 1)
        log_bin = _log_bin(scaled[..., None], self.means, self.log_scales, self.levels)
        return torch.logsumexp(torch.log_softmax(self.logits, -1) + log_bin, -1)

    def pmf(self, temperature: float = 1.0) -> Tensor:
        """Computes the probability of every level, see `Distribution.pmf`.

        A temperature T divides the logits of the components and multiplies the scales; `log_prob`
        has T = 1. Near 0 only the level nearest to the mean of the likeliest component is left.
        """
        weights = torch.softmax(self.logits.double() / temperature, -1)[..., None, :]
        sharpness = torch.exp(-self.log_scales.double())[..., None] / temperature
        edges = torch.arange(2 - self.levels, self.levels, 2).to(sharpness) / (self.levels - 1)
        z = (edges - self.means.double()[..., None]) * sharpness
        below, above = torch.sigmoid(z), torch.sigmoid(-z)
        # sigmoid(a) - sigmoid(b) as sigmoid(a) sigmoid(-b) (1 - e^(b - a)): the difference itself
        # would lose small probabilities far above the mean to cancellation.
        fill = -torch.expm1(sharpness * (-2 / (self.levels - 1)))
        inside = (weights * fill.mT) @ (below[..., 1:] * above[..., :-1])
        first, last = weights @ below[..., :1], weights @ above[..., -1:]
        return torch.cat([first, inside, last], -1).squeeze(-2)

    def __getitem__(self, sites: Any) -> DiscretizedLogisticMixture:
        """Picks out sites, see `Distribution`."""
        return DiscretizedLogisticMixture(
            self.logits[sites],
            self.means[sites],
            self.log_scales[sites],
            levels=self.levels,
            max_log_scale=self.max_log_scale,
        )


class _ClampScales(torch.autograd.Function):
    """Clamps log-scales; above the limit, the gradient that leads back below it is kept.

    After a jump of the weights all scales may lie above the limit, where a plain clamp has no
    gradient, so that training could not recover.
    """

    @staticmethod
    def forward(ctx: Any, log_scales: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(log_scales)
        ctx.limit = limit
        return log_scales.clamp(_MIN_LOG_SCALE, limit)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (log_scales,) = ctx.saved_tensors
        outwards = (log_scales > ctx.limit) & (gradient < 0)
        return gradient.masked_fill(outwards | (log_scales < _MIN_LOG_SCALE), 0), None


def _clamp_scales(log_scales: Tensor, limit: float) -> Tensor:
    clamped: Tensor = _ClampScales.apply(log_scales, limit)  # type: ignore[no-untyped-call]
    return clamped


def _split(
    parameters: Tensor, channels: int, max_log_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Splits the output for a whole pixel, see `DiscretizedLogisticMixture.from_pixel_parameters`.

    Args:
        parameters: `(B, P, *sites)`.
        channels: Number of channels C.
        max_log_scale: The largest log-scale.

    Returns:
        Logits `(B, *sites, K)`; means and clamped log-scales `(B, *sites, C, K)`; couplings in
        (-1, 1), `(B, *sites, C (C - 1) / 2, K)`. All are float32 or better.
    """
    each = DiscretizedLogisticMixture.parameter_count(channels, 1)
    groups = torch.unflatten(_at_least_float32(parameters).movedim(1, -1), -1, (each, -1))
    counts = [1, channels, channels, channels * (channels - 1) // 2]
    logits, means, log_scales, couplings = torch.split_with_sizes(groups, counts, -2)
    return (
        logits.squeeze(-2),
        means,
        _clamp_scales(log_scales, max_log_scale),
        torch.tanh(couplings),
    )


def _log_bin(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Computes the log-probability of the bin of a level under a logistic.

    With a and b the upper and the lower edge, divided by the scale,
    `log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - e^(b - a))`, without
    cancellation. Every term is finite in every bin, so that the gradient of a masked term is 0 and
    not NaN.

    Args:
        x: Levels scaled to [-1, 1].
        mean: Means of the logistics, broadcastable with `x`.
        log_scale: Logarithms of their scales, broadcastable with `x`.
        levels: Number of levels.

    Returns:
        Log-probabilities in nats, of the broadcast shape.
    """
    half = 1 / (levels - 1)
    sharpness = torch.exp(-log_scale)
    z, half_width = (x - mean) * sharpness, half * sharpness
    first, last = x < half - 1, x > 1 - half
    below = F.logsigmoid(z + half_width).masked_fill(last, 0)
    above = F.logsigmoid(half_width - z).masked_fill(first, 0)
    inside = torch.log(-torch.expm1(-2 * half_width)).masked_fill(first | last, 0)
    return below + above + inside


def _at_least_float32(x: Tensor) -> Tensor:
    """Converts half precision (from autocast) to float32, and leaves float64 as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
