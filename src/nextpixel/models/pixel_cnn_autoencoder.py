"""PixelCNN autoencoder: its decoder is a Gated PixelCNN, conditioned on the latent code.

References:
    van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu: Conditional Image Generation
    with PixelCNN Decoders, 2016 (https://arxiv.org/abs/1606.05328), sections 2.4 and 3.4.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from nextpixel.context import ContextLike
from nextpixel.data.pictures import ImagesLike
from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import Inputs
from nextpixel.models.base.latent import LatentModel
from nextpixel.models.gated_pixel_cnn import GatedPixelCNN
from nextpixel.nn import ImageEncoder
from nextpixel.sampling.config import SampleOptions
from nextpixel.saving import bound_arguments

__all__ = ["PixelCNNAutoencoder"]


class PixelCNNAutoencoder(LatentModel):
    """Creates an autoencoder whose decoder is a Gated PixelCNN, trained end to end.

    The decoder predicts texture from the neighbouring pixels, so the code can describe the content.

    Args:
        shape: `(C, H, W)` of an image, H and W divisible by 4.
        levels: A pixel is an integer in `[0, levels)`.
        latent: Length of a code.
        encoder_width: Channels of the encoder at half the resolution.
        width: See `GatedPixelCNN`.
        blocks: See `GatedPixelCNN`.
        kernel_size: See `GatedPixelCNN`.
        inputs: "scaled" or "embedded", for the encoder as well.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = PixelCNNAutoencoder(shape=(1, 28, 28), levels=2, latent=10, width=32, blocks=6)
        >>> z = model.embed(x)  # (B, 10)
        >>> pictures = model.sample(len(z), z)  # (B, 1, 28, 28)
    """

    paper = GatedPixelCNN.paper
    scores = "log p(x | z) given the code of the image itself: no likelihood"

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int = 256,
        latent: int = 10,
        encoder_width: int = 32,
        width: int = 64,
        blocks: int = 8,
        kernel_size: int = 5,
        inputs: Inputs = "scaled",
    ) -> None:
        super().__init__(**bound_arguments(locals()))
        if encoder_width < 1:
            raise UserError(f"encoder_width must be at least 1, not {encoder_width}.")
        self.decoder = GatedPixelCNN(
            shape=shape,
            levels=levels,
            vector=latent,
            width=width,
            blocks=blocks,
            kernel_size=kernel_size,
            inputs=inputs,
        )
        self.encoder = ImageEncoder(self.decoder.in_channels, self.shape[1:], encoder_width, latent)

    def encode(self, x: Tensor) -> Tensor:
        """Turns integers into the encoder's input, which is also the decoder's."""
        return self.decoder.encode(x)

    def embed(self, x: Tensor) -> Tensor:
        """Computes the codes of images, `(B, C, H, W)` -> `(B, latent)`."""
        self.check(x)
        z: Tensor = self.encoder(self.encode(x))
        return z

    def score(self, x: ImagesLike, c: ContextLike = None, mask: Tensor | None = None) -> Tensor:
        """Computes log p(x | z = e(x)) in nats, `(B,)`, without the cost of the code."""
        if not isinstance(x, Tensor):
            return self.of_pictures("score", x, c, mask)
        self.context(c, len(x))
        return self.decoder.log_prob(x, self.embed(x), mask)

    def picture(self, z: Tensor, seed: int = 0) -> Tensor:
        """Samples one image per code, see `LatentModel.picture`."""
        return self.sample(len(z), z, seed=seed).to(self.dtype)

    @torch.no_grad()
    def sample(self, n: int = 1, c: ContextLike = None, **how: Unpack[SampleOptions]) -> Tensor:
        """Samples n images from p(x | z), pixel by pixel, integers `(n, C, H, W)`.

        Args:
            n: Number of images.
            c: Their codes, `(n, latent)` or one for all.
            how: The options of `sampling.sample`.

        Raises:
            UserError: There are no codes, or an argument is out of range.
        """
        return self.decoder.sample(n, self.read_codes(c, n), **how)
