"""Replayed steps: the same numbers as computed ones, for any batch, and only where that is sure."""

import copy
import gc
import itertools
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nextpixel import models
from nextpixel.autoregressive import CausalNetwork, Inputs
from nextpixel.compiling import compiled
from nextpixel.context import ContextBias, Takes
from nextpixel.engine import Tape, begin_tape
from nextpixel.engine.program import INSTRUCTION, OPERATIONS, program
from nextpixel.engine.script import Pace
from nextpixel.nn import Cache, MaskedConv2d, Pointwise, Site
from nextpixel.sampling import trace

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(autouse=True)
def _compile_anew() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    """Makes the next one look for the compiled program again."""
    program.cache_clear()
    compiled.cache_clear()


class OwnNet(CausalNetwork):
    """A user's network: a convolution, and whatever `middle` does to its output."""

    middle: Callable[[Tensor, Site | None], Tensor] = staticmethod(lambda h, site: h)

    def __init__(
        self, *, shape: tuple[int, int, int], levels: int, inputs: Inputs = "scaled"
    ) -> None:
        super().__init__(shape=shape, levels=levels, classes=None, inputs=inputs)
        self.condition = ContextBias(Takes(), [], (1, 1))
        self.first = MaskedConv2d("A", self.in_channels, 8, 5)
        self.last = Pointwise(8, self.out_channels)

    def network(self, x: Tensor, biases: list[Tensor | None], cache: Cache | None = None) -> Tensor:
        h = self.first(x, cache=cache)
        h = self.middle(h, None if cache is None else cache.site)
        parameters: Tensor = self.last(h, cache=cache)
        return parameters


def own(middle: Callable[[Tensor, Site | None], Tensor]) -> OwnNet:
    torch.manual_seed(0)
    model = OwnNet(shape=(1, 6, 7), levels=4).double().eval()
    model.middle = middle
    return model


def drawn(model: CausalNetwork, n: int, sampler: str) -> tuple[Tensor, Tensor]:
    """The picture, and the probabilities at all sites."""
    steps = trace(model, n, sampler=sampler)  # type: ignore[arg-type]
    pmf = []
    for step in steps:
        pmf.append(step.distribution.pmf())
        x = step.x.clone()
    return x, torch.stack(pmf)


def assert_same(model: CausalNetwork, n: int = 3) -> None:
    expected, got = drawn(model, n, "cached"), drawn(model, n, "replayed")
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1], rtol=0, atol=1e-12)


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """All tapes that are begun."""
    begun: list[Tape] = []

    def begin(cache: Cache, images: int, size: tuple[int, int]) -> Tape | None:
        tape = begin_tape(cache, images, size)
        if tape is not None:
            begun.append(tape)
        return tape

    monkeypatch.setattr("nextpixel.sampling.begin_tape", begin)
    return begun


def replayed(tape: Tape) -> bool:
    return all(kind.recordable and kind.script is not None for kind in tape.kinds.values())


# --- the compiled program -------------------------------------------------------------------------


@needs_compiler
@both_types
def test_it_compiles(dtype: torch.dtype) -> None:
    assert program(dtype) is not None
    assert program(torch.bfloat16) is None


@needs_compiler
@both_types
@pytest.mark.parametrize("columns", [1, 3, 16, 37])
def test_functions(dtype: torch.dtype, columns: int) -> None:
    library = program(dtype)
    assert library is not None
    torch.manual_seed(0)
    scales = torch.tensor([1e-6, 1e-3, 0.1, 1, 3, 30, 500], dtype=dtype)
    a = torch.stack([torch.randn(columns, dtype=dtype) * s for s in scales])
    b = torch.randn(7, columns, dtype=dtype)
    expected = {
        "copy": a,
        "relu": a.relu(),
        "elu": nn.functional.elu(a),
        "sigmoid": a.sigmoid(),
        "tanh": a.tanh(),
        "negate": -a,
        "scale": a * 2.5,
        "shift": a + 2.5,
        "add": a + b,
        "subtract": a - b,
        "multiply": a * b,
    }
    assert expected.keys() | {"product", "cast", "gather"} == OPERATIONS.keys()

    def operand(x: Tensor) -> tuple[int, int, int, tuple[int, int, int]]:
        return (x.data_ptr(), 0, 0, (x.stride(0), 0, x.stride(1)))

    for name, values in expected.items():
        out = torch.empty_like(a)
        lines = (operand(out), operand(a), operand(b), (0, 0, 0, (0, 0, 0)))
        line = np.array([(OPERATIONS[name], 1, columns, 0, 0, 0, *lines, 2.5)], INSTRUCTION)
        library.replay(line.ctypes.data, 1, 0, 0, 7, 1)
        small = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(out, values, rtol=small, atol=small / 1e6, msg=name)


