"""VQ-VAE: an image becomes a small grid of codes, indices of vectors in a codebook.

References:
    van den Oord, Vinyals, Kavukcuoglu: Neural Discrete Representation Learning, 2017
    (https://arxiv.org/abs/1711.00937).

Departures from the paper: an exact likelihood of the pixels; the codebook is initialised from data
by k-means++, and so are codes that fall out of use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nextpixel.models.base.codebook import CodebookModel
from nextpixel.models.base.latent import Likelihood
from nextpixel.nn import Codebook, MapDecoder, MapEncoder, Quantized, Quantizer
from nextpixel.saving import bound_arguments

__all__ = ["VQVAE"]


class VQVAE(CodebookModel):
    """Creates a VQ-VAE.

    Its prior is another model, trained on its codes (`nextpixel train --data codes:RUN`).

    Args:
        shape: `(C, H, W)` of an image, H and W divisible by `downsampling`.
        levels: A pixel is an integer in `[0, levels)`.
        downsampling: Pixels per code, in each direction: 2, 4 or 8.
        codes: Number of codes K.
        code_size: Length of a codebook vector.
        width: Channels at half the resolution; there are twice as many at lower resolutions.
        likelihood: See `IndependentPixels`.
        components: Components of the mixture of logistics at each site.
        codebook: How the codebook learns: "ema" by moving averages, "loss" by gradients.
        decay: Decay of the moving averages.
        commitment: Weight of the commitment loss, which pulls the encoder towards the codes.

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
        """Encodes and quantizes images, see `CodebookModel.quantize`."""
        return [self.quantizer(self.encoder(self.encode(x)))]

    def after_step(
        self,
        parts: Sequence[tuple[Tensor, Tensor | None]],
        gather: Callable[[Tensor], Tensor],
        seed: int,
    ) -> None:
        """Updates the codebook with the vectors of the step's images, encoded after the step."""
        z = torch.cat([self.encoder(self.encode(x)) for x, _ in parts])
        counted = torch.cat([self.has_unknown(x, mask, self.encoder.size) for x, mask in parts])
        self.quantizer.update(z, gather, seed, counted)
