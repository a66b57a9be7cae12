"""The functions of native_units.py against float64, and residual layers with and without them."""

import math
import re
import subprocess
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel import PixelCNNPP, PixelSNAIL
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.nn import CausalConv2d, GatedResNet, Pointwise, RowConv2d, native_units, resnet
from nextpixel.nn.native_conv import Taps
from nextpixel.nn.native_units import (
    concat_elu,
    convolve_elus,
    convolves,
    fits,
    gate,
    program,
)
from nextpixel.utils.compiling import OPTIONS
from nextpixel.utils.denormals import denormals_as_zero
from tests.helpers import needs


@pytest.fixture(autouse=True)
def _compiler() -> None:
    needs("cc", "gcc")


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


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n} threads")
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def results() -> list[Tensor]:
    torch.manual_seed(0)
    x, y = maps(5, 24, 19, 23), maps(5, 48, 19, 23)
    assert x.numel() > 32768  # so that threads share the work
    out, elus = gate(x, y), concat_elu(x)
    (out.pow(2).sum() + elus.pow(2).sum()).backward()
    assert x.grad is not None
    assert y.grad is not None
    return [out, elus, x.grad, y.grad]


@pytest.mark.usefixtures("_threads")
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
    needs("gcc", "gcc")
    command = ["gcc", *OPTIONS, f"-march={level}", "-fopenmp", "-fopt-info-vec", "-shared", "-fPIC"]
    result = subprocess.run(
        [*command, str(native_units.SOURCE), "-o", str(tmp_path / "units.so")],
        capture_output=True,
        text=True,
        check=False,
    )
    if "bad value" in result.stderr:
        pytest.skip(f"a compiler that does not know {level}")
    assert result.returncode == 0
    lines = native_units.SOURCE.read_text().splitlines()
    loops = [n + 2 for n, line in enumerate(lines) if line.strip() == "#pragma omp simd"]
    found = {int(n) for n in re.findall(r":(\d+):\d+: optimized: loop vectorized", result.stderr)}
    assert len(loops) == 5
    assert all(found & {n, n + 1} for n in loops)  # at its head or its first line


def test_frozen_inputs() -> None:
    x, y = maps(1, 4, 3, 2), maps(1, 8, 3, 2)
    gate(x.detach(), y).sum().backward()
    gate(x, y.detach()).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))
    assert y.grad is not None


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_units, "load_c_library", lambda *_: None)
    program.cache_clear()
    assert program() is None


@pytest.fixture
def _again() -> Iterator[None]:
    """Lets the program be loaded again after a test without it."""
    yield
    program.cache_clear()


@pytest.mark.usefixtures("_again")
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


LAYERS = {
    "CausalConv2d": lambda i, o: CausalConv2d("B", i, o, (2, 1, 3)),
    "CausalConv2d, a row": lambda i, o: CausalConv2d("B", i, o, (0, 2, 0)),
    "RowConv2d": lambda i, o: RowConv2d(i, o, (3, 5)),
    "Pointwise": Pointwise,
}


def gradients_of_layer(layer: GatedResNet) -> list[Tensor]:
    torch.manual_seed(1)
    x, skip, more, bias = (maps(2, n, 6, 5, scale=1) for n in (7, 3, 7, 14))
    out = layer(x, None, skip=skip, from_vertical=more, bias=bias)
    out.pow(2).mean().backward()
    tensors = [x, skip, more, bias, *layer.parameters()]
    found = [out.detach(), *(t.grad for t in tensors if t.grad is not None)]
    assert len(found) == 1 + len(tensors)
    layer.zero_grad()
    return found


@pytest.mark.usefixtures("_again")
@pytest.mark.parametrize("name", list(LAYERS))
def test_a_layer_is_the_same_without_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = GatedResNet(LAYERS[name], 7, skip=3, dropout=0.0)
    layer.to(memory_format=torch.channels_last)
    used = watch(monkeypatch)
    ours = gradients_of_layer(layer)
    assert used == [CONVOLUTION] * 3  # of x, skip and between
    without(monkeypatch)
    for got, wanted in zip(ours, gradients_of_layer(layer), strict=True):
        limit = 2e-6 * wanted.abs().max().item()
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=limit)


