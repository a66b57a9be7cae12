"""The layers around a bottleneck: an image to a few numbers, and such numbers to maps of its size.

Neither is causal: every number of the code sees the whole image, and every pixel the whole code.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.errors import UserError
from nextpixel.nn.conv import Pointwise

__all__ = ["ImageDecoder", "ImageEncoder"]

DEPTH = 2  # residual layers at a quarter of the resolution, on either side of the bottleneck


class ImageEncoder(nn.Module):
    """Creates a network from images to vectors: half, then a quarter of the resolution, a product.

    Shape:
        `(B, channels, H, W)` -> `(B, outputs)`.

    Args:
        channels: Channels of the input.
        size: `(H, W)`, both divisible by 4.
        width: Channels at half the resolution; at a quarter there are twice as many.
        outputs: Numbers an image.

    Raises:
        UserError: The size is not divisible by 4, or a number is below 1.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int, outputs: int) -> None:
        super().__init__()
        height, columns = quarter(size, width)
        self.to_half = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.layers = nn.ModuleList(ResidualLayer(2 * width) for _ in range(DEPTH))
        # One site with all channels: what Pointwise computes in full precision.
        self.last = Pointwise(2 * width * height * columns, outputs, autocast=False)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the vectors, in float32 or better."""
        h = self.to_quarter(F.relu(self.to_half(x)))
        for layer in self.layers:
            h = layer(h)
        vectors: Tensor = self.last(F.relu(h).flatten(1))
        return vectors


class ImageDecoder(nn.Module):
    """Creates a network from vectors to maps: the way of `ImageEncoder` back.

    Shape:
        `(B, latent)` -> `(B, outputs, H, W)`.

    Args:
        latent: Numbers of a code.
        size: `(H, W)`, both divisible by 4.
        width: Channels at the full and at half the resolution; at a quarter there are twice as
            many.
        outputs: Channels of the maps.

    Raises:
        UserError: The size is not divisible by 4, or a number is below 1.
    """

    def __init__(self, latent: int, size: tuple[int, int], width: int, outputs: int) -> None:
        super().__init__()
        self.size = quarter(size, width)
        self.first = nn.Linear(latent, 2 * width * self.size[0] * self.size[1])
        self.layers = nn.ModuleList(ResidualLayer(2 * width) for _ in range(DEPTH))
        self.to_half = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.to_full = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.last = Pointwise(width, outputs, autocast=False)

    def forward(self, z: Tensor) -> Tensor:
        """Computes the maps, in float32 or better."""
        h = self.first(z).unflatten(1, (-1, *self.size))
        for layer in self.layers:
            h = layer(h)
        h = self.to_full(F.relu(self.to_half(F.relu(h))))
        maps: Tensor = self.last(F.relu(h))
        return maps


class ResidualLayer(nn.Module):
    """Creates a residual layer, 3x3 and 1x1: `(B, width, H, W)` -> `(B, width, H, W)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Computes the layer."""
        out: Tensor = h + self.mix(F.relu(self.look(F.relu(h))))
        return out


def quarter(size: tuple[int, int], width: int) -> tuple[int, int]:
    """Computes a quarter of a size, after checking that there is one."""
    height, columns = size
    if height % 4 or columns % 4:
        raise UserError(
            f"An encoder halves an image twice, so that height and width must be divisible by 4, "
            f"not {height} x {columns}: resize the images, for example by --size."
        )
    if width < 1:
        raise UserError(f"width must be at least 1, not {width}.")
    return height // 4, columns // 4
