"""Two models of your own, as docs/own-model.md uses them.

`MyNet` only has `forward`, a function from images to distributions, and is sampled by full passes.
`MyFastNet` is made of the layers of `nextpixel.nn`, so that sampling a pixel is one cached step.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel import AutoregressiveModel, Categorical
from nextpixel.models.base.autoregressive import CausalNetwork, Inputs
from nextpixel.nn import Cache, Head, MaskedConv2d
from nextpixel.nn.context_bias import ContextBias


class MyNet(AutoregressiveModel):
    """Predicts a pixel from the pixels before it in a window around it.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes to condition on, or None.
        window: Side of the window, odd.
        width: Hidden units.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int,
        classes: int | None = None,
        window: int = 9,
        width: int = 64,
    ) -> None:
        super().__init__(shape=shape, levels=levels, classes=classes, window=window, width=width)
        self.window, self.before = window, window * window // 2  # the centre's index in the window
        self.hidden = nn.Conv2d(shape[0] * self.before, width, 1)
        self.of_class = nn.Linear(classes, width, bias=False) if classes else None
        self.logits = nn.Conv2d(width, shape[0] * levels, 1)

    def forward(self, x: Tensor, c: object = None) -> Categorical:
        """Computes the distributions of all pixels, `(B, C, H, W)`, each given those before it."""
        batch, channels, height, width = x.shape
        scaled = x.to(self.dtype) * (2 / (self.levels - 1)) - 1
        windows = F.unfold(scaled, self.window, padding=self.window // 2)
        windows = windows.view(batch, channels, -1, height, width)
        visible = windows[:, :, : self.before]  # row by row up to the centre, which is hidden
        h = self.hidden(visible.flatten(1, 2))
        context = self.context(c, batch)  # None for an unconditional model
        if self.of_class is not None and context is not None and context.classes is not None:
            h = h + self.of_class(context.classes.to(h))[:, :, None, None]
        logits = self.logits(F.relu(h)).unflatten(1, (channels, self.levels))
        return Categorical(logits.movedim(2, -1))  # (B, C, H, W, levels)


class MyFastNet(CausalNetwork):
    """A few masked convolutions with residual connections; the arguments are `PixelCNN`'s."""

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int,
        classes: int | None = None,
        width: int = 32,
        blocks: int = 3,
        inputs: Inputs = "scaled",
    ) -> None:
        super().__init__(
            shape=shape, levels=levels, classes=classes, width=width, blocks=blocks, inputs=inputs
        )
        self.condition = ContextBias(self.context_spec, [width] * blocks, self.shape[1:])
        self.first = MaskedConv2d("A", self.in_channels, width, 7, groups=self.groups)
        self.convs = nn.ModuleList(
            MaskedConv2d("B", width, width, 3, groups=self.groups) for _ in range(blocks)
        )
        self.head = Head(width, width, self.out_channels, self.groups)

    def network(self, x: Tensor, biases: list[Tensor | None], cache: Cache | None = None) -> Tensor:
        """Computes the parameters of the distributions; every causal layer takes the cache."""
        h = self.first(x, cache=cache)
        for conv, bias in zip(self.convs, biases, strict=True):
            h = h + conv(F.relu(h), bias, cache)
        parameters: Tensor = self.head(h, cache)
        return parameters
