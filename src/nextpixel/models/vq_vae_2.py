"""VQ-VAE-2: two grids of codes, a coarse one for the layout and a finer one for the details.

References:
    Razavi, van den Oord, Vinyals: Generating Diverse High-Fidelity Images with VQ-VAE-2, 2019
    (https://arxiv.org/abs/1906.00446).

Departures from the paper: those of `VQVAE`; two grids only, and a top grid of half the bottom's
height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nextpixel.errors import UserError
from nextpixel.models.base.codebook import CodebookModel
from nextpixel.models.base.latent import Likelihood
from nextpixel.nn import Codebook, MapDecoder, MapEncoder, Pointwise, Quantized, Quantizer
from nextpixel.saving import bound_arguments

__all__ = ["VQVAE2"]


class VQVAE2(CodebookModel):
    """Creates a VQ-VAE with two grids of codes: a top grid, and a bottom grid given the top.

    The codes of an image are one vector, the top codes and then the bottom codes. Two other models
    are its prior: one over the top codes (`nextpixel train --data codes:RUN`), and one over the
    bottom codes given the top codes (`--data codes:RUN#bottom`).

    Args:
        shape: `(C, H, W)` of an image, H and W divisible by twice `downsampling`.
        levels: A pixel is an integer in `[0, levels)`.
        downsampling: Pixels per bottom code, in each direction: 2, 4 or 8. There are twice as many
            per top code.
        codes: Number of codes K in each of the two codebooks.
        code_size: Length of a codebook vector.
        width: Channels at half the resolution; there are twice as many at lower resolutions.
        likelihood: See `IndependentPixels`.
        components: Components of the mixture of logistics at each site.
        codebook: How the codebooks learn: "ema" by moving averages, "loss" by gradients.
        decay: Decay of the moving averages.
        commitment: Weight of the commitment loss, which pulls the encoder towards the codes.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = VQVAE2(shape=(1, 28, 28), levels=256, downsampling=2, codes=128)
        >>> codes = model.codes(x)  # (B, 245), integers below 128
        >>> top, bottom = model.split(codes)  # (B, 7, 7) and (B, 14, 14)
        >>> model.decode(codes).log_prob(x)  # (B, 1, 28, 28)
    """

    paper = (
        "Generating Diverse High-Fidelity Images with VQ-VAE-2 (Razavi, van den Oord and Vinyals, "
        "2019)"
    )

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int = 256,
        downsampling: int = 2,
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
        features = 2 * width
        self.encoder = MapEncoder(self.shape[0], self.shape[1:], downsampling, width, features)
        if any(side % 2 for side in self.encoder.size):
            raise UserError(
                "The top grid has half the height and width of the bottom grid, "
                f"{self.encoder.size[0]} x {self.encoder.size[1]}, which must be even: take a "
                "different downsampling, or resize the images, for example by --resize."
            )

        def book() -> Quantizer:
            return Quantizer(
                codes, code_size, codebook=codebook, decay=decay, commitment=commitment
            )

        self.top_encoder = MapEncoder(features, self.encoder.size, 2, features, code_size)
        self.top_quantizer = book()
        self.top_decoder = MapDecoder(code_size, 2, features, features)
        self.to_bottom = Pointwise(2 * features, code_size, autocast=False)
        self.bottom_quantizer = book()
        self.decoder = TwoGridDecoder(code_size, downsampling, width, self.out_channels)
        self.set_grids(top=self.top_encoder.size, bottom=self.encoder.size)

    @property
    def quantizers(self) -> list[Quantizer]:
        """The codebooks of the top and the bottom grid."""
        return [self.top_quantizer, self.bottom_quantizer]

    def quantize(self, x: Tensor) -> list[Quantized]:
        """Encodes and quantizes images, see `CodebookModel.quantize`."""
        features, top = self.encode_top(x)
        quantized: Quantized = self.top_quantizer(top)
        return [quantized, self.bottom_quantizer(self.encode_bottom(features, quantized))]

    def encode_top(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Computes feature maps of the bottom grid's size, and from them the top vectors."""
        features = self.encoder(self.encode(x))
        return features, self.top_encoder(features)

    def encode_bottom(self, features: Tensor, top: Quantized) -> Tensor:
        """Computes the bottom vectors from the feature maps and the quantized top vectors."""
        both = torch.cat([self.top_decoder(top.vectors), features], 1)
        vectors: Tensor = self.to_bottom(both)
        return vectors

    def after_step(
        self,
        parts: Sequence[tuple[Tensor, Tensor | None]],
        gather: Callable[[Tensor], Tensor],
        seed: int,
    ) -> None:
        """Updates the codebooks with the vectors of the step's images, encoded after the step.

        The top goes first, because the bottom vectors depend on the top codes.
        """
        encoded = [self.encode_top(x) for x, _ in parts]
        features, top = (torch.cat(maps) for maps in zip(*encoded, strict=True))
        counted_top, counted_bottom = (
            torch.cat([self.has_unknown(x, mask, size) for x, mask in parts])
            for size in self.sizes.values()
        )
        self.top_quantizer.update(top, gather, seed, counted_top)
        bottom = self.encode_bottom(features, self.top_quantizer(top))
        self.bottom_quantizer.update(bottom, gather, seed, counted_bottom)


class TwoGridDecoder(nn.Module):
    """Creates a decoder from the vectors of both grids; it first upsamples those of the top.

    Shape:
        `(B, code_size, h / 2, w / 2)` and `(B, code_size, h, w)` -> `(B, outputs, H, W)`.

    Args:
        code_size: Length of a codebook vector.
        downsampling: Pixels per bottom code, in each direction.
        width: See `MapDecoder`.
        outputs: Channels of the maps.
    """

    def __init__(self, code_size: int, downsampling: int, width: int, outputs: int) -> None:
        super().__init__()
        self.to_bottom = nn.ConvTranspose2d(code_size, code_size, 4, stride=2, padding=1)
        self.layers = MapDecoder(2 * code_size, downsampling, width, outputs)

    def forward(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Computes the maps, in float32 or better."""
        maps: Tensor = self.layers(torch.cat([self.to_bottom(top), bottom], 1))
        return maps
