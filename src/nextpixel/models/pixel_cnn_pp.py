"""PixelCNN++: whole pixels, a mixture of logistics, three resolutions with long skips.

References:
    Salimans, Karpathy, Chen, Kingma: PixelCNN++: Improving the PixelCNN with Discretized Logistic
    Mixture Likelihood and Other Modifications, 2017 (https://arxiv.org/abs/1701.05517).

Departures from the paper: no weight normalisation, but initial weights of a suitable scale (see
docs/experiments.md). Odd sizes are rounded up when halved, and the maps are cropped when they are
upsampled. Optional conditioning, by a bias in every residual layer, and levels as categories.
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
    CausalConv2d,
    GatedResNet,
    Halved,
    HalvedRows,
    MaskedConv2d,
    OncePerRow,
    Pointwise,
    RowConv2d,
    checkpoint,
    convolve_elus,
    start_weights,
)
from nextpixel.nn.context_bias import ContextBias
from nextpixel.saving import bound_arguments

__all__ = ["PixelCNNPP"]

Biases = list[Tensor | None]


class VerticalStage(nn.Module):
    """Creates one resolution of the vertical stack, which sees all rows above.

    The stages of lower resolution are inside it.

    Args:
        width: Channels of all maps.
        blocks: Residual layers on the way down; on the way up there is one more, except in the
            smallest resolution.
        stages: Number of resolutions from this one on.
        dropout: See `GatedResNet`.
    """

    def __init__(self, width: int, blocks: int, stages: int, dropout: float) -> None:
        super().__init__()
        layer = partial(GatedResNet, partial(RowConv2d, kernel_size=(2, 3)), width, dropout=dropout)
        self.down = nn.ModuleList(layer() for _ in range(blocks))
        self.up = nn.ModuleList(layer(skip=width) for _ in range(blocks + (stages > 1)))
        self.links = nn.ModuleList(
            Pointwise(2 * width, width) for _ in range(len(self.down) + len(self.up))
        )
        self.scales = [1] * len(self.links)
        self.smaller = None
        if stages > 1:
            inner = VerticalStage(width, blocks, stages - 1, dropout)
            self.smaller = HalvedRows(inner, width, len(inner.scales))
            self.scales += [2 * scale for scale in inner.scales]

    def forward(
        self, u: Tensor, biases: Biases, cache: Cache | None
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Computes the stage's map, and the inputs of the layers of the horizontal stack.

        The list has the layers of this resolution, down and then up, before those of lower ones.
        """
        own, smaller = biases[: len(self.links)], biases[len(self.links) :]
        skips, maps = [u], []
        for i, layer in enumerate(self.down):
            u = checkpoint(layer, u, cache, bias=own[i])
            skips.append(u)
            maps.append(u)
        inside: list[Tensor | None] = []
        if self.smaller is None:
            skips.pop()
        else:
            u, inside = self.smaller(u, smaller, cache=cache)
        for i, layer in enumerate(self.up, len(self.down)):
            u = checkpoint(layer, u, cache, skip=skips.pop(), bias=own[i])
            maps.append(u)
        links = zip(self.links, maps, strict=True)
        return u, [*(checkpoint(convolve_elus, link, u) for link, u in links), *inside]


class HorizontalStage(nn.Module):
    """Creates one resolution of the horizontal stack, which sees the row to the left.

    The layers of a `VerticalStage` with the same arguments feed its layers.
    """

    def __init__(self, width: int, blocks: int, stages: int, dropout: float) -> None:
        super().__init__()
        conv = partial(CausalConv2d, "B", reach=(1, 1, 0))
        layer = partial(GatedResNet, conv, width, dropout=dropout)
        self.down = nn.ModuleList(layer() for _ in range(blocks))
        self.up = nn.ModuleList(layer(skip=width) for _ in range(blocks + (stages > 1)))
        self.smaller = None
        if stages > 1:
            self.smaller = Halved(HorizontalStage(width, blocks, stages - 1, dropout), width)

    def forward(self, h: Tensor, rows: Biases, biases: Biases, cache: Cache | None) -> Tensor:
        """Computes the stage's map from the layer before and the vertical stack's `rows`."""
        layers = len(self.down) + len(self.up)
        skips = [h]
        for i, layer in enumerate(self.down):
            h = checkpoint(layer, h, cache, from_vertical=rows[i], bias=biases[i])
            skips.append(h)
        if self.smaller is None:
            skips.pop()
        else:
            h = self.smaller(h, rows[layers:], biases[layers:], cache=cache)
        for i, layer in enumerate(self.up, len(self.down)):
            h = checkpoint(layer, h, cache, skip=skips.pop(), from_vertical=rows[i], bias=biases[i])
        return h


