"""The layers of native_layers.py against float64, and residual layers with and without them."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextpixel import PixelCNNPP, PixelSNAIL
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.nn import (
    CausalConv2d,
    GatedResNet,
    Pointwise,
    RowConv2d,
    native_layers,
    native_units,
)
from nextpixel.nn.checkpointing import checkpointing
from nextpixel.nn.native_conv import Taps
from nextpixel.nn.native_layers import (
    Convolution,
    convolve_elus,
    convolves,
    gated_layer,
    last,
    takes,
)
from nextpixel.nn.native_units import concat_elu, gate, program
from nextpixel.utils.compiling import load_c_library
from nextpixel.utils.denormals import denormals_as_zero
from tests.nn.conftest import without
from tests.nn.test_native_units import both_elus, exact, maps

pytestmark = pytest.mark.usefixtures("compiler")
NATIVE = hasattr(program(), "workspace_of")
needs_avx2 = pytest.mark.skipif(not NATIVE, reason="a processor without AVX2, or no compiler")
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
def test_it_convolves_elus(
    taps: str, size: tuple[int, ...], outputs: int, several_threads: int
) -> None:
    torch.manual_seed(0)
    threads = several_threads
    images, channels, *area = size
    x, weight = maps(*size, scale=1), torch.randn(outputs, 2 * channels, len(TAPS[taps]))
    weight, bias = weight.requires_grad_(), torch.randn(outputs, requires_grad=True)
    for added in (maps(images, outputs, *area), maps(images, outputs, 1, 1), None):
        given = [x, weight, bias] if added is None else [x, weight, bias, added]
        assert convolves(x, Convolution(weight, bias, TAPS[taps])) == (threads <= images)
        out = convolve_elus(x, Convolution(weight, bias, TAPS[taps]), added)
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
    out = convolve_elus(x.detach(), Convolution(weight, None, taps))
    (got,) = torch.autograd.grad(out.pow(2).sum(), weight)
    reference = exact(weight)
    expected = convolved(both_elus(x.detach().double()), reference, taps)
    (wanted,) = torch.autograd.grad(expected.pow(2).sum(), reference)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-3)


@needs_avx2
def test_elus_are_dropped_alike_in_both_directions() -> None:
    torch.manual_seed(0)
    x, chance = maps(3, 40, 9, 8), 0.3
    itself = torch.eye(80)[..., None]
    torch.manual_seed(5)
    mask = convolve_elus(x, Convolution(itself, None, ((0, 0),)), dropout=chance) / concat_elu(x)
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
    out = convolve_elus(x, Convolution(weight, None, taps), dropout=chance)
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
    x, one = maps(2, 8, 5, 5), Convolution(torch.randn(4, 16, 1), None, ((0, 0),))
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs += [convolve_elus(x, one, dropout=0.5) for _ in range(2)]
    assert torch.equal(outs[0], outs[2])
    assert torch.equal(outs[1], outs[3])
    different = [outs[0], outs[1], outs[4], outs[5]]
    assert not any(torch.equal(a, b) for a, b in combinations(different, 2))


@needs_avx2
def test_what_is_convolved_elsewhere() -> None:
    x, weight, here = maps(2, 4, 5, 6), torch.randn(3, 8, 1), ((0, 0),)

    def taken(x: Tensor, weight: Tensor = weight, bias: Any = None, taps: Taps = here) -> bool:
        return convolves(x, Convolution(weight, bias, taps))

    assert taken(x)
    assert taken(x, bias=torch.zeros(3))
    assert not taken(x, taps=((1, 0),))  # below the site
    assert not taken(x, taps=here * 65)
    assert not taken(x, torch.randn(3, 10, 1))  # of other maps
    assert not taken(x, weight.double())
    assert not taken(x, weight.to("meta"))
    assert not taken(x, bias=torch.zeros(3).double())
    assert not taken(x, bias=torch.zeros(6)[::2])
    assert not taken(x.bfloat16())
    assert not taken(x.contiguous())
    assert not taken(maps(1, 4, 200, 200))
    with torch.no_grad():
        assert not taken(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(x)
    for size in ((2, 3, 5, 6), (2, 3, 1, 1)):
        assert takes(x, 3, torch.randn(size))
        assert not takes(x, 3, torch.randn(size).double())
        assert not takes(x, 3, torch.randn(size).to("meta"))
    for size in ((1, 3, 5, 6), (2, 4, 5, 6), (2, 3, 5, 1), (3,)):
        assert not takes(x, 3, torch.randn(size))


def test_a_processor_with_avx2_has_the_program() -> None:
    """Otherwise the tests here would be skipped without a word."""
    assert NATIVE or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")


# --- whole layers ---------------------------------------------------------------------------------


def layer_by_parts(
    x: Tensor,
    first: Convolution,
    second: Convolution,
    skip: tuple[Tensor, Convolution] | None,
    context: Tensor | None,
    bias: Tensor | None,
    dropout: float,
) -> Tensor:
    h = convolve_elus(x, first, context)
    if skip is not None:
        h = convolve_elus(*skip, more=h)
    return gate(x, convolve_elus(h, second, bias, dropout))


@needs_avx2
@pytest.mark.usefixtures("several_threads")
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("skipped", [0, 3, 16])
@pytest.mark.parametrize("added", ["maps", "images", "nothing"])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (5, 7, 6, 5), (2, 32, 14, 9)], ids=str)
def test_a_layer_is_its_parts(
    size: tuple[int, ...], added: str, skipped: int, dropout: float
) -> None:
    torch.manual_seed(0)
    images, channels, *area = size
    x, given = maps(*size, scale=1), list[Tensor]()

    def convolution(inputs: int, outputs: int, taps: Taps, bias: bool = True) -> Convolution:
        weight = (torch.randn(outputs, 2 * inputs, len(taps)) / math.sqrt(inputs)).requires_grad_()
        given.append(weight)
        if not bias:
            return Convolution(weight, None, taps)
        given.append(torch.randn(outputs, requires_grad=True))
        return Convolution(weight, given[-1], taps)

    first = convolution(channels, channels, TAPS["2x3"], bias=skipped != 3)
    second = convolution(channels, 2 * channels, TAPS["mask B"])
    skip = context = bias = None
    if skipped:
        skip = (maps(images, skipped, *area, scale=1), convolution(skipped, channels, TAPS["1x1"]))
        given.append(skip[0])
    if added != "nothing":
        of = area if added == "maps" else (1, 1)
        context, bias = maps(images, channels, *of), maps(images, 2 * channels, *of)
        given += [context, bias]
    back = torch.randn(size)  # of another layout
    torch.manual_seed(1)
    out = gated_layer(x, first, second, skip=skip, context=context, bias=bias, dropout=dropout)
    found = torch.autograd.grad(out, [x, *given], back)
    torch.manual_seed(1)  # the same ELUs are dropped
    expected = layer_by_parts(x, first, second, skip, context, bias, dropout)
    wanted = torch.autograd.grad(expected, [x, *given], back)
    for one, other in zip((out, *found), (expected, *wanted), strict=True):
        limit = 1e-6 * other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=1e-5, atol=limit)


@needs_avx2
def test_frozen_parts_of_a_layer() -> None:
    torch.manual_seed(0)
    x, s = maps(2, 4, 3, 5), maps(2, 2, 3, 5)
    weights = [torch.randn(4, 8, 1), torch.randn(4, 4, 1), torch.randn(8, 8, 1)]
    first, third, second = (Convolution(w, None, ((0, 0),)) for w in weights)
    out = gated_layer(x, first, second, skip=(s.detach(), third))
    (of_x,) = torch.autograd.grad(out.sum(), x)
    out = gated_layer(x.detach(), first, second, skip=(s, third))
    (of_s,) = torch.autograd.grad(out.sum(), s)
    out = layer_by_parts(x, first, second, (s, third), None, None, 0.0)
    wanted = torch.autograd.grad(out.sum(), (x, s))
    torch.testing.assert_close((of_x, of_s), wanted)


FUNCTIONS = [(native_units, "concat_elu"), (native_layers, "convolve_elus")]
FUNCTIONS.append((native_layers, "gated_layer"))


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects the names of the functions that layers call."""
    used: list[str] = []

    def noting(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def note(*arguments: Any, **options: Any) -> Tensor:
            used.append(name)
            return function(*arguments, **options)

        return note

    for module, name in FUNCTIONS:
        monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    return used


LAYERS = {
    "CausalConv2d": lambda i, o: CausalConv2d("B", i, o, (2, 1, 3)),
    "CausalConv2d, a row": lambda i, o: CausalConv2d("B", i, o, (0, 2, 0)),
    "RowConv2d": lambda i, o: RowConv2d(i, o, (3, 5)),
    "Pointwise": Pointwise,
}
CONTEXTS = {"maps": (2, 7, 6, 5), "images": (2, 7, 1, 1), "one for all": (1, 7, 6, 5)}


def gradients_of_layer(layer: GatedResNet, size: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(1)
    x, skip, bias = (maps(2, n, 6, 5, scale=1) for n in (7, 3, 14))
    more = torch.randn(size).requires_grad_()
    out = layer(x, None, skip=skip, from_vertical=more, bias=bias)
    out.pow(2).mean().backward()
    tensors = [x, skip, more, bias, *layer.parameters()]
    found = [out.detach(), *(t.grad for t in tensors if t.grad is not None)]
    assert len(found) == 1 + len(tensors)
    layer.zero_grad()
    return found


@pytest.mark.usefixtures("reloaded")
@pytest.mark.parametrize("context", list(CONTEXTS))
@pytest.mark.parametrize("name", list(LAYERS))
def test_a_layer_is_the_same_without_it(
    name: str, context: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = GatedResNet(LAYERS[name], 7, skip=3, dropout=0.0)
    layer.to(memory_format=torch.channels_last)
    used = watch(monkeypatch)
    ours = gradients_of_layer(layer, CONTEXTS[context])
    if not NATIVE:
        assert used == ["concat_elu"] * 3
    elif context == "one for all":  # which the program does not take
        assert used == ["concat_elu", "convolve_elus", "convolve_elus"]
    else:
        assert used == ["gated_layer"]
    without(monkeypatch)
    for got, wanted in zip(ours, gradients_of_layer(layer, CONTEXTS[context]), strict=True):
        limit = 2e-6 * wanted.abs().max().item()
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=limit)


def test_a_layer_drops_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = GatedResNet(Pointwise, 4, dropout=0.3).to(memory_format=torch.channels_last)
    one = maps(1, 4, 5, 5, scale=1).detach()
    x = last(one.expand(2, 4, 5, 5)).requires_grad_()
    used = watch(monkeypatch)
    first, second = layer(x, None)
    assert not torch.equal(first, second)
    assert used == (["gated_layer"] if NATIVE else ["concat_elu", "concat_elu"])
    first, second = layer.eval()(x, None)
    assert torch.equal(first, second)
    assert "gated_layer" not in used[1:]  # a score does not depend on a compiler


@needs_avx2
def test_other_shapes_are_left_to_pytorch() -> None:
    layer = GatedResNet(Pointwise, 4, skip=3, dropout=0.0).to(memory_format=torch.channels_last)
    x, skip = maps(2, 4, 5, 6), maps(1, 3, 5, 6)
    torch.testing.assert_close(
        layer(x, None, skip=skip), layer(x, None, skip=last(skip.expand(2, 3, 5, 6)))
    )
    for wrong in ((maps(2, 8, 5, 6), skip), (x, maps(2, 3, 6, 5)), (x, maps(2, 5, 5, 6))):
        with pytest.raises(RuntimeError, match=r"size|channels"):
            layer(wrong[0], None, skip=wrong[1])


@needs_avx2
def test_layers_with_hooks_or_of_another_kind_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(Pointwise):
        def forward(self, *arguments: Any, **options: Any) -> Tensor:
            return torch.zeros_like(super().forward(*arguments, **options))

    x, used = maps(2, 4, 5, 6), watch(monkeypatch)
    layer = GatedResNet(Nothing, 4, dropout=0.0)
    assert torch.equal(layer(x, None), x)
    layer = GatedResNet(Pointwise, 4, dropout=0.0)
    seen: list[Any] = []
    layer.conv_out.register_forward_hook(lambda *_: seen.append(1))
    layer(x, None)
    assert seen == [1]
    assert "gated_layer" not in used


@needs_avx2
def test_saved_maps_of_another_layout() -> None:
    layer = GatedResNet(Pointwise, 4, skip=3, dropout=0.0).to(memory_format=torch.channels_last)
    x, skip = maps(2, 4, 5, 6), maps(2, 3, 5, 6)
    given = [x, skip, *layer.parameters()]
    wanted = torch.autograd.grad(layer(x, None, skip=skip).sum(), given)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t):
        out = layer(x, None, skip=skip)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), given), wanted)


