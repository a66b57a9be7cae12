"""The trainer: it learns, survives being killed at any step, and keeps valid checkpoints."""

import itertools
import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import evaluate
from nextpixel.models import GatedPixelCNN
from nextpixel.models.base.image_model import load
from nextpixel.noise import make_seed
from nextpixel.training import TrainArgs, fit, launch, trainer
from nextpixel.training import config as training_config
from nextpixel.training.config import TrainOptions, learning_rate
from nextpixel.training.trainer import update_average
from tests.training.runs import (
    OPTIONS,
    Dropout,
    assert_same_run,
    at_step,
    make,
    metrics_of,
    state_of,
)

# --- it learns ------------------------------------------------------------------------------------


def test_loss_falls_on_real_data(data: Dataset, tmp_path: Path) -> None:
    model = make()
    before = evaluate(model, data.valid)
    out = fit(model, data, out=tmp_path / "run", **{**OPTIONS, "steps": 60, "valid_every": 60})
    history = metrics_of(out)
    first, last = (np.mean([line["loss"] for line in part]) for part in (history[:3], history[-5:]))
    assert first == pytest.approx(before.bits_per_dim, abs=0.3)  # it is in bits/dim
    assert last < 0.75 * first
    after = evaluate(load(out / "last"), data.valid, limit=20)
    assert after.bits_per_dim < 0.8 * before.bits_per_dim
    assert history[-1]["valid"] == pytest.approx(after.bits_per_dim, abs=1e-6)


def test_a_run_folder_holds_what_it_should(data: Dataset, tmp_path: Path) -> None:
    out = fit(make(), data, out=tmp_path / "a" / "run", settings={"threads": 1}, **OPTIONS)
    names = {p.name for p in out.iterdir()}
    expected = {
        "best",
        "config.yaml",
        "curve.svg",
        "last",
        "metrics.jsonl",
        "report.html",
        "samples",
        "scale.svg",
        "state.pt",
        "tensorboard",
    }
    assert names == expected
    assert sorted(p.name for p in (out / "samples").iterdir()) == [
        "step-0000003.png",
        "step-0000006.png",
    ]
    assert list((out / "tensorboard").iterdir())
    history = metrics_of(out)
    assert [line["step"] for line in history if "valid" in line] == [3, 6]
    assert all(line["images_per_second"] > 0 for line in history)
    seconds = [line["seconds"] for line in history]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["threads"] == 1
    assert config["train"]["steps"] == 6
    assert config["model"]["init_args"]["width"] == 8


def test_the_first_step_is_adamw_by_hand(data: Dataset, tmp_path: Path) -> None:
    """Clipping, the learning rate and weight decay, against the same step in plain torch."""
    options = {**OPTIONS, "steps": 1, "clip": 0.01, "precision": "float32", "weight_decay": 0.1}
    options["optimizer"] = "adamw"
    model, reference = make(), make()
    x, y = data.train.batch(trainer.npx_data.batch_indices(100, 8, 0))
    assert y is not None
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.005, weight_decay=0.1)
    reference.bits_per_dim(torch.from_numpy(x), torch.from_numpy(y)).mean().backward()
    norm = torch.stack([p.grad.norm() for p in reference.parameters() if p.grad is not None]).norm()
    assert norm > 0.01
    for parameter in reference.parameters():
        assert parameter.grad is not None
        parameter.grad *= 0.01 / norm
    optimizer.step()
    out = fit(model, data, out=tmp_path, **options)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter, dict(reference.named_parameters())[name], rtol=1e-3, atol=1e-5
        )
    (line,) = metrics_of(out)
    assert line["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert line["lr"] == pytest.approx(0.005)


def test_speed_is_in_images_per_second(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 0.5)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    fit(make(), data, out=tmp_path, **OPTIONS)
    assert [line["images_per_second"] for line in metrics_of(tmp_path)] == [16.0] * 6


def test_the_best_has_the_lowest_validation_score(data: Dataset, tmp_path: Path) -> None:
    """With a learning rate that ruins the model later, the best is not the last."""
    options = {**OPTIONS, "steps": 12, "valid_every": 2, "ema": 0, "schedule": "constant"}
    options["optimizer"] = "adamw"  # Muon recovers
    real = training_config.learning_rate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "learning_rate", lambda s, a, t: real(s, a, t) if s <= 6 else 1.0)
        out = fit(make(), data, out=tmp_path / "run", **options)
    scores = [line["valid"] for line in metrics_of(out) if "valid" in line]
    assert len(scores) == 6
    assert min(scores) < scores[-1] - 0.1
    best = evaluate(load(out / "best"), data.valid, limit=20).bits_per_dim
    last = evaluate(load(out / "last"), data.valid, limit=20).bits_per_dim
    assert best == pytest.approx(min(scores), abs=1e-6)
    assert last == pytest.approx(scores[-1], rel=1e-5)
    assert state_of(out)["best"] == min(scores)


def test_options_of_fit_are_the_fields_of_the_arguments() -> None:
    assert get_type_hints(TrainOptions) == get_type_hints(TrainArgs)


