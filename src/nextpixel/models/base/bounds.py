"""Bounds on log p(x) = log E_{z ~ p(z)} p(x | z), for Gaussian codes z.

Nothing here depends on a network: a decoder is a function from codes to log p(x | z). So the bounds
can be tested with a decoder whose log p(x) is known.

References:
    Kingma, Welling: Auto-Encoding Variational Bayes, 2013 (https://arxiv.org/abs/1312.6114).
    Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015
    (https://arxiv.org/abs/1509.00519).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextpixel.noise import Stream, check_seed, content_key

__all__ = [
    "Gaussian",
    "LogLikelihood",
    "code_noise",
    "elbo_terms",
    "image_noise",
    "importance_bound",
    "log_weights",
]

LogLikelihood = Callable[[Tensor], Tensor]  # codes (S, B, D) -> log p(x | z) in nats, (S, B)

_PART = 10  # codes of an image that are decoded together: limits the memory


class Gaussian(NamedTuple):
    """A diagonal Gaussian q(z | x) for each image.

    Attributes:
        mean: `(B, D)`.
        log_std: Logarithm of the standard deviation, `(B, D)`.
    """

    mean: Tensor
    log_std: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Turns standard normal noise into samples, `(S, B, D)` -> `(S, B, D)`."""
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Computes log q(z) in nats, `(S, B, D)` -> `(S, B)`."""
        return standard_log_prob((z - self.mean) * (-self.log_std).exp()) - self.log_std.sum(-1)

    def kl(self) -> Tensor:
        """Computes KL(q || N(0, 1)) in each dimension of the code in nats, `(B, D)`."""
        variance = torch.exp(2 * self.log_std)
        return (self.mean.square() + variance - 1) / 2 - self.log_std


def standard_log_prob(z: Tensor) -> Tensor:
    """Computes log p(z) under the standard normal, `(..., D)` -> `(...)`."""
    return -(z.square() + math.log(2 * math.pi)).sum(-1) / 2


def elbo_terms(
    log_likelihood: LogLikelihood, posterior: Gaussian, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Computes the two terms of the evidence lower bound, E_q log p(x | z) - KL(q || p).

    Args:
        log_likelihood: Computes log p(x | z).
        posterior: q(z | x).
        noise: Standard normal, `(S, B, D)`: the expectation is the mean over S.

    Returns:
        The estimate of E_q log p(x | z), `(B,)`, and the exact KL divergence in each dimension of
        the code, `(B, D)`, in nats.
    """
    return log_likelihood(posterior.at(noise)).mean(0), posterior.kl()


def log_weights(log_likelihood: LogLikelihood, posterior: Gaussian, noise: Tensor) -> Tensor:
    """Computes log p(x | z) + log p(z) - log q(z | x) at samples z of q, `(S, B)`."""
    z = posterior.at(noise)
    return log_likelihood(z) + standard_log_prob(z) - posterior.log_prob(z)


def importance_bound(log_likelihood: LogLikelihood, posterior: Gaussian, noise: Tensor) -> Tensor:
    """Computes the importance-weighted bound, log mean_k p(x, z_k) / q(z_k | x), `(B,)`, in nats.

    Its expectation grows with the number of samples S from that of the ELBO (S = 1) to log p(x).

    Args:
        log_likelihood: Computes log p(x | z); it is called with a few of the samples at a time.
        posterior: q(z | x).
        noise: Standard normal, `(S, B, D)`.
    """
    parts = [log_weights(log_likelihood, posterior, part) for part in torch.split(noise, _PART)]
    return torch.logsumexp(torch.cat(parts), 0) - math.log(len(noise))


def code_noise(seed: int, numbers: Sequence[int], count: int) -> Tensor:
    """Draws standard normal noise for the codes of images to sample.

    Args:
        seed: Not negative.
        numbers: The numbers of the images, not negative.
        count: Length of a code.

    Returns:
        Noise `(B, count)`, float64, on the CPU. The noise of image k depends only on `(seed, k)`.

    Raises:
        UserError: The seed or a number is out of range.
    """
    check_seed(seed, numbers)
    streams = (Stream.PRIOR_CODES.generator(seed, number) for number in numbers)
    return torch.from_numpy(np.stack([stream.standard_normal(count) for stream in streams]))


def image_noise(seed: int, x: Tensor, samples: int, count: int) -> Tensor:
    """Draws standard normal noise for the codes of images to score.

    Args:
        seed: Not negative.
        x: The images, integers `(B, C, H, W)`.
        samples: Number of codes S per image.
        count: Length of a code.

    Returns:
        Noise `(S, B, count)`, float64, on the CPU. The noise of an image depends only on the seed
        and its pixels: a score is the same in any order and any batch.

    Raises:
        UserError: The seed is out of range.
    """
    check_seed(seed)
    draws = []
    for image in x.cpu().long().numpy():
        stream = Stream.SCORED_CODES.generator(seed, content_key(image))
        draws.append(stream.standard_normal((samples, count)))
    return torch.from_numpy(np.stack(draws, 1))
