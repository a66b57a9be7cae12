"""One generation after the other: the next one reuses the replay, only where that is safe."""

import copy
import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nextpixel import models
from nextpixel.engine import Replay
from nextpixel.models.base.autoregressive import CausalNetwork

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


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
    """Draws, and compares with the computed pixels."""
    x = model.sample(2, context(seed), seed=seed)
    assert torch.equal(x, model.sample(2, context(seed), seed=seed, sampler="cached"))
    return x


@needs_compiler
def test_the_next_generation_reuses_the_replay(replays: list[Replay]) -> None:
    model = small()
    first = assert_drawn(model)
    copy = first.clone()
    for seed in (1, 2):
        assert_drawn(model, seed)
    assert torch.equal(first, copy)  # nobody writes to what was handed out
    assert torch.equal(assert_drawn(model), first)
    assert torch.equal(model.sample(2, context(0), batch_size=1), first)
    assert [replay.images for replay in replays] == [2, 1]


@needs_compiler
def test_the_next_generation_reads_the_weights_again(replays: list[Replay]) -> None:
    model = small()
    before = assert_drawn(model)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    assert not torch.equal(assert_drawn(model), before)
    assert len(replays) == 1


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
def test_the_next_generation_begins_anew_where_it_must(what: str, replays: list[Replay]) -> None:
    model, threads = small(), torch.get_num_threads()
    assert_drawn(model)
    weights = [(w, w.clone()) for w in model.parameters()]
    change(model, what)
    try:
        assert_drawn(model)
    finally:
        torch.set_num_threads(threads)
    assert len(replays) == 2 + (what == "batch")
    if what not in ("moved", "type"):  # nobody writes to a weight, not even to one that was left
        assert all(torch.equal(weight, before) for weight, before in weights)


@needs_compiler
def test_a_weight_that_is_replaced_while_drawing(replays: list[Replay]) -> None:
    model = small()
    layer = model.horizontal[1].out
    left = layer.weight
    before = left.clone()

    def replace(done: float) -> None:
        if done == 0.5:
            layer.weight = nn.Parameter(torch.randn_like(left))

    model.sample(2, context(0), progress=replace)
    assert_drawn(model)
    assert len(replays) == 2
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
def test_drawings_inside_each_other_and_broken_off(replays: list[Replay]) -> None:
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
    assert len(replays) == 3


@needs_compiler
def test_a_replay_is_freed_with_its_model_and_only_small_ones_are_stored(
    replays: list[Replay], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    assert_drawn(model)
    kept = weakref.ref(replays.pop())
    assert kept() is not None
    del model
    assert kept() is None
    model = small()
    model.horizontal[0].register_forward_hook(lambda *_, model=model: None)
    assert_drawn(model)
    kept = weakref.ref(replays.pop())
    del model
    gc.collect()
    assert kept() is None
    monkeypatch.setattr("nextpixel.engine.reuse.LARGEST", 1000)
    model = small()
    assert_drawn(model)
    kept = weakref.ref(replays.pop())
    assert kept() is None


@needs_compiler
def test_copies_of_a_model_do_not_share_a_replay(replays: list[Replay], tmp_path: Path) -> None:
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
    assert len(replays) == 4
