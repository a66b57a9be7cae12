"""Distributions over integer levels, one at every site.

A network returns one of these, and everything comes from it: the loss, the score, samples and
heat maps. `batch_shape` below is `(B, C, H, W)` for a whole map and `(B, C)` at one site.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Bernoulli", "Categorical", "Distribution"]


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

        At a temperature T the probabilities are those of the logits divided by T.
        """

    @abstractmethod
    def at(self, row: int, col: int) -> Distribution:
        """Picks out one site of a whole map: `batch_shape` goes from `(B, C, H, W)` to `(B, C)`."""

    def sample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Turns uniform noise into levels by the inverse CDF, in float64.

        Args:
            noise: Uniform numbers in `[0, 1)`, float64, of `batch_shape`.
            temperature: Divides the logits; below 1 the likely levels gain.

        Returns:
            Levels, int64, of `batch_shape`: the smallest k with `P(x <= k) > noise`.
        """
        cdf = self.pmf(temperature).cumsum(-1)
        # Rounding may leave the last sum a little off 1; scaling the noise by it keeps every
        # level that is drawn one of positive probability.
        threshold = noise.to(cdf)[..., None] * cdf[..., -1:]
        return (cdf <= threshold).sum(-1).clamp_(max=self.levels - 1)


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

    def at(self, row: int, col: int) -> Bernoulli:
        """Picks out one site, see `Distribution.at`."""
        return Bernoulli(self.logits[:, :, row, col])


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
        return torch.softmax(self.logits.double() / temperature, -1)

    def at(self, row: int, col: int) -> Categorical:
        """Picks out one site, see `Distribution.at`."""
        return Categorical(self.logits[:, :, row, col])


def _at_least_float32(x: Tensor) -> Tensor:
    """Raises half precision (from autocast) to float32 and leaves float64 alone."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
