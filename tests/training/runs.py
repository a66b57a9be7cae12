"""Tiny training runs, and their comparison."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nextpixel.data import Dataset
from nextpixel.models import GatedPixelCNN
from nextpixel.training import trainer
from nextpixel.training.checkpoint import load_state
from tests.helpers import small_mnist

OPTIONS: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "lr": 0.01,
    "warmup": 2,
    "valid_every": 3,
    "valid_images": 20,
    "save_every": 2,
    "save_minutes": 1000,  # the clock of a busy machine adds no checkpoint
}


def tiny_mnist() -> Dataset:
    """Real digits, every fourth pixel of every fourth row, at 4 levels."""
    return small_mnist(slice(None, None, 4), 100, 50, 10)


class Dropout(GatedPixelCNN):
    """Has noise in its steps."""

    def network(self, x: Any, biases: Any, cache: Any = None) -> Any:
        return super().network(torch.nn.functional.dropout(x, 0.5, self.training), biases, cache)


def make(cls: type[GatedPixelCNN] = GatedPixelCNN, **arguments: Any) -> GatedPixelCNN:
    torch.manual_seed(0)
    arguments = {"shape": (1, 7, 7), "levels": 4, "classes": 10, **arguments}
    return cls(width=8, blocks=2, kernel_size=3, **arguments)


def metrics_of(out: Path) -> list[dict[str, float]]:
    """Returns the lines of a run's metrics."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_equal(a: object, b: object, where: str = "") -> None:
    """Bitwise equality of nested states."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple))
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def state_of(out: Path) -> Any:
    """Returns the state from which a run is resumed."""
    return load_state(out / "state.pt")


def assert_same_run(out: Path, reference: Path) -> None:
    """Both runs ended with bitwise the same weights and state, and have the same history."""
    states = [state_of(run) for run in (out, reference)]
    for state in states:
        del state["seconds"]
    assert_equal(*states)
    for model in ("best", "last"):
        names = [
            {p.name: p.read_bytes() for p in (run / model).iterdir()} for run in (out, reference)
        ]
        assert names[0] == names[1]  # the weights' name is made of their hash
    histories = [metrics_of(run) for run in (out, reference)]
    for history in histories:
        assert [line["step"] for line in history] == list(range(1, len(history) + 1))
        for line in history:
            del line["images_per_second"], line["seconds"]
    assert histories[0] == histories[1]
    files = [
        {
            str(p.relative_to(run))
            for p in run.rglob("*")
            if p.is_file() and "tfevents" not in p.name
        }
        for run in (out, reference)
    ]
    assert files[0] == files[1]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[trainer.Run], None]) -> None:
    """Does something in the middle of a step."""
    real = trainer.Run.batch

    def batch(run: trainer.Run) -> Any:
        if run.step + 1 == step:
            do(run)
        return real(run)

    monkeypatch.setattr(trainer.Run, "batch", batch)
