"""The LSTM layers against their formulas, one pixel at a time."""

from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextpixel.nn import DiagonalLayer, RowLayer
from nextpixel.nn.lstm import Sweep, skew, unskew

BATCH = 2

heights, widths = st.integers(1, 5), st.integers(1, 6)
# Channels of input and state: some cannot be divided into three equal groups.
channels = st.sampled_from([(3, 3), (4, 3), (3, 5), (5, 4)])


def colour_mask(in_channels: int, width: int, groups: int) -> Tensor:
    """The centre's mask B: each of the four gates is divided into groups like the state."""
    return torch.tensor(
        [
            [i * groups // in_channels <= o * groups // width for i in range(in_channels)]
            for _ in range(4)
            for o in range(width)
        ]
    )


def lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 3 of the paper, the gates in its order: o, f, i, g."""
    n = c.shape[1]
    o, f, i = (torch.sigmoid(gates[:, k * n : (k + 1) * n]) for k in range(3))
    g = torch.tanh(gates[:, 3 * n :])
    c = f * c + i * g
    return o * torch.tanh(c), c


def states_from(zero: Tensor) -> defaultdict[tuple[int, int], Tensor]:
    """States by row and column; outside the map they are zero."""
    return defaultdict(lambda: zero)


def row_lstm(layer: RowLayer, x: Tensor, bias: Tensor, kernel: int) -> Tensor:
    n, reach, (height, width) = layer.width, kernel // 2, x.shape[2:]
    conv = layer.input_to_state
    assert conv.bias is not None
    full = torch.full((4 * n, x.shape[1], kernel), 9.0).double()
    mask = torch.zeros_like(full)
    full[..., : reach + 1] = conv.weight_row[:, :, 0]
    mask[..., :reach] = 1
    mask[..., reach] = colour_mask(x.shape[1], n, layer.groups)
    inputs, states = full * mask, layer.state_to_state[:, :, 0]
    zero = x.new_zeros(BATCH, n)
    h, c = states_from(zero), states_from(zero)
    out = x.new_zeros(BATCH, n, height, width)
    for row in range(height):
        for col in range(width):
            gates = conv.bias + bias
            for tap in range(kernel):
                there = col + tap - reach
                if 0 <= there < width:
                    gates = gates + x[:, :, row, there] @ inputs[..., tap].T
                    gates = gates + h[row - 1, there] @ states[..., tap].T
            h[row, col], c[row, col] = lstm(gates, c[row - 1, col])
            out[:, :, row, col] = h[row, col]
    return out


@pytest.mark.parametrize("groups", [1, 3])
@given(
    height=heights,
    width=widths,
    channels=channels,
    kernel=st.sampled_from([3, 5]),
    with_bias=st.booleans(),
)
@torch.no_grad()
def test_row_lstm_equals_the_textbook(
    height: int,
    width: int,
    channels: tuple[int, int],
    groups: int,
    kernel: int,
    with_bias: bool,
) -> None:
    layer = RowLayer(*channels, groups=groups, kernel_size=kernel).double()
    x = torch.randn(BATCH, channels[0], height, width, dtype=torch.float64)
    bias = with_bias * torch.randn(BATCH, 4 * channels[1], dtype=torch.float64)
    out = layer(x, bias[..., None, None] if with_bias else None)
    torch.testing.assert_close(out, row_lstm(layer, x, bias, kernel), rtol=0, atol=1e-12)


def diagonal_lstm(layer: DiagonalLayer, direction: int, x: Tensor, bias: Tensor) -> Tensor:
    """The sweep from the left (direction 0) or from the right (1), not moved down."""
    n, (height, width) = layer.width, x.shape[2:]
    pointwise = layer.input_to_state[direction]
    inputs = pointwise.weight * colour_mask(x.shape[1], n, layer.groups)
    from_beside = layer.state_to_state[direction, :n]
    from_above = layer.state_to_state[direction, n:]
    zero = x.new_zeros(BATCH, n)
    h, c = states_from(zero), states_from(zero)
    out = x.new_zeros(BATCH, n, height, width)
    for row in range(height):
        for step in range(width):
            col, beside = (step, step - 1) if direction == 0 else (width - 1 - step, width - step)
            gates = x[:, :, row, col] @ inputs.T + pointwise.bias + bias
            gates = gates + h[row, beside] @ from_beside + h[row - 1, col] @ from_above
            h[row, col], c[row, col] = lstm(gates, c[row, beside])
            out[:, :, row, col] = h[row, col]
    return out


@pytest.mark.parametrize("groups", [1, 3])
@given(
    height=heights,
    width=widths,
    channels=channels,
    with_bias=st.booleans(),
)
@torch.no_grad()
def test_diagonal_bilstm_equals_the_textbook(
    height: int, width: int, channels: tuple[int, int], groups: int, with_bias: bool
) -> None:
    layer = DiagonalLayer(*channels, groups=groups).double()
    x = torch.randn(BATCH, channels[0], height, width, dtype=torch.float64)
    bias = with_bias * torch.randn(BATCH, 8 * channels[1], dtype=torch.float64)
    expected = diagonal_lstm(layer, 0, x, bias[:, : 4 * channels[1]])
    right = diagonal_lstm(layer, 1, x, bias[:, 4 * channels[1] :])
    for row in range(1, height):  # moved down one row
        expected[:, :, row] += right[:, :, row - 1]
    out = layer(x, bias[..., None, None] if with_bias else None)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@given(height=heights, width=widths)
def test_skewed_rows_begin_one_column_later_each(height: int, width: int) -> None:
    x = torch.arange(1, 2 * 3 * height * width + 1).view(2, height, width, 3)
    expected = torch.zeros(2, height, width + height - 1, 3, dtype=x.dtype)
    for row in range(height):
        for col in range(width):
            expected[:, row, row + col] = x[:, row, col]
    assert torch.equal(skew(x), expected)
    assert torch.equal(unskew(skew(x)), x)


@given(steps=st.integers(1, 4), height=st.integers(1, 4), width=st.integers(1, 3))
def test_gradients_of_the_sweep(steps: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    columns = torch.randn(steps, 2, BATCH, height, 4 * width).double().requires_grad_()
    weight = torch.randn(2, 2 * width, 4 * width).double().requires_grad_()
    assert torch.autograd.gradcheck(Sweep.apply, (columns, weight))
