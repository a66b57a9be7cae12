"""Models drawn by the engine: when a program is used, kept, and made again."""

import copy
import os
import pickle
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nextpixel.engine import Program
from nextpixel.engine.affine import NotAffineError
from nextpixel.errors import UserError
from nextpixel.models import GatedPixelCNN, PixelCNN, PixelCNNPP
from nextpixel.models.base.autoregressive import CausalNetwork
from nextpixel.sampling import complete_with_particles, film, programs, trace
from nextpixel.utils.inference import evaluation_copy
from tests.helpers import randomize


def small(cls: type[CausalNetwork] = GatedPixelCNN, **arguments: Any) -> CausalNetwork:
    """A model in evaluation mode whose pixels depend on all before them."""
    torch.manual_seed(0)
    arguments = {"shape": (1, 6, 5), "levels": 7, "width": 6, "blocks": 2, **arguments}
    model = cls(**arguments).eval()
    randomize(model)
    return model


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All models that are compiled."""
    done: list[Any] = []
    compile_model = programs.compile_model
    monkeypatch.setattr(
        programs, "compile_model", lambda model: [done.append(model), compile_model(model)][1]
    )
    return done


def assert_drawn(model: Any, seed: int = 0) -> Tensor:
    """Draws two images and checks that they are those of steps in PyTorch."""
    x: Tensor = model.sample(2, seed=seed)
    assert torch.equal(x, model.sample(2, seed=seed, sampler="cached"))
    return x


# --- which models ---------------------------------------------------------------------------------


def test_a_users_own_layer_is_compiled_only_on_request(compiled: list[Any]) -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x

    class Mine(PixelCNN):
        half = Half()

        def network(self, *arguments: Any, **named: Any) -> Tensor:
            return self.half(super().network(*arguments, **named))

    model = small(Mine)
    x = assert_drawn(model)
    assert not compiled
    assert torch.equal(model.sample(2, sampler="engine"), x)
    assert compiled == [model]


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (lambda x: x * float(x.max()), "cannot be compiled"),
        (lambda x: x + torch.rand_like(x), "cannot be compiled"),
        (lambda x: x.cumsum(1), "no instruction"),
    ],
    ids=["looks at a value", "random", "unknown operation"],
)
def test_what_cannot_be_compiled_is_refused(compute: Any, words: str) -> None:
    model = small()
    network = model.network
    model.network = lambda *arguments, **named: compute(network(*arguments, **named))  # type: ignore[method-assign]
    with pytest.raises(UserError, match=words):
        model.sample(1, sampler="engine")
    model.sample(1)  # a method of its own is not for the engine


def test_own_methods_are_called(compiled: list[Any]) -> None:
    """They may do other things at each call."""
    model, scale = small(), [1.0]
    encode = model.encode
    model.encode = lambda x: scale[0] * encode(x)  # type: ignore[method-assign]
    first = assert_drawn(model)
    scale[0] = -2.0
    assert not torch.equal(assert_drawn(model), first)
    assert not compiled
    assert torch.equal(model.train().sample(2), model.sample(2))


def test_a_constant_that_is_no_float_is_refused() -> None:
    model, three = small(), torch.tensor([3])
    encode = model.encode
    model.encode = lambda x: encode(x) + three  # type: ignore[method-assign]
    with pytest.raises(UserError, match="a constant of type"):
        model.sample(1, sampler="engine")


def test_distributions_may_be_asked_for_later() -> None:
    model = small(PixelCNNPP, shape=(3, 4, 5), levels=16)
    both = [list(trace(model, 2, sampler=sampler)) for sampler in ("engine", "cached")]
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a.distribution.pmf(), b.distribution.pmf(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", ["double", "hook", "variable"])
def test_models_that_are_not_for_the_engine(
    change: str, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls = small(), []
    if change == "double":
        model.double()
    elif change == "hook":
        model.head.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr,operator]
    else:
        monkeypatch.setenv("NEXTPIXEL_ENGINE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(1)
    assert not compiled
    assert bool(calls) == (change == "hook")
    if change != "hook":
        with pytest.raises(UserError, match="engine cannot run"):
            model.sample(1, sampler="engine")


def test_without_an_engine_for_this_machine_steps_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small()
    x = model.sample(2)

    def missing() -> None:
        raise UserError("There is no engine for this machine.")

    monkeypatch.setattr("nextpixel.sampling.programs.load_library", missing)
    with pytest.warns(UserWarning, match="no engine for this machine"):
        assert torch.equal(model.sample(2), x)


# --- keeping --------------------------------------------------------------------------------------


def test_a_program_is_kept(compiled: list[Any]) -> None:
    model = small()
    first = assert_drawn(model)
    copied = first.clone()
    for seed in (1, 2):
        assert_drawn(model, seed)
    assert torch.equal(first, copied)  # nobody writes to what was handed out
    assert torch.equal(model.sample(2, batch_size=1), first)
    assert torch.equal(model.train().sample(2), first)
    assert len(compiled) == 1


def change_model(model: Any, what: str) -> None:
    """Changes something that the pictures depend on."""
    other, layer = small(), model.horizontal[1]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    if what == "weight":
        layer.out.weight.data[0, 0] += 1
    elif what == "last bias":
        list(model.parameters())[-1].data[-1] += 5
    elif what == "moved":
        layer.out.weight.data = layer.out.weight.data * 1.5
    elif what == "replaced":
        model.horizontal[1] = other.horizontal[1]  # type: ignore[index]
    elif what == "loaded":
        model.load_state_dict(other.state_dict(), assign=True)
    elif what == "tied":
        layer.out.weight = model.horizontal[0].out.weight
    elif what == "setting":
        layer.residual = False


CHANGES = ["weight", "last bias", "moved", "replaced", "loaded", "tied", "setting"]


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_model_is_compiled_again(what: str, compiled: list[Any]) -> None:
    model = small()
    assert_drawn(model)
    change_model(model, what)
    assert_drawn(model)
    assert len(compiled) == 2


def test_a_replaced_method_of_a_class_is_noticed(
    compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    assert_drawn(model)
    encode = CausalNetwork.encode
    monkeypatch.setattr(CausalNetwork, "encode", lambda self, x: 0.5 * encode(self, x))
    assert_drawn(model)
    assert len(compiled) == 2


def test_a_weight_that_changes_while_drawing_does_not_count() -> None:
    model = small()
    x = model.sample(2)

    def change(done: float) -> None:
        with torch.no_grad():
            next(model.parameters()).zero_()

    assert torch.equal(model.sample(2, progress=change), x)
    assert_drawn(model)


def test_copies_and_files_have_no_program(tmp_path: Path) -> None:
    model = small()
    x = model.sample(2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)):
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(1.5)
        assert_drawn(twin)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.div_(1.5)
    assert torch.equal(model.sample(2), x)
    model.save(tmp_path / "model")
    assert not any("program" in file.name for file in (tmp_path / "model").iterdir())


# --- the same pictures everywhere -----------------------------------------------------------------


@pytest.mark.parametrize("cls", [GatedPixelCNN, PixelCNNPP])
def test_the_same_bits_in_any_batch_and_by_any_threads(cls: type[CausalNetwork]) -> None:
    model = small(cls, shape=(2, 6, 5), levels=16)
    program = Program(programs.compile_model(model))
    x = program.sample(70, threads=1)
    nats = program.log_prob(x, threads=1)
    assert np.array_equal(program.sample(70, threads=2), x)
    assert np.array_equal(program.sample(1, numbers=[69]), x[69:])
    assert np.array_equal(program.log_prob(x[3:10], threads=3), nats[3:10])
    steps = [step.x for step in trace(model, 7, seed=0)]
    assert np.array_equal(steps[-1].numpy(), x[:7])
    scores = model.log_prob(torch.from_numpy(x[:5])).detach().numpy()
    np.testing.assert_allclose(nats[:5], scores, rtol=1e-5)


def test_known_pixels_films_and_particles() -> None:
    model = small()
    randomize(model, 3)
    x, mask = torch.randint(7, (3, 1, 6, 5)), torch.rand(3, 1, 6, 5) < 0.5
    drawn = model.sample(3, x=x, mask=mask, temperature=0.7)
    assert torch.equal(drawn[mask], x[mask])
    assert torch.equal(model.sample(3, x=x, mask=mask, temperature=0.7, sampler="cached"), drawn)
    assert torch.equal(film(model, 2)[0][-1], model.sample(2))
    both = [
        complete_with_particles(model, x, mask, particles=8, sampler=sampler)
        for sampler in ("engine", "cached")
    ]
    assert torch.equal(both[0].x, both[1].x)
    assert both[0].resamplings.sum() > 0
    torch.testing.assert_close(both[0].log_evidence, both[1].log_evidence, rtol=1e-5, atol=1e-4)


def test_a_level_that_does_not_exist() -> None:
    model = small()
    steps = trace(model, 2)
    next(steps).x[0, 0, 0, 0] = 7
    with pytest.raises(UserError, match="a level is below 0, or not below the number of levels"):
        next(steps)


def test_weights_that_give_no_numbers() -> None:
    model = small()
    with torch.no_grad():
        list(model.parameters())[-1][0] = float("nan")
    with pytest.raises(UserError, match="infinity or no number"):
        model.sample(1)


def test_autocast_does_not_change_the_pictures() -> None:
    model = small()
    x = model.sample(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(copy.deepcopy(model).sample(2), x)


def test_a_failed_compilation_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = small(), list[int]()

    def refuse(model: Any, *arguments: Any) -> None:
        calls.append(1)
        raise NotAffineError("its steps are none")

    monkeypatch.setattr(programs, "compile_model", refuse)
    for _ in range(3):
        with pytest.raises(UserError, match="its steps are none"):
            model.sample(1, sampler="engine")
    with pytest.warns(UserWarning, match="its steps are none"):
        model.sample(1)
    assert len(calls) == 1
    with torch.no_grad():
        next(iter(model.parameters())).add_(1)
    with pytest.raises(UserError, match="its steps are none"):
        model.sample(1, sampler="engine")
    assert len(calls) == 2


# --- threads, processes and interrupts ------------------------------------------------------------


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_eight_threads_draw_from_one_model_in_training_mode() -> None:
    model = small(PixelCNNPP, shape=(1, 8, 8), dropout=0.5)
    expected = [model.sample(1, seed=seed) for seed in range(16)]
    del vars(model)[programs.NAME]
    model.train()
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda seed: model.sample(1, seed=seed), range(16)))
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
    assert all(modes(model))


@pytest.mark.parametrize("sampler", ["engine", "cached", "full", "fixed-point"])
def test_an_interrupt_leaves_the_model_as_it_was(sampler: Any) -> None:
    model = small(PixelCNNPP, shape=(1, 8, 8), dropout=0.5)
    x = model.sample(2, sampler=sampler)
    next(iter(model.children())).train()  # only a part of it
    before = modes(model)

    def interrupt(done: float) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.sample(2, sampler=sampler, progress=interrupt)
    assert modes(model) == before
    assert torch.equal(model.sample(2, sampler=sampler), x)
    if sampler != "fixed-point":
        next(trace(model, 2, sampler=sampler))
    assert modes(model) == before


def test_an_evaluation_copy_shares_the_tensors() -> None:
    model = small()
    assert evaluation_copy(model) is model
    model.train()
    twin = evaluation_copy(model)
    assert model.training
    assert not any(modes(twin))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert a is b


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_draws() -> None:
    model = small()
    x = model.sample(2)
    with warnings.catch_warnings():  # of Python: other threads may hold locks
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if torch.equal(model.sample(2), x) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_with_small_stacks() -> None:
    model = small(PixelCNNPP, shape=(3, 8, 8), levels=256)
    program = Program(programs.compile_model(model))
    expected, got = program.sample(2, threads=1), []
    size = threading.stack_size(128 * 1024)
    try:
        thread = threading.Thread(target=lambda: got.append(program.sample(2, threads=1)))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(size)
    assert np.array_equal(got[0], expected)
