"""VQ-VAE: an image becomes a small grid of codes, numbers of vectors in a codebook.

References:
    van den Oord, Vinyals, Kavukcuoglu: Neural Discrete Representation Learning, 2017
    (https://arxiv.org/abs/1711.00937).

Departures from the paper: an exact likelihood of the pixels, codes that are placed among the data
by k-means++, and again where they are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.distributions import Distribution
from nextpixel.errors import UserError
from nextpixel.latent import IndependentPixels, Likelihood, sum_unknown
from nextpixel.nn import Codebook, MapDecoder, MapEncoder, Quantized, Quantizer, perplexity
from nextpixel.sampling import evaluation_mode

__all__ = ["VQVAE"]

PICTURED = 50  # images whose means are computed for a diagnosis: these take long


class VQVAE(IndependentPixels):
    """Creates a VQ-VAE.

    Its prior is another model, trained on its codes (`nextpixel train --data codes:RUN`).

    Args:
        shape: `(C, H, W)` of an image, H and W divisible by `downsampling`.
        levels: A pixel is an integer in `[0, levels)`.
        downsampling: How many pixels a code's side is long: 2, 4 or 8.
        codes: Number of codes K.
        code_size: Numbers of a code's vector.
        width: Channels at half the resolution; below there are twice as many.
        likelihood: See `IndependentPixels`.
        components: Logistics mixed at each pixel.
        codebook: How the codebook learns: "ema" by running averages, "loss" by gradients.
        decay: Of the running averages.
        commitment: Weight of the pull on the encoder towards the codes.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = VQVAE(shape=(1, 28, 28), levels=256, downsampling=4, codes=128)
        >>> codes = model.codes(x)  # (B, 7, 7), integers below 128
        >>> model.decode(codes).log_prob(x)  # (B, 1, 28, 28)
    """

    paper = "Neural Discrete Representation Learning (van den Oord, Vinyals and Kavukcuoglu, 2017)"
    scores = "log p(x | codes) given the codes of the image itself, the residual: no likelihood"
    code = "codes"
    quantizer: Quantizer

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int = 256,
        downsampling: int = 4,
        codes: int = 128,
        code_size: int = 32,
        width: int = 32,
        likelihood: Likelihood = "logistics",
        components: int = 5,
        codebook: Codebook = "ema",
        decay: float = 0.99,
        commitment: float = 0.25,
    ) -> None:
        super().__init__(
            latent=1,  # counted below, after the shape has been checked
            shape=shape,
            levels=levels,
            downsampling=downsampling,
            codes=codes,
            code_size=code_size,
            width=width,
            likelihood=likelihood,
            components=components,
            codebook=codebook,
            decay=decay,
            commitment=commitment,
        )
        self.encoder = MapEncoder(self.shape[0], self.shape[1:], downsampling, width, code_size)
        self.quantizer = Quantizer(
            codes, code_size, codebook=codebook, decay=decay, commitment=commitment
        )
        self.decoder = MapDecoder(code_size, downsampling, width, self.out_channels)
        self.code_count, self.code_shape = codes, self.encoder.size
        self.latent = math.prod(self.code_shape)

    def codes(self, x: Tensor) -> Tensor:
        """Computes the codes of images, `(B, C, H, W)` -> integers in `[0, K)`, `(B, h, w)`."""
        self.check(x)
        codes: Tensor = self.quantizer(self.encoder(self.encode(x))).codes
        return codes

    def embed(self, x: Tensor) -> Tensor:
        """Computes the codes of images, see `codes`."""
        return self.codes(x)

    def decode(self, z: Tensor) -> Distribution:
        """Computes p(x | codes), `(B, h, w)` -> a distribution of `batch_shape` `(B, C, H, W)`."""
        return self.distribution(self.decoder(self.quantizer.vectors(z)))

    def read_codes(self, c: object, n: int) -> Tensor:
        """Reads codes that a user gave, one grid for all images or one for each, `(n, h, w)`.

        Raises:
            UserError: There are none, or they do not fit the model.
        """
        if c is None:
            raise UserError(
                "A VQVAE has no prior to draw codes from: use nextpixel reconstruct, give codes as "
                "c, such as codes returns, or train a prior (nextpixel train --data codes:RUN) and "
                "put both into a folder (nextpixel bundle)."
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

    def score(self, x: Tensor, c: object = None, known: Tensor | None = None) -> Tensor:
        """Computes log p(x | codes(x)) in nats, `(B,)`: it does not count what the codes tell."""
        self.context(c, len(x))
        return sum_unknown(self.decode(self.codes(x)).log_prob(x), known)

    def objective(self, x: Tensor, c: object = None, known: Tensor | None = None) -> Tensor:
        """Computes log p(x | codes(x)) less the quantizer's loss, `(B,)`.

        As in the paper the loss is averaged over the codes' numbers, and the likelihood over the
        pixels; so here, where the latter is a sum, a code's loss counts once for each of its pixels
        and channels. That of a code whose pixels are all known does not count.
        """
        self.context(c, len(x))
        self.check(x)
        quantized: Quantized = self.quantizer(self.encoder(self.encode(x)))
        nats = sum_unknown(self.distribution(self.decoder(quantized.vectors)).log_prob(x), known)
        loss = (quantized.loss * self.real_codes(x, known)).flatten(1).sum(1)
        return nats - math.prod(self.shape) / self.latent * loss

    def real_codes(self, x: Tensor, known: Tensor | None) -> Tensor:
        """Tells which codes of images have a pixel that is not known, `(B, h, w)`."""
        if known is None:
            return torch.ones((len(x), *self.code_shape), dtype=torch.bool, device=x.device)
        unknown = (~known.expand(x.shape)).any(1, keepdim=True)
        side = self.shape[1] // self.code_shape[0]
        return F.max_pool2d(unknown.to(self.dtype), side)[:, 0] > 0

    def after_step(
        self,
        parts: Sequence[tuple[Tensor, Tensor | None]],
        gather: Callable[[Tensor], Tensor],
        seed: int,
    ) -> None:
        """Updates the codebook, by what the encoder now makes of the step's images."""
        z = torch.cat([self.encoder(self.encode(x)) for x, _ in parts])
        real = torch.cat([self.real_codes(x, known) for x, known in parts])
        self.quantizer.update(z, gather, seed, real)

    @torch.no_grad()
    def diagnose(self, x: Tensor, known: Tensor | None = None) -> dict[str, float]:
        """Computes how the codebook is used by some images, and how well they come back.

        Returns:
            `perplexity` of the codes; `usage`, the share of the codes that appear;
            `reconstruction_error`, the squared difference between pixels and their means under
            p(x | codes), in units of the range of the levels, averaged over some of the images.
            Codes and pixels that are known, as padding is, do not count.
        """
        real = self.real_codes(x, known).cpu()
        with evaluation_mode(self):
            codes = self.codes(x.to(self.device)).cpu()
        counts = torch.bincount(codes[real], minlength=self.code_count)
        some = slice(None, None, -(-len(x) // PICTURED))
        off = (self.picture(codes[some]) - x[some]) / (self.levels - 1)
        if known is not None:
            off = off[~known.cpu().expand(x.shape)[some]]
        return {
            "perplexity": perplexity(counts),
            "usage": float((counts > 0).double().mean()),
            "reconstruction_error": float(off.square().mean()),
        }
