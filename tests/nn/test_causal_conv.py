"""Causal convolutions against textbook kernels, and their steps against whole maps."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextpixel.nn import Cache, MaskedConv2d, OncePerRow, Pointwise, RowConv2d, Site
from nextpixel.nn.masks import MaskType, channel_mask, channel_slice


def steps(height: int, width: int) -> list[Site]:
    return [Site(row, col) for row in range(height) for col in range(width)]


def before(x: Tensor, site: Site) -> Tensor:
    """The pixel before a site in raster order (anything, before the first)."""
    return x[:, :, site.row if site.col else site.row - 1, site.col - 1]


def kernel_mask(mask_type: MaskType, kernel: tuple[int, int]) -> Tensor:
    """The textbook's mask: taps before the centre in raster order, and the centre for type B."""
    middle = kernel[0] // 2 * kernel[1] + kernel[1] // 2
    return (torch.arange(kernel[0] * kernel[1]) < middle + (mask_type == "B")).view(kernel)


def test_channel_masks() -> None:
    assert channel_mask("A", 3, 3, 3).int().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert channel_mask("B", 3, 3, 3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    # Two parts, each with its own groups; groups of 2, 2 and 1 channels.
    parts = channel_mask("B", 3, 10, 3, parts=2).sum(1)
    assert parts.tolist() == [1, 1, 2, 2, 3] * 2
    assert [channel_slice(128, g, 3) for g in range(3)] == [
        slice(0, 43),
        slice(43, 86),
        slice(86, 128),
    ]


@given(
    mask_type=st.sampled_from(["A", "B"]),
    kernel=st.sampled_from([(1, 3), (3, 3), (7, 7)]),
    in_channels=st.integers(3, 8),
    width=st.integers(3, 5),
    parts=st.integers(1, 2),
)
def test_colour_masked_conv_equals_the_textbook(
    mask_type: MaskType, kernel: tuple[int, int], in_channels: int, width: int, parts: int
) -> None:
    """The textbook: a full kernel; what is masked of it is set to numbers that must not matter."""
    out_channels = width * parts
    conv = MaskedConv2d(
        mask_type, in_channels, out_channels, kernel, groups=3, parts=parts, bias=False
    ).double()
    seen = kernel_mask(mask_type, kernel).expand(out_channels, in_channels, -1, -1).clone()
    centre = (kernel[0] // 2, kernel[1] // 2)
    seen[:, :, *centre] = channel_mask(mask_type, in_channels, out_channels, 3, parts)
    rows = [conv.weight_row.squeeze(2)]
    if conv.weight_above is not None:
        rows.insert(0, conv.weight_above.flatten(2))
    flat = torch.cat(rows, 2)
    weight = torch.full((out_channels, in_channels, kernel[0] * kernel[1]), 9.0).double()
    weight[:, :, : flat.shape[2]] = flat
    x = torch.randn(2, in_channels, 5, 6, dtype=torch.float64)
    expected = F.conv2d(x, weight.view_as(seen) * seen, padding=centre)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


@given(
    mask_type=st.sampled_from(["A", "B"]),
    height=st.integers(1, 6),
    width=st.integers(1, 7),
    kernel=st.sampled_from([(1, 3), (1, 7), (3, 3), (5, 3), (7, 7)]),
    bias=st.booleans(),
)
def test_masked_conv_equals_the_textbook(
    mask_type: MaskType, height: int, width: int, kernel: tuple[int, int], bias: bool
) -> None:
    """The textbook: a full kernel, its mask multiplied onto the weight."""
    conv = MaskedConv2d(mask_type, 2, 3, kernel, bias=bias).double()
    mask = kernel_mask(mask_type, kernel)
    weight = torch.zeros(3, 2, *kernel, dtype=torch.float64)
    visible = [conv.weight_row.flatten(2)]
    if conv.weight_above is not None:
        visible.insert(0, conv.weight_above.flatten(2))
    weight[..., mask] = torch.cat(visible, 2)
    x = torch.randn(2, 2, height, width, dtype=torch.float64)
    padding = (kernel[0] // 2, kernel[1] // 2)
    expected = F.conv2d(x, weight * mask, conv.bias, padding=padding)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


@given(
    mask_type=st.sampled_from(["A", "B"]),
    height=st.integers(1, 6),
    width=st.integers(1, 7),
    kernel=st.sampled_from([(1, 3), (1, 7), (3, 3), (5, 3), (7, 7)]),
    context=st.sampled_from(["none", "constant", "map"]),
)
def test_masked_conv_cached_equals_whole_map(
    mask_type: MaskType, height: int, width: int, kernel: tuple[int, int], context: str
) -> None:
    conv = MaskedConv2d(mask_type, 2, 3, kernel).double()
    x = torch.randn(2, 2, height, width, dtype=torch.float64)
    added = {
        "none": None,
        "constant": torch.randn(2, 3, 1, 1, dtype=torch.float64),
        "map": torch.randn(2, 3, height, width, dtype=torch.float64),
    }[context]
    expected = conv(x, added)
    cache = Cache(layers={conv: conv.new_cache(2, width)})
    for site in steps(height, width):
        cache.site = site
        newest = before(x, site) if mask_type == "A" else x[:, :, site.row, site.col]
        row = (
            added[:, :, site.row : site.row + 1]
            if context == "map" and added is not None
            else added
        )
        with torch.no_grad():
            out = conv(newest, row, cache)
        torch.testing.assert_close(
            out, expected[:, :, site.row, site.col], rtol=0, atol=1e-12, msg=f"at {site}"
        )


class TwoRowConvs(torch.nn.Module):
    """A small vertical stack."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = RowConv2d(2, 4, (4, 7)), RowConv2d(4, 3, (2, 3))

    def forward(self, x: Tensor, context: object, cache: Cache | None = None) -> list[Tensor]:
        a = self.a(x, cache=cache)
        return [a, self.b(torch.tanh(a), cache=cache)]


@given(height=st.integers(1, 6), width=st.integers(1, 6))
def test_vertical_stack_cached_equals_whole_map(height: int, width: int) -> None:
    stack = OncePerRow(TwoRowConvs(), 2, [4, 3]).double()
    x = torch.randn(2, 2, height, width, dtype=torch.float64)
    expected = stack(x, [])
    layers = [m for m in stack.modules() if hasattr(m, "new_cache")]
    cache = Cache(layers={layer: layer.new_cache(2, width) for layer in layers})
    with torch.no_grad():
        for site in steps(height, width):
            cache.site = site
            for out, whole in zip(stack(before(x, site), [], cache), expected, strict=True):
                row = whole[:, :, site.row : site.row + 1]
                torch.testing.assert_close(out, row, rtol=0, atol=1e-12)


def test_vertical_stack_sees_no_pixel_of_its_own_row() -> None:
    stack = OncePerRow(TwoRowConvs(), 2, [4, 3]).double()
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    y = x.clone()
    y[:, :, 3:] += 1
    for a, b in zip(stack(x, []), stack(y, []), strict=True):
        assert torch.equal(a[:, :, :4], b[:, :, :4])
        assert not torch.equal(a[:, :, 4], b[:, :, 4])


def test_pointwise_is_the_same_for_maps_and_pixels() -> None:
    layer = Pointwise(3, 5).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[:, :, 2, 3], layer(x[:, :, 2, 3]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 3])
def test_last_layer_is_float32_under_autocast_with_gradients_in_half(groups: int) -> None:
    torch.manual_seed(0)
    layer = Pointwise(6, 12, groups=groups, autocast=False)
    x = torch.randn(2, 6, 4, 5).bfloat16().requires_grad_()
    outer = torch.randn(2, 12, 4, 5)
    exact = layer(x.detach().float().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, exact, rtol=1e-6, atol=1e-6)
    inputs = (x, layer.weight, layer.bias)
    wide = x.detach().float().requires_grad_()
    expected = torch.autograd.grad(layer(wide), (wide, layer.weight, layer.bias), outer)
    for gradient, known in zip(torch.autograd.grad(out, inputs, outer), expected, strict=True):
        error = (gradient.float() - known).norm() / known.norm()
        assert error < 0.01
    with torch.autocast("cpu", torch.bfloat16):
        pixel = layer(x[..., 0, 0]) if groups == 1 else None
    if pixel is not None:
        assert pixel.dtype == torch.float32
        torch.testing.assert_close(pixel, exact[..., 0, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", [2, (3, 4), (3, 1)])
def test_kernels_that_make_no_sense_are_refused(kernel: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="kernel_size"):
        MaskedConv2d("A", 1, 1, kernel)
    with pytest.raises(ValueError, match="width"):
        RowConv2d(1, 1, (2, 4))
