"""Autoencoder: a bottleneck of a few numbers, and pixels that are independent given the code.

References:
    Hinton, Salakhutdinov: Reducing the Dimensionality of Data with Neural Networks, 2006
    (https://doi.org/10.1126/science.1127647).

Departure from the paper: convolutions, trained end to end, and an exact likelihood of the pixels.
"""

from __future__ import annotations

from torch import Tensor

from nextpixel.context import ContextLike
from nextpixel.data.pictures import ImagesLike
from nextpixel.models.base.latent import IndependentPixels, Likelihood
from nextpixel.nn import ImageDecoder, ImageEncoder
from nextpixel.saving import bound_arguments

__all__ = ["Autoencoder"]


class Autoencoder(IndependentPixels):
    """Creates an autoencoder.

    Args:
        shape: `(C, H, W)` of an image, H and W divisible by 4.
        levels: A pixel is an integer in `[0, levels)`.
        latent: Length of a code.
        width: Channels at half the resolution.
        likelihood: See `IndependentPixels`.
        components: Components of the mixture of logistics at each site.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = Autoencoder(shape=(1, 28, 28), levels=2, latent=10)
        >>> z = model.embed(x)  # (B, 10)
        >>> pictures = model.sample(len(z), z)  # (B, 1, 28, 28)
    """

    paper = (
        "Reducing the Dimensionality of Data with Neural Networks (Hinton and Salakhutdinov, 2006)"
    )
    scores = "log p(x | z) given the code of the image itself: no likelihood"

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int = 256,
        latent: int = 10,
        width: int = 32,
        likelihood: Likelihood = "logistics",
        components: int = 5,
    ) -> None:
        super().__init__(**bound_arguments(locals()))
        self.decoder = ImageDecoder(latent, self.shape[1:], width, self.out_channels)
        self.encoder = ImageEncoder(self.shape[0], self.shape[1:], width, latent)

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
        return self.log_likelihood(x, mask)(self.embed(x)[None])[0]
