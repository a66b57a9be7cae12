"""Causal attention, with the keys and values of the past kept while an image is generated."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.nn.cache import Cache, CausalLayer

__all__ = ["CausalAttention", "Delayed"]


class Delayed(CausalLayer):
    """Creates a layer that goes with what is known of a pixel only once it is drawn.

    A whole map goes through unchanged. In a step it returns what it was handed at the site before:
    joined with the newest pixel, that is what the map holds there.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Returns the map, or what was there at the site before (zeros at the first site)."""
        if cache is None:
            return x
        (kept,) = cache.layers[self]
        before = kept.clone()
        kept.copy_(x)
        return before

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes room for a pixel's channels."""
        like: Tensor = self.like  # type: ignore[assignment]  # torch types it as a module too
        return [like.new_zeros(batch, self.channels)]


class CausalAttention(CausalLayer):
    """Creates attention of every site to all sites strictly before it.

    The first site has none before it and gets zeros. In a step the keys and values handed over are
    those of the site BEFORE; all of them are kept, so this cache grows with the image.

    Args:
        key_channels: Channels of queries and keys.
        value_channels: Channels of values and of the output.
        size: Height and width of the maps.

    References:
        Chen, Mishra, Rohaninejad, Abbeel: PixelSNAIL, 2017 (https://arxiv.org/abs/1712.09763).
    """

    def __init__(self, key_channels: int, value_channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.key_channels, self.value_channels, self.size = key_channels, value_channels, size
        self.scale_of_products = 1 / math.sqrt(key_channels)
        self.register_buffer("like", torch.empty(0), persistent=False)

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        return f"{self.key_channels}, {self.value_channels}"

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Attends from the queries to the keys before them.

        Args:
            query: `(B, key_channels, H, W)`, or of the site `(B, key_channels)`.
            key: The same, but in a step of the site before.
            value: `(B, value_channels, H, W)`, or of the site before `(B, value_channels)`.
            cache: The state of generation.
        """
        if cache is not None:
            return self._step(query, key, value, cache)
        # The fused attention, four times as fast, wants as many channels in keys as in values.
        most = max(self.key_channels, self.value_channels)
        q, k, v = (
            F.pad(t.flatten(2).mT, (0, most - t.shape[1])).contiguous()[:, None]
            for t in (query, key, value)
        )
        # The query of site i goes with the keys up to i - 1: as if it were one site earlier.
        attended = F.scaled_dot_product_attention(
            q[:, :, 1:], k[:, :, :-1], v[:, :, :-1], is_causal=True, scale=self.scale_of_products
        )[:, 0, :, : self.value_channels]
        return torch.unflatten(F.pad(attended, (0, 0, 1, 0)).mT, 2, query.shape[2:])

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes room for the keys and the values of all sites."""
        sites = self.size[0] * self.size[1]
        like: Tensor = self.like  # type: ignore[assignment]  # torch types it as a module too
        return [
            like.new_zeros(batch, 1, sites, channels)
            for channels in (self.key_channels, self.value_channels)
        ]

    def _step(self, query: Tensor, key: Tensor, value: Tensor, cache: Cache) -> Tensor:
        keys, values = cache.layers[self]
        before = cache.site.row * self.size[1] + cache.site.col
        if before == 0:
            return torch.zeros_like(value)
        keys[:, 0, before - 1], values[:, 0, before - 1] = key, value
        attended = F.scaled_dot_product_attention(
            query[:, None, None],
            keys[:, :, :before],
            values[:, :, :before],
            scale=self.scale_of_products,
        )
        return attended[:, 0, 0]
