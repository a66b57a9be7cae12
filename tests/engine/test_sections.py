"""The kinds of sites, what of a step is captured, and where its memory lies."""

from typing import Any

import pytest
import torch

from nextpixel.engine.affine import constant
from nextpixel.engine.capture import Capture, Storage, View, effect_of
from nextpixel.engine.instructions import Instruction, Operand
from nextpixel.engine.sections import Section, capture_prologue, kinds_of, padded
from nextpixel.nn import Site

aten = torch.ops.aten


def places(size: tuple[int, int], period: int, groups: int = 1) -> list[Any]:
    kinds = kinds_of(size, period, groups)
    return [kind and [(site.row, site.col) for site in kind] for kind in kinds]


def test_kinds_of_sites() -> None:
    """The first pixel, the first column, and all others."""
    assert places((3, 4), 1) == [
        [(0, 0)] * 4,
        [(1, 0), (2, 0), (1, 0), (2, 0)],
        [(0, 1), (1, 1), (0, 2), (2, 3)],
    ]
    assert places((1, 1), 1) == [[(0, 0)] * 4, None, None]
    assert places((2, 1), 1) == [[(0, 0)] * 4, [(1, 0)] * 4, None]
    assert places((1, 2), 1) == [[(0, 0)] * 4, None, [(0, 1)] * 4]


def test_kinds_of_strided_layers() -> None:
    assert places((4, 5), 2) == [
        [(0, 0)] * 4,
        [(2, 0)] * 4,
        [(1, 0), (3, 0), (1, 0), (3, 0)],
        [(0, 2), (2, 2), (0, 4), (2, 4)],
        [(0, 1), (2, 1), (0, 3), (2, 3)],
        [(1, 2), (3, 2), (1, 4), (3, 4)],
        [(1, 1), (3, 1), (1, 3), (3, 3)],
    ]


def test_kinds_of_several_groups() -> None:
    assert kinds_of((1, 2), 1, 2) == [
        (Site(0, 0, 0),) * 4,
        (Site(0, 0, 1),) * 4,
        None,
        None,
        (Site(0, 1, 0),) * 4,
        (Site(0, 1, 1),) * 4,
    ]


def test_calls_that_the_result_does_not_need_are_left_out() -> None:
    x = torch.ones(2, 3)

    def compute() -> torch.Tensor:
        needed = x + 1
        (x * 2).relu_()
        result = torch.zeros(2, 3)
        result[:, 0] = needed[:, 1]
        return result

    functions = [call.function for call in capture_prologue(compute).calls]
    assert functions == [aten.add.Tensor, aten.zeros.default, aten.copy_.default]


def test_a_captured_step() -> None:
    x = torch.arange(6.0).view(2, 3)
    capture = Capture(Site(0, 0))
    result = capture.run(lambda: (x[:, 1:] * 2).add_(x[:, :1]).mT)
    assert result.tolist() == [[2, 11], [4, 13]]
    old, new = Storage(False, x.data_ptr()), Storage(True, 0)
    right = View(old, torch.float32, 1, (2, 2), (3, 1))
    made = View(new, torch.float32, 0, (2, 2), (2, 1))
    left = View(old, torch.float32, 0, (2, 1), (3, 1))
    assert capture.calls == [
        (aten.mul.Tensor, (right, 2), {}, made),
        (aten.add_.Tensor, (made, left), {}, None),
    ]
    assert capture.created_sizes == [16]
    assert list(capture.external) == [x.data_ptr()]
    assert capture.result == made._replace(strides=(1, 2))
    assert capture.problem is None
    capture.run(lambda: torch.rand(2))
    assert capture.problem == "aten.rand.default cannot be compiled"


@pytest.mark.parametrize(
    ("function", "effect"),
    [
        (aten.add.Tensor, "create"),
        (aten.scaled_dot_product_attention.default, "create"),
        (aten.copy_.default, "write"),
        (aten.view.default, "view"),
        (aten._unsafe_view.default, "view"),
        (aten.split_with_sizes.default, "view"),
        (aten.linear.default, "composite"),
        (aten.bernoulli.default, "other"),
        (aten.add.out, "other"),
        (aten._fused_adamw_.default, "other"),  # writes to the first argument and to more
    ],
    ids=str,
)
def test_effects_of_operations(function: Any, effect: str) -> None:
    assert effect_of(function) == effect


def operand(storage: Storage) -> Operand:
    return Operand(constant(View(storage, torch.float32, 0, (2, 20), (20, 1))), (0, 1))


def test_memory_is_used_again() -> None:
    old, one = Storage(False, 1000), Storage(True, 4)
    x, y, z, small = (Storage(True, key) for key in range(4))
    steps = [
        Instruction("relu", (1, 0, 0), 20, operand(x), operand(old)),
        Instruction("add", (1, 0, 0), 20, operand(y), operand(x), operand(one)),
        Instruction("relu", (1, 0, 0), 20, operand(small), operand(y)),
        Instruction("relu", (1, 0, 0), 20, operand(z), operand(small), scratch=y),
    ]
    section = Section(steps, operand(z).view, [20, 30, 32, 5, 1], {one: 1.0}, {})
    assert section.allocate(100) == ({x: 100, y: 132, small: 164, z: 100}, 180)
    assert [padded(n) for n in (0, 1, 16, 17)] == [0, 16, 16, 32]
