"""Causal convolutions that keep a few rows of their input while an image is generated.

The kernel is split into the rows above and the current row. In a step, what the finished rows
contribute to a whole row of outputs is computed once, when that row begins; what is left for each
pixel are the taps on the current row, one small matrix product.

Line buffers hold the channels last, `(B, rows, W, C)`, so that the taps of the current row are
one contiguous run of numbers for each image.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.masks import MaskType
from nextpixel.nn.cache import Cache, CausalLayer

__all__ = ["MaskedConv2d", "OncePerRow", "Pointwise", "RowConv2d"]


class Pointwise(nn.Module):
    """Creates a 1x1 convolution (mask B), the same for maps, rows and single pixels.

    Shape:
        `(B, in_channels, ...)` -> `(B, out_channels, ...)`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        autocast: Whether to compute in half precision where autocast says so; not for a network's
            last layer, whose output are the parameters of distributions.
    """

    def __init__(self, in_channels: int, out_channels: int, *, autocast: bool = True) -> None:
        super().__init__()
        self.autocast = autocast
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1 / math.sqrt(in_channels)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"

    def forward(self, x: Tensor) -> Tensor:
        """Mixes the channels at every site."""
        if not self.autocast and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x.to(self.weight.dtype))
        if x.ndim == 2:
            return F.linear(x, self.weight, self.bias)
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class MaskedConv2d(CausalLayer):
    """Creates a k x k convolution that sees only what comes before in raster order.

    The masked taps are not stored: there is one weight for the rows above the centre and one for
    the current row up to the centre. With a mask of type A the centre is not stored either, and in
    a step the layer is handed the newest known pixel, the one BEFORE the site.

    Shape:
        `(B, in_channels, H, W)` -> `(B, out_channels, H, W)`; in a step `(B, in_channels)` ->
        `(B, out_channels)`.

    Args:
        mask_type: "A" hides the centre, "B" shows it.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width, odd; one number stands for both.
        bias: Whether to add a learned bias.

    References:
        van den Oord, Kalchbrenner, Kavukcuoglu: Pixel Recurrent Neural Networks, 2016, section 3.4
        (https://arxiv.org/abs/1601.06759).
    """

    def __init__(
        self,
        mask_type: MaskType,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        height, width = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
        if height % 2 == 0 or width % 2 == 0 or width == 1:
            raise ValueError(f"kernel_size must be odd and wider than 1, not {(height, width)}")
        self.mask_type = mask_type
        self.rows_above, self.reach = height // 2, width // 2
        self.in_channels, self.out_channels = in_channels, out_channels
        row_taps = self.reach + (mask_type == "B")
        self.weight_row = nn.Parameter(torch.empty(out_channels, in_channels, 1, row_taps))
        self.weight_above = (
            nn.Parameter(torch.empty(out_channels, in_channels, self.rows_above, width))
            if self.rows_above
            else None
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        bound = 1 / math.sqrt(in_channels * (row_taps + self.rows_above * width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        size = (2 * self.rows_above + 1, 2 * self.reach + 1)
        return f"{self.mask_type}, {self.in_channels}, {self.out_channels}, kernel_size={size}"

    def forward(
        self, x: Tensor, context: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Convolves a whole map, or with a cache computes one pixel.

        Args:
            x: The map, or the pixel at the site (type A: the newest pixel before the site).
            context: Added to the output: `(B, out_channels, H, W)` or `(B, out_channels, 1, 1)`;
                in a step `(B, out_channels, 1, W)` or `(B, out_channels, 1, 1)`, read only when a
                row begins.
            cache: The state of generation.
        """
        if cache is not None:
            return self._step(x, context, cache)
        out = self._whole_map(x)
        return out if context is None else out + context

    def _whole_map(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.weight_above is None:
            # Padding is the same on both sides: the outputs beyond the image are cut off.
            out = F.conv2d(x, self.weight_row, self.bias, padding=(0, self.reach))
            return out[..., :width]
        row = F.pad(self.weight_row, (0, 2 * self.reach + 1 - self.weight_row.shape[-1]))
        weight = torch.cat([self.weight_above, row], 2)
        out = F.conv2d(x, weight, self.bias, padding=(self.rows_above, self.reach))
        return out[:, :, :height]

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the line buffer, the row's sums from above and the taps as one matrix."""
        new = self.weight_row.new_zeros
        lines = new(batch, self.rows_above + 1, width + 2 * self.reach, self.in_channels)
        sums = new(batch, width, self.out_channels)
        taps = self.weight_row.squeeze(2).permute(2, 1, 0).flatten(0, 1).contiguous()
        return [lines, sums, taps]

    def _step(self, x: Tensor, context: Tensor | None, cache: Cache) -> Tensor:
        lines, sums, taps = cache.layers[self]
        row, col = cache.site
        if self.mask_type == "A" and col == 0:
            if row > 0:
                lines[:, -1, -self.reach - 1] = x  # the last pixel of the row above
            self._begin_row(lines, sums, context)
        elif self.mask_type == "A":
            lines[:, -1, self.reach + col - 1] = x
        else:
            if col == 0:
                self._begin_row(lines, sums, context)
            lines[:, -1, self.reach + col] = x
        seen = lines[:, -1, col : col + self.weight_row.shape[-1]].flatten(1)
        return torch.addmm(sums[:, col], seen, taps)

    def _begin_row(self, lines: Tensor, sums: Tensor, context: Tensor | None) -> None:
        """Moves the line buffer down a row and sums up what the rows above contribute."""
        total = torch.zeros((), dtype=sums.dtype, device=sums.device)
        if self.weight_above is not None:
            lines[:, :-1] = lines[:, 1:].clone()
            above = lines[:, :-1].permute(0, 3, 1, 2)
            total = F.conv2d(above, self.weight_above).squeeze(2).transpose(1, 2)
        if self.bias is not None:
            total = total + self.bias
        if context is not None:
            total = total + context.squeeze(2).transpose(1, 2)
        sums.copy_(total.expand_as(sums))


class RowConv2d(CausalLayer):
    """Creates an unmasked convolution over the rows above and the current one, both sides.

    It belongs in a vertical stack, whose input was moved down a row: there "the current row" is
    already finished. In a step it computes a whole row.

    Shape:
        `(B, in_channels, H, W)` -> `(B, out_channels, H, W)`; in a step the height is 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width; the width is odd.

    References:
        van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016, section 2.2
        (https://arxiv.org/abs/1606.05328).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        if kernel_size[1] % 2 == 0:
            raise ValueError(f"the kernel's width must be odd, not {kernel_size[1]}")
        self.rows_above, self.reach = kernel_size[0] - 1, kernel_size[1] // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1 / math.sqrt(self.weight[0].numel())
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        out_channels, in_channels, *size = self.weight.shape
        return f"{in_channels}, {out_channels}, kernel_size={tuple(size)}"

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Convolves a whole map, or with a cache computes one row."""
        if cache is None:
            padding = (self.rows_above, self.reach)
            out = F.conv2d(x, self.weight, self.bias, padding=padding)
            return out[:, :, : x.shape[2]]
        (lines,) = cache.layers[self]
        seen = torch.cat([lines, x], 2)
        lines.copy_(seen[:, :, 1:])
        return F.conv2d(seen, self.weight, self.bias, padding=(0, self.reach))

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the line buffer of the rows above."""
        shape = (batch, self.weight.shape[1], self.rows_above, width)
        return [self.weight.new_zeros(shape)]


RowsModule = TypeVar("RowsModule", bound=nn.Module)


class OncePerRow(CausalLayer):
    """Creates the vertical half of a two-stack network: it sees whole rows, all of them above.

    On whole maps it moves the input down a row and calls the inner module. In a step it collects
    the newest pixels; when a row begins it hands the finished row to the inner module, and keeps
    its outputs for all pixels of the row that follows.

    Args:
        inner: Called as `inner(x, context, cache)`; returns a list of maps (of rows in a step).
        in_channels: Channels of the input.
        out_channels: Channels of each of the maps that the inner module returns.
    """

    def __init__(self, inner: nn.Module, in_channels: int, out_channels: list[int]) -> None:
        super().__init__()
        self.inner = inner
        self.in_channels, self.out_channels = in_channels, out_channels

    def forward(
        self, x: Tensor, context: list[Tensor | None], cache: Cache | None = None
    ) -> list[Tensor]:
        """Computes the inner module's maps, or with a cache its rows for the site's row.

        Args:
            x: The map, or the newest pixel before the site.
            context: Handed on to the inner module.
            cache: The state of generation.
        """
        if cache is None:
            outputs: list[Tensor] = self.inner(F.pad(x, (0, 0, 1, -1)), context)
            return outputs
        finished, *rows = cache.layers[self]
        row, col = cache.site
        if row > 0 or col > 0:
            finished[:, :, 0, col - 1] = x  # at column 0 this is the last pixel of the row above
        if col == 0:
            for row_kept, row_new in zip(rows, self.inner(finished, context, cache), strict=True):
                row_kept.copy_(row_new)
        return rows

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the row that is being collected, and the inner module's rows."""
        parameter = next(self.parameters())
        channels = [self.in_channels, *self.out_channels]
        return [parameter.new_zeros(batch, count, 1, width) for count in channels]
