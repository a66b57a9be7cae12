"""The LSTMs of native_lstm.py against PyTorch's in float64, and with and without a compiler."""

import copy
import ctypes
import math
import platform
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nextpixel.nn import DiagonalLayer, RowLayer, native_lstm
from nextpixel.nn.native_lstm import Recurrence, fits, program, sweep
from tests.nn.conftest import compile_for, vectorized, without

pytestmark = pytest.mark.usefixtures("compiler")
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
LAYERS = [RowLayer, DiagonalLayer]
# Images, channels of input and state, height and width. Vectors have 4, 8 or 16 numbers, and
# images are taken two or four at a time.
SIZES = [(1, 1, 1, 1, 1), (2, 3, 5, 1, 6), (5, 4, 7, 5, 1), (3, 8, 16, 4, 5), (4, 2, 24, 3, 7)]
SIZES += [(9, 6, 33, 6, 3)]
# The state of a site depends on the one to the right, if rows go from right to left.
BESIDE_AND_ABOVE = Recurrence(((0, -1), (-1, 0)), 0)
RECURRENCES = [BESIDE_AND_ABOVE, BESIDE_AND_ABOVE._replace(mirrored=True)]
RECURRENCES += [Recurrence(((-1, -1), (-1, 0), (-1, 1)), 1)]
RECURRENCES += [Recurrence(((-2, 2), (0, -3)), 1, mirrored=True)]
RECURRENCES += [Recurrence(tuple((-1, column) for column in range(-8, 8)), 8)]


