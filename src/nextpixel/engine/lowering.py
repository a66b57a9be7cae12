"""Lowers captured operations to instructions of the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nextpixel.engine.affine import AffineView, constant, views_in
from nextpixel.engine.capture import Call, Storage, View
from nextpixel.engine.instructions import Instruction, Operand

__all__ = [
    "CONSTANTS",
    "Target",
    "constant_value",
    "lower",
]

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
CONSTANTS = {  # operations that fill a new tensor, and with what; None: with their second argument
    aten.zeros.default: 0.0,
    aten.zeros_like.default: 0.0,
    aten.new_zeros.default: 0.0,
    aten.ones_like.default: 1.0,
    aten.full.default: None,
}
EMPTY = (aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default)
MOST_PIECES = 64  # instructions of a copy with many dimensions


def constant_value(call: Call) -> float:
    """Returns the number with which a call of `CONSTANTS` fills a tensor."""
    value = CONSTANTS[call.function]
    return float(call.args[1]) if value is None else value


# --- lowering -------------------------------------------------------------------------------------


class Target(NamedTuple):
    """The target of lowering.

    Attributes:
        images: Number of images.
        real: The type of all tensors except the levels.
        constant: Returns the tensor of a view that is the same at every site and never written to;
            None for other views.
        image_size: Returns the numbers of an image in a view's storage; 0 where images share it,
            None where all numbers are the same.
        new: Makes a storage of some numbers for each image.
    """

    images: int
    real: torch.dtype
    constant: Callable[[AffineView], Tensor | None]
    image_size: Callable[[AffineView], int | None]
    new: Callable[[int], Storage]

    def temporary(self, *sizes: int) -> AffineView:
        """Makes the view of a new contiguous tensor, `(images, *sizes)`."""
        strides = [1]
        for size in reversed(sizes):
            strides.insert(0, strides[0] * size)
        storage = self.new(strides[0])
        return constant(View(storage, self.real, 0, (self.images, *sizes), tuple(strides)))

    def of_image(self, view: AffineView) -> bool:
        """Whether a view's images lie as far apart as those of its storage."""
        origin = view.origin
        if not origin.sizes or origin.sizes[0] != self.images:
            return False
        return origin.strides[0] == self.image_size(view)


Lowered = list[Instruction] | None


def lower(call: Call, target: Target) -> Lowered:
    """Lowers an operation to instructions; returns None if there are none for it."""
    function, args, out = call.function, call.args, call.out
    if function in EMPTY:
        return []
    if any(view.origin.dtype not in (target.real, torch.int64) for view in views_in(call)):
        return None
    if function is aten.copy_.default and len(args) == 2:
        return elementwise(target, "copy", *args)
    if function is aten.zero_.default:
        return fill(target, args[0])
    if out is None:
        return None
    if function in UNARY and (len(args) == 1 or args[1:] == (1.0,)):
        return elementwise(target, UNARY[function], out, args[0])
    if function in LOWERINGS and not (call.kwargs.keys() - {"scale"}):
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


def product(
    target: Target, out: AffineView, a: AffineView, weight: AffineView, b: AffineView | None = None
) -> Lowered:
    """Makes the instruction that multiplies rows of each image by a matrix, and adds b."""
    matrix = target.constant(weight)
    if matrix is None:
        return None
    depth, columns = matrix.shape
    to, taps = contiguous(by_image(target, out), columns), contiguous(by_image(target, a), depth)
    if to is None or taps is None:
        return None
    added = None
    if b is not None:
        row = len(b.origin.sizes) == 1  # the same for all images and rows
        operand = Operand(b, (0, b.origin.strides[0])) if row else by_image(target, b)
        added = contiguous(operand, columns)
        if added is None:
            return None
    outer = out.origin.sizes[0] // target.images, 0, 0
    return [Instruction("product", outer, columns, to, taps, added, weight=matrix, depth=depth)]


def contiguous(operand: Operand | None, size: int) -> Operand | None:
    """Returns an operand whose inner numbers, `size` of them, follow each other; else None."""
    if operand is None or (operand.strides[1] != 1 and size > 1):
        return None
    return operand._replace(strides=(operand.strides[0], 1))


def by_image(target: Target, view: AffineView) -> Operand | None:
    """Addresses a matrix, `(images * rows, columns)`, as images x rows x columns."""
    if len(view.origin.sizes) != 2 or view.resizes:
        return None
    (length, _), (step, column) = view.origin.sizes, view.origin.strides
    rows, left = divmod(length, target.images)
    size = target.image_size(view)
    if left or (size is not None and size != (step * rows if rows > 1 else view.origin.strides[0])):
        return None
    return Operand(view, (step if rows > 1 else 0, column))


