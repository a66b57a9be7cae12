"""Completion that fits all known pixels, also the later ones, by sequential Monte Carlo.

Many particles, which are unfinished completions, are sampled together for each image. A particle
samples its hidden pixels from the model, and is weighted by the probability that it gives to each
known one. When a few particles carry nearly all of the weight at the end of a row, the particles
are resampled: heavy ones are copied, light ones are dropped. The more particles, the closer the
result is to a sample from `p(hidden | known)`.

References:
    Gordon, Salmond, Smith: Novel approach to nonlinear/non-Gaussian Bayesian state estimation, 1993
    (https://doi.org/10.1049/ip-f-2.1993.0015), the bootstrap filter.
    Doucet, Johansen: A tutorial on particle filtering and smoothing: fifteen years later, 2009,
    for resampling when it is needed, and for the estimate of the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nextpixel.context import Context, ContextLike
from nextpixel.data.pictures import ImagesLike, to_model_images
from nextpixel.errors import UserError
from nextpixel.noise import Stream
from nextpixel.sampling.config import (
    IncrementalModel,
    MaskLike,
    Sampler,
    SamplingConfig,
    known_pixels,
)
from nextpixel.sampling.loop import batch_slices, progress_of_part, trace

__all__ = ["Completed", "complete_with_particles"]


class Completed(NamedTuple):
    """Completed images, and how far the particles can be trusted.

    Attributes:
        x: Integers in `[0, levels)`, `(N, C, H, W)`, int64, on the CPU.
        log_evidence: The estimate of `log p(known pixels)` in nats, `(N,)`, float64. Its
            exponential has the right mean with any number of particles.
        least_effective: The smallest effective sample size, `1 / sum(weight^2)`, that the weights
            had at the end of a row, `(N,)`: between 1, when one particle has all the weight, and
            the number of particles.
        effective: The effective sample size at the very end, `(N,)`.
        resamplings: Number of times that the particles were resampled, `(N,)`, int64.
    """

    x: Tensor
    log_evidence: Tensor
    least_effective: Tensor
    effective: Tensor
    resamplings: Tensor


@dataclass(frozen=True)
class _Options:
    """The options of a completion, the same for all images of a batch."""

    particles: int
    seed: int
    sampler: Sampler
    show: Callable[[float], None]  # called with the fraction of the batch that is done


@torch.inference_mode()
def complete_with_particles(
    model: IncrementalModel,
    x: ImagesLike,
    mask: MaskLike,
    c: ContextLike = None,
    *,
    particles: int,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
    sampler: Sampler = "auto",
    batch_size: int = 256,
    progress: Callable[[float], None] | None = None,
) -> Completed:
    """Completes images: keeps x where the mask is true and samples the rest to fit all of it.

    At the end one particle is picked, with a probability in proportion to its weight. Image k
    depends only on the seed, its number and the number of particles; with one particle it is what
    `sampling.complete` returns.

    Args:
        model: The model to sample from.
        x: The images, integers `(N, C, H, W)`, or pictures, see `nextpixel.to_images`; the values
            at hidden pixels do not matter.
        mask: True at known pixels, broadcastable to `(N, C, H, W)`.
        c: The context: one for all images, or one for each.
        particles: Particles per image; time and memory grow with them.
        seed: Together with an image's number decides its noise.
        numbers: The numbers of the images, 0 to N - 1 by default; other numbers give independent
            completions.
        sampler: One of `Sampler`, but not "fixed-point": particles go pixel by pixel.
        batch_size: Particles sampled together, at least those of one image; it does not change the
            result.
        progress: Called with the fraction done, between 0 and 1.

    Raises:
        UserError: An argument does not fit the model, or no particle can have the known pixels.
    """
    x = to_model_images(x, model.shape, model.levels)
    n = len(x)
    if min(n, particles) < 1:
        raise UserError(f"Give at least one image and one particle, not {n} and {particles}.")
    if sampler == "fixed-point":
        raise UserError("Particles go pixel by pixel: leave the sampler at 'auto'.")
    numbers = SamplingConfig(numbers=numbers).numbers_of(n)
    context, known = model.context(c, n), known_pixels(model, x, mask, n)
    assert known is not None
    pixels, mask = known
    batches = []
    for part in batch_slices(n, max(1, batch_size // particles)):
        options = _Options(particles, seed, sampler, progress_of_part(progress, part, n))
        of_part = None if context is None else context[part]
        batches.append(_complete(model, pixels[part], mask[part], of_part, numbers[part], options))
    return Completed(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def _complete(
    model: IncrementalModel,
    x: Tensor,
    mask: Tensor,
    c: Context | None,
    numbers: Sequence[int],
    options: _Options,
) -> Completed:
    """Completes the images of a batch, see `complete_with_particles`."""
    channels, height, width = model.shape
    weights = _Weights(len(x), options.particles, x.device)
    of_image = torch.arange(len(x), device=x.device).repeat_interleave(options.particles)
    steps = trace(
        model,
        len(of_image),
        None if c is None else c[of_image],
        x=x[of_image],
        mask=mask[of_image],
        seed=options.seed,
        numbers=[
            number * options.particles + i for number in numbers for i in range(options.particles)
        ],
        sampler=options.sampler,
    )
    for done, step in enumerate(steps, 1):
        row, col, channel = step.site
        at_site = (..., channel, row, col)
        if bool(mask[at_site].any()):
            weights.weigh(step.distribution.log_prob(step.x[at_site]), mask[at_site])
        if (col, channel) == (width - 1, channels - 1):
            few = weights.few()
            if row < height - 1 and bool(few.any()):
                noise = resampling_noise(options.seed, numbers, row).to(x.device)
                chosen = weights.resample(few, noise)
                step.cache.select(chosen)
                step.x.copy_(step.x[chosen])
        options.show(done / math.prod(model.shape))
    chosen = weights.pick(resampling_noise(options.seed, numbers, height).to(x.device), 1)
    return Completed(
        step.x[chosen[:, 0]].cpu(),
        weights.log_mean()[:, 0].cpu(),
        weights.least.cpu(),
        weights.effective.cpu(),
        weights.resamplings.cpu(),
    )


class _Weights:
    """The weights of the particles of n images, and statistics of them.

    Attributes:
        log: Logarithms of the weights, `(n, particles)`, float64. Their average is the estimate of
            the probability of the known pixels so far; resampling leaves it as it is.
        effective: The effective sample size at the end of the last row, `(n,)`.
        least: The smallest one so far, `(n,)`.
        resamplings: Number of resamplings so far, `(n,)`.
    """

    def __init__(self, n: int, particles: int, device: torch.device) -> None:
        self.log = torch.zeros(n, particles, dtype=torch.float64, device=device)
        self.effective = self.least = torch.full_like(self.log[:, 0], particles)
        self.resamplings = torch.zeros_like(self.least, dtype=torch.int64)

    def weigh(self, nats: Tensor, mask: Tensor) -> None:
        """Adds `log p(pixel | its past)` at one site to all particles, where the pixel is known."""
        self.log += nats.double().view_as(self.log).where(mask[:, None], 0)

    def few(self) -> Tensor:
        """Finds the images where too few particles carry the weight at the end of a row, `(n,)`.

        Raises:
            UserError: All particles of an image have the weight 0.
        """
        if bool(self.log.isneginf().all(1).any()):
            raise UserError(
                "No particle can have the known pixels of an image: the model gives them a "
                "probability of 0 after all that was sampled before. Take more particles."
            )
        self.effective = 1 / torch.softmax(self.log, 1).square().sum(1)
        self.least = torch.minimum(self.least, self.effective)
        return self.effective < self.log.shape[1] / 2

    def resample(self, where: Tensor, noise: Tensor) -> Tensor:
        """Picks the particles that go on, with equal weights, for some images; noise is `(n,)`.

        Returns:
            For each particle of the batch, the number of the one that takes its place.
        """
        stay = torch.arange(self.log.numel(), device=where.device).view_as(self.log)
        chosen = self.pick(noise, self.log.shape[1]).where(where[:, None], stay)
        self.log = self.log_mean().expand_as(self.log).where(where[:, None], self.log)
        self.resamplings += where
        return chosen.flatten()

    def log_mean(self) -> Tensor:
        """Computes the logarithm of the average weight, `(n, 1)`."""
        return self.log.logsumexp(1, keepdim=True) - math.log(self.log.shape[1])

    def pick(self, noise: Tensor, count: int) -> Tensor:
        """Picks particles in proportion to their weights, by systematic resampling.

        Args:
            noise: A uniform number in `[0, 1)` for each image, `(n,)`.
            count: Particles to pick for each image.

        Returns:
            Their numbers in the batch, `(n, count)`: on average each `count * weight` times, and
            always that many rounded up or down.
        """
        n, particles = self.log.shape
        edges = torch.softmax(self.log, 1).cumsum(1)
        evenly = (torch.arange(count, device=noise.device) + noise[:, None]) / count
        picked = torch.searchsorted(edges, evenly * edges[:, -1:], right=True)
        begins = particles * torch.arange(n, device=noise.device)[:, None]
        return picked.clamp_(max=particles - 1) + begins


def resampling_noise(seed: int, numbers: Sequence[int], row: int) -> Tensor:
    """Draws a uniform number for each image at the end of a row, `(n,)`, float64."""
    streams = (Stream.RESAMPLING.generator(seed, number, row) for number in numbers)
    return torch.tensor([stream.random() for stream in streams]).double()
