"""PixelRNN: Row LSTM and Diagonal BiLSTM.

References:
    van den Oord, Kalchbrenner, Kavukcuoglu: Pixel Recurrent Neural Networks, 2016
    (https://arxiv.org/abs/1601.06759), sections 3.1 to 3.5, table 1.

Departure from the paper: optional conditioning, by a bias on the gates of every layer, as in the
Gated PixelCNN.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from nextpixel.models.base.autoregressive import CausalNetwork, Inputs
from nextpixel.nn import (
    Cache,
    DiagonalLayer,
    Head,
    MaskedConv2d,
    Pointwise,
    RowLayer,
    checkpoint,
)
from nextpixel.nn.context_bias import ContextBias
from nextpixel.saving import bound_arguments

__all__ = ["DiagonalBiLSTM", "RowLSTM"]


class ResidualBlock(nn.Module):
    """Creates an LSTM layer with a residual connection and a skip connection to the head.

    Args:
        layer: The LSTM layer, from `2 width` to `width` channels.
        width: Channels of the state; the block's input and output have twice as many.
        groups: Number of channel groups.

    References:
        van den Oord et al., 2016, section 3.3 and figure 5 (right).
    """

    def __init__(self, layer: RowLayer | DiagonalLayer, width: int, groups: int) -> None:
        super().__init__()
        self.lstm = layer
        self.expand = Pointwise(width, 4 * width, groups=groups, parts=2)

    def forward(self, x: Tensor, bias: Tensor | None, cache: Cache | None) -> tuple[Tensor, Tensor]:
        """Computes the output and the skip connection, `(B, 2 width, ...)` each."""
        residual, skip = self.expand(self.lstm(x, bias, cache), cache=cache).chunk(2, 1)
        return x + residual, skip


class PixelRNN(CausalNetwork):
    """The network of the Row LSTM and the Diagonal BiLSTM, except for the recurrent layer."""

    paper = "Pixel Recurrent Neural Networks (van den Oord et al., 2016)"

    @property
    @abstractmethod
    def layer(self) -> type[RowLayer] | type[DiagonalLayer]:
        """The class of the recurrent layer."""

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int = 256,
        classes: int | None = None,
        vector: int | None = None,
        image: tuple[int, int, int] | None = None,
        orders: int = 1,
        width: int = 128,
        blocks: int = 12,
        head: int | None = None,
        inputs: Inputs = "scaled",
    ) -> None:
        super().__init__(**bound_arguments(locals()))
        gates = [self.layer.gates * width] * blocks
        self.condition = ContextBias(self.context_spec, gates, self.shape[1:])
        self.first = MaskedConv2d("A", self.in_channels, 2 * width, 7, groups=self.groups)
        layers = (self.layer(2 * width, width, groups=self.groups) for _ in range(blocks))
        self.blocks = nn.ModuleList(ResidualBlock(layer, width, self.groups) for layer in layers)
        self.head = Head(
            2 * width, 8 * width if head is None else head, self.out_channels, self.groups
        )

    def network(self, x: Tensor, biases: list[Tensor | None], cache: Cache | None = None) -> Tensor:
        """Computes the parameters of the distributions, see `CausalNetwork.network`."""
        h = self.first(x, cache=cache)
        skips = []
        for block, bias in zip(self.blocks, biases, strict=True):
            h, skip = checkpoint(block, h, bias, cache)
            skips.append(skip)
        parameters: Tensor = self.head(sum(skips, h), cache)
        return parameters


class RowLSTM(PixelRNN):
    """Creates a Row LSTM. The defaults are the paper's for CIFAR-10: 12 layers of h = 128.

    The state runs down the rows, one row at a time. Its receptive field is a triangle above the
    pixel that widens by one column per row on both sides: it has a blind spot to the right, and one
    to the left beyond the kernels along the row.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`. 2 gives a Bernoulli, more a categorical
            distribution.
        classes: Number of classes to condition on, or None.
        vector: Length of a vector to condition on, or None.
        image: `(Cc, Hc, Wc)` of an image to condition on, or None.
        orders: Number of orders of the pixels to learn: 1, 4 or 8, see `nextpixel.orders`.
        width: Channels h of a state; there are 2h between the layers.
        blocks: Number of LSTM layers.
        head: Channels between the two 1x1 at the end; 8h by default. The paper uses 1024 with
            h = 128, and 32 for MNIST.
        inputs: "scaled" or "embedded", see `CausalNetwork`.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = RowLSTM(shape=(1, 28, 28), levels=2, width=16, blocks=4)
        >>> x = model.sample(4, seed=0)  # (4, 1, 28, 28)
    """

    layer = RowLayer


class DiagonalBiLSTM(PixelRNN):
    """Creates a Diagonal BiLSTM. The defaults are the paper's for CIFAR-10: 12 layers of h = 128.

    Two states sweep the image along its diagonals: together they see everything before the pixel.
    The paper uses 7 layers of h = 16 and a head of 32 for MNIST.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`. 2 gives a Bernoulli, more a categorical
            distribution.
        classes: Number of classes to condition on, or None.
        vector: Length of a vector to condition on, or None.
        image: `(Cc, Hc, Wc)` of an image to condition on, or None.
        orders: Number of orders of the pixels to learn: 1, 4 or 8, see `nextpixel.orders`.
        width: Channels h of a state; there are 2h between the layers.
        blocks: Number of LSTM layers.
        head: Channels between the two 1x1 at the end; 8h by default. The paper uses 1024 with
            h = 128, and 32 for MNIST.
        inputs: "scaled" or "embedded", see `CausalNetwork`.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = DiagonalBiLSTM(shape=(1, 28, 28), levels=2, width=16, blocks=7, head=32)
        >>> x = model.sample(4, seed=0)  # (4, 1, 28, 28)
    """

    layer = DiagonalLayer