@needs_avx2
def test_frozen_weights() -> None:
    layer = GatedResNet(lambda i, o: RowConv2d(i, o, (2, 3)), 4, skip=3, dropout=0.0)
    layer.to(memory_format=torch.channels_last)
    x, skip = maps(2, 4, 5, 6), maps(2, 3, 5, 6)
    wanted = torch.autograd.grad(layer(x, None, skip=skip).sum(), (x, skip))
    layer.requires_grad_(False)
    found = torch.autograd.grad(layer(x, None, skip=skip).sum(), (x, skip))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@needs_avx2
@pytest.mark.usefixtures("reloaded")
def test_the_program_of_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """With AVX2 alone, on a processor that has more."""
    torch.manual_seed(0)
    x, skip, context = maps(3, 21, 9, 7, scale=1), maps(3, 5, 9, 7, scale=1), maps(3, 21, 9, 7)
    layer = GatedResNet(lambda i, o: RowConv2d(i, o, (2, 3)), 21, skip=5, dropout=0.2)
    layer.to(memory_format=torch.channels_last)
    results = []
    for options in ((), ("-march=x86-64-v3",)):
        monkeypatch.setattr(
            native_units, "load_c_library", partial(load_c_library, defines=options)
        )
        program.cache_clear()
        torch.manual_seed(1)
        out = layer(x, None, skip=skip, from_vertical=context)
        given = [x, skip, context, *layer.parameters()]
        results.append((out, *torch.autograd.grad(out.pow(2).sum(), given)))
    for one, other in zip(*results, strict=True):
        limit = 1e-6 * other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=1e-5, atol=limit)