# --- the same numbers -----------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_images_and_threads(threads: int, tapes: list[Tape]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        model = models.PixelCNN(shape=(1, 7, 7), levels=5, width=9, blocks=2, head=70).double()
        for n in (1, 2, 3, 7, 8, 13, 16):
            assert_same(model.eval(), n)
    finally:
        torch.set_num_threads(before)
    assert len(tapes) == 7
    assert all(map(replayed, tapes))


@needs_compiler
def test_what_the_program_does_not_know_is_called(tapes: list[Tape]) -> None:
    weight = torch.randn(8, 8, dtype=torch.float64)

    def middle(h: Tensor, site: Site | None) -> Tensor:
        h = h.cumsum(1)
        h = torch.where(h > 0, h, 0.1 * h)  # booleans
        h = h.movedim(1, -1) @ (weight * 1.0)  # a weight that is made in the step
        return torch.softmax(h, -1).movedim(-1, 1)

    assert_same(own(middle))
    assert replayed(tapes[0])


@needs_compiler
@pytest.mark.parametrize("n", [1, 9])
def test_products_end_as_written(n: int, tapes: list[Tape]) -> None:
    """What may be done together with a product, and what looks like it and may not."""
    torch.manual_seed(1)
    w, v = torch.randn(2, 8, 8, dtype=torch.float64)
    bias = torch.randn(8, dtype=torch.float64)

    def middle(h: Tensor, site: Site | None) -> Tensor:
        h = h.movedim(1, -1)
        twice = h @ w  # used twice: not to be overwritten by its ReLU
        h = twice.relu() + twice
        h = (h.relu() @ v + h) @ w  # a sum at the end, of something else
        h = (h @ v).relu() @ w
        product = h @ v
        h = product + product  # with itself
        h = (bias + h @ w).relu()
        halves = (h @ v).relu().chunk(2, -1)  # only a part is read on
        return (torch.cat([halves[1], -halves[0]], -1) @ v).movedim(-1, 1)

    assert_same(own(middle), n)
    assert replayed(tapes[0])


@needs_compiler
def test_places_in_every_row_and_column(tapes: list[Tape]) -> None:
    table = torch.randn(6, 7, 8, dtype=torch.float64)

    def middle(h: Tensor, site: Site | None) -> Tensor:
        if site is None:
            return h + table.movedim(-1, 0)
        return h + table[site.row, site.col] + 0 * table[: site.row + 1, 0].sum(0)

    assert_same(own(middle))
    assert replayed(tapes[0])