def lower_convolution(target: Target, call: Call) -> Lowered:
    """Lowers a convolution, by products of channels-last rows."""
    a, weight, bias, stride, padding, dilation, transposed, output_padding, groups = call.args
    kernel = target.constant(weight)
    if kernel is None or a.resizes or call.out.moves or groups != 1 or dilation != [1, 1]:
        return None
    if padding[0] or not target.of_image(a) or not target.of_image(call.out):
        return None
    if transposed:
        return lower_transposed(target, call.out, a, kernel, bias, stride, padding, output_padding)
    _, channels, _, width = a.origin.sizes
    _, out_channels, out_rows, out_width = call.out.origin.sizes
    if out_rows != 1:
        return None
    seen, steps = channels_last(target, a, padding[1], padding[1])
    padded = width + 2 * padding[1]
    to = target.temporary(out_width, out_channels)
    added = None if bias is None else Operand(bias, (0, 1))
    for row in range(kernel.shape[2]):
        taps = shifted(seen, row * padded * channels)
        steps.append(
            Instruction(
                "product",
                (out_width, 0, 0),
                out_channels,
                Operand(to, (out_channels, 1)),
                Operand(taps, (stride[1] * channels, 1)),
                added,
                weight=kernel[:, :, row].permute(2, 1, 0),
                depth=kernel.shape[3] * channels,
            )
        )
        added = Operand(to, (out_channels, 1))
    return steps + from_channels_last(target, call.out, to, 0)


