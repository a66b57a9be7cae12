"""Half the resolution: layers that wrap a part of a network and halve its maps.

A strided convolution halves the map on the way down; a transposed one doubles it on the way up. In
generation the part inside takes a step only where the strided convolution has a new output, at even
rows and columns; elsewhere its last output is used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.nn.cache import Cache, CausalLayer, Site
from nextpixel.nn.causal_conv import CausalConv2d, RowConv2d

__all__ = ["Halved", "HalvedRows"]


def shrink(inner: nn.Module) -> None:
    """Doubles the scale of all causal layers inside: their maps are half as large."""
    for layer in inner.modules():
        if isinstance(layer, CausalLayer):
            layer.scale *= 2


class Halved(CausalLayer):
    """Creates the half-resolution part of a horizontal stack, which steps pixel by pixel.

    Shape:
        `(B, width, H, W)` -> `(B, width, H, W)`.

    Args:
        inner: Called as `inner(x, *rest, cache)` on maps of half the size.
        width: Channels of all maps.
    """

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.inner, self.width = inner, width
        shrink(inner)
        self.down = CausalConv2d("B", width, width, (1, 1, 0), stride=2)
        # A matrix for each of the four sites that a smaller site becomes.
        self.up = nn.Parameter(torch.empty(2, 2, width, width))
        self.up_bias = nn.Parameter(torch.empty(width))
        for parameter in (self.up, self.up_bias):
            nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def forward(self, x: Tensor, *rest: Any, cache: Cache | None) -> Tensor:
        """Computes the part, of whole maps or at one site."""
        if cache is not None:
            return self._step(x, rest, cache)
        h = self.inner(self.down(x), *rest, cache=None)
        weight = self.up.permute(3, 0, 1, 2).flatten(0, 2)[..., None, None]
        out = F.pixel_shuffle(F.conv2d(h, weight, self.up_bias.repeat_interleave(4)), 2)
        return out[:, :, : x.shape[2], : x.shape[3]]

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes a row of outputs of the inner part."""
        return [self.up.new_zeros(batch, (width + 1) // 2, self.width)]

    def _step(self, x: Tensor, rest: tuple[Any, ...], cache: Cache) -> Tensor:
        (row,) = cache.layers[self]
        site = cache.site
        small = Site(site.row // 2, site.col // 2)
        h = self.down(x, cache=cache)
        if self.down.new_output(site):
            cache.site = small
            row[:, small.col] = self.inner(h, *rest, cache=cache)
            cache.site = site
        return torch.addmm(self.up_bias, row[:, small.col], self.up[site.row % 2, site.col % 2])


class HalvedRows(CausalLayer):
    """Creates the half-resolution part of a vertical stack, which steps row by row.

    Shape:
        `(B, width, H, W)` -> `(B, width, H, W)`; in a step the height is 1.

    Args:
        inner: Called as `inner(x, *rest, cache)` on maps of half the size; returns a map and a list
            of others.
        width: Channels of all maps.
        outputs: Length of that list.
    """

    def __init__(self, inner: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.inner, self.width, self.outputs = inner, width, outputs
        shrink(inner)
        self.down = RowConv2d(width, width, (2, 3), stride=2)
        self.up = nn.ConvTranspose2d(
            width, width, (2, 3), stride=2, padding=(0, 1), output_padding=(0, 1)
        )

    def forward(
        self, x: Tensor, *rest: Any, cache: Cache | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Computes the map and the list; in a step without new rows the list holds None."""
        if cache is not None:
            return self._step(x, rest, cache)
        h, outputs = self.inner(self.down(x), *rest, cache=None)
        return self.up(h)[:, :, : x.shape[2], : x.shape[3]], outputs

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the lower one of the two rows that a row of the inner part becomes."""
        return [self.up.weight.new_zeros(batch, self.width, 1, width)]

    def _step(
        self, x: Tensor, rest: tuple[Any, ...], cache: Cache
    ) -> tuple[Tensor, list[Tensor | None]]:
        (lower,) = cache.layers[self]
        site = cache.site
        h = self.down(x, cache=cache)
        if not self.down.new_output(site):
            return lower, [None] * self.outputs
        cache.site = Site(site.row // 2, 0)
        h, outputs = self.inner(h, *rest, cache=cache)
        cache.site = site
        upper, new_lower = self.up(h)[..., : x.shape[3]].split(1, 2)
        lower.copy_(new_lower)
        return upper, outputs
