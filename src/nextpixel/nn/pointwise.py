"""1x1 convolutions, and the last layers of a network."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nextpixel.nn.cache import Cache, CausalLayer
from nextpixel.nn.masks import channel_mask, channel_slice
from nextpixel.nn.native_conv import Kind, Taps, convolve, fits

__all__ = ["Head", "Pointwise", "added", "of_group"]


def added(x: Tensor, more: Tensor | None, cache: Cache | None = None) -> Tensor:
    """Adds to a new result; whole maps change in place, as allocating new ones takes time."""
    if more is None:
        return x
    in_place = cache is None and (more.shape, more.dtype) == (x.shape, x.dtype)
    return x.add_(more) if in_place else x + more


def of_group(x: Tensor, group: int, groups: int, parts: int) -> Tensor:
    """Picks the channels of a group, in the last dimension, from each of the parts."""
    if groups == 1:
        return x
    x = torch.unflatten(x, -1, (parts, -1))
    return x[..., channel_slice(x.shape[-1], group, groups)].flatten(-2)


class FullPrecision(torch.autograd.Function):
    """A 1x1 convolution in the precision of its weight, with gradients in that of its input.

    Under autocast a network's last layer returns float32, but its gradients need no more precision
    than those of the other layers, and its input is stored in half precision only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolves maps `(B, C, H, W)`."""
        ctx.save_for_backward(x, weight)
        # In parts, because the whole input in float32 would be the largest tensor of all.
        parts = x.chunk(4)
        return torch.cat([F.conv2d(part.to(weight.dtype), weight, bias) for part in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes the gradients of input, weight and bias."""
        x, weight = ctx.saved_tensors
        shape = ([len(weight)], (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (True, True, True))
        gradients = torch.ops.aten.convolution_backward(
            gradient.to(x.dtype), x, weight.to(x.dtype), *shape
        )
        return gradients[0], gradients[1].to(weight.dtype), gradients[2].to(weight.dtype)


class Pointwise(CausalLayer):
    """Creates a 1x1 convolution (mask B), the same for maps, rows and single pixels.

    Shape:
        `(B, in_channels, ...)` -> `(B, out_channels, ...)`; in a step with several groups the
        channels are those of the site's group.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        groups: Number of channel groups.
        parts: Number of equal parts of the output that are each divided into groups.
        autocast: Whether to compute in half precision under autocast; False for a network's last
            layer, which computes the parameters of distributions.
    """

    mask: Tensor | None
    taps: Taps = ((0, 0),)
    stride = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int = 1,
        parts: int = 1,
        autocast: bool = True,
    ) -> None:
        super().__init__()
        self.groups, self.parts, self.autocast = groups, parts, autocast
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        mask = None if groups == 1 else channel_mask("B", in_channels, out_channels, groups, parts)
        self.register_buffer("mask", mask, persistent=False)
        bound = 1 / math.sqrt(in_channels)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        cache: Cache | None = None,
        *,
        relu: bool = False,
    ) -> Tensor:
        """Mixes the channels at every site.

        Args:
            x: Maps, a row or a pixel.
            context: Added to the output, of its shape.
            cache: The state of generation.
            relu: Whether to apply a ReLU to x first.
        """
        if not self.autocast and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x, context, cache, relu=relu)
        if cache is not None and x.ndim == 2:
            return added(self._step(F.relu(x) if relu else x, cache), context, cache)
        if fits(x, self.weight):
            kind = Kind(self.taps, relu, full=not self.autocast)
            return convolve(x, self.tap_weights(), self.bias, kind, context)
        x, weight = F.relu(x) if relu else x, self._weight()
        if x.ndim == 2:
            out = F.linear(x if self.autocast else x.to(weight.dtype), weight, self.bias)
        else:
            mixed = not self.autocast and x.dtype != weight.dtype
            convolve_maps = FullPrecision.apply if mixed else F.conv2d
            out = convolve_maps(x, weight[:, :, None, None], self.bias)
        return added(out, context, cache)

    def tap_weights(self) -> Tensor:
        """Returns the weights, `(out_channels, in_channels, 1)`."""
        return self._weight()[..., None]

    def _weight(self) -> Tensor:
        return self.weight if self.mask is None else self.weight * self.mask

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the weight and the bias of each group, and with several groups a row of inputs."""
        if self.groups == 1:
            return [self.weight.T, self.bias]
        tensors = []
        for group in range(self.groups):
            end = channel_slice(self.weight.shape[1], group, self.groups).stop
            weight = of_group(self.weight.T, group, self.groups, self.parts)[:end]
            bias = of_group(self.bias, group, self.groups, self.parts)
            tensors += [weight.contiguous(), bias.contiguous()]
        return [*tensors, self.weight.new_zeros(batch, self.weight.shape[1])]

    def of_images(self, tensors: list[Tensor]) -> list[Tensor]:
        """Picks the inputs."""
        return [] if self.groups == 1 else tensors[-1:]

    def _step(self, x: Tensor, cache: Cache) -> Tensor:
        tensors = cache.layers[self]
        channel = cache.site.channel
        weight, bias = tensors[2 * channel : 2 * channel + 2]
        if self.groups > 1:
            seen = tensors[-1][:, : len(weight)]
            seen[:, len(weight) - x.shape[1] :] = x
            x = seen
        return torch.addmm(bias, x, weight)


class Head(nn.Sequential):
    """Creates the head of a network: ReLU, 1x1, ReLU, 1x1.

    Shape:
        `(B, in_channels, ...)` -> `(B, out_channels, ...)`.

    Args:
        in_channels: Channels of the input.
        width: Channels between the two.
        out_channels: Parameters of the distributions of a pixel.
        groups: Number of channel groups.

    References:
        van den Oord et al.: Pixel Recurrent Neural Networks, 2016, table 1.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, groups: int) -> None:
        super().__init__(
            nn.ReLU(),
            Pointwise(in_channels, width, groups=groups),
            nn.ReLU(),
            Pointwise(width, out_channels, groups=groups, autocast=False),
        )

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Computes the parameters of the distributions."""
        _, first, _, last = self  # each applies the ReLU before it
        parameters: Tensor = last(first(x, cache=cache, relu=True), cache=cache, relu=True)
        return parameters