@needs_compiler
def test_float32_pictures_are_those_of_full_passes() -> None:
    """No tie among these draws. PixelCNN++ makes tensors that nearly have the same size."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for cls, shape in (
            (models.PixelCNN, (1, 9, 9)),
            (models.GatedPixelCNN, (1, 9, 9)),
            (models.PixelCNNPP, (3, 12, 12)),
            (models.PixelSNAIL, (1, 9, 9)),
        ):
            torch.manual_seed(0)
            model = cls(shape=shape, levels=16, width=20, blocks=1).eval()
            for n in (1, 2, 8, 9, 12):
                expected = model.sample(n, sampler="full")
                assert torch.equal(model.sample(n, sampler="replayed"), expected), (cls, n)
    finally:
        torch.set_num_threads(before)


class Keeping(Pointwise):
    """Keeps its output for nobody to read in this step, and hands its ReLU on."""

    kept: Tensor

    def forward(
        self, x: Tensor, context: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        out = super().forward(x, context, cache)
        if cache is not None:
            self.kept.copy_(out)
            out = self.kept
        return out.relu()


@needs_compiler
def test_what_is_kept_is_written() -> None:
    model = own(lambda h, site: h)
    model.last = Keeping(8, model.out_channels).double().eval()
    pictures = []
    for sampler in ("cached", "replayed"):
        model.last.kept = torch.zeros(2, model.out_channels, dtype=torch.float64)
        pictures.append((drawn(model, 2, sampler)[0], model.last.kept))
    assert torch.equal(pictures[0][0], pictures[1][0])
    torch.testing.assert_close(pictures[0][1], pictures[1][1], rtol=0, atol=1e-12)


@needs_compiler
def test_what_grows_is_computed(tapes: list[Tape]) -> None:
    table = torch.randn(6, 8, dtype=torch.float64)

    def middle(h: Tensor, site: Site | None) -> Tensor:
        if site is None:
            return h + (2 * table).cumsum(0).T[None, :, :, None]
        return h + (2 * table[: site.row + 1]).sum(0)

    assert_same(own(middle))
    assert not replayed(tapes[0])


@needs_compiler
def test_other_types_are_called(tapes: list[Tape]) -> None:
    assert_same(own(lambda h, site: h + (torch.sign(h).float() * 0.5).double() + h.long()))
    assert replayed(tapes[0])


# --- only where it is sure ------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    "middle",
    [
        pytest.param(lambda h, site: h * 2 if float(h.sum()) > 0 else h, id="looks at a value"),
        pytest.param(lambda h, site: h + 0 * torch.rand_like(h), id="draws numbers"),
        pytest.param(lambda h, site: h + torch.tensor(1.0), id="makes a constant"),
        pytest.param(lambda h, site: h.topk(8, 1).values.cumsum(1), id="several results"),
    ],
)
def test_other_steps_are_computed(
    middle: Callable[[Tensor, Site | None], Tensor], tapes: list[Tape]
) -> None:
    assert_same(own(middle))
    assert not replayed(tapes[0])


@needs_compiler
def test_steps_that_move_unevenly_are_computed(tapes: list[Tape]) -> None:
    table = torch.randn(40, 8, dtype=torch.float64)

    def middle(h: Tensor, site: Site | None) -> Tensor:
        if site is None:
            rows = torch.arange(7) ** 2
            return h + table[rows].T[:, None]
        return h + table[site.col**2]

    assert_same(own(middle))
    assert not replayed(tapes[0])


@needs_compiler
@pytest.mark.parametrize("more", [(0, 0), (1, 0), (0, 1)])
def test_places_outside_of_a_tensor_are_refused(
    more: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told that the picture is larger than it is, the tape sees that there is no memory for it."""
    table, begun = torch.randn(6, 7, 8, dtype=torch.float64), []
    model = own(
        lambda h, site: h + (table.movedim(-1, 0) if site is None else table[site.row, site.col])
    )

    def begin(cache: Cache, images: int, size: tuple[int, int]) -> Tape | None:
        begun.append(begin_tape(cache, images, (size[0] + more[0], size[1] + more[1])))
        return begun[0]

    monkeypatch.setattr("nextpixel.sampling.begin_tape", begin)
    expected, got = drawn(model, 2, "cached")[0], drawn(model, 2, "replayed")[0]
    assert torch.equal(got, expected)
    assert begun[0].kinds[0, 0, 0, False].recordable == (more == (0, 0))


@needs_compiler
def test_a_special_column_is_seen(tapes: list[Tape]) -> None:
    """What layers must not do; a user's may, so three rows of a user's network are watched."""

    def middle(h: Tensor, site: Site | None) -> Tensor:
        sign = torch.ones(7, dtype=h.dtype)
        sign[5] = -1
        return h * sign if site is None else (-h if site.col == 5 else h)

    assert_same(own(middle))
    assert not replayed(tapes[0])