def states_of(contributions: Tensor, weight: Tensor, recurrence: Recurrence) -> Tensor:
    """Equation 3 of van den Oord et al., 2016, site by site: the gates are o, f, i and g."""
    images, gates, height, width = contributions.shape
    h: dict[tuple[int, int], Tensor] = {}
    c: dict[tuple[int, int], Tensor] = {}
    zero = contributions.new_zeros(images, gates // 4)
    side = -1 if recurrence.mirrored else 1
    for row in range(height):
        for col in range(width)[::side]:
            near = [(row + down, col + side * right) for down, right in recurrence.offsets]
            total = contributions[:, :, row, col]
            for site, of_site in zip(near, weight, strict=True):
                total = total + h.get(site, zero) @ of_site
            o, f, i, g = total.chunk(4, 1)
            cell = f.sigmoid() * c.get(near[recurrence.carry], zero) + i.sigmoid() * g.tanh()
            h[row, col], c[row, col] = o.sigmoid() * cell.tanh(), cell
    rows = [torch.stack([h[row, col] for col in range(width)], 2) for row in range(height)]
    return torch.stack(rows, 2)


def inputs_of(
    recurrence: Recurrence, images: int, width: int, *size: int, scale: float = 1
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(len(recurrence.offsets), width, 4 * width) / math.sqrt(width)
    x = scale * torch.randn(images, 4 * width, *size)
    return x.requires_grad_(), weight.requires_grad_()


def with_gradients(out: Tensor, *inputs: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    back = torch.randn(out.shape, generator=generator, dtype=torch.float32).to(out)
    return [out, *torch.autograd.grad(out, inputs, back)]


def exact_results(x: Tensor, weight: Tensor, recurrence: Recurrence) -> list[Tensor]:
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    return with_gradients(states_of(*exact, recurrence), *exact)


@pytest.mark.parametrize("recurrence", RECURRENCES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_states_and_gradients_equal_the_formulas(
    recurrence: Recurrence, size: tuple[int, ...]
) -> None:
    images, _, *rest = size
    x, weight = inputs_of(recurrence, images, *rest)
    assert fits(x, weight, recurrence)
    ours = with_gradients(sweep(x, weight, recurrence), x, weight)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    for got, wanted in zip(
        ours, with_gradients(states_of(*exact, recurrence), *exact), strict=True
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, **CLOSE)


def test_large_numbers_saturate() -> None:
    x, weight = inputs_of(BESIDE_AND_ABOVE, 3, 20, 4, 5, scale=300)
    out = with_gradients(sweep(x, weight, BESIDE_AND_ABOVE), x, weight)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    for got, wanted in zip(
        out, with_gradients(states_of(*exact, BESIDE_AND_ABOVE), *exact), strict=True
    ):
        assert got.isfinite().all()
        torch.testing.assert_close(got.double(), wanted, **CLOSE)


def test_nan_reaches_all_sites_that_depend_on_it() -> None:
    x, weight = inputs_of(BESIDE_AND_ABOVE, 2, 17, 3, 4)
    x.data[1, 40, 1, 2] = math.nan
    out = sweep(x, weight, BESIDE_AND_ABOVE)
    assert not out[0].isnan().any()
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[1:, 2:] = True
    assert torch.equal(out[1].isnan().any(0), expected)
    assert torch.equal(states_of(x, weight, BESIDE_AND_ABOVE)[1].isnan().any(0), expected)


def layer_results(layer: RowLayer | DiagonalLayer, x: Tensor, bias: Tensor) -> list[Tensor]:
    return with_gradients(layer(x, bias), x, bias, *layer.parameters())


@pytest.mark.usefixtures("reloaded")
@pytest.mark.parametrize("kind", LAYERS, ids=lambda layer: layer.__name__)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_layers_give_the_same_without_a_compiler(
    kind: type[RowLayer | DiagonalLayer], size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, channels, width, *area = size
    torch.manual_seed(0)
    layer = kind(channels, width)
    x = torch.randn(images, channels, *area, requires_grad=True)
    bias = torch.randn(images, kind.gates * width, 1, 1, requires_grad=True)
    called = []
    monkeypatch.setattr(native_lstm, "sweep", lambda *args: called.append(args) or sweep(*args))
    ours = layer_results(layer, x, bias)
    assert called
    with torch.no_grad():
        unused = layer(x, bias)
    number = len(called)
    without(monkeypatch, native_lstm)
    exact = [copy.deepcopy(layer).double(), x.double(), bias.double()]
    for got, wanted in zip(ours, layer_results(*exact), strict=True):
        torch.testing.assert_close(got.double(), wanted, **CLOSE)
    torch.testing.assert_close(ours[0], unused, **CLOSE)
    assert len(called) == number  # not without gradients, nor without a compiler


def test_half_precision_is_computed_in_full() -> None:
    x, weight = inputs_of(BESIDE_AND_ABOVE, 3, 16, 4, 5)
    half = x.detach().bfloat16()
    whole = half.float().requires_grad_()
    half.requires_grad_()
    out = sweep(half, weight, BESIDE_AND_ABOVE)
    assert out.dtype == torch.float32
    wanted = with_gradients(sweep(whole, weight, BESIDE_AND_ABOVE), whole, weight)
    with torch.autocast("cpu", torch.bfloat16):  # of the backward pass, too
        got = with_gradients(out, half, weight)
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1].bfloat16())
    assert torch.equal(got[2], wanted[2])


@pytest.mark.parametrize("kind", LAYERS, ids=lambda layer: layer.__name__)
def test_layers_use_it_under_autocast(
    kind: type[RowLayer | DiagonalLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(native_lstm, "sweep", lambda *args: called.append(args) or sweep(*args))
    layer, x = kind(8, 16), torch.randn(2, 8, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x, None).dtype == torch.float32
    assert {args[0].dtype for args in called} == {torch.bfloat16}


def test_any_layout_and_default_type() -> None:
    """Of inputs, gradients, what hooks save, and of PyTorch's new tensors."""

    def saved_in_another_layout(x: Tensor) -> Tensor:
        return x.mT.contiguous().mT

    x, weight = inputs_of(RECURRENCES[1], 3, 20, 4, 5)
    wanted = with_gradients(sweep(x, weight, RECURRENCES[1]), x, weight)
    strided = x.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    turned = weight.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autograd.graph.saved_tensors_hooks(saved_in_another_layout, lambda x: x):
            out = sweep(strided, turned, RECURRENCES[1])
        got = with_gradients(out, strided, turned)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, got, wanted))
    spread = torch.ones(1, 1, 1, 1).expand_as(out)
    (of_spread,) = torch.autograd.grad(sweep(x, weight, RECURRENCES[1]), x, spread)
    (of_whole,) = torch.autograd.grad(sweep(x, weight, RECURRENCES[1]), x, spread.contiguous())
    assert torch.equal(of_spread, of_whole)


@pytest.mark.usefixtures("several_threads")
def test_threads_change_nothing() -> None:
    x, weight = inputs_of(RECURRENCES[1], 11, 20, 9, 8)
    ours = with_gradients(sweep(x, weight, RECURRENCES[1]), x, weight)
    torch.set_num_threads(1)
    theirs = with_gradients(sweep(x, weight, RECURRENCES[1]), x, weight)
    # The weights' gradient is one product of PyTorch.
    assert all(map(torch.equal, ours[:2], theirs[:2]))
    torch.testing.assert_close(ours[2], theirs[2])


def test_unsupported_arguments_do_not_fit() -> None:
    x, weight = inputs_of(BESIDE_AND_ABOVE, 2, 4, 3, 5)
    assert fits(x, weight, BESIDE_AND_ABOVE)
    assert fits(x.detach(), weight, RECURRENCES[-1])
    assert fits(x.bfloat16(), weight, BESIDE_AND_ABOVE)
    assert not fits(x, weight, Recurrence(((-1, 0),) * 17, 0))
    assert not fits(x.detach(), weight.detach(), BESIDE_AND_ABOVE)
    with torch.no_grad():
        assert not fits(x, weight, BESIDE_AND_ABOVE)
    for other in (x.double(), x.half(), x[:0], x.to("meta")):
        assert not fits(other, weight, BESIDE_AND_ABOVE)
    for other in (weight.double(), weight.bfloat16(), weight.to("meta")):
        assert not fits(x, other, BESIDE_AND_ABOVE)


def test_frozen_inputs() -> None:
    x, weight = inputs_of(BESIDE_AND_ABOVE, 2, 4, 3, 5)
    both = with_gradients(sweep(x, weight, BESIDE_AND_ABOVE), x, weight)
    (of_x,) = with_gradients(sweep(x, weight.detach(), BESIDE_AND_ABOVE), x)[1:]
    (of_weight,) = with_gradients(sweep(x.detach(), weight, BESIDE_AND_ABOVE), weight)[1:]
    assert torch.equal(of_x, both[1])
    assert torch.equal(of_weight, both[2])


@pytest.mark.usefixtures("reloaded")
@pytest.mark.parametrize("level", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_other_processors(level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With vectors of 4, 8 and 16 numbers, as far as this processor has them."""
    levels = {"DEFAULT": ["x86-64"], "AVX2": ["x86-64", "x86-64-v3"]}
    here = levels.get(torch.backends.cpu.get_cpu_capability(), [*levels["AVX2"], "x86-64-v4"])
    if platform.machine() != "x86_64" or level not in here:
        pytest.skip(f"this processor cannot run programs for {level}")
    library = tmp_path / "lstm.so"
    compile_for(level, native_lstm.SOURCE, library)
    monkeypatch.setattr(native_lstm, "load_c_library", lambda *_: ctypes.CDLL(str(library)))
    program.cache_clear()
    for recurrence in RECURRENCES:
        for size in SIZES:
            test_states_and_gradients_equal_the_formulas(recurrence, size)


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_every_loop_for_vectors_becomes_one(level: str, tmp_path: Path) -> None:
    """As GCC says; a loop of single numbers gives the same results, slowly."""
    loops = vectorized(level, native_lstm.SOURCE, tmp_path / "lstm.so")
    assert len(loops) == 2
    for lines, times in loops:
        assert times >= 2, lines  # of whole vectors, and of fewer numbers