CONVOLUTION = "convolve_elus" if hasattr(program(), "workspace_of") else "concat_elu"


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects the names of the functions that layers call."""
    used: list[str] = []

    def noting(name: str) -> Callable[..., Tensor]:
        function = getattr(native_units, name)

        def note(*arguments: Any) -> Tensor:
            used.append(name)
            return function(*arguments)

        return note

    for name in ("concat_elu", "convolve_elus"):
        monkeypatch.setattr(native_units, name, noting(name))
    return used


def gradients_of_model(model: AutoregressiveModel, *, half: bool) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randint(model.levels, (2, *model.shape))
    with denormals_as_zero(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = -model(x).log_prob(x).mean()
        loss.backward()
    found = [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    model.zero_grad()
    return found


MODELS = {
    "PixelCNN++": lambda: PixelCNNPP(shape=(3, 9, 7), width=32, blocks=1, dropout=0.0),
    "PixelSNAIL": lambda: PixelSNAIL(shape=(1, 6, 7), width=12, blocks=1, layers=2, dropout=0.0),
}


@pytest.mark.usefixtures("_again")
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_training_step_is_the_same_without_it(
    name: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().train().to(memory_format=torch.channels_last)
    used = watch(monkeypatch)
    ours = gradients_of_model(model, half=half)
    assert len(used) > 5
    assert set(used) == {"concat_elu" if half else CONVOLUTION}  # bfloat16 has others
    without(monkeypatch)
    theirs = gradients_of_model(model, half=half)
    largest = max(wanted.norm() for wanted in theirs)
    for got, wanted in zip(ours, theirs, strict=True):
        # The gradients of some biases are sums that cancel, as those of keys of attention.
        size = wanted.norm() + 1e-3 * largest
        assert (got - wanted).norm() <= (0.05 if half else 1e-5) * size


# --- convolutions of ELUs -------------------------------------------------------------------------

needs_avx2 = pytest.mark.skipif(
    not hasattr(program(), "workspace_of"), reason="a processor without AVX2, or no compiler"
)
TAPS: dict[str, Taps] = {
    "1x1": ((0, 0),),
    "2x3": tuple((row, col) for row in (-1, 0) for col in (-1, 0, 1)),
    "mask B": ((-1, -1), (-1, 0), (0, -1), (0, 0)),
    "far apart": ((-3, 2), (0, -4)),
}


def convolved(elus: Tensor, weight: Tensor, taps: Taps) -> Tensor:
    """Adds up shifted maps, tap by tap."""
    height, width = elus.shape[2:]
    padded, total = F.pad(elus, (9, 9, 9, 9)), 0
    for tap, (down, right) in enumerate(taps):
        seen = padded[:, :, 9 + down :, 9 + right :][:, :, :height, :width]
        total = total + torch.einsum("bihw,oi->bohw", seen, weight[..., tap])
    assert isinstance(total, Tensor)
    return total


@needs_avx2
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("taps", list(TAPS))
@pytest.mark.parametrize(
    ("size", "outputs"),
    [
        ((1, 1, 1, 1), 1),
        ((2, 3, 5, 7), 18),
        ((3, 16, 4, 1), 31),
        ((4, 33, 2, 9), 64),
        ((2, 40, 11, 13), 150),
        ((5, 32, 7, 7), 32),
    ],
    ids=str,
)
def test_it_convolves_elus(taps: str, size: tuple[int, ...], outputs: int) -> None:
    torch.manual_seed(0)
    images, channels, *area = size
    x, weight = maps(*size, scale=1), torch.randn(outputs, 2 * channels, len(TAPS[taps]))
    weight, bias = weight.requires_grad_(), torch.randn(outputs, requires_grad=True)
    for added in (maps(images, outputs, *area), maps(images, outputs, 1, 1), None):
        given = [x, weight, bias] if added is None else [x, weight, bias, added]
        assert convolves(x, weight, TAPS[taps])
        out = convolve_elus(x, weight, bias, TAPS[taps], added)
        assert out.is_contiguous(memory_format=torch.channels_last)
        back = torch.randn(out.shape)  # of another layout
        found = torch.autograd.grad(out, given, back)
        references = [exact(t) for t in given]
        expected = convolved(both_elus(references[0]), references[1], TAPS[taps])
        expected = expected + references[2][:, None, None]
        if added is not None:
            expected = expected + references[3]
        wanted = torch.autograd.grad(expected, references, back.double())
        for one, other in zip((out, *found), (expected, *wanted), strict=True):
            limit = 1e-6 * other.abs().max().item()
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=limit)


@needs_avx2
def test_weights_of_any_layout_and_no_bias() -> None:
    torch.manual_seed(0)
    x, taps = maps(2, 5, 4, 3), TAPS["2x3"]
    weight = torch.randn(6, 10, 7).permute(2, 1, 0).requires_grad_()  # (7, 10, 6)
    out = convolve_elus(x.detach(), weight, None, taps)
    (got,) = torch.autograd.grad(out.pow(2).sum(), weight)
    reference = exact(weight)
    expected = convolved(both_elus(x.detach().double()), reference, taps)
    (wanted,) = torch.autograd.grad(expected.pow(2).sum(), reference)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-3)
    broadcast = torch.randn(1, 7, 4, 3)  # a summand that the program does not take
    more = convolve_elus(x, weight, None, taps, broadcast)
    torch.testing.assert_close(more, out + broadcast)


@needs_avx2
def test_elus_are_dropped_alike_in_both_directions() -> None:
    torch.manual_seed(0)
    x, chance = maps(3, 40, 9, 8), 0.3
    itself = torch.eye(80)[..., None]
    torch.manual_seed(5)
    mask = convolve_elus(x, itself, None, ((0, 0),), dropout=chance) / concat_elu(x)
    kept = mask.detach().round(decimals=4)
    values = kept.unique()
    torch.testing.assert_close(values, torch.tensor([0, 1 / (1 - chance)]), rtol=1e-4, atol=0)
    share = (kept == 0).double()
    assert abs(share.mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / share.numel())
    for dim in (0, 1, 2, 3):  # neighbours are dropped independently
        both = share.narrow(dim, 1, share.shape[dim] - 1) * share.narrow(
            dim, 0, share.shape[dim] - 1
        )
        error = math.sqrt(chance**2 * (1 - chance**2) / both.numel())
        assert abs(both.mean() - chance**2) < 4 * error, dim
    weight, taps = torch.randn(7, 80, 6, requires_grad=True), TAPS["2x3"]
    torch.manual_seed(5)
    out = convolve_elus(x, weight, None, taps, dropout=chance)
    references = [exact(x), exact(weight)]
    masked = both_elus(references[0]) * torch.where(kept > 0, 1 / (1 - chance), 0)
    expected = convolved(masked, references[1], taps)
    back = torch.randn(out.shape)
    found = torch.autograd.grad(out, (x, weight), back)
    wanted = torch.autograd.grad(expected, references, back.double())
    for one, other in zip((out, *found), (expected, *wanted), strict=True):
        limit = 1e-6 * other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=limit)


@needs_avx2
def test_a_seed_of_pytorch_decides_what_is_dropped() -> None:
    x, weight = maps(2, 8, 5, 5), torch.randn(4, 16, 1)
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs += [convolve_elus(x, weight, None, ((0, 0),), dropout=0.5) for _ in range(2)]
    assert torch.equal(outs[0], outs[2])
    assert torch.equal(outs[1], outs[3])
    different = [outs[0], outs[1], outs[4], outs[5]]
    assert not any(torch.equal(a, b) for a, b in combinations(different, 2))


@needs_avx2
def test_what_is_convolved_elsewhere() -> None:
    x, weight, taps = maps(2, 4, 5, 6), torch.randn(3, 8, 1), ((0, 0),)
    assert convolves(x, weight, taps)
    assert not convolves(x, weight, ((1, 0),))  # below the site
    assert not convolves(x, weight, taps * 65)
    assert not convolves(x, weight.double(), taps)
    assert not convolves(x, weight.to("meta"), taps)
    assert not convolves(x.bfloat16(), weight, taps)
    assert not convolves(x.contiguous(), weight, taps)
    with torch.no_grad():
        assert not convolves(x, weight, taps)
    with torch.autocast("cpu", torch.bfloat16):
        assert not convolves(x, weight, taps)
