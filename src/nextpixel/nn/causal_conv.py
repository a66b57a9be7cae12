"""Causal convolutions, with a cache of a few rows of their input.

The kernel is split into the rows above and the current row. In a step, the contribution of the
finished rows to a whole row of outputs is computed once, when that row begins. Then each pixel
needs only the taps on the current row, one small matrix product.

With several channels the feature maps are in groups, one for each channel: a step computes one
group, from the groups up to its own (see `nn.masks.channel_mask`).

Line buffers are channels-last, `(B, rows, W, C)`, so that the inputs of the taps on the current row
are contiguous for each image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.nn.cache import Cache, CausalLayer, Site
from nextpixel.nn.masks import MaskType, channel_mask, channel_slice
from nextpixel.nn.native_conv import Kind, Taps, convolve, fits
from nextpixel.nn.pointwise import added, of_group

__all__ = ["CausalConv2d", "MaskedConv2d", "OncePerRow", "RowConv2d"]


class _Group(NamedTuple):
    """Views of the cache of a causal convolution for one channel group, by column.

    Attributes:
        pixels: The pixels of the current row, including the border, `(B, channels)` each.
        seen: The inputs of the taps on the current row, contiguous for each image.
        sums: The contribution of the rows above and the context to the outputs.
        taps: The weights of the taps on the current row.
    """

    pixels: Sequence[Tensor]
    seen: Sequence[Tensor]
    sums: Sequence[Tensor]
    taps: Tensor


class CausalConv2d(CausalLayer):
    """Creates a convolution that sees only what comes before in raster order.

    The masked taps are not stored: there is one weight for the rows above the centre and one for
    the current row up to the centre. With a mask of type A and one group the centre is not stored
    either. In a step a layer of type A gets the newest values, from BEFORE the site.

    Shape:
        `(B, in_channels, H, W)` -> `(B, out_channels, H, W)`, `(H, W)` divided by the stride and
        rounded up; in a step `(B, in_channels)` -> `(B, out_channels)`, with several groups the
        channels of one group.

    Args:
        mask_type: "A" hides the centre, "B" shows it; with several groups, "A" shows the earlier
            groups at the centre, and "B" also the group itself.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        reach: The numbers of visible rows above, columns to the left, and columns to the right (in
            the rows above).
        groups: Number of channel groups.
        parts: Number of equal parts of the output that are each divided into groups.
        stride: Distance between outputs, in rows and in columns.
        bias: Whether to add a learned bias.
    """

    row_mask: Tensor | None

    def __init__(
        self,
        mask_type: MaskType,
        in_channels: int,
        out_channels: int,
        reach: tuple[int, int, int],
        *,
        groups: int = 1,
        parts: int = 1,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.mask_type = mask_type
        self.rows_above, self.left, self.right = reach
        self.in_channels, self.out_channels = in_channels, out_channels
        self.groups, self.parts, self.stride = groups, parts, stride
        row_taps = self.left + (mask_type == "B" or groups > 1)
        above = (self.rows_above, self.left + 1 + self.right)
        self.weight_row = nn.Parameter(torch.empty(out_channels, in_channels, 1, row_taps))
        self.weight_above = (
            nn.Parameter(torch.empty(out_channels, in_channels, *above))
            if self.rows_above
            else None
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        columns = range(-self.left, self.right + 1)
        self.taps: Taps = (
            *((row, col) for row in range(-self.rows_above, 0) for col in columns),
            *((0, col) for col in columns[:row_taps]),
        )
        mask = None
        if groups > 1:
            mask = torch.ones_like(self.weight_row, dtype=torch.bool)
            mask[..., 0, -1] = channel_mask(mask_type, in_channels, out_channels, groups, parts)
        self.register_buffer("row_mask", mask, persistent=False)
        bound = 1 / math.sqrt(in_channels * (row_taps + above[0] * above[1]))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        size = (self.rows_above + 1, self.left + 1 + self.right)
        stride = f", stride={self.stride}" if self.stride > 1 else ""
        return f"{self.mask_type}, {self.in_channels}, {self.out_channels}, sees={size}{stride}"

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        cache: Cache | None = None,
        *,
        relu: bool = False,
    ) -> Tensor:
        """Convolves a whole map, or with a cache computes one pixel.

        Args:
            x: The map, or the pixel at the site (type A: the newest values before the site).
            context: Added to the output: `(B, out_channels, H, W)` or `(B, out_channels, 1, 1)`;
                in a step `(B, out_channels, 1, W)` or `(B, out_channels, 1, 1)`, read only when a
                row begins.
            cache: The state of generation.
            relu: Whether to apply a ReLU to x first.
        """
        if cache is not None:
            return self._step(F.relu(x) if relu else x, context, cache)
        if self.stride == 1 and fits(x, self.weight_row, len(self.taps)):
            return convolve(x, self.tap_weights(), self.bias, Kind(self.taps, relu), context)
        x, row = F.relu(x) if relu else x, self._row_weight()
        weight = F.pad(row, (0, self.left + 1 + self.right - row.shape[-1]))
        if self.weight_above is not None:
            weight = torch.cat([self.weight_above, weight], 2)
        seen = F.pad(x, (self.left, self.right, self.rows_above, 0))
        return added(F.conv2d(seen, weight, self.bias, self.stride), context)

    def tap_weights(self) -> Tensor:
        """Returns the weights of the visible taps, `(out_channels, in_channels, taps)`."""
        row = self._row_weight()
        parts = (row,) if self.weight_above is None else (self.weight_above, row)
        # By taps and then inputs, as the parts are stored in training.
        return torch.cat([part.flatten(2).transpose(1, 2) for part in parts], 1).transpose(1, 2)

    def _row_weight(self) -> Tensor:
        return self.weight_row if self.row_mask is None else self.weight_row * self.row_mask

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the line buffer and, for each group, the sums from above and the taps."""
        new = self.weight_row.new_zeros
        columns = self.left + width + self.right
        tensors = [new(batch, self.rows_above + 1, columns, self.in_channels)]
        taps = self._row_weight().squeeze(2).permute(2, 1, 0).flatten(0, 1)
        for group in range(self.groups):
            # At the centre the later groups are hidden; they come last, so they can be cut off.
            hidden = self.in_channels - channel_slice(self.in_channels, group, self.groups).stop
            seen = taps[: len(taps) - hidden] if self.weight_row.shape[-1] > self.left else taps
            folded = of_group(seen, group, self.groups, self.parts).contiguous()
            tensors += [new(batch, -(-width // self.stride), folded.shape[1]), folded]
        return tensors

    def of_images(self, tensors: list[Tensor]) -> list[Tensor]:
        """Picks the line buffer and the sums."""
        return [tensors[0], *tensors[1::2]]

    def new_output(self, site: Site) -> bool:
        """Returns whether there is an output at a site: a strided layer may have none.

        Without one, `forward` stores its input, and what it returns is meaningless.
        """
        return site.row % self.stride == 0 and site.col % self.stride == 0

    def _step(self, x: Tensor, context: Tensor | None, cache: Cache) -> Tensor:
        groups = cache.views.get(self) or self._view(cache)
        site = cache.site
        if self.mask_type == "A":
            if any(site):  # nothing comes before the first site
                newest = groups[(site.channel - 1) % self.groups].pixels
                newest[self._newest(site, len(newest))].copy_(x)
            if site.begins_row:
                self._begin_row(cache, context)
        else:
            if site.begins_row:
                self._begin_row(cache, context)
            groups[site.channel].pixels[self.left + site.col].copy_(x)
        group = groups[site.channel]
        return torch.addmm(group.sums[site.col // self.stride], group.seen[site.col], group.taps)

    def _view(self, cache: Cache) -> list[_Group]:
        """Makes the views by group and by column once, since making views takes time."""
        lines, *folded = cache.layers[self]
        row, groups = lines[:, -1], []
        for group in range(self.groups):
            sums, taps = folded[2 * group : 2 * group + 2]
            pixels = row[..., channel_slice(self.in_channels, group, self.groups)]
            seen = row.flatten(1).unfold(1, len(taps), self.in_channels)
            groups.append(_Group(pixels.unbind(1), seen.unbind(1), sums.unbind(1), taps))
        cache.views[self] = groups
        return groups

    def _newest(self, site: Site, columns: int) -> int:
        """Finds the column of the newest values before a site; it may be in the row above."""
        if site.channel:
            return self.left + site.col
        width = columns - self.left - self.right
        return self.left + (site.col or width) - 1

    def _begin_row(self, cache: Cache, context: Tensor | None) -> None:
        """Moves the line buffer down a row and computes the contribution of the rows above."""
        lines, *folded = cache.layers[self]
        total: Tensor | None = self.bias
        if self.weight_above is not None and cache.site.row > 0:
            lines[:, :-1] = lines[:, 1:].clone()
            above = lines[:, :-1].permute(0, 3, 1, 2)
            out = F.conv2d(above, self.weight_above, self.bias, self.stride)
            total = out.squeeze(2).transpose(1, 2)
        if context is not None:
            context = context.squeeze(2).transpose(1, 2)
            total = context if total is None else total + context
        if total is not None:
            for group, sums in enumerate(folded[::2]):
                sums.copy_(of_group(total, group, self.groups, self.parts))


class MaskedConv2d(CausalConv2d):
    """Creates a masked k x k convolution: the taps after the centre are hidden.

    Args:
        mask_type: "A" or "B", see `CausalConv2d`.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width, odd, or one number for both.
        groups: Number of channel groups.
        parts: Number of equal parts of the output that are each divided into groups.
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
        groups: int = 1,
        parts: int = 1,
        bias: bool = True,
    ) -> None:
        height, width = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
        if height % 2 == 0 or width % 2 == 0 or (width == 1 and mask_type == "A"):
            raise ValueError(
                f"kernel_size must be odd, and leave a visible tap, not {(height, width)}"
            )
        reach = (height // 2, width // 2, width // 2)
        super().__init__(
            mask_type, in_channels, out_channels, reach, groups=groups, parts=parts, bias=bias
        )

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        size = (2 * self.rows_above + 1, 2 * self.left + 1)
        return f"{self.mask_type}, {self.in_channels}, {self.out_channels}, kernel_size={size}"


class RowConv2d(CausalLayer):
    """Creates an unmasked convolution over the rows above and the current one, both sides.

    It belongs in a vertical stack, whose input is moved down a row: there the current row is
    already finished. A step computes a whole row.

    Shape:
        `(B, in_channels, H, W)` -> `(B, out_channels, H, W)`; in a step the height is 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width; the width is odd.
        stride: Distance between outputs, in rows and in columns.

    References:
        van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016, section 2.2
        (https://arxiv.org/abs/1606.05328).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        stride: int = 1,
    ) -> None:
        super().__init__()
        if kernel_size[1] % 2 == 0:
            raise ValueError(f"the kernel's width must be odd, not {kernel_size[1]}")
        self.rows_above, self.reach, self.stride = kernel_size[0] - 1, kernel_size[1] // 2, stride
        rows, columns = range(-self.rows_above, 1), range(-self.reach, self.reach + 1)
        self.taps: Taps = tuple((row, col) for row in rows for col in columns)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1 / math.sqrt(self.weight[0].numel())
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """Describes the layer in one line."""
        out_channels, in_channels, *size = self.weight.shape
        stride = f", stride={self.stride}" if self.stride > 1 else ""
        return f"{in_channels}, {out_channels}, kernel_size={tuple(size)}{stride}"

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Convolves a whole map, or with a cache computes one row.

        Args:
            x: The map, or a row of it.
            context: Added to the output.
            cache: The state of generation.
        """
        if cache is None:
            if self.stride == 1 and fits(x, self.weight, len(self.taps)):
                return convolve(x, self.tap_weights(), self.bias, Kind(self.taps), context)
            seen = F.pad(x, (0, 0, self.rows_above, 0))  # F.conv2d itself pads both sides alike
        else:
            (lines,) = cache.layers[self]
            seen = torch.cat([lines, x], 2)
            lines.copy_(seen[:, :, 1:])
        out = F.conv2d(seen, self.weight, self.bias, self.stride, (0, self.reach))
        return added(out, context, cache)

    def tap_weights(self) -> Tensor:
        """Returns the weights of the taps, `(out_channels, in_channels, taps)`."""
        return self.weight.flatten(2)

    def new_output(self, site: Site) -> bool:
        """Returns whether there is an output for a site's row, see `CausalConv2d.new_output`."""
        return site.row % self.stride == 0

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the line buffer of the rows above."""
        shape = (batch, self.weight.shape[1], self.rows_above, width)
        return [self.weight.new_zeros(shape)]


class OncePerRow(CausalLayer):
    """Creates the vertical stack of a two-stack network, which sees all rows above.

    On whole maps it moves the input down a row and calls the inner module. In a step it collects
    the newest pixels; when a row begins it calls the inner module on the finished row, and stores
    the outputs for all pixels of the new row.

    Args:
        inner: Called as `inner(x, context, cache)`; returns a list of maps. In a step they are
            rows, or None where a strided one has no new row.
        in_channels: Channels of the input.
        out_channels: Channels of each of the maps that the inner module returns.
        scales: The factor by which each of the maps is smaller than the input; 1 by default.
        groups: Number of channel groups of the input.
    """

    def __init__(
        self,
        inner: nn.Module,
        in_channels: int,
        out_channels: list[int],
        *,
        scales: list[int] | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.scales = scales or [1] * len(out_channels)

    def forward(
        self, x: Tensor, context: list[Tensor | None], cache: Cache | None = None
    ) -> list[Tensor]:
        """Computes the inner module's maps, or with a cache its rows for the site's row.

        Args:
            x: The map, or the newest values before the site.
            context: Passed on to the inner module.
            cache: The state of generation.
        """
        if cache is None:
            outputs: list[Tensor] = self.inner(F.pad(x, (0, 0, 1, -1)), context)
            return outputs
        finished, *rows = cache.layers[self]
        site = cache.site
        if any(site):
            group = channel_slice(self.in_channels, (site.channel - 1) % self.groups, self.groups)
            # At column 0 this is the last pixel of the row above.
            finished[:, group, 0, site.col - (site.channel == 0)] = x
        if site.begins_row:
            for row, new_row in zip(rows, self.inner(finished, context, cache), strict=True):
                if new_row is not None:
                    row.copy_(new_row)
        return rows

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the row of collected pixels, and the inner module's output rows."""
        new = next(self.parameters()).new_zeros
        outputs = zip(self.out_channels, self.scales, strict=True)
        rows = [new(batch, channels, 1, -(-width // scale)) for channels, scale in outputs]
        return [new(batch, self.in_channels, 1, width), *rows]
