"""Gated residual layers and their first weights, by their formulas."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.nn import CausalConv2d, GatedResNet, Pointwise, RowConv2d, start_weights
from nextpixel.nn.resnet import ELU_POWER, concat_elu


def elu_of_both(x: Tensor) -> Tensor:
    both = torch.cat([x, -x], 1)
    return torch.where(both > 0, both, both.exp() - 1)


def test_a_layer_by_hand() -> None:
    torch.manual_seed(0)
    net = GatedResNet(Pointwise, 3, skip=2, dropout=0.5).double().eval()
    x, skip = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 2, 4, 5).double()
    more, bias = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 6, 4, 5).double()

    def conv(layer: nn.Module, h: Tensor) -> Tensor:
        assert isinstance(layer, Pointwise)
        return F.conv2d(h, layer.weight[:, :, None, None], layer.bias)

    assert net.skip is not None
    h = conv(net.conv_in, elu_of_both(x)) + more + conv(net.skip, elu_of_both(skip))
    out = conv(net.conv_out, elu_of_both(h)) + bias
    expected = x + out[:, :3] * torch.sigmoid(out[:, 3:])
    torch.testing.assert_close(net(x, None, skip=skip, from_vertical=more, bias=bias), expected)
    plain = GatedResNet(Pointwise, 3, dropout=0.0)
    assert plain.skip is None
    assert net.dropout == 0.5


def test_dropout_is_between_the_convolutions() -> None:
    net = GatedResNet(Pointwise, 2, dropout=1.0)
    x = torch.randn(1, 2, 3, 3)
    a, b = net.conv_out.bias.view(1, 4, 1, 1).chunk(2, 1)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(net(x, None), x + a * torch.sigmoid(b))


def test_first_weights_keep_the_deviation() -> None:
    """Of standard normal maps; residual layers begin close to the identity."""
    exact = 0.5 + math.exp(2) * below(-2) - 2 * math.exp(0.5) * below(-1) + 0.5
    assert abs(ELU_POWER - exact) < 1e-3
    torch.manual_seed(0)
    layer = GatedResNet(lambda i, o: CausalConv2d("B", i, o, (1, 1, 1)), 64, dropout=0.0)
    net = nn.ModuleDict(
        {
            "causal": CausalConv2d("B", 128, 64, (1, 1, 1)),
            "row": RowConv2d(128, 64, (2, 3)),
            "pointwise": Pointwise(128, 64),
            "layer": layer,
        }
    )
    start_weights(net)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
    x = torch.randn(8, 64, 12, 12)
    for name in ("causal", "row", "pointwise"):
        assert abs(net[name](concat_elu(x))[:, :, 1:, 1:-1].std() - 1) < 0.05, name
    inner = layer.conv_in(concat_elu(x))
    assert abs(layer.conv_out(concat_elu(inner))[:, :, 2:, 2:-2].std() - 0.1) < 0.01


def below(z: float) -> float:
    """The standard normal CDF."""
    return math.erfc(-z / math.sqrt(2)) / 2
