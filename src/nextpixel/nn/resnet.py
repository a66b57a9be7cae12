"""The gated residual layer of PixelCNN++ and PixelSNAIL.

References:
    Salimans, Karpathy, Chen, Kingma: PixelCNN++, 2017 (https://arxiv.org/abs/1701.05517), and the
    authors' public code for details that the paper omits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.nn import native_layers, native_units
from nextpixel.nn.cache import Cache
from nextpixel.nn.causal_conv import CausalConv2d, RowConv2d
from nextpixel.nn.native_layers import Convolution
from nextpixel.nn.pointwise import Pointwise

__all__ = ["GatedResNet", "concat_elu", "convolve_elus", "start_weights"]

FORWARDS = (CausalConv2d.forward, RowConv2d.forward, Pointwise.forward)
ELU_POWER = 0.645  # mean square of ELU of a standard normal number


def concat_elu(x: Tensor) -> Tensor:
    """Computes ELU of x and of -x, `(B, C, ...)` -> `(B, 2 C, ...)`."""
    if native_units.fits(x):
        return native_units.concat_elu(x)
    return F.elu(torch.cat([x, -x], 1))


def convolve_elus(
    conv: nn.Module,
    x: Tensor,
    context: Tensor | None = None,
    cache: Cache | None = None,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """Convolves `concat_elu` of x, whole maps, a row or a pixel.

    Args:
        conv: The convolution, of any kind.
        x: The input, `(B, C, ...)`.
        context: Added to the output, see `CausalConv2d.forward`.
        cache: The state of generation.
        dropout: The chance of an ELU to be dropped.
    """
    native = native_convolution(conv, x) if cache is None and dropout < 1 else None
    if native is not None and native_layers.takes(x, len(native.weight), context):
        return native_layers.convolve_elus(x, native, context, dropout)
    h = concat_elu(x)
    out: Tensor = conv(F.dropout(h, dropout) if dropout else h, context, cache)
    return out


def native_convolution(conv: nn.Module, x: Tensor) -> Convolution | None:
    """Returns what `native_layers` needs of a convolution of ELUs, if it can compute it.

    It does in training only. A layer with hooks or with a `forward` of its own is called.
    """
    if (
        not isinstance(conv, (CausalConv2d, RowConv2d, Pointwise))
        or not conv.training
        or conv.stride != 1
        or not native_units.fits(x)  # before weights are put together
        or type(conv).forward not in FORWARDS
        or conv._forward_hooks
        or conv._forward_pre_hooks
        or conv._backward_hooks
        or conv._backward_pre_hooks
    ):
        return None
    convolution = Convolution(conv.tap_weights(), conv.bias, conv.taps)
    return convolution if native_layers.convolves(x, convolution) else None


def gate(x: Tensor, y: Tensor) -> Tensor:
    """Computes x + a sigmoid(b) of x, `(B, C, ...)`, and y = (a, b), `(B, 2 C, ...)`."""
    if native_units.fits(x, y):
        return native_units.gate(x, y)
    a, b = y.chunk(2, 1)
    return x + a * torch.sigmoid(b)


class GatedResNet(nn.Module):
    """Creates a residual layer of two convolutions with a gate at its end.

    Shape:
        `(B, width, ...)` -> `(B, width, ...)`.

    Args:
        conv: Makes a convolution from its numbers of channels.
        width: Channels of input and output.
        skip: Channels of a second input, added through a 1x1; 0 for none.
        dropout: Dropout probability between the two convolutions.

    Raises:
        ValueError: The dropout probability is not between 0 and 1.
    """

    def __init__(
        self, conv: Callable[[int, int], nn.Module], width: int, *, skip: int = 0, dropout: float
    ) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be between 0 and 1, not {dropout}")
        self.conv_in = conv(2 * width, width)
        self.skip = Pointwise(2 * skip, width) if skip else None
        self.dropout = dropout
        self.conv_out = conv(2 * width, 2 * width)

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        return f"dropout={self.dropout}"

    def forward(
        self,
        x: Tensor,
        cache: Cache | None,
        *,
        skip: Tensor | None = None,
        from_vertical: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Computes the layer.

        Args:
            x: The input, whole maps, a row or a pixel.
            cache: The state of generation.
            skip: The second input.
            from_vertical: Added after the first convolution, see `CausalConv2d.forward`.
            bias: Added before the gate, `(B, 2 width, 1, 1)`.
        """
        dropout = self.dropout if self.training else 0.0
        if cache is None and dropout < 1:
            whole = self._native(x, skip, from_vertical, bias, dropout)
            if whole is not None:
                return whole
        h = convolve_elus(self.conv_in, x, from_vertical, cache)
        if self.skip is not None and skip is not None:
            h = convolve_elus(self.skip, skip, h, cache)
        return gate(x, convolve_elus(self.conv_out, h, bias, cache, dropout=dropout))

    def _native(
        self,
        x: Tensor,
        skip: Tensor | None,
        from_vertical: Tensor | None,
        bias: Tensor | None,
        dropout: float,
    ) -> Tensor | None:
        """Computes whole maps by one call of `native_layers`, if it can."""
        width, second_input = x.shape[1], None
        if not (
            native_layers.takes(x, width, from_vertical) and native_layers.takes(x, 2 * width, bias)
        ):
            return None
        first, second = (native_convolution(conv, x) for conv in (self.conv_in, self.conv_out))
        if first is None or second is None:
            return None
        if self.skip is not None and skip is not None:
            third = native_convolution(self.skip, skip)
            matches = (len(skip), *skip.shape[2:]) == (len(x), *x.shape[2:])
            if third is None or not matches or len(third.weight) != width:
                return None
            second_input = (skip, third)
        if (len(first.weight), len(second.weight)) != (width, 2 * width):
            return None
        return native_layers.gated_layer(
            x,
            first,
            second,
            skip=second_input,
            context=from_vertical,
            bias=bias,
            dropout=dropout,
        )


@torch.no_grad()
def start_weights(network: nn.Module) -> None:
    """Sets the initial weights of a network of gated residual layers.

    The output of every convolution has about the standard deviation of its input before
    `concat_elu`, and residual layers start close to the identity. This replaces weight
    normalisation with data-dependent initialisation: docs/experiments.md compares the two.
    """
    ends = {layer.conv_out for layer in network.modules() if isinstance(layer, GatedResNet)}
    for layer in network.modules():
        if isinstance(layer, (CausalConv2d, RowConv2d, Pointwise)):
            scale = 0.1 if layer in ends else 1.0
            weights = [p for name, p in layer.named_parameters(recurse=False) if name != "bias"]
            fan_in = sum(weight[0].numel() for weight in weights)
            for weight in weights:
                nn.init.normal_(weight, std=scale / math.sqrt(ELU_POWER * fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
