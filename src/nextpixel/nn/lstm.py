"""Two-dimensional LSTM layers: along the rows, and along the diagonals in both directions.

References:
    van den Oord, Kalchbrenner, Kavukcuoglu: Pixel Recurrent Neural Networks, 2016, sections 3.1
    and 3.2 (https://arxiv.org/abs/1601.06759).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from nextpixel.nn import native_lstm
from nextpixel.nn.cache import Cache, CausalLayer
from nextpixel.nn.causal_conv import MaskedConv2d
from nextpixel.nn.masks import channel_slice
from nextpixel.nn.native_lstm import Recurrence
from nextpixel.nn.pointwise import Pointwise, of_group

__all__ = ["DiagonalLayer", "RowLayer"]


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Updates hidden and cell state (equation 3): `gates` holds o, f, i and g along dimension 1."""
    width = c.shape[1]
    ofi, g = torch.split_with_sizes(gates, [3 * width, width], 1)
    o, f, i = torch.sigmoid(ofi).chunk(3, 1)
    c = f * c + i * torch.tanh(g)
    return o * torch.tanh(c), c


class RowLayer(CausalLayer):
    """Creates a Row LSTM layer: the state runs down the rows, a whole row at a time.

    The input-to-state convolution goes along the row with mask B; the state-to-state convolution
    goes over the finished row above, needs no mask, and is computed once per row.

    Shape:
        `(B, in_channels, H, W)` -> `(B, width, H, W)`.

    Args:
        in_channels: Channels of the input.
        width: Channels of the state.
        groups: Number of channel groups.
        kernel_size: Columns of both kernels, odd.
    """

    gates = 4  # of all directions; the context has a bias for each

    def __init__(
        self, in_channels: int, width: int, *, groups: int = 1, kernel_size: int = 3
    ) -> None:
        super().__init__()
        self.width, self.groups, self.reach = width, groups, kernel_size // 2
        above = tuple((-1, column) for column in range(-self.reach, self.reach + 1))
        self.recurrence = Recurrence(above, carry=self.reach)
        self.input_to_state = MaskedConv2d(
            "B", in_channels, 4 * width, (1, kernel_size), groups=groups, parts=4
        )
        self.state_to_state = nn.Parameter(torch.empty(4 * width, width, 1, kernel_size))
        bound = 1 / math.sqrt(width * kernel_size)
        nn.init.uniform_(self.state_to_state, -bound, bound)

    def forward(self, x: Tensor, bias: Tensor | None, cache: Cache | None = None) -> Tensor:
        """Computes the hidden states of whole maps, or of one site.

        Args:
            x: The map, or its values at the site.
            bias: Added to the gates, `(B, 4 width, 1, 1)` or `(B, 4 width, H, W)`; in a step that
                of the row, read only when the row begins.
            cache: The state of generation.
        """
        if cache is not None:
            return self._step(x, bias, cache)
        return self._sweep(self.input_to_state(x, bias))

    def _sweep(self, gates: Tensor) -> Tensor:
        """Computes the states from the input's share of the gates, `(B, 4 width, H, W)`."""
        if native_lstm.fits(gates, self.state_to_state, self.recurrence):
            weight = self.state_to_state.squeeze(2).permute(2, 1, 0)
            return native_lstm.sweep(gates, weight, self.recurrence)
        return self._row_by_row(gates)

    def _row_by_row(self, gates: Tensor) -> Tensor:
        # The cell state adds up over the rows: it stays in full precision under autocast.
        h = c = self.state_to_state.new_zeros(len(gates), self.width, 1, gates.shape[3])
        rows = []
        for row in gates.chunk(gates.shape[2], 2):
            h, c = lstm_cell(row + self._from_above(h), c)
            rows.append(h)
        return torch.cat(rows, 2)

    def _from_above(self, h: Tensor) -> Tensor:
        return F.conv2d(h, self.state_to_state, padding=(0, self.reach))

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes a row of hidden and of cell states: of this row up to the site, then above."""
        return [self.state_to_state.new_zeros(batch, width, self.width) for _ in range(2)]

    def _step(self, x: Tensor, bias: Tensor | None, cache: Cache) -> Tensor:
        h_row, c_row = cache.layers[self]
        from_above = None
        if cache.site.begins_row:
            from_above = self._from_above(h_row.mT[:, :, None])
            from_above = from_above if bias is None else from_above + bias
        gates = self.input_to_state(x, from_above, cache)
        group = channel_slice(self.width, cache.site.channel, self.groups)
        h_site, c_site = (row[:, cache.site.col, group] for row in (h_row, c_row))
        h, c = lstm_cell(gates, c_site)
        h_site.copy_(h)
        c_site.copy_(c)
        return h


# A state depends on those beside it, whose cell state goes on, and above it.
FROM_LEFT = Recurrence(((0, -1), (-1, 0)), carry=0)
FROM_RIGHT = FROM_LEFT._replace(mirrored=True)


def skew(x: Tensor) -> Tensor:
    """Moves each row one column further to the right than the row above: diagonals become columns.

    Shape:
        `(..., H, W, C)` -> `(..., H, W + H - 1, C)`, filled up with zeros.
    """
    height, width = x.shape[-3:-1]
    # Reading the padded rows with a length that is one shorter shifts each by one more column.
    flat = F.pad(x, (0, 0, 0, height)).flatten(-3, -2)[..., :-height, :]
    return torch.unflatten(flat, -2, (height, width + height - 1))


def unskew(x: Tensor) -> Tensor:
    """Undoes `skew`: `(..., H, W + H - 1, C)` -> `(..., H, W, C)`."""
    height, columns = x.shape[-3:-1]
    flat = F.pad(x.flatten(-3, -2), (0, 0, 0, height))
    rows = torch.unflatten(flat, -2, (height, columns + 1))
    return rows[..., : columns + 1 - height, :]


class Sweep(torch.autograd.Function):
    """An LSTM along skewed columns, in both directions at once, each with its own weights.

    The hidden state of a site depends on those of its horizontal neighbour and of the site above,
    both in the previous column. Only the products with the state are computed column by column; the
    gradient of the weight and the rest of the backward pass are computed for all columns together.
    Autograd would take three times as long.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, columns: Tensor, weight: Tensor) -> Tensor:
        """Computes the hidden states, `(steps, 2, B, H, width)`.

        `columns` are the contributions of the input to the gates o, f, i and g,
        `(steps, 2, B, H, 4 width)`, and `weight` is `(2, 2 width, 4 width)`: from the horizontal
        neighbour's state, then from the state above.
        """
        steps, *sites, width = len(columns), *columns.shape[1:4], weight.shape[2] // 4
        gates = columns.new_empty(columns.shape)
        before = columns.new_zeros(steps + 1, *sites, 2 * width)  # hidden states: neighbour, above
        cells = columns.new_zeros(steps + 1, *sites, width)
        for t in range(steps):
            product = torch.bmm(before[t].flatten(1, 2), weight)
            gate = torch.add(columns[t], product.view(columns[t].shape), out=gates[t])
            gate[..., : 3 * width].sigmoid_()
            gate[..., 3 * width :].tanh_()
            o, f, i, g = gate.chunk(4, 3)
            c = torch.mul(f, cells[t], out=cells[t + 1]).addcmul_(i, g)
            h = torch.mul(o, c.tanh(), out=before[t + 1, ..., :width])
            before[t + 1, :, :, 1:, width:] = h[:, :, :-1]
        ctx.save_for_backward(weight, gates, before, cells)
        return before[1:, ..., :width].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the gradients of columns and weight."""
        weight, gates, before, cells = ctx.saved_tensors
        width = cells.shape[-1]
        o, f, i, g = gates.chunk(4, 4)
        tanh_c = cells[1:].tanh()
        from_h = tanh_c * o * (1 - o)  # the derivative of o's input; then those of f, i and g
        from_c = torch.stack([cells[:-1] * f * (1 - f), g * i * (1 - i), i * (1 - g * g)], 4)
        h_to_c = o * (1 - tanh_c * tanh_c)
        columns = gates.new_empty(*cells[1:].shape[:4], 4, width)
        d_h, d_c = torch.zeros_like(cells[0]), torch.zeros_like(cells[0])
        for t in reversed(range(len(gates))):
            d_h += gradient[t]
            d_c.addcmul_(d_h, h_to_c[t])
            torch.mul(d_h, from_h[t], out=columns[t, ..., 0, :])
            torch.mul(d_c[..., None, :], from_c[t], out=columns[t, ..., 1:, :])
            d_c *= f[t]
            flat = columns[t].view(2, -1, 4 * width)
            d_h, above = torch.bmm(flat, weight.mT).view(before[t].shape).chunk(2, 3)
            d_h[:, :, :-1] += above[:, :, 1:]
        seen = before[:-1].transpose(0, 1).flatten(1, 3)
        columns = columns.flatten(4)
        return columns, seen.mT @ columns.transpose(0, 1).flatten(1, 3)


class DiagonalLayer(CausalLayer):
    """Creates a Diagonal BiLSTM layer: two LSTMs that sweep the image from its upper corners.

    Each state depends on its horizontal neighbour and the state above: in skewed maps, a column
    depends on the previous column. The map of the LSTM from the right is moved down one row before
    the two are added, so that no future site is seen. In generation it sweeps each row once, as
    soon as the row is finished.

    Shape:
        `(B, in_channels, H, W)` -> `(B, width, H, W)`.

    Args:
        in_channels: Channels of the input.
        width: Channels of the state.
        groups: Number of channel groups.
    """

    gates = 8  # of all directions; the context has a bias for each

    def __init__(self, in_channels: int, width: int, *, groups: int = 1) -> None:
        super().__init__()
        self.in_channels, self.width, self.groups = in_channels, width, groups
        self.input_to_state = nn.ModuleList(
            Pointwise(in_channels, 4 * width, groups=groups, parts=4) for _ in range(2)
        )
        # For each direction: from the horizontal neighbour's state, then from the state above.
        self.state_to_state = nn.Parameter(torch.empty(2, 2 * width, 4 * width))
        bound = 1 / math.sqrt(2 * width)
        nn.init.uniform_(self.state_to_state, -bound, bound)

    def forward(self, x: Tensor, bias: Tensor | None, cache: Cache | None = None) -> Tensor:
        """Computes the sum of both hidden states, of whole maps or of one site.

        Args:
            x: The map, or its values at the site.
            bias: Added to the gates of both directions, `(B, 8 width, 1, 1)` or
                `(B, 8 width, H, W)`; in a step that of the row, read only when the row begins.
            cache: The state of generation.
        """
        if cache is not None:
            return self._step(x, bias, cache)
        biases = (None, None) if bias is None else bias.chunk(2, 1)
        gates = [layer(x, add) for layer, add in zip(self.input_to_state, biases, strict=True)]
        left, right = self._sweep(*gates)
        return left + F.pad(right, (0, 0, 1, -1))

    def _sweep(self, from_left: Tensor, from_right: Tensor) -> tuple[Tensor, Tensor]:
        """Sweeps both directions, `(B, 4 width, H, W)` -> `(B, width, H, W)` of each."""
        if not native_lstm.fits(from_left, self.state_to_state, FROM_LEFT):
            return self._by_diagonals(from_left, from_right)
        weights = torch.unflatten(self.state_to_state, 1, (len(FROM_LEFT.offsets), -1))
        left = native_lstm.sweep(from_left, weights[0], FROM_LEFT)
        return left, native_lstm.sweep(from_right, weights[1], FROM_RIGHT)

    def _by_diagonals(self, from_left: Tensor, from_right: Tensor) -> tuple[Tensor, Tensor]:
        """Sweeps both directions at once, in skewed maps."""
        gates = torch.stack([from_left, from_right.flip(3)]).permute(0, 1, 3, 4, 2)
        # The states take W + H - 1 steps, so they are in full precision, for a tenth of the speed.
        with torch.autocast(gates.device.type, enabled=False):
            columns = skew(gates.to(self.state_to_state)).permute(3, 0, 1, 2, 4)
            states: Tensor = Sweep.apply(columns, self.state_to_state)  # type: ignore[no-untyped-call]
            left, right = unskew(states.permute(1, 2, 3, 0, 4)).permute(0, 1, 4, 2, 3).unbind()
        return left, right.flip(3)

    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes rows of the input and the states, and the sums and the weights of each group."""
        new = self.state_to_state.new_zeros
        row = new(batch, width, self.in_channels)
        h_left, h_right = (new(batch, width, self.width) for _ in range(2))
        tensors = [row, new(batch, width, 4 * self.width), h_left, h_right, new(batch, self.width)]
        for group in range(self.groups):
            weight = of_group(self.state_to_state[0, : self.width], group, self.groups, 4)
            tensors += [new(batch, width, weight.shape[1]), weight.contiguous()]
        right = cast(Pointwise, self.input_to_state[1])
        masked = right.weight if right.mask is None else right.weight * right.mask
        return [*tensors, masked.T, right.bias]

    def of_images(self, tensors: list[Tensor]) -> list[Tensor]:
        """Picks the rows and the sums."""
        return [*tensors[:5], *tensors[5:-2:2]]

    def _step(self, x: Tensor, bias: Tensor | None, cache: Cache) -> Tensor:
        row, row_bias, h_left, h_right, c_left, *folded, of_right, bias_right = cache.layers[self]
        site = cache.site
        if site.begins_row:
            if site.row > 0:  # with the bias of the finished row
                above = None if bias is None else row_bias
                gates = bias_right + row @ of_right
                h_right.copy_(self._sweep_from_right(gates, h_right, above))
            from_left = None
            if bias is not None:
                from_left, from_right = bias.squeeze(2).mT.chunk(2, 2)
                row_bias.copy_(from_right)
            self._begin_row(h_left, c_left, folded[::2], from_left)
        row[:, site.col, channel_slice(self.in_channels, site.channel, self.groups)] = x
        sums, weight = folded[2 * site.channel : 2 * site.channel + 2]
        gates = self.input_to_state[0](x, sums[:, site.col], cache)
        if site.col > 0:
            gates = torch.addmm(gates, h_left[:, site.col - 1], weight)
        group = channel_slice(self.width, site.channel, self.groups)
        c_site = c_left[:, group]
        h, c = lstm_cell(gates, c_site)
        h_left[:, site.col, group] = h
        c_site.copy_(c)
        return h + h_right[:, site.col, group]

    def _begin_row(
        self, h_left: Tensor, c_left: Tensor, sums: list[Tensor], bias: Tensor | None
    ) -> None:
        """Computes the contribution of the row above and the context to the gates of a row."""
        c_left.zero_()
        total = h_left @ self.state_to_state[0, self.width :]
        if bias is not None:
            total = total + bias
        for group, of_sites in enumerate(sums):
            of_sites.copy_(of_group(total, group, self.groups, 4))

    def _sweep_from_right(self, gates: Tensor, above: Tensor, bias: Tensor | None) -> Tensor:
        """Sweeps a finished row from the right, from the states above it, `(B, W, width)`."""
        from_neighbour, from_above = self.state_to_state[1].chunk(2)
        gates = gates + above @ from_above
        if bias is not None:
            gates = gates + bias
        h = c = torch.zeros_like(above[:, 0])
        states = []
        for gate in reversed(gates.unbind(1)):
            h, c = lstm_cell(torch.addmm(gate, h, from_neighbour), c)
            states.append(h)
        return torch.stack(states[::-1], 1)