@needs_avx2
def test_checkpointed_layers_drop_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = PixelCNNPP(shape=(1, 6, 5), levels=4, width=8, blocks=1, components=2, dropout=0.4)
    model.train().to(memory_format=torch.channels_last)
    x = torch.randint(4, (2, 1, 6, 5))
    used, results = watch(monkeypatch), []
    for again in (False, True):
        torch.manual_seed(1)
        with checkpointing() if again else nullcontext():
            loss = -model(x).log_prob(x).mean()
        results.append(torch.autograd.grad(loss, list(model.parameters())))
    assert used.count("gated_layer") > 20
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


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


@pytest.mark.usefixtures("reloaded")
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_training_step_is_the_same_without_it(
    name: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().train().to(memory_format=torch.channels_last)
    used = watch(monkeypatch)
    ours = gradients_of_model(model, half=half)
    assert len(used) > 2
    if half or not NATIVE:
        assert set(used) == {"concat_elu"}  # bfloat16 has convolutions of its own
    else:
        assert set(used) <= {"gated_layer", "convolve_elus"}
    without(monkeypatch)
    theirs = gradients_of_model(model, half=half)
    largest = max(wanted.norm() for wanted in theirs)
    for got, wanted in zip(ours, theirs, strict=True):
        # The gradients of some biases are sums that cancel, as those of keys of attention.
        size = wanted.norm() + 1e-3 * largest
        assert (got - wanted).norm() <= (0.05 if half else 1e-5) * size
