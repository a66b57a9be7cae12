"""Fuses neighbouring instructions: a product ends with what its result is used for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from nextpixel.engine.affine import AffineView
from nextpixel.engine.capture import Storage
from nextpixel.engine.instructions import Instruction, Operand

__all__ = ["fuse"]


class Fusion(NamedTuple):
    """A rewrite rule: replaces two instructions, one after the other, by a single one.

    Attributes:
        second: The name of the second instruction; the first is a product, whose result only the
            second one reads.
        applies: Whether the rule holds for the two.
        fused: Makes the instruction that replaces them.
    """

    second: str
    applies: Callable[[Instruction, Instruction], bool]
    fused: Callable[[Instruction, Instruction], Instruction]


def other_summand(product: Instruction, add: Instruction) -> Operand:
    """Returns what a sum adds to the result of a product."""
    assert add.b is not None
    return add.a if add.b == product.out else add.b


FUSIONS = (
    Fusion(  # relu(a W + b)
        "relu",
        lambda product, relu: relu.a == product.out and product.more is None,
        lambda product, relu: replace(product, out=relu.out, relu=True),
    ),
    Fusion(  # copy(a W + b), to a line buffer
        "copy",
        lambda product, copy: copy.a == product.out,
        lambda product, copy: replace(product, out=copy.out),
    ),
    Fusion(  # (a W + b) + more, a residual sum
        "add",
        lambda product, add: (
            product.out in (add.a, add.b)
            and product.more is None
            and other_summand(product, add).strides[1] == 1
        ),
        lambda product, add: replace(product, out=add.out, more=other_summand(product, add)),
    ),
)


def fuse(steps: list[Instruction], result: AffineView) -> list[Instruction]:
    """Applies the rewrite rules `FUSIONS` to neighbouring instructions, from first to last.

    Args:
        steps: The instructions, in order.
        result: The view of the result of all of them.

    Returns:
        The instructions that remain.
    """
    reads = Counter(view.storage for step in steps for view in step.inputs())
    reads[result.storage] += 1
    done: list[Instruction] = []
    for step in steps:
        fused = fuse_pair(done[-1], step, reads) if done else None
        if fused is None:
            done.append(step)
        else:
            done[-1] = fused
    return done


def fuse_pair(
    first: Instruction, second: Instruction, reads: Counter[Storage]
) -> Instruction | None:
    """Fuses two neighbouring instructions; returns None if no rule applies."""
    result = first.out.view.storage
    used_once = result.created and reads[result] == 1
    overwrites_input = second.out.view.storage in [view.storage for view in first.inputs()]
    alike = (first.outer, first.inner) == (second.outer, second.inner) and first.outer == (1, 0, 0)
    if first.name != "product" or not used_once or overwrites_input or not alike:
        return None
    for rule in FUSIONS:
        contiguous = second.out.strides[1] == 1
        if second.name == rule.second and contiguous and rule.applies(first, second):
            return rule.fused(first, second)
    return None
