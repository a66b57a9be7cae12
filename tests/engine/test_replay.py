"""Replayed steps give the same numbers as computed ones; if that is unsure, none is replayed."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nextpixel import models
from nextpixel.context import ContextSpec
from nextpixel.engine import Replay, begin_replay
from nextpixel.engine.program import load_program
from nextpixel.models.base.autoregressive import CausalNetwork, Inputs
from nextpixel.nn import Cache, MaskedConv2d, Pointwise, Site
from nextpixel.nn.context_bias import ContextBias
from nextpixel.sampling import trace

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


class OwnNet(CausalNetwork):
    """A user's network: a convolution, and whatever `middle` does to its output."""

    middle: Callable[[Tensor, Site | None], Tensor] = staticmethod(lambda h, site: h)

    def __init__(
        self, *, shape: tuple[int, int, int], levels: int, inputs: Inputs = "scaled"
    ) -> None:
        super().__init__(shape=shape, levels=levels, classes=None, inputs=inputs)
        self.condition = ContextBias(ContextSpec(), [], (1, 1))
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


def replayed(replay: Replay) -> bool:
    return all(kind.replayable and kind.script is not None for kind in replay.kinds.values())


# --- the same numbers -----------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_images_and_threads(threads: int, replays: list[Replay]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        model = models.PixelCNN(shape=(1, 7, 7), levels=5, width=9, blocks=2, head=70).double()
        for n in (1, 2, 3, 7, 8, 13, 16):
            assert_same(model.eval(), n)
    finally:
        torch.set_num_threads(before)
    assert len(replays) == 7
    assert all(map(replayed, replays))


@needs_compiler
def test_operations_unknown_to_the_program_are_called(replays: list[Replay]) -> None:
    weight = torch.randn(8, 8, dtype=torch.float64)

    def middle(h: Tensor, site: Site | None) -> Tensor:
        h = h.cumsum(1)
        h = torch.where(h > 0, h, 0.1 * h)  # booleans
        h = h.movedim(1, -1) @ (weight * 1.0)  # a weight that is made in the step
        return torch.softmax(h, -1).movedim(-1, 1)

    assert_same(own(middle))
    assert replayed(replays[0])


@needs_compiler
@pytest.mark.parametrize("n", [1, 9])
def test_products_end_as_written(n: int, replays: list[Replay]) -> None:
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
    assert replayed(replays[0])


@needs_compiler
def test_places_in_every_row_and_column(replays: list[Replay]) -> None:
    table = torch.randn(6, 7, 8, dtype=torch.float64)

    def middle(h: Tensor, site: Site | None) -> Tensor:
        if site is None:
            return h + table.movedim(-1, 0)
        return h + table[site.row, site.col] + 0 * table[: site.row + 1, 0].sum(0)

    assert_same(own(middle))
    assert replayed(replays[0])


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
def test_what_grows_is_computed(replays: list[Replay]) -> None:
    table = torch.randn(6, 8, dtype=torch.float64)

    def middle(h: Tensor, site: Site | None) -> Tensor:
        if site is None:
            return h + (2 * table).cumsum(0).T[None, :, :, None]
        return h + (2 * table[: site.row + 1]).sum(0)

    assert_same(own(middle))
    assert not replayed(replays[0])


@needs_compiler
def test_other_types_are_called(replays: list[Replay]) -> None:
    assert_same(own(lambda h, site: h + (torch.sign(h).float() * 0.5).double() + h.long()))
    assert replayed(replays[0])


# --- steps that cannot be replayed ----------------------------------------------------------------


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
    middle: Callable[[Tensor, Site | None], Tensor], replays: list[Replay]
) -> None:
    assert_same(own(middle))
    assert not replayed(replays[0])


@needs_compiler
def test_steps_that_move_unevenly_are_computed(replays: list[Replay]) -> None:
    table = torch.randn(40, 8, dtype=torch.float64)

    def middle(h: Tensor, site: Site | None) -> Tensor:
        if site is None:
            rows = torch.arange(7) ** 2
            return h + table[rows].T[:, None]
        return h + table[site.col**2]

    assert_same(own(middle))
    assert not replayed(replays[0])


@needs_compiler
@pytest.mark.parametrize("more", [(0, 0), (1, 0), (0, 1)])
def test_places_outside_of_a_tensor_are_refused(
    more: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the picture is said to be larger than it is, the bounds check finds no memory for it."""
    table, begun = torch.randn(6, 7, 8, dtype=torch.float64), []
    model = own(
        lambda h, site: h + (table.movedim(-1, 0) if site is None else table[site.row, site.col])
    )

    def begin(cache: Cache, images: int, size: tuple[int, int]) -> Replay | None:
        begun.append(begin_replay(cache, images, (size[0] + more[0], size[1] + more[1])))
        return begun[0]

    monkeypatch.setattr("nextpixel.sampling.loop.begin_replay", begin)
    expected, got = drawn(model, 2, "cached")[0], drawn(model, 2, "replayed")[0]
    assert torch.equal(got, expected)
    assert begun[0].kinds[0, 0, 0, False].replayable == (more == (0, 0))


@needs_compiler
def test_a_special_column_is_seen(replays: list[Replay]) -> None:
    """What layers must not do; a user's may, so three rows of a user's network are watched."""

    def middle(h: Tensor, site: Site | None) -> Tensor:
        sign = torch.ones(7, dtype=h.dtype)
        sign[5] = -1
        return h * sign if site is None else (-h if site.col == 5 else h)

    assert_same(own(middle))
    assert not replayed(replays[0])


# --- the machine ----------------------------------------------------------------------------------


def test_without_a_compiler_every_step_is_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forget: Callable[[], None]
) -> None:
    model = own(lambda h, site: h.relu())
    expected = drawn(model, 2, "cached")[0]
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in (
        ("NEXTPIXEL_ENGINE", "0"),
        ("CC", str(broken)),
        ("CC", "/no/such/compiler"),
    ):
        forget()
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert load_program(torch.float64) is None
            assert torch.equal(drawn(model, 2, "replayed")[0], expected)
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_program(torch.float64) is not None
    assert_same(own(lambda h, site: h.relu()))


@needs_compiler
def test_weights_are_read_again(replays: list[Replay]) -> None:
    model = own(lambda h, site: h.relu())
    first = drawn(model, 2, "replayed")[1]
    with torch.no_grad():
        for parameter in itertools.chain(model.first.parameters(), model.last.parameters()):
            parameter.data.mul_(1.5)  # behind the back of any version counter
    assert_same(model)
    assert not torch.equal(drawn(model, 2, "replayed")[1], first)


@needs_compiler
def test_capturing_does_not_import_the_compiler_of_torch() -> None:
    """It would take a second of every command."""
    code = (
        "import sys, nextpixel as npx;"
        "npx.load('mnist-gated').sample(1, c=3);"
        "assert not {'torch._dynamo', 'torch._inductor'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
