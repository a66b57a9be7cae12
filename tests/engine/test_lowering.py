"""Operations that few models use, as instructions; tests/test_contract.py has whole models."""

from typing import Any

import pytest
import torch

from nextpixel.engine.affine import constant
from nextpixel.engine.capture import Call, Storage, View
from nextpixel.engine.lowering import CONSTANTS, Target, constant_value, lower

aten = torch.ops.aten
TARGET = Target(2, torch.float32, lambda view: None, lambda view: 5, lambda n: Storage(True, 9))
X, OUT = (constant(View(Storage(True, key), torch.float32, 0, (2, 5), (5, 1))) for key in range(2))


@pytest.mark.parametrize(
    ("function", "name", "number"),
    [
        (aten.add.Tensor, "shift", 3.0),
        (aten.sub.Tensor, "shift", -3.0),
        (aten.mul.Tensor, "scale", 3.0),
    ],
    ids=str,
)
def test_a_tensor_and_a_number(function: Any, name: str, number: float) -> None:
    (step,) = lower(Call(function, (X, 3.0), {}, OUT), TARGET) or [None]
    assert step is not None
    assert (step.name, step.number, step.b) == (name, number, None)
    assert (step.outer, step.inner) == ((1, 0, 0), 5)
    assert (step.a.view, step.out.view) == (X, OUT)


def test_what_fills_a_new_tensor() -> None:
    filled = {
        function: constant_value(Call(function, ((2, 5), 7), {}, OUT)) for function in CONSTANTS
    }
    assert filled == {
        aten.zeros.default: 0,
        aten.zeros_like.default: 0,
        aten.new_zeros.default: 0,
        aten.ones_like.default: 1,
        aten.full.default: 7,
    }
