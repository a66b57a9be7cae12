"""Lowers captured operations to instructions of the compiled program, and fuses them.

An operation without a lowering stays a `Call`: it is run by PyTorch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nextpixel.engine.affine import AffineView, views_in
from nextpixel.engine.capture import Call, Storage

__all__ = ["CONSTANTS", "Instruction", "Operand", "Step", "Target", "fuse", "lower", "views_of"]

aten = torch.ops.aten

UNARY = {
    aten.clone.default: "copy",
    aten._to_copy.default: "copy",
    aten.relu.default: "relu",
    aten.elu.default: "elu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.neg.default: "negate",
}
BINARY = {  # with a tensor, with a number, and the sign of that number
    aten.add.Tensor: ("add", "shift", 1),
    aten.sub.Tensor: ("subtract", "shift", -1),
    aten.mul.Tensor: ("multiply", "scale", 1),
}
CONSTANTS = (
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten.ones_like.default,
    aten.full.default,
)
EMPTY = (aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default)
DEEPEST = 16384  # the most inputs of a product, see program.c
RELU_OUT, RELU_IN = 1, 2  # bits of `Instruction.relu`

Strides = tuple[int, int, int]


class Operand(NamedTuple):
    """A tensor of an instruction, addressed as images x outer x inner."""

    view: AffineView
    strides: Strides


@dataclass(frozen=True)
class Instruction:
    """An instruction of the compiled program, before its memory is allocated.

    Attributes:
        name: The operation.
        outer: Number of outer indices.
        inner: Number of inner indices; for a product, the columns of its matrix.
        out: The result.
        a: The first input.
        b: The second input; a product adds it.
        more: Added to a product last, after its ReLU.
        weight: The matrix of a product, `(depth, inner)`, or `(taps, channels, inner)`.
        depth: Length of the sums of a product, or of the rows of a table.
        relu: `RELU_OUT` applies ReLU to a product, `RELU_IN` to its input (one image only).
        number: What to add or to multiply by.
    """

    name: str
    outer: int
    inner: int
    out: Operand
    a: Operand
    b: Operand | None = None
    _: KW_ONLY
    more: Operand | None = None
    weight: Tensor | None = None
    depth: int = 0
    relu: int = 0
    number: float = 0.0

    def inputs(self) -> list[AffineView]:
        """Lists the views that it reads."""
        return [operand.view for operand in (self.a, self.b, self.more) if operand is not None]


Step = Instruction | Call


def views_of(step: Step) -> list[AffineView]:
    """Lists all views that a step reads and writes."""
    if isinstance(step, Instruction):
        return [*step.inputs(), step.out.view]
    return list(views_in(step))


# --- lowering -------------------------------------------------------------------------------------


class Target(NamedTuple):
    """The target of lowering.

    Attributes:
        images: Number of images.
        real: The type of all tensors except the pixels.
        constant: Returns the tensor of a view that is the same at every site and never written to;
            None for other views.
    """

    images: int
    real: torch.dtype
    constant: Callable[[AffineView], Tensor | None]


Lowered = list[Instruction] | None


def lower(call: Call, target: Target) -> Lowered:
    """Lowers an operation to instructions; returns None if only PyTorch can run it."""
    function, args, out = call.function, call.args, call.out
    if function in EMPTY:
        return []
    if any(view.origin.dtype not in (target.real, torch.int64) for view in views_in(call)):
        return None
    if function is aten.copy_.default and len(args) == 2:
        return elementwise(target, "copy", *args)
    if out is None:
        return None
    if function in UNARY and len(args) == 1:
        return elementwise(target, UNARY[function], out, args[0])
    if function in LOWERINGS and not call.kwargs:
        return LOWERINGS[function](target, call)
    return None


def lower_binary(target: Target, call: Call) -> Lowered:
    """Lowers a sum, a difference or a product, element by element."""
    with_tensor, with_number, sign = BINARY[call.function]
    a, b = call.args
    if isinstance(b, AffineView):
        return elementwise(target, with_tensor, call.out, a, b)
    return elementwise(target, with_number, call.out, a, number=sign * b)


def lower_mm(target: Target, call: Call) -> Lowered:
    """Lowers a matrix product."""
    a, weight = call.args
    return product(target, call.out, a, weight)


def lower_addmm(target: Target, call: Call) -> Lowered:
    """Lowers a matrix product with a bias."""
    bias, a, weight = call.args
    return product(target, call.out, a, weight, bias)


def lower_convolution(target: Target, call: Call) -> Lowered:
    """Lowers a convolution that gives one row: a product for each row of its kernel.

    With the channels last, the taps of a kernel row are contiguous, and those of the next output
    begin a pixel later (two pixels later with stride 2).
    """
    a, weight, bias, stride, padding, dilation, transposed, _, groups = call.args
    out, kernel = call.out, target.constant(weight)
    plain = not any(padding) and dilation == [1, 1] and not transposed and groups == 1
    if kernel is None or not plain or a.moves or out.moves or len(out.origin.sizes) != 4:
        return None
    out_channels, in_channels, height, width = kernel.shape
    depth = width * in_channels
    image, channel, row, col = a.origin.strides
    images, _, rows, columns = out.origin.sizes
    channels_last = channel == 1 and col == in_channels and out.origin.strides[1] == 1
    if images != target.images or rows != 1 or not channels_last or depth > DEEPEST:
        return None
    if bias is not None and bias.origin.strides != (1,):
        return None
    to = Operand(out, (out.origin.strides[0], out.origin.strides[3], 1))
    added = None if bias is None else Operand(bias, (0, 0, 1))
    instructions = []
    for i in range(height):
        kernel_row = kernel[:, :, i].permute(2, 1, 0)
        taps = Operand(shifted(a, i * row), (image, stride[1] * col, 1))
        instructions.append(
            Instruction(
                "product", columns, out_channels, to, taps, added, weight=kernel_row, depth=depth
            )
        )
        added = to
    return instructions


def lower_embedding(target: Target, call: Call) -> Lowered:
    """Lowers the look-up of a table's row for every integer."""
    if len(call.args) != 2:
        return None
    table, indices = call.args
    rows, sizes, strides = target.constant(table), indices.origin.sizes, indices.origin.strides
    if rows is None or not rows.is_contiguous() or len(sizes) != 2 or sizes[0] != target.images:
        return None
    if indices.origin.dtype != torch.int64 or rows.dtype != target.real:
        return None
    channels, depth = sizes[1], rows.shape[1]
    out = Operand(call.out, (channels * depth, depth, 1))
    which, of = Operand(indices, (strides[0], strides[1], 0)), Operand(table, (0, 0, 0))
    return [Instruction("gather", channels, depth, out, which, of, depth=depth)]