def test_learning_rate() -> None:
    args = TrainArgs(steps=1000, lr=0.5, warmup=100)
    assert [learning_rate(s, args) for s in (1, 50, 100)] == pytest.approx([0.005, 0.25, 0.5])
    assert learning_rate(550, args) == pytest.approx(0.5 * (0.01 + 0.99 / 2))
    assert learning_rate(1000, args) == pytest.approx(0.005)
    rates = [learning_rate(s, args) for s in range(100, 1001)]
    assert rates == sorted(rates, reverse=True)
    constant = TrainArgs(steps=1000, lr=0.5, warmup=0, schedule="constant")
    assert {learning_rate(s, constant) for s in (1, 500, 1000)} == {0.5}
    assert learning_rate(10, TrainArgs(steps=10, warmup=10)) == TrainArgs.lr
    after = TrainArgs(steps=10, lr=0.5, warmup=4)  # a run that goes on stays at the lowest rate
    assert [learning_rate(s, after) for s in (10, 11, 500)] == pytest.approx([0.005] * 3)
    assert learning_rate(7, after) == pytest.approx(0.5 * (0.01 + 0.99 / 2))
    fast = TrainArgs(steps=100, lr=0.5, warmup=50, minutes=2.0, schedule="constant")
    rates = [learning_rate(10, fast, seconds) for seconds in (0, 1.2, 3, 6, 100)]
    assert rates == pytest.approx([0.1, 0.1, 0.25, 0.5, 0.5])  # 6 seconds are a twentieth


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_average_of_the_weights(decay: float) -> None:
    random = np.random.default_rng(0)
    model = torch.nn.BatchNorm1d(3)  # it has a buffer, too
    average = torch.nn.BatchNorm1d(3)
    expected = {name: p.detach().double().numpy() for name, p in average.named_parameters()}
    for step in range(1, 30):
        assert isinstance(model.running_mean, torch.Tensor)
        model.running_mean += step
        for parameter in model.parameters():
            parameter.data = torch.from_numpy(random.normal(size=3).astype(np.float32))
        update_average(average, model, step, decay)
        keep = min(decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            new = parameter.detach().double().numpy()
            expected[name] = keep * expected[name] + (1 - keep) * new
            mean = average.get_parameter(name).detach().numpy()
            np.testing.assert_allclose(mean, expected[name], atol=1e-6)
        assert torch.equal(average.running_mean, model.running_mean)  # type: ignore[arg-type]
    if decay == 0:
        assert torch.equal(average.weight, model.weight)


# --- less memory ----------------------------------------------------------------------------------


def gradient(data: Dataset, out: Path, model: GatedPixelCNN, **options: Any) -> torch.Tensor:
    """The loss and the gradient of the first step's batch."""
    args = TrainArgs(**{**OPTIONS, **options, "precision": "float32"})
    fabric = launch.make_fabric("cpu", "float32")
    run = trainer.Run(fabric, model.double(), data, args, out, {})
    torch.manual_seed(0)
    loss = run.backward(*run.batch())
    parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    assert len(parts) == len(list(model.parameters()))
    return torch.cat([loss[None], *parts])


@pytest.mark.parametrize("classes", [None, 10])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    parts: int, classes: int | None, data: Dataset, tmp_path: Path
) -> None:
    """In parts of different sizes, too."""
    whole = gradient(data, tmp_path, make(classes=classes))
    assert whole.norm() > 0.1
    summed = gradient(data, tmp_path, make(classes=classes), accumulate=parts)
    torch.testing.assert_close(summed, whole, rtol=1e-10, atol=1e-12)