def test_without_it_every_step_is_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = own(lambda h, site: h.relu())
    expected = drawn(model, 2, "cached")[0]
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in (("NEXTPIXEL_TAPE", "0"), ("CC", str(broken)), ("CC", "/no/such/compiler")):
        forget()
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert program(torch.float64) is None
            assert torch.equal(drawn(model, 2, "replayed")[0], expected)
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
def test_the_compiler_may_come_as_a_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package, cc = tmp_path / "ziglang", shutil.which("cc")
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        f"import subprocess, sys; sys.exit(subprocess.call([{cc!r}, *sys.argv[2:]]))"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("nextpixel.compiling.shutil.which", lambda name: None)
    assert program(torch.float64) is None
    forget()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert program(torch.float64) is not None


@needs_compiler
def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert program(torch.float64) is not None
    assert_same(own(lambda h, site: h.relu()))


@needs_compiler
def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert program(torch.float64) is not None
    forget()
    monkeypatch.setattr(subprocess, "run", None)
    assert program(torch.float64) is not None


def test_pace_follows_the_machine() -> None:
    pace, alone = Pace(4), {4: 1.0, 1: 2.0}

    def most(seconds: dict[int, float]) -> int:
        chosen = []
        for _ in range(1000):
            threads = pace.choose()
            pace.note(threads, seconds[threads])
            chosen.append(threads)
        return max(set(chosen[-500:]), key=chosen[-500:].count)

    assert most(alone) == 4
    assert most({4: 100.0, 1: 2.0}) == 1
    assert most(alone) == 4


@needs_compiler
def test_weights_are_read_anew(tapes: list[Tape]) -> None:
    model = own(lambda h, site: h.relu())
    first = drawn(model, 2, "replayed")[1]
    with torch.no_grad():
        for parameter in itertools.chain(model.first.parameters(), model.last.parameters()):
            parameter.data.mul_(1.5)  # behind the back of any version counter
    assert_same(model)
    assert not torch.equal(drawn(model, 2, "replayed")[1], first)


# --- one drawing after the other ------------------------------------------------------------------


