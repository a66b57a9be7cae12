"""What all layers have: a line that describes them, and first weights of a known range."""

import math

import pytest
from torch import nn

from nextpixel.nn import (
    CausalAttention,
    CausalConv2d,
    DiagonalLayer,
    Halved,
    MaskedConv2d,
    Pointwise,
    Quantizer,
    RowConv2d,
    RowLayer,
)


def test_layers_describe_themselves() -> None:
    lines = {
        CausalConv2d("A", 2, 4, (1, 2, 3), stride=2): "A, 2, 4, sees=(2, 6), stride=2",
        CausalConv2d("B", 2, 4, (0, 2, 0)): "B, 2, 4, sees=(1, 3)",
        MaskedConv2d("B", 2, 4, (3, 5)): "B, 2, 4, kernel_size=(3, 5)",
        MaskedConv2d("A", 2, 4, 7): "A, 2, 4, kernel_size=(7, 7)",
        RowConv2d(2, 4, (2, 3)): "2, 4, kernel_size=(2, 3)",
        RowConv2d(2, 4, (1, 5), stride=2): "2, 4, kernel_size=(1, 5), stride=2",
        Pointwise(2, 4): "2, 4",
        CausalAttention(2, 3, (4, 5)): "2, 3",
        Quantizer(5, 3): "5, 3, ema",
        Quantizer(5, 3, codebook="loss"): "5, 3, loss",
    }
    for layer, line in lines.items():
        assert repr(layer) == f"{type(layer).__name__}({line})"


@pytest.mark.parametrize(
    ("layer", "names", "fan_in"),
    [
        (CausalConv2d("B", 9, 64, (1, 2, 3)), {"weight_row", "weight_above", "bias"}, 9 * (3 + 6)),
        (CausalConv2d("A", 9, 64, (0, 2, 0)), {"weight_row", "bias"}, 9 * 2),
        (CausalConv2d("A", 9, 64, (0, 2, 0), groups=3, bias=False), {"weight_row"}, 9 * 3),
        (MaskedConv2d("A", 9, 64, 5), {"weight_row", "weight_above", "bias"}, 9 * 12),
        (RowConv2d(9, 64, (2, 3)), {"weight", "bias"}, 9 * 6),
        (Pointwise(9, 64), {"weight", "bias"}, 9),
        (RowLayer(4, 16, kernel_size=5), {"state_to_state"}, 16 * 5),
        (DiagonalLayer(4, 16), {"state_to_state"}, 2 * 16),
        (Halved(nn.Identity(), 49), {"up", "up_bias"}, 49),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_first_weights_are_uniform(layer: nn.Module, names: set[str], fan_in: int) -> None:
    """Between plus and minus one over the root of the number of inputs."""
    own = dict(layer.named_parameters(recurse=False))
    assert set(own) == names
    for name, weights in own.items():
        largest = weights.abs().max().item() * math.sqrt(fan_in)
        assert (0.98 if weights.numel() > 1000 else 0.7) < largest <= 1 + 1e-6, name
        assert abs(weights.mean().item()) * math.sqrt(fan_in) < 0.5, name


def test_kernels_without_a_centre_or_a_visible_tap_are_refused() -> None:
    for mask, size in (("B", 4), ("B", (3, 4)), ("B", (4, 3)), ("A", (3, 1))):
        with pytest.raises(ValueError, match="must be odd, and leave a visible tap"):
            MaskedConv2d(mask, 2, 3, size)  # type: ignore[arg-type]
    assert MaskedConv2d("B", 2, 3, (3, 1)).taps == ((-1, 0), (0, 0))
    with pytest.raises(ValueError, match="width must be odd, not 2"):
        RowConv2d(2, 3, (3, 2))
    assert RowConv2d(1, 1, (2, 3)).taps == ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1))


def test_taps_are_those_before_the_centre() -> None:
    """In the order in which the weights are stored; type A leaves out the centre itself."""
    above = tuple((-1, col) for col in (-2, -1, 0, 1))
    assert CausalConv2d("A", 2, 3, (1, 2, 1)).taps == (*above, (0, -2), (0, -1))
    for layer in (CausalConv2d("B", 2, 3, (1, 2, 1)), CausalConv2d("A", 2, 4, (1, 2, 1), groups=2)):
        assert layer.taps == (*above, (0, -2), (0, -1), (0, 0))
    assert layer.weight_row.shape == (4, 2, 1, 3)
