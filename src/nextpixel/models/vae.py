"""Variational autoencoder: latent codes with a prior, and bounds on log p(x).

References:
    Kingma, Welling: Auto-Encoding Variational Bayes, 2013 (https://arxiv.org/abs/1312.6114).
    Higgins et al.: beta-VAE, 2017 (https://openreview.net/forum?id=Sy2fzU9gl), for `beta`.
    Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling: Improved Variational Inference with
    Inverse Autoregressive Flow, 2016 (https://arxiv.org/abs/1606.04934), appendix C.8, for
    `free_bits`.
    Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015
    (https://arxiv.org/abs/1509.00519), for `importance_bound`.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from nextpixel.context import ContextLike
from nextpixel.data.pictures import ImagesLike
from nextpixel.errors import UserError
from nextpixel.models.base.bounds import (
    Gaussian,
    code_noise,
    elbo_terms,
    image_noise,
    importance_bound,
)
from nextpixel.models.base.latent import IndependentPixels, Likelihood
from nextpixel.nn import ImageDecoder, ImageEncoder
from nextpixel.sampling.config import CommonOptions, SamplingConfig, check_count
from nextpixel.saving import bound_arguments

__all__ = ["VAE"]


class VAE(IndependentPixels):
    """Creates a variational autoencoder: q(z | x) is a diagonal Gaussian, p(z) standard normal.

    Args:
        shape: `(C, H, W)` of an image, H and W divisible by 4.
        levels: A pixel is an integer in `[0, levels)`.
        latent: Length of a code.
        width: Channels at half the resolution.
        likelihood: See `IndependentPixels`.
        components: Components of the mixture of logistics at each site.
        beta: Weight of the KL divergence in training; 1 trains the ELBO.
        free_bits: Nats per dimension of the code: in training the KL divergence of a dimension,
            averaged over the batch, counts as at least this.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = VAE(shape=(1, 28, 28), levels=2, latent=10)
        >>> bound = model.importance_bound(x, samples=500)  # (B,) nats, at most log p(x)
        >>> pictures = model.sample(16, seed=0)  # (16, 1, 28, 28)
    """

    paper = "Auto-Encoding Variational Bayes (Kingma and Welling, 2013)"
    scores = "ELBO, a bound on log p(x)"
    has_prior = True
    has_importance_bound = True

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int = 256,
        latent: int = 10,
        width: int = 32,
        likelihood: Likelihood = "logistics",
        components: int = 5,
        beta: float = 1.0,
        free_bits: float = 0.0,
    ) -> None:
        super().__init__(**bound_arguments(locals()))
        for name, value in (("beta", beta), ("free_bits", free_bits)):
            if not 0 <= value < math.inf:
                raise UserError(f"{name} must be at least 0, not {value}.")
        self.beta, self.free_bits = beta, free_bits
        self.decoder = ImageDecoder(latent, self.shape[1:], width, self.out_channels)
        self.encoder = ImageEncoder(self.shape[0], self.shape[1:], width, 2 * latent)

    def posterior(self, x: Tensor) -> Gaussian:
        """Computes q(z | x)."""
        self.check(x)
        return Gaussian(*self.encoder(self.encode(x)).chunk(2, 1))

    def embed(self, x: Tensor) -> Tensor:
        """Computes the codes of images, the means of q(z | x), `(B, latent)`."""
        return self.posterior(x).mean

    def elbo(
        self, x: Tensor, samples: int = 1, seed: int = 0, mask: Tensor | None = None
    ) -> Tensor:
        """Computes the evidence lower bound E_q log p(x | z) - KL(q || p) in nats, `(B,)`.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`.
            samples: Samples of q over which the first term is averaged.
            seed: Together with an image's pixels decides its noise.
            mask: True at known pixels, which do not count, broadcastable to x.

        Raises:
            UserError: x does not fit the model, or there are no samples.
        """
        log_likelihood = self.log_likelihood(x, mask)
        reconstruction, kl = elbo_terms(log_likelihood, *self.draws(x, samples, seed))
        return reconstruction - kl.sum(1)

    def importance_bound(self, x: Tensor, samples: int = 500, seed: int = 0) -> Tensor:
        """Computes the importance-weighted bound on log p(x) in nats, `(B,)`.

        On average it lies between the ELBO and log p(x), and approaches log p(x) with more samples.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`.
            samples: Samples of q.
            seed: Together with an image's pixels decides its noise.

        Raises:
            UserError: x does not fit the model, or there are no samples.
        """
        return importance_bound(self.log_likelihood(x), *self.draws(x, samples, seed))

    def draws(self, x: Tensor, samples: int, seed: int) -> tuple[Gaussian, Tensor]:
        """Computes q(z | x), and the noise that `Gaussian.at` turns into samples of it."""
        posterior = self.posterior(x)
        if samples < 1:
            raise UserError(f"A bound takes at least 1 draw of the code, not {samples}.")
        return posterior, image_noise(seed, x, samples, self.latent).to(posterior.mean)

    def score(self, x: ImagesLike, c: ContextLike = None, mask: Tensor | None = None) -> Tensor:
        """Computes the ELBO with one sample per image, without beta and free bits."""
        if not isinstance(x, Tensor):
            return self.of_pictures("score", x, c, mask)
        self.context(c, len(x))
        return self.elbo(x, mask=mask)

    def objective(self, x: Tensor, c: ContextLike = None, mask: Tensor | None = None) -> Tensor:
        """Computes the ELBO with `beta` and `free_bits`, with new noise each time, `(B,)`."""
        self.context(c, len(x))
        posterior = self.posterior(x)
        noise = torch.randn_like(posterior.mean)[None]
        reconstruction, kl = elbo_terms(self.log_likelihood(x, mask), posterior, noise)
        if self.free_bits:
            # The average over the batch is clamped, as in the paper.
            kl = kl.mean(0, keepdim=True).clamp_min(self.free_bits)
        return reconstruction - self.beta * kl.sum(1)

    def sample(self, n: int = 1, c: ContextLike = None, **how: Unpack[CommonOptions]) -> Tensor:
        """Samples images, with codes from the prior if c is None, see `IndependentPixels.sample`.

        The code and the pixels of image k depend only on the seed and k.
        """
        if c is None:
            check_count(n)
            numbers = SamplingConfig(numbers=how.get("numbers")).numbers_of(n)
            c = code_noise(how.get("seed", 0), numbers, self.latent)
        return super().sample(n, c, **how)
