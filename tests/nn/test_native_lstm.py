"""The LSTMs of native_lstm.py against PyTorch's in float64, and with and without a compiler."""

import copy
import math
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nextpixel.nn import DiagonalLayer, RowLayer, native_lstm
from nextpixel.nn.native_lstm import Kind, fits, sweep
from nextpixel.utils.compiling import OPTIONS
from tests.helpers import needs
from tests.nn.conftest import without

pytestmark = pytest.mark.usefixtures("compiler")
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
LAYERS = [RowLayer, DiagonalLayer]
# Images, channels of input and state, height and width. Vectors have 4, 8 or 16 numbers, and
# images are taken two or four at a time.
SIZES = [(1, 1, 1, 1, 1), (2, 3, 5, 1, 6), (5, 4, 7, 5, 1), (3, 8, 16, 4, 5), (4, 2, 24, 3, 7)]
SIZES += [(9, 6, 33, 6, 3)]
# The state of a site depends on the one to the right, if rows go from right to left.
KINDS = [Kind(((0, -1), (-1, 0)), 0), Kind(((0, -1), (-1, 0)), 0, mirrored=True)]
KINDS += [Kind(((-1, -1), (-1, 0), (-1, 1)), 1), Kind(((-2, 2), (0, -3)), 1, mirrored=True)]
KINDS += [Kind(tuple((-1, col) for col in range(-8, 8)), 8)]


def states_of(contributions: Tensor, weight: Tensor, kind: Kind) -> Tensor:
    """Equation 3 of van den Oord et al., 2016, site by site: the gates are o, f, i and g."""
    images, gates, height, width = contributions.shape
    h: dict[tuple[int, int], Tensor] = {}
    c: dict[tuple[int, int], Tensor] = {}
    zero = contributions.new_zeros(images, gates // 4)
    side = -1 if kind.mirrored else 1
    for row in range(height):
        for col in range(width)[::side]:
            near = [(row + down, col + side * right) for down, right in kind.offsets]
            total = contributions[:, :, row, col]
            for site, of_site in zip(near, weight, strict=True):
                total = total + h.get(site, zero) @ of_site
            o, f, i, g = total.chunk(4, 1)
            cell = f.sigmoid() * c.get(near[kind.carry], zero) + i.sigmoid() * g.tanh()
            h[row, col], c[row, col] = o.sigmoid() * cell.tanh(), cell
    rows = [torch.stack([h[row, col] for col in range(width)], 2) for row in range(height)]
    return torch.stack(rows, 2)


def inputs_of(
    kind: Kind, images: int, width: int, *size: int, scale: float = 1
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(len(kind.offsets), width, 4 * width) / math.sqrt(width)
    x = scale * torch.randn(images, 4 * width, *size)
    return x.requires_grad_(), weight.requires_grad_()


def with_gradients(out: Tensor, *inputs: Tensor) -> list[Tensor]:
    back = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out, *torch.autograd.grad(out, inputs, back)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_states_and_gradients_equal_the_formulas(kind: Kind, size: tuple[int, ...]) -> None:
    images, _, *rest = size
    x, weight = inputs_of(kind, images, *rest)
    assert fits(x, weight, len(kind.offsets))
    ours = with_gradients(sweep(x, weight, kind), x, weight)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    for got, wanted in zip(ours, with_gradients(states_of(*exact, kind), *exact), strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, **CLOSE)


def test_large_numbers_saturate() -> None:
    x, weight = inputs_of(KINDS[0], 3, 20, 4, 5, scale=300)
    out = with_gradients(sweep(x, weight, KINDS[0]), x, weight)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    for got, wanted in zip(out, with_gradients(states_of(*exact, KINDS[0]), *exact), strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got.double(), wanted, **CLOSE)


def test_a_number_that_is_none_reaches_all_that_depend_on_it() -> None:
    x, weight = inputs_of(KINDS[0], 2, 17, 3, 4)
    x.data[1, 40, 1, 2] = math.nan
    out = sweep(x, weight, KINDS[0])
    assert not out[0].isnan().any()
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[1:, 2:] = True
    assert torch.equal(out[1].isnan().any(0), expected)
    assert torch.equal(states_of(x, weight, KINDS[0])[1].isnan().any(0), expected)


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


@pytest.mark.parametrize("kind", LAYERS, ids=lambda layer: layer.__name__)
def test_half_precision_is_computed_in_full(kind: type[RowLayer | DiagonalLayer]) -> None:
    torch.manual_seed(0)
    layer = kind(8, 16)
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    expected = layer(x, None)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, None)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=0, atol=0.02)  # of the inputs' rounding


@pytest.mark.usefixtures("several_threads")
def test_threads_change_nothing() -> None:
    x, weight = inputs_of(KINDS[1], 11, 20, 9, 8)
    ours = with_gradients(sweep(x, weight, KINDS[1]), x, weight)
    torch.set_num_threads(1)
    theirs = with_gradients(sweep(x, weight, KINDS[1]), x, weight)
    # The weights' gradient is one product of PyTorch.
    assert all(map(torch.equal, ours[:2], theirs[:2]))
    torch.testing.assert_close(ours[2], theirs[2])


def test_unsupported_arguments_do_not_fit() -> None:
    x, weight = inputs_of(KINDS[0], 2, 4, 3, 5)
    assert fits(x, weight, 2)
    assert fits(x.detach(), weight, 16)
    assert fits(x.bfloat16(), weight, 2)
    assert not fits(x, weight, 17)
    assert not fits(x.detach(), weight.detach(), 2)
    with torch.no_grad():
        assert not fits(x, weight, 2)
    for other in (x.double(), x.half(), x[:0], x.to("meta")):
        assert not fits(other, weight, 2)
    for other in (weight.double(), weight.bfloat16(), weight.to("meta")):
        assert not fits(x, other, 2)


def test_frozen_inputs() -> None:
    x, weight = inputs_of(KINDS[0], 2, 4, 3, 5)
    both = with_gradients(sweep(x, weight, KINDS[0]), x, weight)
    (of_x,) = with_gradients(sweep(x, weight.detach(), KINDS[0]), x)[1:]
    (of_weight,) = with_gradients(sweep(x.detach(), weight, KINDS[0]), weight)[1:]
    assert torch.equal(of_x, both[1])
    assert torch.equal(of_weight, both[2])


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_every_loop_for_vectors_becomes_one(level: str, tmp_path: Path) -> None:
    """As GCC says; a loop of single numbers gives the same results, slowly."""
    needs("gcc", "gcc")
    command = ["gcc", *OPTIONS, f"-march={level}", "-fopenmp", "-fopt-info-vec", "-shared", "-fPIC"]
    result = subprocess.run(
        [*command, str(native_lstm.SOURCE), "-o", str(tmp_path / "lstm.so")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "bad value" in result.stderr:
        pytest.skip(f"a compiler that does not know {level}")
    assert result.returncode == 0
    lines = native_lstm.SOURCE.read_text().splitlines()
    loops = [n + 2 for n, line in enumerate(lines) if line.strip() == "#pragma omp simd"]
    found = Counter(
        int(n) for n in re.findall(r":(\d+):\d+: optimized: loop vectorized", result.stderr)
    )
    assert len(loops) == 2
    for n in loops:  # GCC names a loop's head or its first line
        assert found[n] + found[n + 1] >= 2, lines[n - 1]  # of whole vectors, and of fewer numbers
