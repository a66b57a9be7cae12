"""PixelCNN: masked convolutions with residual connections.

References:
    van den Oord, Kalchbrenner, Kavukcuoglu: Pixel Recurrent Neural Networks, 2016
    (https://arxiv.org/abs/1601.06759), sections 3.3 to 3.5, table 1.

Departure from the paper: optional conditioning, by a bias in every residual block, as in the Gated
PixelCNN.
"""

from __future__ import annotations

from torch import Tensor, nn

from nextpixel.models.base.autoregressive import CausalNetwork, Inputs
from nextpixel.nn import Cache, Head, MaskedConv2d, Pointwise, checkpoint
from nextpixel.nn.context_bias import ContextBias
from nextpixel.saving import bound_arguments

__all__ = ["PixelCNN"]


class ResidualBlock(nn.Module):
    """Creates a residual block: 1x1 to half the channels, 3x3 with mask B, 1x1 to all channels.

    Args:
        width: Channels inside; the input and the output of the block have twice as many.
        groups: Number of channel groups.

    References:
        van den Oord et al., 2016, figure 5 (left).
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.reduce = Pointwise(2 * width, width, groups=groups)
        self.conv = MaskedConv2d("B", width, width, 3, groups=groups)
        self.expand = Pointwise(width, 2 * width, groups=groups)

    def forward(self, x: Tensor, bias: Tensor | None, cache: Cache | None) -> Tensor:
        """Computes the block, `(B, 2 width, ...)` -> `(B, 2 width, ...)`."""
        h = self.reduce(x, cache=cache, relu=True)
        h = self.conv(h, bias, cache, relu=True)
        out: Tensor = self.expand(h, x, cache, relu=True)
        return out


class PixelCNN(CausalNetwork):
    """Creates a PixelCNN. The defaults are the paper's for CIFAR-10: 15 blocks of h = 128.

    Its stacked masked kernels have a blind spot to the upper right of the pixel, which the Gated
    PixelCNN removes.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`. 2 gives a Bernoulli, more a categorical
            distribution.
        classes: Number of classes to condition on, or None.
        vector: Length of a vector to condition on, or None.
        image: `(Cc, Hc, Wc)` of an image to condition on, or None.
        orders: Number of orders of the pixels to learn: 1, 4 or 8, see `nextpixel.orders`.
        width: Channels h inside a residual block; there are 2h between the blocks.
        blocks: Number of residual blocks.
        head: Channels between the two 1x1 at the end; 8h by default. The paper uses 1024 with
            h = 128, and 32 for MNIST.
        inputs: "scaled" or "embedded", see `CausalNetwork`.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> model = PixelCNN(shape=(1, 28, 28), levels=2, width=16, blocks=7)
        >>> x = model.sample(4, seed=0)  # (4, 1, 28, 28)
        >>> nats = -model.log_prob(x)  # (4,)
    """

    paper = "Pixel Recurrent Neural Networks (van den Oord et al., 2016)"

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
        blocks: int = 15,
        head: int | None = None,
        inputs: Inputs = "scaled",
    ) -> None:
        super().__init__(**bound_arguments(locals()))
        self.condition = ContextBias(self.context_spec, [width] * blocks, self.shape[1:])
        self.first = MaskedConv2d("A", self.in_channels, 2 * width, 7, groups=self.groups)
        self.blocks = nn.ModuleList(ResidualBlock(width, self.groups) for _ in range(blocks))
        self.head = Head(
            2 * width, 8 * width if head is None else head, self.out_channels, self.groups
        )

    def network(self, x: Tensor, biases: list[Tensor | None], cache: Cache | None = None) -> Tensor:
        """Computes the parameters of the distributions, see `CausalNetwork.network`."""
        h = self.first(x, cache=cache)
        for block, bias in zip(self.blocks, biases, strict=True):
            h = checkpoint(block, h, bias, cache)
        parameters: Tensor = self.head(h, cache)
        return parameters
