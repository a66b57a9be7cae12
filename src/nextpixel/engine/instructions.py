"""The instructions of the engine, before their memory is laid out."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

from torch import Tensor

from nextpixel.engine.affine import AffineView
from nextpixel.engine.capture import Storage

__all__ = ["Instruction", "Operand", "storages_of"]

Strides = tuple[int, int]


class Operand(NamedTuple):
    """A tensor of an instruction, addressed as images x outer x inner.

    Attributes:
        view: The tensor, whose first dimension is the images, unless they share it.
        strides: Numbers from one outer index to the next, and from one inner index to the next.
    """

    view: AffineView
    strides: Strides


@dataclass(frozen=True)
class Instruction:
    """An instruction of the engine, before its memory is allocated; see `np_instruction`.

    Attributes:
        name: The operation.
        outer: Number of outer indices; for attention also what a row and a column add.
        inner: Number of inner indices; for a product, the columns of its matrix.
        out: The result.
        a: The first input.
        b: The second input; a product adds it.
        more: Added to a product last, after its ReLU; the values of attention.
        weight: The matrix of a product, `(depth, inner)`, or `(taps, channels, inner)`.
        scratch: Memory for the weights of attention.
        depth: Length of the sums of a product, or of the keys of attention.
        relu: Whether to apply ReLU to a product.
        number: What to add or to multiply by.
    """

    name: str
    outer: tuple[int, int, int]
    inner: int
    out: Operand
    a: Operand
    b: Operand | None = None
    _: KW_ONLY
    more: Operand | None = None
    weight: Tensor | None = None
    scratch: Storage | None = None
    depth: int = 0
    relu: bool = False
    number: float = 0.0

    def inputs(self) -> list[AffineView]:
        """Lists the views that it reads."""
        return [operand.view for operand in (self.a, self.b, self.more) if operand is not None]


def storages_of(step: Instruction) -> set[Storage]:
    """Lists the storages that an instruction reads and writes."""
    storages = {view.storage for view in (*step.inputs(), step.out.view)}
    return storages if step.scratch is None else storages | {step.scratch}