def lower_transposed(
    target: Target,
    out: AffineView,
    a: AffineView,
    kernel: Tensor,
    bias: AffineView | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
) -> Lowered:
    """Lowers a transposed convolution of a row: a product for each row and phase of the output."""
    _, channels, rows, _ = a.origin.sizes
    _, out_channels, out_rows, out_width = out.origin.sizes
    height, columns = kernel.shape[2:]
    if rows != 1 or out_rows != height or stride[0] != height or out_width % stride[1]:
        return None
    reach = columns // stride[1] + 1
    seen, steps = channels_last(target, a, reach, reach)
    added = None if bias is None else Operand(bias, (0, 1))
    each = stride[1] * out_channels
    for row in range(height):
        to = target.temporary(out_width, out_channels)
        for phase in range(stride[1]):
            # Output o = stride j + phase gets tap k of input i where o = stride i - padding + k.
            taps = [k for k in range(columns) if (phase + padding[1] - k) % stride[1] == 0][::-1]
            first = (phase + padding[1] - taps[0]) // stride[1]
            matrix = torch.stack([kernel[:, :, row, k] for k in taps])  # (taps, channels, out)
            steps.append(
                Instruction(
                    "product",
                    (out_width // stride[1], 0, 0),
                    out_channels,
                    Operand(shifted(to, phase * out_channels), (each, 1)),
                    Operand(shifted(seen, (reach + first) * channels), (channels, 1)),
                    added,
                    weight=matrix,
                    depth=len(taps) * channels,
                )
            )
        steps += from_channels_last(target, out, to, row)
    return steps


def channels_last(
    target: Target, a: AffineView, left: int, right: int
) -> tuple[AffineView, list[Instruction]]:
    """Copies maps `(images, C, H, W)` with the channels last and zeros around each row."""
    _, channels, rows, width = a.origin.sizes
    padded = left + width + right
    seen = target.temporary(rows, padded, channels)
    steps: list[Instruction] = []
    for row in range(rows):
        begin = shifted(seen, row * padded * channels)
        for at, count in ((0, left), (left + width, right)):
            if count:
                border = Operand(shifted(begin, at * channels), (0, 1))
                steps.append(Instruction("fill", (1, 0, 0), count * channels, border, border))
        from_ = shifted(a, row * a.origin.strides[2])
        to = Operand(shifted(begin, left * channels), (channels, 1))
        of_a = (a.origin.strides[3], a.origin.strides[1])
        steps.append(Instruction("copy", (width, 0, 0), channels, to, Operand(from_, of_a)))
    return seen, steps


def from_channels_last(
    target: Target, out: AffineView, a: AffineView, row: int
) -> list[Instruction]:
    """Copies a row with the channels last to a row of maps."""
    _, channels, _, width = out.origin.sizes
    begin, strides = shifted(out, row * out.origin.strides[2]), out.origin.strides
    to = Operand(begin, (strides[1], strides[3]))
    return [Instruction("copy", (channels, 0, 0), width, to, Operand(a, (1, channels)))]


def lower_attention(target: Target, call: Call) -> Lowered:
    """Lowers attention of one query."""
    if len(call.args) != 3 or "scale" not in call.kwargs:
        return None
    query, keys, values = call.args
    if (
        len(query.origin.sizes) != 4
        or query.origin.sizes[1:3] != (1, 1)
        or not all(target.of_image(view) for view in (query, keys, values, call.out))
    ):
        return None
    (_, _, count, depth), inner = keys.origin.sizes, values.origin.sizes[3]
    outer = (count, keys.per_row[3], keys.per_col[3])
    whole = target.image_size(keys) // depth
    return [
        Instruction(
            "attention",
            outer,
            inner,
            Operand(call.out, (0, 1)),
            Operand(query, (0, query.origin.strides[3])),
            Operand(keys, keys.origin.strides[2:]),
            more=Operand(values, values.origin.strides[2:]),
            scratch=target.new(whole),
            depth=depth,
            number=call.kwargs["scale"],
        )
    ]


def lower_embedding(target: Target, call: Call) -> Lowered:
    """Lowers the look-up of a table's row for every integer."""
    if len(call.args) != 2:
        return None
    table, indices = call.args
    rows, sizes = target.constant(table), indices.origin.sizes
    if rows is None or not rows.is_contiguous() or len(sizes) != 2 or not target.of_image(indices):
        return None
    channels, depth = sizes[1], rows.shape[1]
    out, which = Operand(call.out, (depth, 1)), Operand(indices, (indices.origin.strides[1], 0))
    return [Instruction("gather", (channels, 0, 0), depth, out, which, Operand(table, (0, 0)))]


def lower_cat(target: Target, call: Call) -> Lowered:
    """Lowers a concatenation to copies."""
    if any(len(part.origin.sizes) != len(call.out.origin.sizes) for part in call.args[0]):
        return None  # an empty tensor
    copies = [elementwise(target, "copy", to, part) for to, part in pieces(call.out, *call.args)]
    return None if None in copies else [copy for some in copies for copy in some or ()]


def lower_stack(target: Target, call: Call) -> Lowered:
    """Lowers a stack to copies."""
    whole, parts = call.out.origin, call.args[0]
    dim = (call.args[1:] or (0,))[0] % len(whole.sizes)
    sizes, strides = (x[:dim] + x[dim + 1 :] for x in (whole.sizes, whole.strides))
    steps: list[Instruction] = []
    for number, part in enumerate(parts):
        offset = whole.offset + number * whole.strides[dim]
        to = constant(whole._replace(offset=offset, sizes=sizes, strides=strides))
        copies = elementwise(target, "copy", to, part)
        if copies is None:
            return None
        steps += copies
    return steps


LOWERINGS: dict[Any, Callable[[Target, Call], Lowered]] = {
    **dict.fromkeys(BINARY, lower_binary),
    aten.mm.default: lower_mm,
    aten.addmm.default: lower_addmm,
    aten.convolution.default: lower_convolution,
    aten.scaled_dot_product_attention.default: lower_attention,
    aten.embedding.default: lower_embedding,
    aten.cat.default: lower_cat,
    aten.stack.default: lower_stack,
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
    """Makes the instructions of an operation that goes element by element."""
    views = [view for view in (out, a, b) if view is not None]
    shape = out.origin.sizes
    if not target.of_image(out) or any(view.resizes for view in views):
        return None
    if any(len(view.origin.sizes) > len(shape) for view in views):
        return None
    strides = [broadcast_strides(view, shape) for view in views]
    if any(
        target.image_size(view) not in (own[0], None)
        for view, own in zip(views, strides, strict=True)
    ):
        return None
    merged = merged_dims(shape[1:], [own[1:] for own in strides])
    *loops, (outer, far), (inner, near) = [(1, (0,) * len(views))] * (2 - len(merged)) + merged
    indices = list(itertools.product(*(range(size) for size, _ in loops)))
    if len(indices) > MOST_PIECES:
        return None
    steps = []
    for index in indices:
        moved = [
            shifted(view, sum(i * step[v] for i, (_, step) in zip(index, loops, strict=True)))
            for v, view in enumerate(views)
        ]
        to, first, *second = map(Operand, moved, zip(far, near, strict=True))
        steps.append(Instruction(name, (outer, 0, 0), inner, to, first, *second, number=number))
    return steps


def fill(target: Target, out: AffineView) -> Lowered:
    """Makes the instructions that fill a tensor with zeros."""
    return elementwise(target, "fill", out, out)


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
        The size of each remaining dimension, and its stride in each tensor; the last is the one
        through which the first tensor runs in the smallest steps.
    """
    order = sorted(range(len(shape)), key=lambda i: -strides[0][i])
    dims: list[tuple[int, tuple[int, ...]]] = []
    for i in order:
        size, near = shape[i], tuple(own[i] for own in strides)
        if size == 1:
            continue
        if dims and dims[-1][1] == tuple(stride * size for stride in near):
            size *= dims.pop()[0]
        dims.append((size, near))
    return dims
