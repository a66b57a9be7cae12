"""Turns a context into the biases that the layers add."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.context import Context, ContextSpec
from nextpixel.nn.checkpointing import checkpoint

__all__ = ["ContextBias", "Prepared"]


class Prepared(NamedTuple):
    """What is the same for all sites, computed once for a generation.

    Attributes:
        everywhere: Biases of all layers for the whole image, `(B, channels of all layers)`.
        maps: Features of the context's image at every site, `(B, features, H, W)`.
    """

    everywhere: Tensor | None
    maps: Tensor | None


class DilatedLayer(nn.Module):
    """Creates a residual layer that sees far: 3x3 with holes, and 1x1."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Computes the layer, `(B, width, H, W)` -> `(B, width, H, W)`."""
        out: Tensor = h + self.mix(F.relu(self.look(F.relu(h))))
        return out


class ImageFeatures(nn.Module):
    """Creates the small network, without masks, that maps a context's image to the sites.

    After one 3x3 the maps are brought to the size of the picture (each pixel repeated, or
    averaged), and then every site is shown all within 31 pixels. In the end the features are
    normalised, over the picture in eight groups.

    Shape:
        `(B, channels, Hc, Wc)` -> `(B, width, H, W)`.

    Args:
        channels: Channels of the context's image.
        width: Number of features, which 8 divides.
        size: `(H, W)` of the picture.

    References:
        van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016, section 2.3
        (https://arxiv.org/abs/1606.05328), where it is a deconvolution, m.
    """

    def __init__(self, channels: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.layers = nn.ModuleList(DilatedLayer(width, dilation) for dilation in (1, 2, 4, 8, 16))

    def forward(self, image: Tensor) -> Tensor:
        """Computes the features of all sites."""
        h = F.adaptive_avg_pool2d(self.first(image), self.size)
        for layer in self.layers:
            h = checkpoint(layer, h)
        # They are fed to every layer. If they could grow, the first steps of training would drive
        # all gates into saturation, and the network would not learn.
        return F.group_norm(h, 8) / math.sqrt(h.shape[1])


class ContextBias(nn.Module):
    """Creates the biases that the context adds, one for every layer that asks for it.

    Classes and vectors add the same everywhere, an image adds something else at every site.

    Args:
        takes: Which contexts the model takes: then there are biases.
        channels: Channels of each layer's bias.
        size: `(H, W)` of the picture.
        scales: How many times smaller each layer's maps are than the picture; once by default.
        spatial: Classes and vectors, too, add something else at every site, as an image that has
            the same pixel everywhere: what a class says of a pixel depends on where it is.

    References:
        van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016, equation 4
        (https://arxiv.org/abs/1606.05328): the terms V h, and V * s for what is spatial, s = m(h).
    """

    features = 64  # of a context's image, at every site

    def __init__(
        self,
        takes: ContextSpec,
        channels: Sequence[int],
        size: tuple[int, int],
        scales: Sequence[int] | None = None,
        spatial: bool = False,
    ) -> None:
        super().__init__()
        self.spatial = spatial
        self.context_spec, self.channels = takes, list(channels)
        self.scales = list(scales or [1] * len(self.channels))
        total = sum(self.channels)

        def zeros(*shape: int) -> nn.Parameter:  # training starts from the unconditional model
            return nn.Parameter(torch.zeros(shape))

        self.weight = zeros(takes.classes, total) if takes.classes else None
        # Vectors and features have a 1 at their end, so that there are biases of their own.
        self.vector_weight = zeros(takes.vector + 1, total) if takes.vector else None
        self.map_weight = self.image_features = None
        planes = takes.image[0] if takes.image else 0
        if spatial:
            planes += (takes.classes or 0) + (takes.vector or 0)
        if planes:
            self.image_features = ImageFeatures(planes, self.features, size)
            self.map_weight = zeros(total, self.features + 1, 1, 1)

    def forward(self, context: Context | None) -> list[Tensor | None]:
        """Computes the biases for whole maps, see `biases`."""
        return self.biases(self.prepare(context))

    def prepare(self, context: Context | None) -> Prepared:
        """Computes what all sites share."""
        if context is None or not self.channels:
            return Prepared(None, None)
        everywhere = maps = None
        dtype = next(self.parameters()).dtype
        present = context.present.to(dtype)
        if self.weight is not None and context.classes is not None:
            everywhere = context.classes.to(dtype) @ self.weight
        if self.vector_weight is not None and context.vector is not None:
            vector = F.pad(context.vector.to(dtype), (0, 1), value=1) * present[:, None]
            of_vector = vector @ self.vector_weight
            everywhere = of_vector if everywhere is None else everywhere + of_vector
        if self.image_features is not None:
            maps = self.image_features(self.planes(context).to(dtype))
            maps = F.pad(maps, (0, 0, 0, 0, 0, 1), value=1) * present[:, None, None, None]
        return Prepared(everywhere, maps)

    def planes(self, context: Context) -> Tensor:
        """Makes one image of all that is spatial, `(B, planes, Hc, Wc)`."""
        planes = [] if context.image is None else [context.image]
        if self.spatial:
            height, width = planes[0].shape[2:] if planes else (1, 1)
            parts = (part for part in (context.classes, context.vector) if part is not None)
            planes += [part[:, :, None, None].expand(-1, -1, height, width) for part in parts]
        return torch.cat(planes, 1)

    def biases(self, prepared: Prepared, row: int | None = None) -> list[Tensor | None]:
        """Computes one bias a layer.

        Args:
            prepared: From `prepare`.
            row: For this row of the picture only; by default for all.

        Returns:
            `(B, channels, 1, 1)` each; with an image `(B, channels, H, W)`, divided by the layer's
            scale and rounded up, and of height 1 for a row. None without a context.
        """
        everywhere: list[Any] = [None] * len(self.channels)
        if prepared.everywhere is not None:
            everywhere = list(torch.split(prepared.everywhere[:, :, None, None], self.channels, 1))
        if prepared.maps is None or self.map_weight is None:
            return everywhere
        biases: list[Tensor | None] = []
        layers = zip(
            torch.split(self.map_weight, self.channels), self.scales, everywhere, strict=True
        )
        for layer, scale, bias in layers:
            rows = slice(None, None, scale) if row is None else slice(row, row + 1)
            here = F.conv2d(prepared.maps[:, :, rows, ::scale], layer)
            biases.append(here if bias is None else here + bias)
        return biases