class VerticalStack(nn.Module):
    """Creates the first layer and the stages of the vertical stack."""

    def __init__(self, in_channels: int, stage: VerticalStage, width: int) -> None:
        super().__init__()
        self.first = RowConv2d(in_channels, width, (2, 3))
        self.stage = stage

    def forward(self, x: Tensor, biases: Biases, cache: Cache | None = None) -> list[Tensor | None]:
        """Computes the inputs of the layers of the horizontal stack."""
        rows: list[Tensor | None] = self.stage(self.first(x, cache=cache), biases, cache)[1]
        return rows


class PixelCNNPP(WholePixelNetwork):
    """Creates a PixelCNN++. The defaults are the paper's for CIFAR-10.

    It has two stacks, as the Gated PixelCNN, of gated residual layers at full, half and quarter
    resolution, with skip connections from each layer on the way down to one on the way up.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes to condition on, or None.
        vector: Length of a vector to condition on, or None.
        image: `(Cc, Hc, Wc)` of an image to condition on, or None.
        orders: Number of orders of the pixels to learn: 1, 4 or 8, see `nextpixel.orders`.
        width: Channels of all maps.
        blocks: Residual layers per resolution, each way.
        stages: Number of resolutions.
        components: Components of the mixture of logistics.
        dropout: Dropout probability inside the residual layers.
        inputs: "scaled" gives a mixture of logistics; "embedded" treats levels as categories, see
            `WholePixelNetwork`.
        max_log_scale: The largest log-scale of a logistic, see `DiscretizedLogisticMixture`.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = PixelCNNPP(shape=(3, 32, 32), width=32, blocks=2)
        >>> x = model.sample(4, seed=0)  # (4, 3, 32, 32)
    """

    paper = (
        "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other "
        "Modifications (Salimans et al., 2017)"
    )

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int = 256,
        classes: int | None = None,
        vector: int | None = None,
        image: tuple[int, int, int] | None = None,
        orders: int = 1,
        width: int = 160,
        blocks: int = 5,
        stages: int = 3,
        components: int = 10,
        dropout: float = 0.5,
        inputs: Inputs = "scaled",
        max_log_scale: float = 5.0,
    ) -> None:
        super().__init__(**bound_arguments(locals()))
        if stages < 1:
            raise UserError(f"stages must be at least 1, not {stages}.")
        channels = self.in_channels + 1  # a channel of ones marks pixels inside the border
        stage = VerticalStage(width, blocks, stages, dropout)
        layers = len(stage.scales)
        self.condition = ContextBias(
            self.context_spec, [2 * width] * (2 * layers), self.shape[1:], 2 * stage.scales
        )
        self.vertical = OncePerRow(
            VerticalStack(channels, stage, width), channels, [width] * layers, scales=stage.scales
        )
        self.first = MaskedConv2d("A", channels, width, 3)
        self.horizontal = HorizontalStage(width, blocks, stages, dropout)
        self.last = Pointwise(width, self.out_channels, autocast=False)
        start_weights(self)

    def network(self, x: Tensor, biases: Biases, cache: Cache | None = None) -> Tensor:
        """Computes the parameters of the distributions, see `CausalNetwork.network`."""
        layers = len(biases) // 2
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        rows = self.vertical(x, biases[:layers], cache)
        h = self.first(x, cache=cache)
        h = self.horizontal(h, rows, biases[layers:], cache)
        parameters: Tensor = self.last(F.elu(h), cache=cache)
        return parameters