def lower_cat(target: Target, call: Call) -> Lowered:
    """Lowers a concatenation to copies."""
    copies = [elementwise(target, "copy", to, part) for to, part in pieces(call.out, *call.args)]
    return None if None in copies else [copy for (copy,) in copies]  # type: ignore[misc]


LOWERINGS: dict[Any, Callable[[Target, Call], Lowered]] = {
    **dict.fromkeys(BINARY, lower_binary),
    aten.mm.default: lower_mm,
    aten.addmm.default: lower_addmm,
    aten.convolution.default: lower_convolution,
    aten.embedding.default: lower_embedding,
    aten.cat.default: lower_cat,
}


def elementwise(
    target: Target,
    name: str,
    out: AffineView,
    a: AffineView,
    b: AffineView | None = None,
    *,
    number: float = 0.0,
) -> Lowered:
    """Makes the instruction of an operation that goes element by element."""
    if name == "copy" and a.origin.dtype == torch.int64:
        name = "cast"
    views = [view for view in (out, a, b) if view is not None]
    dtypes = [target.real, torch.int64 if name == "cast" else target.real, target.real]
    matrices = as_matrices(target.images, views)
    if any(v.origin.dtype != d for v, d in zip(views, dtypes, strict=False)) or matrices is None:
        return None
    outer, inner, strides = matrices
    to, first, *second = map(Operand, views, strides)
    return [Instruction(name, outer, inner, to, first, *second[:1], number=number)]


def product(
    target: Target, out: AffineView, a: AffineView, weight: AffineView, b: AffineView | None = None
) -> Lowered:
    """Makes the instruction that multiplies a vector of each image by a matrix, and adds b."""
    matrix = target.constant(weight)
    views = [view for view in (out, b) if view is not None]
    matrices = as_matrices(target.images, views)
    if any(view.origin.dtype != target.real for view in (*views, a, weight)):
        return None
    if matrix is None or matrices is None:
        return None
    if a.resizes or a.origin.sizes[0] != target.images or a.origin.strides[1] != 1:
        return None
    outer, inner, strides = matrices
    contiguous = inner == 1 or all(stride[2] == 1 for stride in strides)
    if outer != 1 or not contiguous or len(matrix) > DEEPEST:
        return None
    to, taps = Operand(out, strides[0]), Operand(a, (a.origin.strides[0], 0, 1))
    added = None if b is None else Operand(b, strides[1])
    return [Instruction("product", 1, inner, to, taps, added, weight=matrix, depth=len(matrix))]


def shifted(view: AffineView, elements: int) -> AffineView:
    """Moves a view by some elements."""
    return view._replace(origin=view.origin._replace(offset=view.origin.offset + elements))


def pieces(
    whole: AffineView, parts: list[AffineView], dim: int = 0
) -> Iterator[tuple[AffineView, AffineView]]:
    """Pairs each part of a concatenation with the view of the result that it fills."""
    begin = 0
    for part in parts:
        to = shifted(whole, begin)
        yield to._replace(origin=to.origin._replace(sizes=part.origin.sizes)), part
        begin += part.origin.sizes[dim] * whole.origin.strides[dim]


