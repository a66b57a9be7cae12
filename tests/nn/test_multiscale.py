"""The layers of PixelCNN++, at half size and full, against textbook convolutions and formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nextpixel.nn import (
    Cache,
    CausalConv2d,
    CausalLayer,
    GatedResNet,
    Halved,
    HalvedRows,
    Pointwise,
    RowConv2d,
    Site,
)
from nextpixel.nn.resnet import concat_elu

WIDTH = 3

heights, widths = st.integers(1, 5), st.integers(1, 6)


def new_cache(module: nn.Module, batch: int, width: int) -> Cache:
    """What `CausalNetwork.start` makes."""
    layers = [layer for layer in module.modules() if isinstance(layer, CausalLayer)]
    return Cache(
        layers={layer: layer.new_cache(batch, -(-width // layer.scale)) for layer in layers}
    )


def small_conv() -> CausalConv2d:
    return CausalConv2d("B", WIDTH, WIDTH, (1, 1, 0))


class SmallRows(nn.Module):
    """An inner part that returns a map and a list of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = RowConv2d(WIDTH, WIDTH, (2, 3))

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, cache: Cache | None
    ) -> tuple[Tensor, list[Tensor]]:
        h = self.conv(x, context, cache)
        return torch.tanh(h), [h]


def strided_conv(x: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> Tensor:
    """The textbook: a kernel two rows high over every other row and column, and what is above it.

    Its first column lies `left` columns beside the site.
    """
    assert bias is not None
    height, width = x.shape[2:]
    out = bias[:, None, None].repeat(len(x), 1, -(-height // 2), -(-width // 2))
    for row in range(out.shape[2]):
        for col in range(out.shape[3]):
            for i in range(weight.shape[2]):
                for j in range(weight.shape[3]):
                    y, z = 2 * row + i - 1, 2 * col + j - left
                    if 0 <= y < height and 0 <= z < width:
                        out[:, :, row, col] += x[:, :, y, z] @ weight[:, :, i, j].T
    return out


@given(height=heights, width=widths, with_context=st.booleans())
@torch.no_grad()
def test_halved_equals_the_textbook(height: int, width: int, with_context: bool) -> None:
    inner = small_conv()
    layer = Halved(inner, WIDTH).double()
    x = torch.randn(2, WIDTH, height, width, dtype=torch.float64)
    context = torch.randn(2, WIDTH, 1, 1, dtype=torch.float64) if with_context else None
    down = layer.down
    assert down.weight_above is not None
    weight = torch.cat([down.weight_above, down.weight_row], 2)
    assert weight.shape[2:] == (2, 2)
    h = strided_conv(x, weight, down.bias, 1)
    h = inner(h, context)
    up = torch.zeros(WIDTH, WIDTH, 2, 2).double()
    for i in range(2):
        for j in range(2):
            up[:, :, i, j] = layer.up[i, j]
    expected = F.conv_transpose2d(h, up, layer.up_bias, stride=2)[:, :, :height, :width]
    torch.testing.assert_close(layer(x, context, cache=None), expected, rtol=0, atol=1e-12)


@given(height=heights, width=widths, with_context=st.booleans())
@torch.no_grad()
def test_halved_rows_equal_the_textbook(height: int, width: int, with_context: bool) -> None:
    inner = SmallRows()
    layer = HalvedRows(inner, WIDTH, 1).double()
    x = torch.randn(2, WIDTH, height, width, dtype=torch.float64)
    context = torch.randn(2, WIDTH, 1, 1, dtype=torch.float64) if with_context else None
    assert layer.down.weight.shape[2:] == (2, 3)
    h = strided_conv(x, layer.down.weight, layer.down.bias, 1)
    h, outputs = inner(h, context, cache=None)
    # Going up, the site (row, col) gives the rows 2 row and 2 row + 1, and three columns about
    # 2 col.
    assert layer.up.bias is not None
    expected = layer.up.bias[:, None, None].repeat(2, 1, height, width)
    for row in range(h.shape[2]):
        for col in range(h.shape[3]):
            for i in range(2):
                for j in range(3):
                    y, z = 2 * row + i, 2 * col + j - 1
                    if y < height and 0 <= z < width:
                        expected[:, :, y, z] += h[:, :, row, col] @ layer.up.weight[:, :, i, j]
    out, (kept,) = layer(x, context, cache=None)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(kept, outputs[0], rtol=0, atol=1e-12)


@given(height=st.integers(1, 7), width=st.integers(1, 9))
@torch.no_grad()
def test_halved_twice_cached_equals_whole_map(height: int, width: int) -> None:
    layer = Halved(Halved(small_conv(), WIDTH), WIDTH).double()
    x = torch.randn(2, WIDTH, height, width, dtype=torch.float64)
    expected = layer(x, cache=None)
    cache = new_cache(layer, 2, width)
    for row in range(height):
        for col in range(width):
            cache.site = Site(row, col)
            out = layer(x[:, :, row, col], cache=cache)
            torch.testing.assert_close(
                out, expected[:, :, row, col], rtol=0, atol=1e-12, msg=f"at {row}, {col}"
            )
            assert cache.site == (row, col, 0)


@given(height=st.integers(1, 9), width=st.integers(1, 9))
@torch.no_grad()
def test_halved_rows_twice_cached_equal_whole_map(height: int, width: int) -> None:
    layer = HalvedRows(HalvedRows(SmallRows(), WIDTH, 1), WIDTH, 1).double()
    x = torch.randn(2, WIDTH, height, width, dtype=torch.float64)
    expected, (whole,) = layer(x, cache=None)
    assert whole.shape[2:] == (-(-height // 4), -(-width // 4))
    cache = new_cache(layer, 2, width)
    for row in range(height):
        cache.site = Site(row, 0)
        out, (kept,) = layer(x[:, :, row : row + 1], cache=cache)
        torch.testing.assert_close(out, expected[:, :, row : row + 1], rtol=0, atol=1e-12)
        assert cache.site == (row, 0, 0)
        if row % 4:
            assert kept is None
        else:
            new = whole[:, :, row // 4 : row // 4 + 1]
            torch.testing.assert_close(kept, new, rtol=0, atol=1e-12)


def elus(x: Tensor) -> Tensor:
    """The numbers of a pixel, then the same negated, all through ELU: x, or exp(x) - 1 below 0."""
    numbers = [*x.tolist(), *(-x).tolist()]
    return torch.tensor([n if n > 0 else math.exp(n) - 1 for n in numbers], dtype=torch.float64)


def test_concat_elu() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    out = concat_elu(x)
    for image in range(2):
        for row in range(4):
            for col in range(5):
                pixel = elus(x[image, :, row, col])
                torch.testing.assert_close(out[image, :, row, col], pixel, rtol=0, atol=1e-12)


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("added", [False, True])
@torch.no_grad()
def test_gated_resnet_equals_its_formula(skip: int, added: bool) -> None:
    layer = GatedResNet(Pointwise, WIDTH, skip=skip, dropout=0.5).double().eval()
    first, second = layer.conv_in, layer.conv_out
    assert first.weight.shape == (WIDTH, 2 * WIDTH)
    assert second.weight.shape == (2 * WIDTH, 2 * WIDTH)
    shape = (2, WIDTH, 3, 4)
    x, vertical = torch.randn(2, *shape, dtype=torch.float64)
    skipped = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    bias = torch.randn(2, 2 * WIDTH, 1, 1, dtype=torch.float64)
    out = layer(
        x,
        None,
        skip=skipped if skip else None,
        from_vertical=vertical if added else None,
        bias=bias if added else None,
    )
    for image in range(2):
        for row in range(3):
            for col in range(4):
                at_site = (image, slice(None), row, col)
                h = first.weight @ elus(x[at_site]) + first.bias
                if layer.skip is not None:
                    h = h + layer.skip.weight @ elus(skipped[at_site]) + layer.skip.bias
                h = h + vertical[at_site] * added
                gates = second.weight @ elus(h) + second.bias + bias[image, :, 0, 0] * added
                expected = x[at_site] + gates[:WIDTH] * torch.sigmoid(gates[WIDTH:])
                torch.testing.assert_close(out[at_site], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_gated_resnet_drops_only_what_goes_into_its_second_convolution() -> None:
    layer = GatedResNet(Pointwise, WIDTH, dropout=1.0).double().train()
    x = torch.randn(2, WIDTH, 3, 4, dtype=torch.float64)
    into_first: list[Tensor] = []
    layer.conv_in.register_forward_pre_hook(lambda _, args: into_first.append(args[0]))
    a, b = layer.conv_out.bias.chunk(2)
    expected = x + (a * torch.sigmoid(b))[:, None, None]
    torch.testing.assert_close(layer(x, None), expected, rtol=0, atol=1e-12)
    assert torch.equal(into_first[0], concat_elu(x))
