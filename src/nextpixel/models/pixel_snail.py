"""PixelSNAIL: gated residual layers, and attention to all earlier sites.

References:
    Chen, Mishra, Rohaninejad, Abbeel: PixelSNAIL: An Improved Autoregressive Generative Model, 2017
    (https://arxiv.org/abs/1712.09763), and its public code for the sizes.

Departures from the paper: no weight normalisation, as in `PixelCNNPP`. Optional conditioning, by a
bias in the residual layers before each attention, and levels as categories.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import Inputs, WholePixelNetwork
from nextpixel.nn import (
    Cache,
    CausalAttention,
    CausalConv2d,
    Delayed,
    GatedResNet,
    MaskedConv2d,
    Pointwise,
    checkpoint,
    start_weights,
)
from nextpixel.nn.context_bias import ContextBias
from nextpixel.saving import bound_arguments

__all__ = ["PixelSNAIL"]

Biases = list[Tensor | None]


class Block(nn.Module):
    """Creates a block of residual layers and attention.

    Keys and values include the pixel of their site; queries do not.

    Args:
        pixel_channels: Channels of the network's input.
        width: Channels of all maps.
        key: Channels of a key.
        layers: Number of residual layers.
        size: Height and width of the maps.
        dropout: See `GatedResNet`.
    """

    def __init__(
        self,
        pixel_channels: int,
        width: int,
        key: int,
        layers: int,
        size: tuple[int, int],
        dropout: float,
    ) -> None:
        super().__init__()
        conv = partial(CausalConv2d, "B", reach=(1, 1, 0))
        value, seen = max(1, width // 2), width + 2
        self.layers = nn.ModuleList(
            GatedResNet(conv, width, dropout=dropout) for _ in range(layers)
        )
        self.delayed = Delayed(seen)
        self.content = GatedResNet(Pointwise, pixel_channels + seen, dropout=dropout)
        self.key = Pointwise(pixel_channels + seen, key)
        self.value = Pointwise(pixel_channels + seen, value)
        self.question = GatedResNet(Pointwise, seen, dropout=dropout)
        self.query = Pointwise(seen, key)
        self.attention = CausalAttention(key, value, size)
        self.merge = GatedResNet(Pointwise, width, skip=value, dropout=dropout)

    def forward(
        self, h: Tensor, x: Tensor, place: Tensor, biases: Biases, cache: Cache | None
    ) -> Tensor:
        """Computes the block.

        Args:
            h: The output of the previous layer, whole maps or one site.
            x: The network's input; in a step the newest pixel, from before the site.
            place: The coordinates of the sites, of the shape of h but with 2 channels.
            biases: The context's biases for the residual layers.
            cache: The state of generation.
        """
        for layer, bias in zip(self.layers, biases, strict=True):
            h = layer(h, cache, bias=bias)
        seen = torch.cat([h, place], 1)
        content = self.content(torch.cat([x, self.delayed(seen, cache)], 1), cache)
        query = self.query(self.question(seen, cache), cache=cache)
        key, value = self.key(content, cache=cache), self.value(content, cache=cache)
        attended = self.attention(query, key, value, cache)
        merged: Tensor = self.merge(h, cache, skip=attended)
        return merged


def places(height: int, width: int) -> Tensor:
    """Computes the row and the column of every site, scaled to [-1/2, 1/2), `(1, 2, H, W)`."""
    rows, cols = torch.arange(height) / height - 0.5, torch.arange(width) / width - 0.5
    return torch.stack(torch.meshgrid(rows, cols, indexing="ij"))[None]


class PixelSNAIL(WholePixelNetwork):
    """Creates a PixelSNAIL. The defaults are the paper's for CIFAR-10.

    Every block of residual layers ends in attention to all earlier sites, so it sees all of them.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes to condition on, or None.
        vector: Length of a vector to condition on, or None.
        image: `(Cc, Hc, Wc)` of an image to condition on, or None.
        orders: Number of orders of the pixels to learn: 1, 4 or 8, see `nextpixel.orders`.
        width: Channels of all maps.
        blocks: Number of blocks, each with one attention.
        layers: Residual layers per block.
        key: Channels of a key; a value has `width / 2`.
        components: Components of the mixture of logistics.
        dropout: Dropout probability inside the residual layers.
        inputs: "scaled" gives a mixture of logistics; "embedded" treats levels as categories, see
            `WholePixelNetwork`.
        max_log_scale: The largest log-scale of a logistic, see `DiscretizedLogisticMixture`.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = PixelSNAIL(shape=(1, 28, 28), levels=2, width=32, blocks=2)
        >>> x = model.sample(4, seed=0)  # (4, 1, 28, 28)
    """

    paper = "PixelSNAIL: An Improved Autoregressive Generative Model (Chen et al., 2017)"
    fixed_size = "its attention knows each pixel by its place in an image of the size it learned"
    place: Tensor

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int = 256,
        classes: int | None = None,
        vector: int | None = None,
        image: tuple[int, int, int] | None = None,
        orders: int = 1,
        width: int = 256,
        blocks: int = 12,
        layers: int = 4,
        key: int = 16,
        components: int = 10,
        dropout: float = 0.5,
        inputs: Inputs = "scaled",
        max_log_scale: float = 5.0,
    ) -> None:
        super().__init__(**bound_arguments(locals()))
        if min(layers, key) < 1:
            raise UserError(f"layers and key must be at least 1, not {layers} and {key}.")
        self.register_buffer("place", places(*shape[1:]), persistent=False)
        channels = self.in_channels + 1  # a channel of ones marks pixels inside the border
        self.condition = ContextBias(
            self.context_spec, [2 * width] * (blocks * layers), self.shape[1:]
        )
        self.first = MaskedConv2d("A", channels, width, 3)
        self.blocks = nn.ModuleList(
            Block(channels, width, key, layers, shape[1:], dropout) for _ in range(blocks)
        )
        self.last = Pointwise(width, self.out_channels, autocast=False)
        start_weights(self)

    def network(self, x: Tensor, biases: Biases, cache: Cache | None = None) -> Tensor:
        """Computes the parameters of the distributions, see `CausalNetwork.network`."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        place = self.place if cache is None else self.place[..., cache.site.row, cache.site.col]
        place = place.expand(len(x), *place.shape[1:])
        h = self.first(x, cache=cache)
        layers = len(biases) // len(self.blocks)
        for i, block in enumerate(self.blocks):
            h = checkpoint(block, h, x, place, biases[i * layers : (i + 1) * layers], cache)
        parameters: Tensor = self.last(F.elu(h), cache=cache)
        return parameters
