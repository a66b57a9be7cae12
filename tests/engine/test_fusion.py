"""Fusion of instructions: which rules apply, and where they must not."""

from dataclasses import replace

import pytest
import torch

from nextpixel.engine.affine import AffineView, constant
from nextpixel.engine.capture import Storage, View
from nextpixel.engine.fusion import fuse
from nextpixel.engine.instructions import Instruction, Operand

WIDTH = 8
ONCE = (1, 0, 0)


def operand(number: int, *, created: bool = True) -> Operand:
    view = View(Storage(created, number), torch.float32, 0, (2, WIDTH), (WIDTH, 1))
    return Operand(constant(view), (0, 1))


A, B, OTHER, LINE = (operand(number, created=False) for number in range(4))
X, Y, Z = map(operand, range(3))
PRODUCT = Instruction("product", ONCE, WIDTH, X, A, B, weight=torch.eye(WIDTH), depth=WIDTH)


def instruction(name: str, out: Operand, a: Operand, b: Operand | None = None) -> Instruction:
    return Instruction(name, ONCE, WIDTH, out, a, b)


def fused(*steps: Instruction, result: AffineView = Z.view) -> list[Instruction]:
    return fuse(list(steps), result)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (instruction("relu", Y, X), replace(PRODUCT, out=Y, relu=True)),
        (instruction("copy", LINE, X), replace(PRODUCT, out=LINE)),
        (instruction("add", Y, X, OTHER), replace(PRODUCT, out=Y, more=OTHER)),
        (instruction("add", Y, OTHER, X), replace(PRODUCT, out=Y, more=OTHER)),
    ],
    ids=["relu", "copy", "add", "add to another"],
)
def test_what_follows_a_product_becomes_a_part_of_it(
    second: Instruction, expected: Instruction
) -> None:
    assert fused(PRODUCT, second) == [expected]
    for other in (replace(second, inner=2 * WIDTH), replace(second, outer=(2, 0, 0))):
        assert fused(PRODUCT, other) == [PRODUCT, other]


def test_rules_apply_one_after_the_other() -> None:
    relu, add = instruction("relu", Y, X), instruction("add", Z, OTHER, Y)
    steps = [PRODUCT, relu, add, instruction("copy", LINE, Z)]
    expected = replace(PRODUCT, out=LINE, relu=True, more=OTHER)
    assert fused(*steps, result=LINE.view) == [expected]


def test_relu_after_a_sum_stays() -> None:
    add, relu = instruction("add", Y, X, OTHER), instruction("relu", Z, Y)
    assert fused(PRODUCT, add, relu) == [replace(PRODUCT, out=Y, more=OTHER), relu]


def test_a_result_that_is_read_twice_is_written() -> None:
    relu, add = instruction("relu", Y, X), instruction("add", Z, Y, X)
    assert fused(PRODUCT, relu, add) == [PRODUCT, relu, add]
    assert fused(PRODUCT, relu, result=X.view) == [PRODUCT, relu]


def test_memory_that_existed_before_the_step_is_written() -> None:
    product, relu = replace(PRODUCT, out=LINE), instruction("relu", Y, LINE)
    assert fused(product, relu) == [product, relu]


def test_a_product_does_not_write_to_its_own_input() -> None:
    copy = instruction("copy", A, X)
    assert fused(PRODUCT, copy) == [PRODUCT, copy]
