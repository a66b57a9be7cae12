"""Gated PixelCNN: a vertical and a horizontal stack, gated units, class conditioning.

References:
    van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu: Conditional Image Generation
    with PixelCNN Decoders, 2016 (https://arxiv.org/abs/1606.05328), section 2, figure 2.

Departure from the paper: pixels may be fed as learned vectors (`inputs="embedded"`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import CausalNetwork, Inputs
from nextpixel.nn import Cache, Head, MaskedConv2d, OncePerRow, Pointwise, RowConv2d, checkpoint
from nextpixel.nn.context_bias import ContextBias
from nextpixel.nn.masks import MaskType
from nextpixel.saving import bound_arguments

__all__ = ["GatedPixelCNN"]


def gate(x: Tensor) -> Tensor:
    """Computes `tanh(a) * sigmoid(b)` of the two halves of the channels (equation 2)."""
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def add(x: Tensor, bias: Tensor | None) -> Tensor:
    """Adds the context's bias, where there is a context."""
    return x if bias is None else x + bias


class VerticalStack(nn.Module):
    """Creates the vertical stack, which sees all rows above and feeds the horizontal stack.

    `OncePerRow` moves its input down a row, so its kernels need no mask.

    Args:
        in_channels: Channels of the input.
        width: Channels after a gate.
        kernel_sizes: The kernel size k of each layer, for a kernel of `k // 2 + 1` rows and k
            columns.
    """

    def __init__(self, in_channels: int, width: int, kernel_sizes: list[int]) -> None:
        super().__init__()
        inputs = [in_channels] + [width] * (len(kernel_sizes) - 1)
        self.convs = nn.ModuleList(
            RowConv2d(channels, 2 * width, (k // 2 + 1, k))
            for channels, k in zip(inputs, kernel_sizes, strict=True)
        )
        self.to_horizontal = nn.ModuleList(Pointwise(2 * width, 2 * width) for _ in kernel_sizes)

    def forward(
        self, x: Tensor, biases: list[Tensor | None], cache: Cache | None = None
    ) -> list[Tensor]:
        """Computes what each layer adds to the horizontal stack, `(B, 2 width, H, W)` each.

        Args:
            x: The map, moved down a row, or one row of it.
            biases: The context's biases, of the horizontal gates and then of the vertical gates.
            cache: The state of generation.
        """
        outputs: list[Tensor] = []
        for i in range(len(self.convs)):
            x, output = checkpoint(self._layer, i, x, biases, cache)
            outputs.append(output)
        return outputs

    def _layer(
        self, i: int, h: Tensor, biases: list[Tensor | None], cache: Cache | None
    ) -> tuple[Tensor, Tensor]:
        """Computes a layer up to the next one's gate, and what it adds to the horizontal stack."""
        layers = len(self.convs)
        if i > 0:  # no gate follows the last layer, since nothing would read it
            h = gate(add(h, biases[layers + i - 1]))
        h = self.convs[i](h, cache=cache)
        return h, add(self.to_horizontal[i](h), biases[i])


class HorizontalLayer(nn.Module):
    """Creates a layer of the horizontal stack: a convolution to the left, a gate, and a 1x1.

    Args:
        mask_type: "A" in the first layer, whose input is the image, then "B".
        in_channels: Channels of the input.
        width: Channels of the output.
        kernel_size: k; the kernel covers the `k // 2` pixels to the left and, type B, the centre.
        groups: Number of channel groups.
    """

    def __init__(
        self, mask_type: MaskType, in_channels: int, width: int, kernel_size: int, groups: int
    ) -> None:
        super().__init__()
        size = (1, kernel_size)
        # Two parts, for the halves of the gate. The link from the vertical stack has the bias.
        self.conv = MaskedConv2d(
            mask_type, in_channels, 2 * width, size, groups=groups, parts=2, bias=False
        )
        self.out = Pointwise(width, width, groups=groups)
        self.residual = mask_type == "B"

    def forward(self, h: Tensor, from_vertical: Tensor, cache: Cache | None) -> Tensor:
        """Computes the layer, `(B, in_channels, ...)` -> `(B, width, ...)`."""
        out: Tensor = self.out(gate(self.conv(h, from_vertical, cache)), cache=cache)
        return h + out if self.residual else out


class GatedPixelCNN(CausalNetwork):
    """Creates a Gated PixelCNN. The defaults are the paper's for ImageNet: 20 layers of 384.

    It sees every pixel before the current one within the reach of its kernels: it has no blind
    spot.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`. 2 gives a Bernoulli, more a categorical
            distribution.
        classes: Number of classes to condition on, or None.
        vector: Length of a vector to condition on, or None.
        image: `(Cc, Hc, Wc)` of an image to condition on, or None.
        orders: Number of orders of the pixels to learn: 1, 4 or 8, see `nextpixel.orders`.
        width: Channels after a gate (there are twice as many before it).
        blocks: Number of layers, including the first one with its 7x7 kernel.
        kernel_size: Kernel size of the later layers, odd.
        inputs: "scaled" or "embedded", see `CausalNetwork`.
        spatial: Whether the biases of a class or a vector depend on the site, as in the paper's
            location-dependent variant, see `ContextBias`.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = GatedPixelCNN(shape=(1, 28, 28), levels=256, classes=10, width=64, blocks=7)
        >>> x = model.sample(4, c=3, seed=0)  # (4, 1, 28, 28)
        >>> nats = -model.log_prob(x, c=3)  # (4,)
    """

    paper = "Conditional Image Generation with PixelCNN Decoders (van den Oord et al., 2016)"

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int = 256,
        classes: int | None = None,
        vector: int | None = None,
        image: tuple[int, int, int] | None = None,
        orders: int = 1,
        width: int = 384,
        blocks: int = 20,
        kernel_size: int = 5,
        inputs: Inputs = "scaled",
        spatial: bool = False,
    ) -> None:
        super().__init__(**bound_arguments(locals()))
        if spatial and classes is None and vector is None:
            raise UserError(
                "spatial needs a class or a vector, and this model is conditioned on neither: "
                "leave spatial out."
            )
        if kernel_size % 2 == 0 or kernel_size < 3:
            raise UserError(f"kernel_size is odd and at least 3, not {kernel_size}.")
        sizes = [7] + [kernel_size] * (blocks - 1)
        biases = [2 * width] * (2 * blocks - 1)
        self.condition = ContextBias(self.context_spec, biases, self.shape[1:], spatial=spatial)
        self.vertical = OncePerRow(
            VerticalStack(self.in_channels, width, sizes),
            self.in_channels,
            [2 * width] * blocks,
            groups=self.groups,
        )
        self.horizontal = nn.ModuleList(
            HorizontalLayer(
                "B" if i else "A", width if i else self.in_channels, width, k, self.groups
            )
            for i, k in enumerate(sizes)
        )
        self.head = Head(width, width, self.out_channels, self.groups)

    def network(self, x: Tensor, biases: list[Tensor | None], cache: Cache | None = None) -> Tensor:
        """Computes the parameters of the distributions, see `CausalNetwork.network`."""
        from_vertical = self.vertical(x, biases, cache)
        h = x
        for layer, rows in zip(self.horizontal, from_vertical, strict=True):
            h = checkpoint(layer, h, rows, cache)
        parameters: Tensor = self.head(h, cache)
        return parameters
