"""Models with a code: a few numbers z that an image is squeezed into and drawn again from."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.context import ContextSpec
from nextpixel.data import Dataset
from nextpixel.distributions import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Distribution,
)
from nextpixel.errors import UserError
from nextpixel.models.base.bounds import LogLikelihood
from nextpixel.models.base.image_model import ImageModel
from nextpixel.nn import Quantized, Quantizer, perplexity
from nextpixel.sampling.config import check_mask, site_noise
from nextpixel.sampling.loop import repeat_draws
from nextpixel.saving import arguments_of
from nextpixel.utils.inference import evaluation_mode

__all__ = ["CodebookModel", "IndependentPixels", "LatentModel", "Likelihood", "sum_unknown"]

Likelihood = Literal["categorical", "logistics"]

PICTURED = 50  # images whose means are computed for a diagnosis: these take long


class LatentModel(ImageModel):
    """A model with an encoder, from images to codes, and a decoder p(x | z).

    Args:
        latent: Numbers of a code.
        arguments: Those of `ImageModel`.
    """

    code = "numbers"  # what a code is made of, in a word
    has_prior = False  # whether there is a p(z) to draw codes from
    has_pixel_means = False  # whether `picture` is the mean of each pixel, computed at once

    @property
    def role(self) -> str:
        """What the model is for: "sample" if it has a prior, else "reconstruct"."""
        return "sample" if self.has_prior else "reconstruct"

    def __init__(self, *, latent: int, **arguments: Any) -> None:
        if "latent" in arguments_of(type(self)):
            arguments["latent"] = latent
        super().__init__(**arguments)
        if latent < 1:
            raise UserError(f"A code has at least 1 number, not {latent}.")
        self.latent = latent

    def encode(self, x: Tensor) -> Tensor:
        """Turns integers into the encoder's input: the only place where pixels become floats."""
        return x.to(self.dtype) * (2 / (self.levels - 1)) - 1

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Computes the codes of images, `(B, C, H, W)` -> `(B, latent)`."""

    @abstractmethod
    def picture(self, z: Tensor, seed: int = 0) -> Tensor:
        """Makes the one picture that shows a code best, real numbers in `[0, levels - 1]`.

        Args:
            z: Codes, as `embed` returns them.
            seed: Of the noise, if it takes any.
        """

    def reconstruct(self, x: Tensor, draws: int = 1, **how: Any) -> Tensor:
        """Draws images from p(x | z) at the codes of images.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`.
            draws: How many of each.
            how: Other arguments of `sample`.

        Returns:
            Integers in `[0, levels)`, `(draws, B, C, H, W)`, int64, on the CPU.
        """
        with torch.no_grad(), evaluation_mode(self):
            z = self.embed(x.to(self.device))

        def draw(again: Tensor) -> Tensor:
            return self.sample(len(again), z[again], **how)

        return repeat_draws(draw, len(x), draws)

    def read_codes(self, c: object, n: int) -> Tensor:
        """Reads codes that a user gave, one for all images or one for each, `(n, latent)`.

        Raises:
            UserError: There are none, or they do not fit the model.
        """
        if c is None:
            raise UserError(
                f"{type(self).__name__} has no prior to draw codes from: use nextpixel "
                "reconstruct, or give codes as c, such as embed returns."
            )
        context = ContextSpec(vector=self.latent).read(c, n)
        if context is None or context.vector is None:
            raise TypeError("a model that takes a vector was given one")  # see ContextSpec.read
        return context.vector.to(self.device, self.dtype)


class IndependentPixels(LatentModel):
    """A latent model whose pixels (and channels) are independent given the code.

    A subclass sets `decoder`, from codes to maps of `out_channels`.

    Args:
        width: Channels at half the resolution, see `ImageEncoder`.
        likelihood: Of more than 2 levels: "logistics" knows their order, "categorical" does not.
            2 levels are a Bernoulli distribution in any case.
        components: Logistics mixed at each pixel.
        arguments: Those of `LatentModel`.
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
        # Maps near 0 begin with scales of about a seventh of the range.
        return DiscretizedLogisticMixture(logits, means, log_scales - 2, levels=self.levels)

    def log_likelihood(self, x: Tensor, mask: Tensor | None = None) -> LogLikelihood:
        """Makes of images the function from codes `(S, B, latent)` to log p(x | z), `(S, B)`."""

        def at(z: Tensor) -> Tensor:
            of_sites = self.decode(z.flatten(0, 1)).log_prob(x.repeat(len(z), 1, 1, 1))
            return sum_unknown(torch.unflatten(of_sites, 0, z.shape[:2]), mask)

        return at

    @torch.no_grad()
    def picture(self, z: Tensor, seed: int = 0) -> Tensor:
        """Computes the mean of each pixel, see `LatentModel.picture`; it takes no noise."""
        with evaluation_mode(self):
            distribution = self.decode(self.read_codes(z, len(z)))
        rows = []
        for row in range(self.shape[1]):  # the probabilities of all levels take much memory
            pmf = distribution[:, :, row].pmf()
            rows.append((pmf * torch.arange(self.levels).to(pmf)).sum(-1))
        return torch.stack(rows, 2).cpu()

    @torch.no_grad()
    def sample(
        self,
        n: int = 1,
        c: object = None,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        numbers: Sequence[int] | None = None,
        batch_size: int = 256,
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Draws images from p(x | z).

        Args:
            n: Number of images.
            c: Their codes, as `embed` returns them, or one for all.
            seed: Together with an image's number decides its noise.
            temperature: Of the pixels, see `Distribution.pmf`.
            numbers: The numbers of the images, 0 to n - 1 by default.
            batch_size: Images drawn together; it does not change the pictures.
            progress: Called with the fraction done, between 0 and 1.

        Returns:
            Integers in `[0, levels)`, `(n, C, H, W)`, int64, on the CPU.

        Raises:
            UserError: A number is out of range, or there are no codes.
        """
        if min(n, batch_size) < 1:
            raise UserError(f"Draw at least one image at a time, not {min(n, batch_size)}.")
        if not 0 < temperature < math.inf:
            raise UserError(f"The temperature must be above 0, not {temperature}.")
        z, pictures = self.read_codes(c, n), []
        for begin in range(0, n, batch_size):
            part = z[begin : begin + batch_size]
            here = (range(n) if numbers is None else numbers)[begin : begin + len(part)]
            noise = site_noise(self.shape, seed, here).to(self.device)
            with evaluation_mode(self):
                distribution = self.decode(part)
            rows = [
                distribution[:, :, row].sample(noise[:, :, row], temperature)
                for row in range(self.shape[1])
            ]
            pictures.append(torch.stack(rows, 2).cpu())
            if progress is not None:
                progress((begin + len(part)) / n)
        return torch.cat(pictures)


class CodebookModel(IndependentPixels):
    """A latent model whose code is a grid of numbers of vectors in a codebook, or several grids.

    A subclass sets `decoder`, from the vectors of all grids to maps of `out_channels`, calls
    `set_grids`, and defines `quantizers` and `quantize`.

    Args:
        codes: Number of codes K, in each codebook.
        arguments: Those of `IndependentPixels`, and the subclass's own.

    Attributes:
        code_count: K.
        sizes: `(h, w)` of each grid by its name, the coarsest first.
        code_shape: That of an image's codes: `(h, w)` of the only grid, or `(latent,)`, all grids
            in a row.
    """

    scores = "log p(x | codes) given the codes of the image itself, the residual: no likelihood"
    code = "codes"
    sizes: dict[str, tuple[int, int]]
    code_shape: tuple[int, ...]

    def __init__(self, *, codes: int, **arguments: Any) -> None:
        # The numbers of a code are counted by `set_grids`, after the shape has been checked.
        super().__init__(latent=1, codes=codes, **arguments)
        self.code_count = codes

    def check_dataset(self, data: Dataset) -> None:
        """Checks that the model can be trained or scored on a data set.

        Raises:
            UserError: See `ImageModel.check_dataset`; or the model has two grids of codes and
                images end before their last row. Where an image ends is told by a code, and one
                for each grid could disagree.
        """
        super().check_dataset(data)
        if len(self.sizes) > 1 and data.train.rows is not None:
            raise UserError(
                f"{data.name} has rows of padding, as sounds of different lengths do, and a "
                f"{type(self).__name__} cannot tell where an image ends: train a VQVAE."
            )

    def set_grids(self, **sizes: tuple[int, int]) -> None:
        """Sets how many codes an image has, and how they are laid out."""
        self.sizes = sizes
        self.latent = sum(map(math.prod, sizes.values()))
        self.code_shape = next(iter(sizes.values())) if len(sizes) == 1 else (self.latent,)

    @property
    @abstractmethod
    def quantizers(self) -> list[Quantizer]:
        """The codebooks of the grids."""

    @abstractmethod
    def quantize(self, x: Tensor) -> list[Quantized]:
        """Computes the vectors of images `(B, C, H, W)`, and of each grid the nearest codes."""

    def codes(self, x: Tensor) -> Tensor:
        """Computes the codes of images, `(B, C, H, W)` -> integers in `[0, K)`, `(B, *code_shape)`.

        Those of several grids are told apart by `split`.
        """
        self.check(x)
        return self.join([quantized.codes for quantized in self.quantize(x)])

    def embed(self, x: Tensor) -> Tensor:
        """Computes the codes of images, see `codes`."""
        return self.codes(x)

    def join(self, grids: Sequence[Tensor]) -> Tensor:
        """Puts the grids of images together, `(B, h, w)` each -> `(B, *code_shape)`."""
        return torch.cat([grid.flatten(1) for grid in grids], 1).view(-1, *self.code_shape)

    def split(self, codes: Tensor) -> list[Tensor]:
        """Takes codes apart into the grids, `(B, *code_shape)` -> `(B, h, w)` each."""
        sizes = list(self.sizes.values())
        parts = torch.split(codes.flatten(1), [math.prod(size) for size in sizes], 1)
        return [torch.unflatten(part, 1, size) for part, size in zip(parts, sizes, strict=True)]

    def decode(self, z: Tensor) -> Distribution:
        """Computes p(x | codes), as `codes` returns them -> `batch_shape` `(B, C, H, W)`."""
        grids = zip(self.quantizers, self.split(z), strict=True)
        return self.distribution(self.decoder(*(book.vectors(grid) for book, grid in grids)))

    def read_codes(self, c: object, n: int) -> Tensor:
        """Reads codes that a user gave, an image's for all or one's for each, `(n, *code_shape)`.

        Raises:
            UserError: There are none, or they do not fit the model.
        """
        if c is None:
            raise UserError(
                f"A {type(self).__name__} has no prior to draw codes from: use nextpixel "
                "reconstruct, give codes as c, such as codes returns, or train a prior (nextpixel "
                "train --data codes:RUN) and put both into a folder (nextpixel bundle)."
            )
        codes = torch.as_tensor(c)
        wanted = (n, *self.code_shape)
        if codes.is_floating_point() or codes.shape not in (wanted, wanted[1:]):
            raise UserError(
                f"The codes of {n} images are integers of shape {wanted}, not {codes.dtype} of "
                f"shape {tuple(codes.shape)}."
            )
        if codes.min() < 0 or codes.max() >= self.code_count:
            raise UserError(
                f"Codes lie in [0, {self.code_count}), but these go from {int(codes.min())} to "
                f"{int(codes.max())}: they are of another codebook."
            )
        every: Tensor = codes.to(self.device, torch.int64).expand(wanted)
        return every

    def score(self, x: Tensor, c: object = None, mask: Tensor | None = None) -> Tensor:
        """Computes log p(x | codes(x)) in nats, `(B,)`: it does not count what the codes tell."""
        self.context(c, len(x))
        return sum_unknown(self.decode(self.sent(x, mask)).log_prob(x), mask)

    def sent(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Computes the codes that tell of images what is not known, `(B, *code_shape)`.

        Where all pixels of a code are known, as padding is, no code is sent. There the decoder is
        given those of an image that is 0 everywhere.
        """
        codes = self.codes(x)
        if mask is None:
            return codes
        check_mask(mask)
        real = [self.real_codes(x, mask, size) for size in self.sizes.values()]
        return torch.where(self.join(real), codes, self.nothing())

    @torch.no_grad()
    def nothing(self) -> Tensor:
        """Computes the codes of an image that is 0 everywhere, `code_shape`."""
        return self.codes(torch.zeros(1, *self.shape, dtype=torch.int64, device=self.device))[0]

    def objective(self, x: Tensor, c: object = None, mask: Tensor | None = None) -> Tensor:
        """Computes log p(x | codes(x)) less the quantizers' losses, `(B,)`.

        As in the papers a loss is averaged over a grid's numbers, and the likelihood over the
        pixels; so here, where the latter is a sum, a code's loss counts once for each of its pixels
        and channels. That of a code whose pixels are all known does not count.
        """
        self.context(c, len(x))
        self.check(x)
        grids = self.quantize(x)
        parameters = self.decoder(*(quantized.vectors for quantized in grids))
        nats = sum_unknown(self.distribution(parameters).log_prob(x), mask)
        for size, quantized in zip(self.sizes.values(), grids, strict=True):
            loss = (quantized.loss * self.real_codes(x, mask, size)).flatten(1).sum(1)
            nats = nats - math.prod(self.shape) / math.prod(size) * loss
        return nats

    def real_codes(self, x: Tensor, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Tells which codes of a grid have a pixel that is not known, `(B, h, w)`."""
        if mask is None:
            return torch.ones((len(x), *size), dtype=torch.bool, device=x.device)
        unknown = (~mask.expand(x.shape)).any(1, keepdim=True)
        return F.max_pool2d(unknown.to(self.dtype), self.shape[1] // size[0])[:, 0] > 0

    @torch.no_grad()
    def diagnose(self, x: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """Computes how the codebooks are used by some images, and how well they come back.

        Returns:
            `perplexity` of the codes and `usage`, the share of the codes that appear, of several
            grids with their names in front; `reconstruction_error`, the squared difference between
            pixels and their means under p(x | codes), in units of the range of the levels, averaged
            over some of the images. Codes and pixels that are known, as padding is, do not count.
        """
        with evaluation_mode(self):
            codes = self.sent(x.to(self.device), mask).cpu()
        told = {}
        for (name, size), grid in zip(self.sizes.items(), self.split(codes), strict=True):
            real = self.real_codes(x, mask, size).cpu()
            counts = torch.bincount(grid[real], minlength=self.code_count)
            prefix = f"{name}_" if len(self.sizes) > 1 else ""
            told[f"{prefix}perplexity"] = perplexity(counts)
            told[f"{prefix}usage"] = float((counts > 0).double().mean())
        some = slice(None, None, -(-len(x) // PICTURED))
        off = (self.picture(codes[some]) - x[some]) / (self.levels - 1)
        if mask is not None:
            off = off[~mask.cpu().expand(x.shape)[some]]
        return {**told, "reconstruction_error": float(off.square().mean())}


def sum_unknown(of_sites: Tensor, mask: Tensor | None) -> Tensor:
    """Sums numbers `(*, C, H, W)` over the pixels that are not known, `(*)`."""
    if mask is not None:
        check_mask(mask)
        of_sites = of_sites.masked_fill(mask, 0)
    return of_sites.flatten(-3).sum(-1)
