"""Encoders and decoders around a bottleneck, from images to codes and back to maps.

They are not causal.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.errors import UserError
from nextpixel.nn.pointwise import Pointwise

__all__ = ["ImageDecoder", "ImageEncoder", "MapDecoder", "MapEncoder", "ResidualLayer"]

DEPTH = 2  # residual layers on either side of the bottleneck


class ImageEncoder(nn.Module):
    """Creates a network from images to vectors, by way of a quarter of the resolution.

    Shape:
        `(B, channels, H, W)` -> `(B, outputs)`.

    Args:
        channels: Channels of the input.
        size: `(H, W)`, both divisible by 4.
        width: Channels at half the resolution; at a quarter there are twice as many.
        outputs: Length of a vector.

    Raises:
        UserError: The size is not divisible by 4, or a number is below 1.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int, outputs: int) -> None:
        super().__init__()
        height, columns = quarter(size, width)
        self.to_half = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.to_quarter = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.layers = nn.ModuleList(ResidualLayer(2 * width) for _ in range(DEPTH))
        # Pointwise, as it can compute in full precision under autocast.
        self.last = Pointwise(2 * width * height * columns, outputs, autocast=False)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the vectors, in float32 or better."""
        h = self.to_quarter(F.relu(self.to_half(x)))
        for layer in self.layers:
            h = layer(h)
        vectors: Tensor = self.last(F.relu(h).flatten(1))
        return vectors


class ImageDecoder(nn.Module):
    """Creates a network from vectors to maps, the mirror image of `ImageEncoder`.

    Shape:
        `(B, latent)` -> `(B, outputs, H, W)`.

    Args:
        latent: Length of a code.
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


class MapEncoder(nn.Module):
    """Creates a network from images to smaller maps, by repeatedly halving the resolution.

    Shape:
        `(B, channels, H, W)` -> `(B, outputs, H / downsampling, W / downsampling)`.

    Args:
        channels: Channels of the input.
        size: `(H, W)`, both divisible by `downsampling`.
        downsampling: 2, 4 or 8.
        width: Channels at half the resolution; there are twice as many at lower resolutions.
        outputs: Channels of the output.

    Raises:
        UserError: The size is not divisible, or a number is out of range.

    Attributes:
        size: `(H, W)` of the output.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], downsampling: int, width: int, outputs: int
    ) -> None:
        super().__init__()
        self.size = downsampled(size, downsampling, width)
        widths = stage_widths(downsampling, width)
        self.halvings = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1)
            for before, after in pairwise([channels, *widths])
        )
        self.layers = nn.ModuleList(ResidualLayer(widths[-1]) for _ in range(DEPTH))
        self.last = Pointwise(widths[-1], outputs, autocast=False)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the maps, in float32 or better."""
        h = x
        for i, halve in enumerate(self.halvings):
            h = halve(F.relu(h) if i else h)
        for layer in self.layers:
            h = layer(h)
        maps: Tensor = self.last(F.relu(h))
        return maps


class MapDecoder(nn.Module):
    """Creates a network from smaller maps to maps of full size, the mirror image of `MapEncoder`.

    Shape:
        `(B, inputs, H / downsampling, W / downsampling)` -> `(B, outputs, H, W)`.

    Args:
        inputs: Channels of the input.
        downsampling: 2, 4 or 8.
        width: Channels at half the resolution; there are twice as many at lower resolutions.
        outputs: Channels of the output.
    """

    def __init__(self, inputs: int, downsampling: int, width: int, outputs: int) -> None:
        super().__init__()
        widths = stage_widths(downsampling, width)[::-1]
        self.first = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.layers = nn.ModuleList(ResidualLayer(widths[0]) for _ in range(DEPTH))
        self.doublings = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
            for before, after in pairwise([*widths, width])
        )
        self.last = Pointwise(width, outputs, autocast=False)

    def forward(self, z: Tensor) -> Tensor:
        """Computes the maps, in float32 or better."""
        h = self.first(z)
        for layer in self.layers:
            h = layer(h)
        for double in self.doublings:
            h = double(F.relu(h))
        maps: Tensor = self.last(F.relu(h))
        return maps


class ResidualLayer(nn.Module):
    """Creates a residual layer of a 3x3 and a 1x1, `(B, width, H, W)` -> `(B, width, H, W)`.

    Args:
        width: Channels of the maps.
        dilation: Distance between the taps of the 3x3.
    """

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Computes the layer."""
        out: Tensor = h + self.mix(F.relu(self.look(F.relu(h))))
        return out


def quarter(size: tuple[int, int], width: int) -> tuple[int, int]:
    """Checks that a size is divisible by 4, and divides it."""
    height, columns = size
    if height % 4 or columns % 4:
        raise UserError(
            f"An encoder halves an image twice, so height and width must be divisible by 4, "
            f"not {height} x {columns}: resize the images, for example by --resize."
        )
    if width < 1:
        raise UserError(f"width must be at least 1, not {width}.")
    return height // 4, columns // 4


def stage_widths(downsampling: int, width: int) -> list[int]:
    """Lists the channels after each halving."""
    return [width] + [2 * width] * (downsampling.bit_length() - 2)


def downsampled(size: tuple[int, int], downsampling: int, width: int) -> tuple[int, int]:
    """Checks that a size is divisible by `downsampling`, and divides it."""
    if downsampling not in (2, 4, 8):
        raise UserError(f"downsampling is 2, 4 or 8, not {downsampling}.")
    height, columns = size
    if height % downsampling or columns % downsampling:
        raise UserError(
            f"Height and width must be divisible by the downsampling {downsampling}, and "
            f"{height} x {columns} are not: take another downsampling, or resize the images, for "
            "example by --resize."
        )
    if width < 1:
        raise UserError(f"width must be at least 1, not {width}.")
    return height // downsampling, columns // downsampling
