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
from nextpixel.nn.encoders import ResidualLayer

__all__ = ["ContextBias", "Prepared"]


class Prepared(NamedTuple):
    """The part of the biases that all sites share, computed once for a generation.

    Attributes:
        everywhere: Biases of all layers for the whole image, `(B, channels of all layers)`.
        maps: Features of the context's image at every site, `(B, features, H, W)`.
    """

    everywhere: Tensor | None
    maps: Tensor | None


class ImageFeatures(nn.Module):
    """Creates a small network, without masks, from the context's image to features at all sites.

    After one 3x3 convolution the maps are resized to the picture, by averaging or repeating pixels.
    Dilated layers follow, with a receptive-field radius of 31 pixels, and a group normalisation
    with 8 groups.

    Shape:
        `(B, channels, Hc, Wc)` -> `(B, width, H, W)`.

    Args:
        channels: Channels of the context's image.
        width: Number of features, divisible by 8.
        size: `(H, W)` of the picture.

    References:
        van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016, section 2.3
        (https://arxiv.org/abs/1606.05328), where it is a deconvolution, m.
    """

    def __init__(self, channels: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.layers = nn.ModuleList(ResidualLayer(width, dilation) for dilation in (1, 2, 4, 8, 16))

    def forward(self, image: Tensor) -> Tensor:
        """Computes the features of all sites."""
        h = F.adaptive_avg_pool2d(self.first(image), self.size)
        for layer in self.layers:
            h = checkpoint(layer, h)
        # Every layer gets these features. If they could grow, the first training steps would
        # saturate all gates, and the network would not learn.
        return F.group_norm(h, 8) / math.sqrt(h.shape[1])


class ContextBias(nn.Module):
    """Creates the biases of the context, one for each layer.

    Classes, orders and vectors add the same bias at all sites, an image adds one of its own at
    each.

    Args:
        context_spec: The contexts that the model takes; without any there are no biases.
        channels: Channels of the bias of each layer.
        size: `(H, W)` of the picture.
        scales: The factor by which the maps of each layer are smaller than the picture; 1 by
            default.
        spatial: Whether the biases of classes and vectors depend on the site too: they are then
            treated as an image with the same pixel everywhere.

    References:
        van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016, equation 4
        (https://arxiv.org/abs/1606.05328): the terms V h, and V * s for what is spatial, s = m(h).
    """

    features = 64  # of a context's image, at every site

    def __init__(
        self,
        context_spec: ContextSpec,
        channels: Sequence[int],
        size: tuple[int, int],
        scales: Sequence[int] | None = None,
        spatial: bool = False,
    ) -> None:
        super().__init__()
        self.spatial = spatial
        self.context_spec, self.channels = context_spec, list(channels)
        self.scales = list(scales or [1] * len(self.channels))
        total = sum(self.channels)

        def zeros(*shape: int) -> nn.Parameter:  # training starts from the unconditional model
            return nn.Parameter(torch.zeros(shape))

        classes, vector, image, orders = context_spec
        choices = (classes or 0) + (orders if orders > 1 else 0)
        self.weight = zeros(choices, total) if choices else None
        # Vectors and features get an entry of 1 at their end, for a constant bias.
        self.vector_weight = zeros(vector + 1, total) if vector else None
        self.map_weight = self.image_features = None
        planes = image[0] if image else 0
        if spatial:
            planes += (classes or 0) + (vector or 0)
        if planes:
            self.image_features = ImageFeatures(planes, self.features, size)
            self.map_weight = zeros(total, self.features + 1, 1, 1)

    def forward(self, context: Context | None) -> list[Tensor | None]:
        """Computes the biases for whole maps, see `biases`."""
        return self.biases(self.prepare(context))

    def prepare(self, context: Context | None) -> Prepared:
        """Computes the part of the biases that all sites share."""
        if context is None or not self.channels:
            return Prepared(None, None)
        return Prepared(self.everywhere(context), self.maps(context))

    def everywhere(self, context: Context) -> Tensor | None:
        """Computes the biases of classes and vectors, `(B, channels of all layers)`, or None."""
        total = None
        dtype = next(self.parameters()).dtype
        if self.weight is not None and context.choices is not None:
            total = context.choices.to(dtype) @ self.weight
        if self.vector_weight is not None and context.vector is not None:
            one = torch.ones_like(context.vector[:, :1])
            vector = torch.cat([context.vector, one], 1).to(dtype)
            of_vector = (vector * context.present.to(dtype)[:, None]) @ self.vector_weight
            total = of_vector if total is None else total + of_vector
        return total

    def maps(self, context: Context) -> Tensor | None:
        """Computes the features of an image, `(B, features + 1, H, W)`, or None."""
        if self.image_features is None:
            return None
        dtype = next(self.parameters()).dtype
        present = context.present.to(dtype)[:, None, None, None]
        maps = self.image_features(self.planes(context).to(dtype))
        return F.pad(maps, (0, 0, 0, 0, 0, 1), value=1) * present

    def planes(self, context: Context) -> Tensor:
        """Joins all spatial parts of the context in one image, `(B, planes, Hc, Wc)`."""
        planes = [] if context.image is None else [context.image]
        if self.spatial:
            height, width = planes[0].shape[2:] if planes else (1, 1)
            parts = (part for part in (context.classes, context.vector) if part is not None)
            planes += [part[:, :, None, None].expand(-1, -1, height, width) for part in parts]
        return torch.cat(planes, 1)

    def biases(self, prepared: Prepared, row: int | None = None) -> list[Tensor | None]:
        """Computes the bias of each layer.

        Args:
            prepared: The output of `prepare`.
            row: A row of the picture, to compute its biases only; by default all rows.

        Returns:
            `(B, channels, 1, 1)` each; with an image `(B, channels, H, W)`, with H and W divided by
            the layer's scale and rounded up, and H = 1 for a row. None without a context.
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
            of_image = F.conv2d(prepared.maps[:, :, rows, ::scale], layer)
            biases.append(of_image if bias is None else of_image + bias)
        return biases
