"""Convolutions in half precision against float64, and the layers with and without them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel import GatedPixelCNN, PixelCNN, PixelCNNPP
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.nn import CausalConv2d, Pointwise, RowConv2d
from nextpixel.nn.native_conv import Kind, Taps, convolve, fits, program
from nextpixel.training.launch import has_bf16
from tests.helpers import needs

pytestmark = pytest.mark.skipif(
    not has_bf16("cpu") or bool(torch.cpu.get_capabilities().get("amx_bf16")),
    reason="a processor without products of bfloat16 numbers, or with better ones",
)


@pytest.fixture(autouse=True)
def _compiler() -> None:
    needs("cc", "gcc")


TAPS: dict[str, Taps] = {
    "1x1": ((0, 0),),
    "mask B": ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0)),
    "mask A, 5x5": (
        *((row, col) for row in (-2, -1) for col in range(-2, 3)),
        *((0, -2), (0, -1)),
    ),
    "later ones": ((0, 3), (2, -1)),
}
EXACT = {"rtol": 1e-4, "atol": 1e-4}  # sums of float32
FULL = {"rtol": 1e-4, "atol": 1e-3}  # of 2,000 terms whose weights have 16 bits
ROUNDED = {"rtol": 2**-8, "atol": 1e-4}  # and then rounded to bfloat16


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n} threads")
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def maps(*shape: int) -> Tensor:
    x = torch.randn(shape).to(torch.bfloat16)
    return x.to(memory_format=torch.channels_last)


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, kind: Kind) -> Tensor:
    """Adds up shifted maps, tap by tap."""
    height, width = x.shape[2:]
    x = F.pad(F.relu(x) if kind.relu else x, (9, 9, 9, 9))
    out = torch.zeros(len(x), len(weight), height, width, dtype=x.dtype)
    for tap, (down, right) in enumerate(kind.taps):
        seen = x[:, :, 9 + down :, 9 + right :][:, :, :height, :width]
        out = out + torch.einsum("bihw,oi->bohw", seen, weight[..., tap])
    return out if bias is None else out + bias[:, None, None]


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("taps", list(TAPS))
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 5, 7), (3, 9, 32)], ids=str)
@pytest.mark.parametrize("channels", [(32, 32), (64, 96), (160, 128)], ids=str)
def test_it_convolves(taps: str, size: tuple[int, int, int], channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    (images, *area), (inputs, outputs) = size, channels
    kind = Kind(TAPS[taps], relu=inputs == 64, full=inputs == 160)
    x, more = maps(images, inputs, *area), maps(images, outputs, *area)
    weight, bias = torch.randn(outputs, inputs, len(kind.taps)), torch.randn(outputs)
    given = [t.requires_grad_() for t in (x, weight, bias, more)]
    out = convolve(x, weight, bias, kind, more)
    back = maps(images, outputs, *area)
    out.backward(back.to(out.dtype))
    exact = [t.detach().double().requires_grad_() for t in given]
    rounded = [exact[0], weight.detach().to(torch.bfloat16).double().requires_grad_(), *exact[2:]]
    weights_used = exact if kind.full else rounded
    expected = reference(*weights_used[:3], kind) + more.detach().double()
    assert out.dtype == (torch.float32 if kind.full else torch.bfloat16)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.double(), expected, **(FULL if kind.full else ROUNDED))
    (reference(*rounded[:3], kind) + rounded[3]).backward(back.double())
    limits = (ROUNDED, EXACT, EXACT, ROUNDED)
    for got, wanted, limit in zip(given, rounded, limits, strict=True):
        assert got.grad is not None
        torch.testing.assert_close(got.grad.double(), wanted.grad, **limit)


def test_it_compiles() -> None:
    assert program() is not None


def test_inputs_need_not_be_contiguous() -> None:
    x, weight = maps(2, 32, 4, 5), torch.randn(3, 32, 64).to(torch.bfloat16).float()
    kind = Kind(TAPS["mask B"][-3:])
    expected = reference(x.double(), weight.permute(2, 1, 0).double(), None, kind)
    torch.testing.assert_close(
        convolve(x, weight.permute(2, 1, 0), None, kind).double(), expected, **ROUNDED
    )
    more = torch.randn(2, 64, 4, 5).to(torch.bfloat16)  # NCHW
    out = convolve(x, weight.permute(2, 1, 0), None, kind, more)
    torch.testing.assert_close(out.double(), expected + more.double(), **ROUNDED)


def test_threads_share_the_sites_only() -> None:
    x, weight = maps(3, 64, 9, 7), torch.randn(32, 64, 5)
    kind, outs = Kind(TAPS["mask B"]), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        outs.append(convolve(x, weight, None, kind))
    torch.set_num_threads(before)
    assert torch.equal(*outs)


def test_a_number_that_is_none_stays_so() -> None:
    for bits in (0x7FC0, -0x40, 0x7F81, -0x7F):  # of either sign, quiet and not
        x = maps(1, 32, 2, 2)
        x.view(torch.int16)[0, 3, 1, 0] = bits
        assert x[0, 3, 1, 0].isnan()
        out = convolve(x, torch.ones(32, 32, 1), None, Kind(((0, 0),), relu=True))
        assert out[0, :, 1, 0].isnan().all()
        assert out[0, :, 0].isfinite().all()


def test_unsupported_arguments_do_not_fit() -> None:
    x, weight = maps(1, 64, 2, 3), torch.zeros(32, 64)
    assert fits(x, weight)
    for other in (x.float(), x.contiguous(), x[0], x.to("meta")):
        assert not fits(other, weight)
    for size in ((33, 64), (32, 72), (8192, 64)):
        assert not fits(x, torch.zeros(size))
    assert not fits(x, weight.double())
    assert not fits(x, weight.to("meta"))
    assert not fits(x, weight, taps=65)
    assert not fits(x[:0], weight)
    for channels in (32, 128):
        assert not fits(maps(1, channels, 2, 3), weight)


def test_frozen_weights_and_other_defaults() -> None:
    x, weight = maps(1, 32, 2, 3).requires_grad_(), torch.randn(32, 32, 1)
    kind, bias = Kind(((0, 0),)), torch.randn(32)
    convolve(x, weight, bias, kind).sum().backward()
    assert x.grad is not None
    weight.requires_grad_()
    torch.set_default_dtype(torch.float64)
    try:
        convolve(x.detach(), weight, bias, kind).sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert weight.grad is not None
    expected = x.detach().float().sum((0, 2, 3)).expand(32, 32)
    torch.testing.assert_close(weight.grad.squeeze(2), expected, **EXACT)


LAYERS = {
    "CausalConv2d, B": lambda: CausalConv2d("B", 64, 96, (2, 3, 1)),
    "CausalConv2d, A": lambda: CausalConv2d("A", 64, 32, (1, 1, 1)),
    "CausalConv2d, a row": lambda: CausalConv2d("B", 64, 32, (0, 2, 2), bias=False),
    "CausalConv2d, stride": lambda: CausalConv2d("B", 64, 32, (1, 1, 1), stride=2),
    "CausalConv2d, groups": lambda: CausalConv2d("B", 96, 192, (1, 1, 1), groups=3, parts=2),
    "Pointwise": lambda: Pointwise(64, 32),
    "Pointwise, groups": lambda: Pointwise(96, 192, groups=3, parts=2),
    "Pointwise, last": lambda: Pointwise(64, 32, autocast=False),
    "RowConv2d": lambda: RowConv2d(64, 32, (3, 5)),
    "RowConv2d, stride": lambda: RowConv2d(64, 32, (2, 3), stride=2),
}


def gradients_of(layer: nn.Module, x: Tensor, context: Tensor, relu: bool) -> list[Tensor]:
    x = x.clone(memory_format=torch.channels_last).requires_grad_()
    how = {"relu": True} if relu else {}
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, context, **how)
    (out.float() ** 2).mean().backward()
    found = [out.detach(), x.grad, *(p.grad for p in layer.parameters())]
    layer.zero_grad()
    assert all(t is not None for t in found)
    return found


@pytest.mark.parametrize(
    ("name", "relu"),
    [(name, relu) for name in LAYERS for relu in (False, True) if not relu or "Row" not in name],
)
def test_layers_are_the_same_without_it(
    name: str, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().to(memory_format=torch.channels_last)
    x = maps(2, next(layer.parameters()).shape[1], 6, 5)
    out = layer(x.float())
    for context in (maps(*out.shape), maps(*out.shape[:2], 1, 1)):
        kinds = watch(monkeypatch)
        ours = gradients_of(layer, x, context, relu)
        assert len(kinds) == ("stride" not in name)
        with monkeypatch.context() as patch:
            patch.setattr("nextpixel.nn.causal_conv.fits", lambda *_: False)
            patch.setattr("nextpixel.nn.pointwise.fits", lambda *_: False)
            others = gradients_of(layer, x, context, relu)
        for got, wanted in zip(ours, others, strict=True):
            assert got.dtype == wanted.dtype
            scale = wanted.abs().max().item()
            torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.01 * scale)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[Kind]:
    """Collects what the layers hand to the program."""
    kinds: list[Kind] = []

    def convolve_and_note(
        x: Tensor, weight: Tensor, bias: Tensor, kind: Kind, *rest: Any
    ) -> Tensor:
        kinds.append(kind)
        return convolve(x, weight, bias, kind, *rest)

    monkeypatch.setattr("nextpixel.nn.causal_conv.convolve", convolve_and_note)
    monkeypatch.setattr("nextpixel.nn.pointwise.convolve", convolve_and_note)
    return kinds


def test_the_last_layer_is_as_good_as_float32() -> None:
    torch.manual_seed(0)
    layer, x = Pointwise(256, 32, autocast=False), maps(2, 256, 6, 5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    expected = layer.double()(x.double())
    error = (out - expected).abs().max().item()
    assert error < 1e-5 * expected.abs().max().item()  # rounded weights: 2e-3


MODELS: dict[str, Callable[[], AutoregressiveModel]] = {
    "PixelCNN": lambda: PixelCNN(shape=(1, 6, 7), levels=4, width=32, blocks=3, head=64),
    "GatedPixelCNN": lambda: GatedPixelCNN(
        shape=(3, 6, 7), levels=32, width=96, blocks=3, kernel_size=5
    ),
    "PixelCNNPP": lambda: PixelCNNPP(shape=(3, 6, 7), width=32, blocks=1, components=2),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_half_precision_sees_no_future(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, kinds = MODELS[name]().eval(), watch(monkeypatch)
    model.to(memory_format=torch.channels_last)
    x = torch.randint(model.levels, (2, *model.shape))
    later = x.clone()
    later[..., 3, 4:] = model.levels - 1 - later[..., 3, 4:]
    later[..., 4:, :] = model.levels - 1 - later[..., 4:, :]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before, after = model(x).log_prob(x), model(later).log_prob(x)
    assert len(kinds) > 5
    seen = torch.arange(42).view(6, 7) < 3 * 7 + 4
    assert torch.equal(before[..., seen], after[..., seen])
    assert torch.equal(before[:, 0, 3, 4], after[:, 0, 3, 4])  # the first channel sees no other
    assert not torch.equal(before, after)
