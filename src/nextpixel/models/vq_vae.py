"""VQ-VAE: an image becomes a small grid of codes, numbers of vectors in a codebook.

References:
    van den Oord, Vinyals, Kavukcuoglu: Neural Discrete Representation Learning, 2017
    (https://arxiv.org/abs/1711.00937).

Departures from the paper: an exact likelihood of the pixels, codes that are placed among the data
by k-means++, and again where they are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nextpixel.models.base.latent import CodebookModel, Likelihood
from nextpixel.nn import Codebook, MapDecoder, MapEncoder, Quantized, Quantizer
from nextpixel.saving import bound_arguments

__all__ = ["VQVAE"]


class VQVAE(CodebookModel):
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
        super().__init__(**bound_arguments(locals()))
        self.encoder = MapEncoder(self.shape[0], self.shape[1:], downsampling, width, code_size)
        self.quantizer = Quantizer(
            codes, code_size, codebook=codebook, decay=decay, commitment=commitment
        )
        self.decoder = MapDecoder(code_size, downsampling, width, self.out_channels)
        self.set_grids(codes=self.encoder.size)

    @property
    def quantizers(self) -> list[Quantizer]:
        """The codebook."""
        return [self.quantizer]

    def quantize(self, x: Tensor) -> list[Quantized]:
        """Computes the vectors of images and the nearest codes, see `CodebookModel.quantize`."""
        return [self.quantizer(self.encoder(self.encode(x)))]

    def after_step(
        self,
        parts: Sequence[tuple[Tensor, Tensor | None]],
        gather: Callable[[Tensor], Tensor],
        seed: int,
    ) -> None:
        """Updates the codebook, by what the encoder now makes of the step's images."""
        z = torch.cat([self.encoder(self.encode(x)) for x, _ in parts])
        real = torch.cat([self.real_codes(x, mask, self.encoder.size) for x, mask in parts])
        self.quantizer.update(z, gather, seed, real)
