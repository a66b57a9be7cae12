"""Encoders and decoders against the same operations written out, and their sizes."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.errors import UserError
from nextpixel.nn.encoders import ImageDecoder, ImageEncoder, MapDecoder, MapEncoder, ResidualLayer


def made(cls: type[nn.Module], *arguments: Any) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(0)
    module = cls(*arguments).double()
    return module, {name: p.detach() for name, p in module.named_parameters()}


def shapes(weights: dict[str, Tensor]) -> dict[str, list[int]]:
    """The shapes of all weights, without biases and without those of residual layers."""
    return {
        name.removesuffix(".weight"): list(p.shape)
        for name, p in weights.items()
        if name.endswith("weight") and not name.startswith("layers")
    }


def residual(h: Tensor, weights: dict[str, Tensor], name: str, dilation: int = 1) -> Tensor:
    look, mix = (
        (weights[f"{name}{part}.weight"], weights[f"{name}{part}.bias"]) for part in ("look", "mix")
    )
    inner = F.conv2d(h.clamp(min=0), *look, padding=dilation, dilation=dilation)
    return h + F.conv2d(inner.clamp(min=0), *mix)


def layer(name: str, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def two_layers(h: Tensor, weights: dict[str, Tensor]) -> Tensor:
    assert {name.split(".")[1] for name in weights if name.startswith("layers")} == {"0", "1"}
    return residual(residual(h, weights, "layers.0."), weights, "layers.1.").clamp(min=0)


@pytest.mark.parametrize("dilation", [1, 3])
def test_a_residual_layer_by_hand(dilation: int) -> None:
    module, weights = made(ResidualLayer, 3, dilation)
    x = torch.randn(2, 3, 7, 8).double()
    torch.testing.assert_close(module(x), residual(x, weights, "", dilation))


def test_an_image_becomes_a_vector() -> None:
    module, w = made(ImageEncoder, 2, (8, 12), 3, 5)
    assert shapes(w) == {
        "to_half": [3, 2, 4, 4],
        "to_quarter": [6, 3, 4, 4],
        "last": [5, 6 * 2 * 3],
    }
    x = torch.randn(2, 2, 8, 12).double()
    h = F.conv2d(x, *layer("to_half", w), stride=2, padding=1).clamp(min=0)
    h = two_layers(F.conv2d(h, *layer("to_quarter", w), stride=2, padding=1), w)
    torch.testing.assert_close(module(x), F.linear(h.flatten(1), *layer("last", w)))


def test_a_vector_becomes_maps() -> None:
    module, w = made(ImageDecoder, 4, (8, 12), 3, 5)
    assert shapes(w) == {
        "first": [6 * 2 * 3, 4],
        "to_half": [6, 3, 4, 4],
        "to_full": [3, 3, 4, 4],
        "last": [5, 3],
    }
    z = torch.randn(2, 4).double()
    h = two_layers(F.linear(z, *layer("first", w)).view(2, 6, 2, 3), w)
    h = F.conv_transpose2d(h, *layer("to_half", w), stride=2, padding=1).clamp(min=0)
    h = F.conv_transpose2d(h, *layer("to_full", w), stride=2, padding=1).clamp(min=0)
    weight, bias = layer("last", w)
    torch.testing.assert_close(module(z), F.conv2d(h, weight[:, :, None, None], bias))


@pytest.mark.parametrize(("downsampling", "widths"), [(2, [3]), (4, [3, 6]), (8, [3, 6, 6])])
def test_maps_are_halved_and_doubled(downsampling: int, widths: list[int]) -> None:
    module, w = made(MapEncoder, 2, (8, 16), downsampling, 3, 5)
    assert module.size == (8 // downsampling, 16 // downsampling)
    sizes = shapes(w)
    assert sizes.pop("last") == [5, widths[-1]]
    between = list(pairwise([2, *widths]))
    assert list(sizes.values()) == [[after, before, 4, 4] for before, after in between]
    x = torch.randn(2, 2, 8, 16).double()
    h = x
    for i in range(len(widths)):
        h = F.conv2d(h.clamp(min=0) if i else h, *layer(f"halvings.{i}", w), stride=2, padding=1)
    weight, bias = layer("last", w)
    expected = F.conv2d(two_layers(h, w), weight[:, :, None, None], bias)
    torch.testing.assert_close(module(x), expected)

    module, w = made(MapDecoder, 5, downsampling, 3, 2)
    sizes = shapes(w)
    assert sizes.pop("first") == [widths[-1], 5, 3, 3]
    assert sizes.pop("last") == [2, 3]
    backwards = [*widths[::-1], 3]
    between = list(pairwise(backwards))
    assert list(sizes.values()) == [[before, after, 4, 4] for before, after in between]
    z = torch.randn(2, 5, 8 // downsampling, 16 // downsampling).double()
    h = two_layers(F.conv2d(z, *layer("first", w), padding=1), w)
    for i in range(len(widths)):
        h = F.conv_transpose2d(h, *layer(f"doublings.{i}", w), stride=2, padding=1).clamp(min=0)
    weight, bias = layer("last", w)
    torch.testing.assert_close(module(z), F.conv2d(h, weight[:, :, None, None], bias))
    assert module(z).shape == (2, 2, 8, 16)


def test_sizes_that_cannot_be_halved_are_refused() -> None:
    for size in ((6, 8), (8, 6)):
        with pytest.raises(UserError, match=f"divisible by 4, not {size[0]} x {size[1]}"):
            ImageEncoder(1, size, 3, 2)
        with pytest.raises(UserError, match=f"downsampling 4, and {size[0]} x {size[1]}"):
            MapEncoder(1, size, 4, 3, 2)
    for cls, arguments in ((ImageDecoder, (1, (8, 8), 0, 2)), (MapEncoder, (1, (8, 8), 4, 0, 2))):
        with pytest.raises(UserError, match="width must be at least 1, not 0"):
            cls(*arguments)
    with pytest.raises(UserError, match="2, 4 or 8, not 3"):
        MapEncoder(1, (9, 9), 3, 3, 2)
