"""The functions of native_units.py against float64, and with and without a compiler."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nextpixel.nn import native_units, resnet
from nextpixel.nn.native_units import concat_elu, fits, gate, program
from tests.nn.conftest import vectorized, without

pytestmark = pytest.mark.usefixtures("compiler")
LAST = 2.0**-23  # the last bit of a float32, relative to it
CLOSE = {
    torch.float32: {"rtol": 3 * LAST, "atol": 1.7e-38},  # smaller powers are 0
    torch.bfloat16: {"rtol": 2.0**-8 + 3 * LAST, "atol": 1.7e-38},  # rounded once
}
SIZES = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 16, 4, 1), (1, 33, 2, 9), (2, 40, 1, 3), (2, 64, 28, 28)]
NUMBERS = [0.0, 1e-30, 1e-10, 1e-4, 0.3465, 0.3467, 1.0, 5.0, 20.0, 86.0, 88.0, 90.0, 1e30]
NUMBERS += [math.inf]


def maps(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 3) -> Tensor:
    x = (scale * torch.randn(shape)).to(dtype)
    return x.to(memory_format=torch.channels_last).requires_grad_()


def exact(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_()


def both_elus(x: Tensor) -> Tensor:
    return torch.cat([torch.where(x > 0, x, x.expm1()), torch.where(x < 0, -x, (-x).expm1())], 1)


def gated(x: Tensor, y: Tensor) -> Tensor:
    a, b = y.chunk(2, 1)
    return x + a / (1 + (-b).exp())


def assert_close(
    got: Tensor | None, wanted: Tensor | None, dtype: torch.dtype, terms: Tensor | None = None
) -> None:
    """Compares numbers; a sum of terms has the error of the largest one, in float32."""
    assert got is not None
    assert wanted is not None
    assert got.dtype == dtype
    more = 0.0 if terms is None else 2 * LAST * terms.abs().max().item()
    limits = {**CLOSE[dtype], "atol": CLOSE[dtype]["atol"] + more}
    torch.testing.assert_close(got.double(), wanted.double(), **limits)


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_concat_elu(dtype: torch.dtype, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = maps(*size, dtype=dtype)
    assert fits(x)
    out, reference = concat_elu(x), exact(x)
    expected = both_elus(reference)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, expected, dtype)
    back = torch.randn(out.shape).to(dtype)  # of another layout
    out.backward(back)
    expected.backward(back.double())
    assert_close(x.grad, reference.grad, dtype, terms=back)


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gate(dtype: torch.dtype, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images, channels, *area = size
    x, y = maps(*size, dtype=dtype), maps(images, 2 * channels, *area, dtype=dtype)
    assert fits(x, y)
    out, references = gate(x, y), (exact(x), exact(y))
    expected = gated(*references)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, expected, dtype, terms=torch.cat([x, y], 1))
    back = torch.randn(out.shape).to(dtype)
    out.backward(back)
    expected.backward(back.double())
    assert torch.equal(x.grad, back)
    assert_close(y.grad, references[1].grad, dtype)


def at_numbers(dtype: torch.dtype) -> Tensor:
    both = torch.tensor([*NUMBERS, *(-n for n in NUMBERS)], dtype=dtype)
    return both.view(1, -1, 1, 1)


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
@pytest.mark.parametrize("half", [0, 1])
def test_extreme_numbers(dtype: torch.dtype, half: int) -> None:
    x = at_numbers(dtype).requires_grad_()
    out, reference = concat_elu(x), exact(x)
    expected = both_elus(reference)
    assert_close(out, expected, dtype)
    out.chunk(2, 1)[half].sum().backward()
    slope = torch.where((1 - 2 * half) * reference > 0, 1, (-reference.abs()).exp())
    assert_close(x.grad, (1 - 2 * half) * slope, dtype)
    assert x.grad is not None
    assert (x.grad == 0).sum() == 4  # of 88, 90, 1e30 and infinity, or of the same negated


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
def test_gates_of_extreme_numbers(dtype: torch.dtype) -> None:
    b = at_numbers(dtype)
    x, a = torch.zeros_like(b), torch.full_like(b, 2)
    y = torch.cat([a, b], 1).requires_grad_()
    out = gate(x, y)
    small = (-b.double().abs()).exp()
    opened = torch.where(b < 0, small, 1) / (1 + small)
    assert_close(out, 2 * opened, dtype)
    out.sum().backward()
    assert_close(y.grad, torch.cat([opened, 2 * small / (1 + small) ** 2], 1), dtype)


def test_half_precision_is_rounded_to_even() -> None:
    x = (1 + torch.arange(8) / 128).bfloat16().view(1, 8, 1, 1).requires_grad_()
    a, open_ = torch.full_like(x, 2**-8), torch.full_like(x, 100)
    out = gate(x, torch.cat([a, open_], 1))  # x + a, in the middle of two numbers
    assert torch.equal(out, (x.float() + 2**-8).bfloat16())


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
def test_a_number_that_is_none_stays_so(dtype: torch.dtype) -> None:
    for sign in (1, -1):
        x = maps(1, 40, 2, 1, dtype=dtype).detach()
        y = maps(1, 80, 2, 1, dtype=dtype).detach()
        x[0, [3, 39], 1] = y[0, [8, 77], 1] = torch.tensor(sign * math.nan).to(dtype)
        x.requires_grad_()
        y.requires_grad_()
        out, open_ = concat_elu(x), gate(x, y)
        assert out.isnan().nonzero()[:, 1].tolist() == [3, 39, 43, 79]
        assert open_.isnan().nonzero()[:, 1].tolist() == [3, 8, 37, 39]
        (out.sum() + open_.sum()).backward()
        assert x.grad is not None
        assert y.grad is not None
        assert x.grad.isnan().nonzero()[:, 1].tolist() == [3, 39]
        assert y.grad.isnan().nonzero()[:, 1].tolist() == [37, 48, 77]  # at 8 it needs b only


def test_every_pattern_of_none_in_half_precision() -> None:
    for bits in (0x7FFF, -1, 0x7F81, -0x7F, 0x7FC0, -0x40):  # of either sign, quiet and not
        x = maps(1, 32, 2, 1, dtype=torch.bfloat16).detach()
        x.view(torch.int16)[0, 3, 1, 0] = bits
        assert concat_elu(x.requires_grad_()).isnan().nonzero()[:, 1].tolist() == [3, 35]
        assert gate(x, torch.cat([x, x], 1)).isnan().nonzero()[:, 1].tolist() == [3]


def test_powers_are_exact() -> None:
    """Within a last bit or two, all the way down to the smallest normal number."""
    x = -torch.linspace(0, 87, 200_000).view(1, -1, 1, 1).requires_grad_()
    x.retain_grad()
    less_one = concat_elu(x)[:, : x.shape[1]]
    less_one.sum().backward()
    reference = x.detach().double()
    assert x.grad is not None
    for got, wanted in ((less_one, reference.expm1()), (x.grad, reference.exp())):
        error = (got.double() - wanted).abs() / wanted.abs().clamp(min=1e-300)
        assert error.max().item() < 1.5 * LAST


def results() -> list[Tensor]:
    torch.manual_seed(0)
    x, y = maps(5, 24, 19, 23), maps(5, 48, 19, 23)
    assert x.numel() > 32768  # so that threads share the work
    out, elus = gate(x, y), concat_elu(x)
    (out.pow(2).sum() + elus.pow(2).sum()).backward()
    assert x.grad is not None
    assert y.grad is not None
    return [out, elus, x.grad, y.grad]


@pytest.mark.usefixtures("several_threads")
def test_threads_change_nothing() -> None:
    ours = results()
    torch.set_num_threads(1)
    assert all(map(torch.equal, ours, results()))


def test_unsupported_arguments_do_not_fit() -> None:
    x, y = maps(2, 4, 5, 6), maps(2, 8, 5, 6)
    assert fits(x, y)
    assert fits(x.detach(), y)
    assert not fits(x.detach())  # no gradient
    with torch.no_grad():
        assert not fits(x, y)
    for other in (x.double(), x.half(), x.contiguous(), x[0], x[:0], x[:, :, :-1], x.to("meta")):
        assert not fits(other)
        assert not fits(other, y)
        assert not fits(y, other)
    assert not fits(x.bfloat16(), y)


def test_it_compiles() -> None:
    assert program() is not None


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_every_loop_for_vectors_becomes_one(level: str, tmp_path: Path) -> None:
    """As GCC says; a loop of single numbers was ten times as slow, and gave the same results."""
    loops = vectorized(level, native_units.SOURCE, tmp_path / "units.so")
    assert len(loops) == 5
    for lines, times in loops:
        assert times >= (1 if "drop" in lines else 4), lines


def test_frozen_inputs() -> None:
    x, y = maps(1, 4, 3, 2), maps(1, 8, 3, 2)
    gate(x.detach(), y).sum().backward()
    gate(x, y.detach()).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))
    assert y.grad is not None


@pytest.mark.usefixtures("reloaded")
@pytest.mark.parametrize("layout", ["channels last", "channels first", "one row"])
def test_other_layouts_and_no_compiler_give_the_same(
    layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(x: Tensor, y: Tensor) -> list[Tensor]:
        if layout == "channels first":
            x, y = x.contiguous(), y.contiguous()
        elif layout == "one row":
            x, y = x[:, :, 0, 0], y[:, :, 0, 0]
        return [resnet.concat_elu(x), resnet.gate(x, y)]

    torch.manual_seed(0)
    x, y = maps(2, 5, 3, 4), maps(2, 10, 3, 4)
    ours = both(x, y)
    with torch.no_grad():
        unused = both(x, y)
    without(monkeypatch)
    theirs = both(x, y)
    for got, plain, wanted in zip(ours, unused, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
        assert torch.equal(plain, wanted)
        if layout != "channels last":
            assert torch.equal(got, wanted)