def as_matrices(images: int, views: list[AffineView]) -> tuple[int, int, list[Strides]] | None:
    """Addresses tensors as images x outer x inner, all broadcast to the shape of the first.

    Returns:
        The outer and the inner size, and the strides of each tensor; None if that is impossible.
    """
    shape = views[0].origin.sizes
    if not shape or shape[0] != images or any(view.resizes for view in views):
        return None
    strides = [broadcast_strides(view, shape) for view in views]
    if len(shape) == 2:
        return 1, shape[1], [(image, 0, inner) for image, inner in strides]
    merged = merged_dims(shape[1:], [own[1:] for own in strides])
    if len(merged) > 2:
        return None
    missing = [(1, (0,) * len(views))] * (2 - len(merged))
    (outer, far), (inner, near) = missing + merged
    return outer, inner, list(zip((own[0] for own in strides), far, near, strict=True))


def broadcast_strides(view: AffineView, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the strides of a view when it is broadcast to a shape."""
    sizes, strides = view.origin.sizes, view.origin.strides
    if sizes == shape:
        return strides
    steps = [0 if size == 1 else step for size, step in zip(sizes, strides, strict=True)]
    return (*(0,) * (len(shape) - len(sizes)), *steps)


def merged_dims(
    shape: tuple[int, ...], strides: list[tuple[int, ...]]
) -> list[tuple[int, tuple[int, ...]]]:
    """Merges the dimensions that all tensors run through as through a single one.

    Returns:
        The size of each remaining dimension, and its stride in each tensor.
    """
    dims: list[tuple[int, tuple[int, ...]]] = []
    for size, near in zip(shape, zip(*strides, strict=True), strict=True):
        if size == 1:
            continue
        if dims and dims[-1][1] == tuple(stride * size for stride in near):
            size *= dims.pop()[0]
        dims.append((size, near))
    return dims


# --- fusion ---------------------------------------------------------------------------------------


class Fusion(NamedTuple):
    """A rewrite rule: replaces two instructions, one after the other, by a single one.

    Attributes:
        first: The name of the first instruction, whose result only the second one reads.
        second: The name of the second instruction.
        applies: Whether the rule holds for the two, given the number of images.
        fused: Makes the instruction that replaces them.
    """

    first: str
    second: str
    applies: Callable[[Instruction, Instruction, int], bool]
    fused: Callable[[Instruction, Instruction], Instruction]


def fits_product(first: Instruction, second: Instruction) -> bool:
    """Whether a product can write its result where the second instruction writes."""
    return first.inner == second.inner and second.out.strides[2] == 1


def other_summand(first: Instruction, second: Instruction) -> Operand:
    """Returns what a sum adds to the result of the first instruction."""
    assert second.b is not None
    return second.a if second.b == first.out else second.b


FUSIONS = (
    Fusion(  # relu(a) W: a product of one image skips the inputs that are not positive
        "relu",
        "product",
        lambda relu, product, images: (
            images == 1 and product.a.view == relu.out.view and relu.a.strides[2] == 1
        ),
        lambda relu, product: replace(product, a=relu.a, relu=RELU_IN),
    ),
    Fusion(  # relu(a W + b)
        "product",
        "relu",
        lambda product, relu, images: (
            fits_product(product, relu) and relu.a == product.out and product.more is None
        ),
        lambda product, relu: replace(product, out=relu.out, relu=product.relu | RELU_OUT),
    ),
    Fusion(  # copy(a W + b), to a line buffer
        "product",
        "copy",
        lambda product, copy, images: fits_product(product, copy) and copy.a == product.out,
        lambda product, copy: replace(product, out=copy.out),
    ),
    Fusion(  # (a W + b) + more, a residual sum
        "product",
        "add",
        lambda product, add, images: (
            fits_product(product, add)
            and product.out in (add.a, add.b)
            and product.more is None
            and other_summand(product, add).strides[2] == 1
        ),
        lambda product, add: replace(product, out=add.out, more=other_summand(product, add)),
    ),
)


def fuse(images: int, steps: list[Step], result: AffineView) -> list[Step]:
    """Applies the rewrite rules `FUSIONS` to neighbouring instructions, from first to last.

    Args:
        images: Number of images.
        steps: Instructions and calls, in order.
        result: The view of the result of all steps.

    Returns:
        The steps that remain.
    """
    reads = Counter(view.storage for step in steps for view in inputs_of(step))
    reads[result.storage] += 1
    done: list[Step] = []
    for step in steps:
        fused = fuse_pair(images, done[-1], step, reads) if done else None
        if fused is None:
            done.append(step)
        else:
            done[-1] = fused
    return done


def fuse_pair(
    images: int, first: Step, second: Step, reads: Counter[Storage]
) -> Instruction | None:
    """Fuses two neighbouring steps; returns None if no rule applies."""
    if isinstance(first, Call) or isinstance(second, Call):
        return None
    result = first.out.view.storage
    used_once = result.created and reads[result] == 1
    overwrites_input = second.out.view.storage in [view.storage for view in first.inputs()]
    if not used_once or overwrites_input or not first.outer == second.outer == 1:
        return None
    for rule in FUSIONS:
        names = (first.name, second.name) == (rule.first, rule.second)
        if names and rule.applies(first, second, images):
            return rule.fused(first, second)
    return None


def inputs_of(step: Step) -> list[AffineView]:
    """Lists the views in a step's inputs; those of a call include what it writes to."""
    return step.inputs() if isinstance(step, Instruction) else list(views_in(step[1:3]))