def test_a_batch_in_parts_is_worked_through_part_by_part(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = GatedPixelCNN.log_prob

    def log_prob(model: GatedPixelCNN, x: torch.Tensor, *given: object) -> torch.Tensor:
        sizes.append(len(x))
        return real(model, x, *given)

    monkeypatch.setattr(GatedPixelCNN, "log_prob", log_prob)
    gradient(data, tmp_path, make(), accumulate=3)
    assert sizes == [3, 3, 2]


def test_what_follows_no_gradient_is_updated_after_each_step(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the parts of the batch that the step was computed from."""
    called = []

    def after_step(model: GatedPixelCNN, parts: Any, gather: Any, seed: int) -> None:
        assert not torch.is_grad_enabled()
        called.append((torch.cat([x for x, _ in parts]), [len(x) for x, _ in parts], seed))
        assert gather(torch.ones(2)).tolist() == [[1, 1]]

    monkeypatch.setattr(GatedPixelCNN, "after_step", after_step)
    fit(make(), data, out=tmp_path / "run", **{**OPTIONS, "steps": 2, "accumulate": 3, "seed": 7})
    for step, (x, sizes, seed) in enumerate(called):
        numbers = trainer.npx_data.batch_indices(100, 8, step, seed=7)
        assert np.array_equal(x.numpy(), data.train.x[numbers])
        assert sizes == [3, 3, 2]
        assert seed == make_seed(7, step, 0, 3)
    assert len(called) == 2


def test_recomputed_activations_give_the_same_gradient(data: Dataset, tmp_path: Path) -> None:
    """With dropout outside the blocks; test_contract has it inside them, for every model."""
    plain = gradient(data, tmp_path, make(Dropout))
    again = gradient(data, tmp_path, make(Dropout), checkpoint_activations=True)
    assert torch.equal(plain, again)


def test_interrupted_and_resumed_with_less_memory_is_bitwise_equal(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "accumulate": 3, "checkpoint_activations": True}
    whole = fit(make(Dropout), data, out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda run: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(make(Dropout), data, out=tmp_path / "run", **options)
    assert state_of(tmp_path / "run")["step"] == 3
    fit(make(Dropout), data, out=tmp_path / "run", resume=True, **options)
    assert_same_run(tmp_path / "run", whole)


# --- contexts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_contexts_are_dropped_as_the_step_says(
    accumulate: int, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of them, the same in a resumed run, and independent of the parts of a batch."""
    seen: list[Tensor] = []
    log_prob = GatedPixelCNN.log_prob

    def spy(self: GatedPixelCNN, x: Tensor, c: Any = None, mask: Tensor | None = None) -> Tensor:
        if self.training:
            assert torch.equal(c.classes.sum(1), c.present)
            seen.append(c.present)
        return log_prob(self, x, c, mask)

    monkeypatch.setattr(GatedPixelCNN, "log_prob", spy)
    options = {**OPTIONS, "drop_context": 0.5, "batch_size": 40, "steps": 4}
    fit(make(), data, out=tmp_path / "whole", **options)
    whole = torch.cat(seen)
    assert len(whole) == 160
    assert 55 <= whole.sum() <= 105  # four deviations
    seen.clear()
    for steps in (2, 4):
        resume = steps == 4
        parts = {**options, "steps": steps, "accumulate": accumulate}
        fit(make(), data, out=tmp_path / "parts", resume=resume, **parts)
    assert torch.equal(torch.cat(seen), whole)


def test_no_context_to_drop(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unconditional"):
        fit(make(classes=None), data, out=tmp_path, **{**OPTIONS, "drop_context": 0.1})


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (1, 8, 7)}, r"\(1, 8, 7\).*has \(1, 7, 7\)"),
        ({"levels": 5}, "5 levels, but tiny"),
        ({"classes": 9}, "9 classes, but tiny has 10"),
    ],
)
def test_data_that_do_not_fit(
    arguments: dict[str, Any], message: str, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fit(make(**arguments), data, out=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_options_at_their_limits() -> None:
    least = {"steps": 1, "batch_size": 1, "valid_every": 1, "valid_images": 1, "patience": 1}
    least |= {"save_every": 1, "accumulate": 1, "warmup": 0, "weight_decay": 0, "seed": 0}
    TrainArgs(**least, setbacks=0, ema=0, drop_context=0, mutate=0)
    TrainArgs(seed=2**63 - 1, mutate=1, batch_size=3, accumulate=3)
    for name in ("steps", "batch_size", "valid_every", "valid_images", "patience", "save_every"):
        for wrong in (0, 1.5):
            with pytest.raises(UserError, match=rf"train\.{name}"):
                TrainArgs(**{name: wrong})
    for name in ("seed", "warmup", "setbacks"):
        for wrong in (-1, 1.5):
            with pytest.raises(UserError, match=rf"train\.{name}"):
                TrainArgs(**{name: wrong})
    for name in ("lr", "clip", "minutes", "save_minutes"):
        for value in (0, -1, math.inf, math.nan):
            with pytest.raises(UserError, match=rf"train\.{name} must be above 0"):
                TrainArgs(**{name: value})
    for name in ("ema", "drop_context"):
        for value in (-0.1, 1):
            with pytest.raises(UserError, match=rf"train\.{name} must lie in \[0, 1\)"):
                TrainArgs(**{name: value})
    for option in ({"weight_decay": -0.1}, {"weight_decay": math.inf}, {"seed": 2**63}):
        with pytest.raises(UserError):
            TrainArgs(**option)


@pytest.mark.parametrize(
    "option",
    [
        *({"steps": 0}, {"batch_size": 0}, {"valid_every": 0}, {"valid_images": 0}),
        *({"save_every": 0}, {"lr": 0.0}, {"lr": math.nan}, {"lr": math.inf}, {"clip": 0.0}),
        *({"warmup": -1}, {"weight_decay": -0.1}, {"seed": -1}, {"ema": 1.0}, {"ema": -0.1}),
        *({"accumulate": 0}, {"accumulate": 9}),
        *(
            {"schedule": "linear"},
            {"optimizer": "sgd"},
            {"precision": "half"},
            {"stepz": 3},
            {"type": "x"},
        ),
        *({"device": "tpu"}, {"device": "cpu:1"}, {"device": "cuda:x"}, {"device": "cuda:99"}),
    ],
    ids=str,
)
def test_wrong_options(option: dict[str, Any], data: Dataset, tmp_path: Path) -> None:
    (name,) = option
    with pytest.raises(UserError, match=name):
        fit(make(), data, out=tmp_path / "run", **{**OPTIONS, **option})
    assert not (tmp_path / "run").exists()
