"""Causal attention, with a cache of the keys and values of earlier sites."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel.nn.cache import Cache, CausalLayer

__all__ = ["CausalAttention", "Delayed"]


class Delayed(CausalLayer):
    """Creates a layer that delays its input by one site in generation.

    It returns a whole map unchanged. In a step it returns its input at the previous site, which can
    be joined with the newest pixel, since that one belongs to the previous site too.

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Returns the map, or in a step the input at the previous site (zeros at the first)."""
        if cache is None:
            return x
        (previous,) = cache.layers[self]
        output = previous.clone()
        previous.copy_(x)
        return output

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the tensor for the input at the previous site."""
        like: Tensor = self.like  # type: ignore[assignment]  # torch types it as a module too
        return [like.new_zeros(batch, self.channels)]


class CausalAttention(CausalLayer):
    """Creates attention from every site to all sites strictly before it.

    The first site has none before it, and its output is zero. In a step the key and the value are
    those of the PREVIOUS site; all of them are stored, so this cache grows with the image.

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
            query: `(B, key_channels, H, W)`, in a step that of the site, `(B, key_channels)`.
            key: The same shape; in a step that of the previous site.
            value: `(B, value_channels, H, W)`, in a step that of the previous site,
                `(B, value_channels)`.
            cache: The state of generation.
        """
        if cache is not None:
            return self._step(query, key, value, cache)
        # PyTorch's fused attention, four times as fast, needs keys and values of the same size.
        most = max(self.key_channels, self.value_channels)
        q, k, v = (
            F.pad(t.flatten(2).mT, (0, most - t.shape[1])).contiguous()[:, None]
            for t in (query, key, value)
        )
        # Site i attends to sites up to i - 1: shift the queries by one site.
        attended = F.scaled_dot_product_attention(
            q[:, :, 1:], k[:, :, :-1], v[:, :, :-1], is_causal=True, scale=self.scale_of_products
        )[:, 0, :, : self.value_channels]
        return torch.unflatten(F.pad(attended, (0, 0, 1, 0)).mT, 2, query.shape[2:])

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the tensors for the keys and the values of all sites."""
        sites = self.size[0] * self.size[1]
        like: Tensor = self.like  # type: ignore[assignment]  # torch types it as a module too
        return [
            like.new_zeros(batch, 1, self.key_channels, sites),
            like.new_zeros(batch, 1, sites, self.value_channels),
        ]

    def _step(self, query: Tensor, key: Tensor, value: Tensor, cache: Cache) -> Tensor:
        keys, values = cache.layers[self]
        before = cache.site.row * self.size[1] + cache.site.col
        if before == 0:
            return torch.zeros_like(value)
        keys[:, 0, :, before - 1], values[:, 0, before - 1] = key, value
        attended = F.scaled_dot_product_attention(
            query[:, None, None],
            keys.mT[:, :, :before],
            values[:, :, :before],
            scale=self.scale_of_products,
        )
        return attended[:, 0, 0]