def small() -> models.GatedPixelCNN:
    torch.manual_seed(0)
    model = models.GatedPixelCNN(
        shape=(1, 6, 7), levels=4, width=8, blocks=2, classes=3, image=(2, 3, 3)
    )
    for parameter in model.parameters():  # the context's start at zero
        nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def context(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    image = torch.randn(2, 2, 3, 3, generator=generator)
    return {"classes": torch.arange(2) + number % 2, "image": image}


def assert_drawn(model: CausalNetwork, seed: int = 0) -> Tensor:
    """Draws, and compares with what is drawn without a tape."""
    x = model.sample(2, context(seed), seed=seed)
    assert torch.equal(x, model.sample(2, context(seed), seed=seed, sampler="cached"))
    return x


@needs_compiler
def test_the_next_drawing_has_the_same_tape(tapes: list[Tape]) -> None:
    model = small()
    first = assert_drawn(model)
    copy = first.clone()
    for seed in (1, 2):
        assert_drawn(model, seed)
    assert torch.equal(first, copy)  # nobody writes to what was handed out
    assert torch.equal(assert_drawn(model), first)
    assert torch.equal(model.sample(2, context(0), batch_size=1), first)
    assert [tape.images for tape in tapes] == [2, 1]


@needs_compiler
def test_the_next_drawing_reads_the_weights_anew(tapes: list[Tape]) -> None:
    model = small()
    before = assert_drawn(model)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    assert not torch.equal(assert_drawn(model), before)
    assert len(tapes) == 1


def change(model: models.GatedPixelCNN, what: str) -> None:
    other = small()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    layer = model.horizontal[1]
    if what == "moved":
        layer.out.weight.data = layer.out.weight.data * 1.5
    elif what == "replaced":
        model.horizontal[1] = other.horizontal[1]
    elif what == "loaded":
        model.load_state_dict(other.state_dict(), assign=True)
    elif what == "tied":
        layer.out.weight = model.horizontal[0].out.weight
    elif what == "type":
        model.float()
    elif what == "hook":
        layer.register_forward_hook(lambda module, arguments, out: out * 0.5)
    elif what == "forward":
        layer.forward = lambda h, from_vertical, cache: h * 0.3
    elif what == "setting":
        layer.residual = False
    elif what == "threads":
        torch.set_num_threads(torch.get_num_threads() + 1)
    else:
        model.sample(1, {"classes": 1, "image": torch.zeros(2, 3, 3)})


@needs_compiler
@pytest.mark.parametrize(
    "what",
    [
        "moved",
        "replaced",
        "loaded",
        "tied",
        "type",
        "hook",
        "forward",
        "setting",
        "threads",
        "batch",
    ],
)
def test_the_next_drawing_begins_anew_where_it_must(what: str, tapes: list[Tape]) -> None:
    model, threads = small(), torch.get_num_threads()
    assert_drawn(model)
    weights = [(w, w.clone()) for w in model.parameters()]
    change(model, what)
    try:
        assert_drawn(model)
    finally:
        torch.set_num_threads(threads)
    assert len(tapes) == 2 + (what == "batch")
    if what not in ("moved", "type"):  # nobody writes to a weight, not even to one that was left
        assert all(torch.equal(weight, before) for weight, before in weights)


@needs_compiler
def test_a_weight_that_is_replaced_while_drawing(tapes: list[Tape]) -> None:
    model = small()
    layer = model.horizontal[1].out
    left = layer.weight
    before = left.clone()

    def replace(done: float) -> None:
        if done == 0.5:
            layer.weight = nn.Parameter(torch.randn_like(left))

    model.sample(2, context(0), progress=replace)
    assert_drawn(model)
    assert len(tapes) == 2
    assert torch.equal(left, before)


@needs_compiler
def test_a_size_that_has_changed() -> None:
    torch.manual_seed(0)
    model = models.PixelSNAIL(shape=(1, 4, 5), levels=4, width=8, blocks=1, layers=1).eval()
    model.sample(2)
    model.shape = (1, 9, 5)
    with pytest.raises(IndexError):
        model.sample(2)


@needs_compiler
def test_drawings_inside_each_other_and_broken_off(tapes: list[Tape]) -> None:
    model = small()
    expected = assert_drawn(model)

    def inside(done: float) -> None:
        if done == 0.5:
            assert torch.equal(model.sample(2, context(0)), expected)

    assert torch.equal(model.sample(2, context(0), progress=inside), expected)

    def stop(done: float) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.sample(2, context(0), progress=stop)
    assert torch.equal(assert_drawn(model), expected)
    assert len(tapes) == 3


@needs_compiler
def test_a_tape_goes_with_its_model_and_only_small_caches_stay(
    tapes: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    assert_drawn(model)
    kept = weakref.ref(tapes.pop())
    assert kept() is not None
    del model
    assert kept() is None
    model = small()
    model.horizontal[0].register_forward_hook(lambda *_, model=model: None)
    assert_drawn(model)
    kept = weakref.ref(tapes.pop())
    del model
    gc.collect()
    assert kept() is None
    monkeypatch.setattr("nextpixel.engine.reuse.LARGEST", 1000)
    model = small()
    assert_drawn(model)
    kept = weakref.ref(tapes.pop())
    assert kept() is None


@needs_compiler
def test_copies_of_a_model_do_not_share_a_tape(tapes: list[Tape], tmp_path: Path) -> None:
    model = small()
    assert_drawn(model)
    torch.save(model, tmp_path / "whole")
    for other in (
        copy.deepcopy(model),
        copy.copy(model),
        torch.load(tmp_path / "whole", weights_only=False),
    ):
        assert_drawn(other)
        assert_drawn(model)
    assert len(tapes) == 4


@needs_compiler
def test_recording_does_not_import_the_compiler_of_torch() -> None:
    """It would take a second of every command."""
    code = (
        "import sys, nextpixel as npx;"
        "npx.load('mnist-gated').sample(1, c=3);"
        "assert not {'torch._dynamo', 'torch._inductor'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
