"""Models with a latent code z: an encoder, and a decoder p(x | z)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from nextpixel.context import ContextLike, ContextSpec
from nextpixel.data.pictures import ImagesLike
from nextpixel.distributions import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Distribution,
)
from nextpixel.errors import UserError
from nextpixel.models.base.bounds import LogLikelihood
from nextpixel.models.base.image_model import ImageModel
from nextpixel.sampling.config import (
    CommonOptions,
    SamplingConfig,
    check_count,
    check_mask,
    site_noise,
)
from nextpixel.sampling.loop import batch_slices, repeat_draws
from nextpixel.saving import arguments_of
from nextpixel.utils.inference import evaluation_mode

__all__ = ["IndependentPixels", "LatentModel", "Likelihood", "sum_unknown"]

Likelihood = Literal["categorical", "logistics"]


class LatentModel(ImageModel):
    """A model with an encoder, from images to latent codes z, and a decoder p(x | z).

    Args:
        latent: Length of a code.
        arguments: The arguments of `ImageModel`.
    """

    code = "numbers"  # what a code consists of, in a word
    has_prior = False  # whether there is a p(z) to sample codes from
    has_pixel_means = False  # whether `picture` is the mean of each pixel, without sampling

    def __init__(self, *, latent: int, **arguments: Any) -> None:
        if "latent" in arguments_of(type(self)):
            arguments["latent"] = latent
        super().__init__(**arguments)
        if latent < 1:
            raise UserError(f"A code has at least 1 number, not {latent}.")
        self.latent = latent

    @property
    def role(self) -> str:
        """The purpose of the model: "sample" if it has a prior, else "reconstruct"."""
        return "sample" if self.has_prior else "reconstruct"

    def encode(self, x: Tensor) -> Tensor:
        """Turns integers into the encoder's input: the only place where pixels become floats."""
        return x.to(self.dtype) * (2 / (self.levels - 1)) - 1

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Computes the codes of images, `(B, C, H, W)` -> `(B, latent)`."""

    @abstractmethod
    def picture(self, z: Tensor, seed: int = 0) -> Tensor:
        """Decodes each code to one picture, real numbers in `[0, levels - 1]`, `(B, C, H, W)`.

        Args:
            z: Codes, as `embed` returns them.
            seed: Decides the noise, if the decoder needs any.
        """

    def reconstruct(self, x: ImagesLike, draws: int = 1, **how: Unpack[CommonOptions]) -> Tensor:
        """Reconstructs images: samples from p(x | z) at their codes.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`; or pictures, see `nextpixel.to_images`.
            draws: Samples for each image.
            how: Other arguments of `sample`.

        Returns:
            Integers in `[0, levels)`, `(draws, B, C, H, W)`, int64, on the CPU.
        """
        x = x if isinstance(x, Tensor) else self.to_images(x)
        with torch.no_grad(), evaluation_mode(self) as network:
            z = network.embed(x.to(self.device))

        def draw(images: Tensor) -> Tensor:
            return self.sample(len(images), z[images], **how)

        return repeat_draws(draw, len(x), draws)

    def read_codes(self, c: ContextLike, n: int) -> Tensor:
        """Reads codes that a user gave, one for all images or one for each, `(n, latent)`.

        Raises:
            UserError: There are none, or they do not fit the model.
        """
        if c is None:
            raise UserError(
                f"{type(self).__name__} has no prior to draw codes from: use nextpixel "
                "reconstruct, or give codes as c, such as embed returns."
            )
        if isinstance(c, str):
            raise UserError(f"Codes are numbers, and have no name such as {c!r}: give them as c.")
        context = ContextSpec(vector=self.latent).read(c, n)
        if context is None or context.vector is None:
            raise TypeError("a model that takes a vector was given one")  # see ContextSpec.read
        return context.vector.to(self.device, self.dtype)


class IndependentPixels(LatentModel):
    """A latent model whose sites are independent given the code.

    A subclass sets `decoder`, from codes to maps of `out_channels`.

    Args:
        width: Channels at half the resolution, see `ImageEncoder`.
        likelihood: For more than 2 levels: "logistics" for ordered levels, "categorical" for levels
            without an order. For 2 levels it is always a Bernoulli distribution.
        components: Components of the mixture of logistics at each site.
        arguments: The arguments of `LatentModel`.
    """

    has_pixel_means = True
    decoder: nn.Module

    def __init__(
        self,
        *,
        latent: int,
        width: int,
        likelihood: Likelihood,
        components: int,
        **arguments: Any,
    ) -> None:
        super().__init__(
            latent=latent, width=width, likelihood=likelihood, components=components, **arguments
        )
        if likelihood not in ("categorical", "logistics"):
            raise UserError(f"likelihood is 'categorical' or 'logistics', not {likelihood!r}.")
        if components < 1:
            raise UserError(f"A mixture has at least 1 component, not {components}.")
        self.likelihood = likelihood
        each = self.levels if likelihood == "categorical" else 3 * components
        self.out_channels = self.shape[0] * (1 if self.levels == 2 else each)

    def decode(self, z: Tensor) -> Distribution:
        """Computes p(x | z), `(B, latent)` -> a distribution of `batch_shape` `(B, C, H, W)`."""
        return self.distribution(self.decoder(z))

    def distribution(self, parameters: Tensor) -> Distribution:
        """Makes the distribution from maps `(B, out_channels, H, W)`."""
        if self.levels == 2:
            return Bernoulli(parameters)
        parameters = torch.unflatten(parameters, 1, (self.shape[0], -1)).movedim(2, -1)
        if self.likelihood == "categorical":
            return Categorical(parameters)
        logits, means, log_scales = parameters.chunk(3, -1)
        # So the first scales, from maps near 0, are about a seventh of the range.
        return DiscretizedLogisticMixture(logits, means, log_scales - 2, levels=self.levels)

    def log_likelihood(self, x: Tensor, mask: Tensor | None = None) -> LogLikelihood:
        """Returns the function from codes `(S, B, latent)` to log p(x | z) in nats, `(S, B)`."""

        def at(z: Tensor) -> Tensor:
            of_sites = self.decode(z.flatten(0, 1)).log_prob(x.repeat(len(z), 1, 1, 1))
            return sum_unknown(torch.unflatten(of_sites, 0, z.shape[:2]), mask)

        return at

    @torch.no_grad()
    def picture(self, z: Tensor, seed: int = 0) -> Tensor:
        """Computes the mean of each pixel, see `LatentModel.picture`; the seed does not matter."""
        with evaluation_mode(self) as network:
            distribution = network.decode(self.read_codes(z, len(z)))
        rows = []
        for row in range(self.shape[1]):  # the probabilities of all levels take much memory
            pmf = distribution[:, :, row].pmf()
            rows.append((pmf * torch.arange(self.levels).to(pmf)).sum(-1))
        return torch.stack(rows, 2).cpu()

    @torch.no_grad()
    def sample(
        self,
        n: int = 1,
        c: ContextLike = None,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        numbers: Sequence[int] | None = None,
        batch_size: int = 256,
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Samples images from p(x | z).

        Args:
            n: Number of images.
            c: Their codes, as `embed` returns them, or one for all.
            seed: Together with an image's number decides its noise.
            temperature: Of the pixels, see `Distribution.pmf`.
            numbers: The numbers of the images, 0 to n - 1 by default.
            batch_size: Images sampled together; it does not change the images.
            progress: Called with the fraction done, between 0 and 1.

        Returns:
            Integers in `[0, levels)`, `(n, C, H, W)`, int64, on the CPU.

        Raises:
            UserError: A number is out of range, or there are no codes.
        """
        config = SamplingConfig(seed=seed, temperature=temperature, numbers=numbers)
        check_count(min(n, batch_size))
        numbers = config.numbers_of(n)
        z, pictures = self.read_codes(c, n), []
        for part in batch_slices(n, batch_size):
            noise = site_noise(self.shape, seed, numbers[part]).to(self.device)
            with evaluation_mode(self) as network:
                distribution = network.decode(z[part])
            rows = [
                distribution[:, :, row].sample(noise[:, :, row], temperature)
                for row in range(self.shape[1])
            ]
            pictures.append(torch.stack(rows, 2).cpu())
            if progress is not None:
                progress(part.stop / n)
        return torch.cat(pictures)


def sum_unknown(of_sites: Tensor, mask: Tensor | None) -> Tensor:
    """Sums a value per site, `(*, B, C, H, W)`, over the pixels that are not known, `(*, B)`."""
    if mask is not None:
        check_mask(mask, of_sites.shape[-4:])
        of_sites = of_sites.masked_fill(mask, 0)
    return of_sites.flatten(-3).sum(-1)
