"""Models whose latent code is one grid of codebook indices, or several: the VQ-VAE family."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.context import ContextLike, read_tensor
from nextpixel.data import Dataset
from nextpixel.data.pictures import ImagesLike
from nextpixel.distributions import Distribution
from nextpixel.errors import UserError
from nextpixel.models.base.latent import IndependentPixels, sum_unknown
from nextpixel.nn import Quantized, Quantizer, perplexity
from nextpixel.sampling.config import check_mask
from nextpixel.utils.inference import evaluation_mode

__all__ = ["CodebookModel"]

DIAGNOSED = 50  # images whose pixel means are computed for a diagnosis: these take long


class CodebookModel(IndependentPixels):
    """A latent model whose code is one grid of codebook indices, or several grids.

    A subclass sets `decoder`, from the vectors of all grids to maps of `out_channels`, calls
    `set_grids`, and defines `quantizers` and `quantize`.

    Args:
        codes: Number of codes K in each codebook.
        arguments: The arguments of `IndependentPixels`, and the subclass's own.

    Attributes:
        code_count: K.
        sizes: `(h, w)` of each grid by its name, the coarsest first.
        code_shape: The shape of an image's codes: `(h, w)` of the only grid, or `(latent,)` for
            several grids, flattened and joined.
    """

    scores = "log p(x | codes) given the codes of the image itself, the residual: no likelihood"
    code = "codes"
    sizes: dict[str, tuple[int, int]]
    code_shape: tuple[int, ...]

    def __init__(self, *, codes: int, **arguments: Any) -> None:
        # `set_grids` sets `latent`, once the shape has been checked.
        super().__init__(latent=1, codes=codes, **arguments)
        self.code_count = codes

    def check_dataset(self, data: Dataset) -> None:
        """Checks that the model can be trained or scored on a data set.

        Raises:
            UserError: See `ImageModel.check_dataset`; or the model has two grids of codes and the
                images have rows of padding. A code marks where an image ends, and the codes of two
                grids could disagree.
        """
        super().check_dataset(data)
        if len(self.sizes) > 1 and data.train.rows is not None:
            raise UserError(
                f"{data.name} has rows of padding, as sounds of different lengths do, and a "
                f"{type(self).__name__} cannot tell where an image ends: train a VQVAE."
            )

    def set_grids(self, **sizes: tuple[int, int]) -> None:
        """Sets the height and width of each grid, by its name, the coarsest first."""
        self.sizes = sizes
        self.latent = sum(map(math.prod, sizes.values()))
        self.code_shape = next(iter(sizes.values())) if len(sizes) == 1 else (self.latent,)

    @property
    @abstractmethod
    def quantizers(self) -> list[Quantizer]:
        """The codebook of each grid."""

    @abstractmethod
    def quantize(self, x: Tensor) -> list[Quantized]:
        """Encodes and quantizes images `(B, C, H, W)`, one result for each grid."""

    def codes(self, x: Tensor) -> Tensor:
        """Computes the codes of images, `(B, C, H, W)` -> integers in `[0, K)`, `(B, *code_shape)`.

        `split` separates the grids again.
        """
        self.check(x)
        return self.join([quantized.codes for quantized in self.quantize(x)])

    def embed(self, x: Tensor) -> Tensor:
        """Computes the codes of images, see `codes`."""
        return self.codes(x)

    def join(self, grids: Sequence[Tensor]) -> Tensor:
        """Joins the grids of images, `(B, h, w)` each -> `(B, *code_shape)`."""
        return torch.cat([grid.flatten(1) for grid in grids], 1).view(-1, *self.code_shape)

    def split(self, codes: Tensor) -> list[Tensor]:
        """Splits codes into the grids, `(B, *code_shape)` -> `(B, h, w)` each."""
        sizes = list(self.sizes.values())
        parts = torch.split(codes.flatten(1), [math.prod(size) for size in sizes], 1)
        return [torch.unflatten(part, 1, size) for part, size in zip(parts, sizes, strict=True)]

    def decode(self, z: Tensor) -> Distribution:
        """Computes p(x | z) from codes `(B, *code_shape)`, of `batch_shape` `(B, C, H, W)`."""
        grids = zip(self.quantizers, self.split(z), strict=True)
        return self.distribution(self.decoder(*(book.vectors(grid) for book, grid in grids)))

    def read_codes(self, c: ContextLike, n: int) -> Tensor:
        """Reads codes that a user gave, one set for all images or one for each, `(n, *code_shape)`.

        Raises:
            UserError: There are none, or they do not fit the model.
        """
        if c is None:
            raise UserError(
                f"A {type(self).__name__} has no prior to draw codes from: use nextpixel "
                "reconstruct, give codes as c, such as codes returns, or train a prior (nextpixel "
                "train --data codes:RUN) and put both into a folder (nextpixel bundle)."
            )
        codes = read_tensor(c)
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

    def score(self, x: ImagesLike, c: ContextLike = None, mask: Tensor | None = None) -> Tensor:
        """Computes log p(x | codes(x)) in nats, `(B,)`, without the cost of the codes."""
        if not isinstance(x, Tensor):
            return self.of_pictures("score", x, c, mask)
        self.context(c, len(x))
        return sum_unknown(self.decode(self.codes_of_unknown(x, mask)).log_prob(x), mask)

    def codes_of_unknown(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Computes the codes of images, blank where all pixels are known, `(B, *code_shape)`.

        A code whose pixels are all known, such as padding, carries no information: there the
        decoder gets the codes of a blank image, see `blank_codes`.
        """
        codes = self.codes(x)
        if mask is None:
            return codes
        check_mask(mask, x.shape)
        unknown = [self.has_unknown(x, mask, size) for size in self.sizes.values()]
        return torch.where(self.join(unknown), codes, self.blank_codes())

    @torch.no_grad()
    def blank_codes(self) -> Tensor:
        """Computes the codes of an image that is 0 everywhere, `code_shape`."""
        return self.codes(torch.zeros(1, *self.shape, dtype=torch.int64, device=self.device))[0]

    def objective(self, x: Tensor, c: ContextLike = None, mask: Tensor | None = None) -> Tensor:
        """Computes log p(x | codes(x)) minus the quantizers' losses, `(B,)`.

        The papers average the loss over a grid and the likelihood over the sites. Here the
        likelihood is a sum, so the loss of a code counts once for each of its sites. A code whose
        pixels are all known does not count.
        """
        self.context(c, len(x))
        self.check(x)
        grids = self.quantize(x)
        parameters = self.decoder(*(quantized.vectors for quantized in grids))
        nats = sum_unknown(self.distribution(parameters).log_prob(x), mask)
        for size, quantized in zip(self.sizes.values(), grids, strict=True):
            loss = (quantized.loss * self.has_unknown(x, mask, size)).flatten(1).sum(1)
            nats = nats - math.prod(self.shape) / math.prod(size) * loss
        return nats

    def has_unknown(self, x: Tensor, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Finds the codes of a grid with at least one pixel that is not known, `(B, h, w)`."""
        if mask is None:
            return torch.ones((len(x), *size), dtype=torch.bool, device=x.device)
        unknown = (~mask.expand(x.shape)).any(1, keepdim=True)
        return F.max_pool2d(unknown.to(self.dtype), self.shape[1] // size[0])[:, 0] > 0

    @torch.no_grad()
    def diagnose(self, x: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """Measures how images use the codebooks, and how well they are reconstructed.

        Returns:
            `perplexity` of the codes and `usage`, the share of the codes that occur, both prefixed
            by the name of the grid if there are several; `reconstruction_error`, the squared
            difference between pixels and their means under p(x | codes), in units of the range of
            the levels, averaged over a subset of the images. Known pixels, such as padding, do not
            count.
        """
        with evaluation_mode(self) as network:
            codes = network.codes_of_unknown(x.to(self.device), mask).cpu()
        measured = {}
        for (name, size), grid in zip(self.sizes.items(), self.split(codes), strict=True):
            counted = self.has_unknown(x, mask, size).cpu()
            counts = torch.bincount(grid[counted], minlength=self.code_count)
            prefix = f"{name}_" if len(self.sizes) > 1 else ""
            measured[f"{prefix}perplexity"] = perplexity(counts)
            measured[f"{prefix}usage"] = float((counts > 0).double().mean())
        subset = slice(None, None, -(-len(x) // DIAGNOSED))
        error = (self.picture(codes[subset]) - x[subset]) / (self.levels - 1)
        if mask is not None:
            error = error[~mask.cpu().expand(x.shape)[subset]]
        return {**measured, "reconstruction_error": float(error.square().mean())}
