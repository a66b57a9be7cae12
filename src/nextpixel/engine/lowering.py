"""Translates recorded operations into instructions of the compiled program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nextpixel.engine.capture import Call, Track

__all__ = [
    "CONSTANTS",
    "Memory",
    "Native",
    "Translator",
    "fuse",
    "memory",
    "tracks_in",
    "tracks_of",
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
BINARY = {  # with a tensor, with a number, and the number's sign
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
DEEPEST = 16384  # inputs of a product, see program.c

Memory = tuple[bool, int]  # a storage: whether the step made it, and its number or address


def memory(one: Track) -> Memory:
    """Names the storage a tensor lies in."""
    return (one.place.made, one.place.memory)


def tracks_in(x: Any) -> Iterator[Track]:
    """Goes through the tensors in the arguments of a call."""
    if isinstance(x, Track):
        yield x
    elif isinstance(x, (tuple, list)):
        for one in x:
            yield from tracks_in(one)
    elif isinstance(x, dict):
        yield from tracks_in(list(x.values()))


Strides = tuple[int, int, int]


class Operand(NamedTuple):
    """A tensor seen as images x outer x inner."""

    track: Track
    strides: Strides


@dataclass
class Native:
    """An instruction of the compiled program, before its places are known.

    Attributes:
        name: The operation.
        outer: Its size beside the images.
        inner: The other size; a product makes a vector of so many numbers.
        out: Where it writes.
        a: What it reads.
        b: What it reads too; a product adds it.
        more: Added to a product at its very end.
        weight: The matrix of a product, `(depth, inner)`, or `(taps, channels, inner)`.
        depth: Numbers that a product sums over, or a row of a table has.
        relu: 1 if ReLU is taken of the product, plus 2 if it is taken of `a` (of one image only).
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

    def reads(self) -> list[Track]:
        """Lists what it reads."""
        return [one.track for one in (self.a, self.b, self.more) if one is not None]


class Translator:
    """Translates operations into instructions of the compiled program.

    Args:
        images: Number of images.
        real: The type of all numbers but the pixels.
        constant: Finds the tensor of a track that is the same at every site and that no step
            changes, or None.
    """

    def __init__(
        self, images: int, real: torch.dtype, constant: Callable[[Track], Tensor | None]
    ) -> None:
        self.images, self.real, self.constant = images, real, constant

    def __call__(self, call: Call) -> list[Native] | None:
        """Translates an operation; None if there is no instruction for it."""
        function, args, out = call.function, call.args, call.out
        if function in EMPTY:
            return []
        if any(one.place.dtype not in (self.real, torch.int64) for one in tracks_in(call)):
            return None
        if function is aten.copy_.default and len(args) == 2:
            return self.each("copy", *args)
        if out is None:
            return None
        if function in UNARY and len(args) == 1:
            return self.each(UNARY[function], out, args[0])
        if call.kwargs:
            return None
        if function in BINARY:
            with_tensor, with_number, sign = BINARY[function]
            if isinstance(args[1], Track):
                return self.each(with_tensor, out, *args)
            return self.each(with_number, out, args[0], number=sign * args[1])
        if function is aten.addmm.default:
            return self.product(out, args[1], args[2], args[0])
        if function is aten.mm.default:
            return self.product(out, *args)
        if function is aten.convolution.default:
            return self.convolution(out, *args)
        if function is aten.embedding.default and len(args) == 2:
            return self.gather(out, *args)
        if function is aten.cat.default:
            copies = [self.each("copy", *to_and_from) for to_and_from in pieces(out, *args)]
            return None if None in copies else [one for (one,) in copies]  # type: ignore[misc]
        return None

    def each(
        self, name: str, out: Track, a: Track, b: Track | None = None, *, number: float = 0.0
    ) -> list[Native] | None:
        """Translates what goes element by element."""
        if name == "copy" and a.place.dtype == torch.int64:
            name = "cast"
        tracks = [one for one in (out, a, b) if one is not None]
        kinds = [self.real, torch.int64 if name == "cast" else self.real, self.real]
        wrong = any(one.place.dtype != kind for one, kind in zip(tracks, kinds, strict=False))
        seen = matrices(self.images, tracks)
        if wrong or seen is None:
            return None
        outer, inner, strides = seen
        to, first, *second = map(Operand, tracks, strides)
        return [Native(name, outer, inner, to, first, *second[:1], number=number)]

    def product(
        self, out: Track, a: Track, weight: Track, b: Track | None = None
    ) -> list[Native] | None:
        """Translates a product of a vector for each image with a matrix, plus b."""
        matrix = self.constant(weight)
        if any(one is not None and one.place.dtype != self.real for one in (out, a, weight, b)):
            return None
        seen = matrices(self.images, [out] if b is None else [out, b])
        if matrix is None or seen is None or a.resizes or a.place.sizes[0] != self.images:
            return None
        outer, inner, strides = seen
        runs = inner == 1 or all(stride[2] == 1 for stride in strides)
        if outer != 1 or not runs or a.place.strides[1] != 1 or len(matrix) > DEEPEST:
            return None
        to, taps = Operand(out, strides[0]), Operand(a, (a.place.strides[0], 0, 1))
        sums = None if b is None else Operand(b, strides[1])
        return [Native("product", 1, inner, to, taps, sums, weight=matrix, depth=len(matrix))]

    def convolution(
        self, out: Track, a: Track, weight: Track, b: Track | None, *options: Any
    ) -> list[Native] | None:
        """Translates a convolution that gives one row: a product for each row of its kernel.

        With the channels last, the taps of a row are one run of numbers, and the next output's
        begin a pixel, or with a stride two, later.
        """
        kernel = self.constant(weight)
        stride, padding, dilation, transposed, _, groups = options
        plain = not any(padding) and dilation == [1, 1] and not transposed and groups == 1
        if kernel is None or not plain or a.moves or out.moves or len(out.place.sizes) != 4:
            return None
        out_channels, in_channels, height, width = kernel.shape
        _, channel, row, col = a.place.strides
        images, _, rows, columns = out.place.sizes
        last = channel == 1 and col == in_channels and out.place.strides[1] == 1
        if images != self.images or rows != 1 or not last or width * in_channels > DEEPEST:
            return None
        if b is not None and b.place.strides != (1,):
            return None
        to = Operand(out, (out.place.strides[0], out.place.strides[3], 1))
        sums = None if b is None else Operand(b, (0, 0, 1))
        lines = []
        for i in range(height):
            place = a.place._replace(offset=a.place.offset + i * row)
            taps = Operand(a._replace(place=place), (a.place.strides[0], stride[1] * col, 1))
            line = Native("product", columns, out_channels, to, taps, sums)
            line.weight = kernel[:, :, i].permute(2, 1, 0)
            line.depth = width * in_channels
            lines.append(line)
            sums = to
        return lines

    def gather(self, out: Track, table: Track, which: Track) -> list[Native] | None:
        """Translates the look-up of a row in a table for every integer."""
        rows = self.constant(table)
        size, strides = which.place.sizes, which.place.strides
        if rows is None or not rows.is_contiguous() or len(size) != 2 or size[0] != self.images:
            return None
        if which.place.dtype != torch.int64 or rows.dtype != self.real:
            return None
        channels, depth = size[1], rows.shape[1]
        return [
            Native(
                "gather",
                channels,
                depth,
                Operand(out, (channels * depth, depth, 1)),
                Operand(which, (strides[0], strides[1], 0)),
                Operand(table, (0, 0, 0)),
                depth=depth,
            )
        ]


def pieces(whole: Track, tracks: list[Track], dim: int = 0) -> Iterator[tuple[Track, Track]]:
    """Goes through what is concatenated: where each comes to lie, and where it is."""
    begin = whole.place.offset
    for one in tracks:
        yield whole._replace(place=whole.place._replace(offset=begin, sizes=one.place.sizes)), one
        begin += one.place.sizes[dim] * whole.place.strides[dim]


def matrices(images: int, tracks: list[Track]) -> tuple[int, int, list[Strides]] | None:
    """Sees tensors as images x outer x inner, the first one's shape; the others are broadcast.

    Returns:
        The outer and the inner size, and the strides of each tensor; None if there is no such view.
    """
    shape = tracks[0].place.sizes
    if not shape or shape[0] != images or any(one.resizes for one in tracks):
        return None
    strides = []  # by tensor, then by dimension
    for one in tracks:
        sizes, own = one.place.sizes, one.place.strides
        if sizes != shape:
            missing = len(shape) - len(sizes)
            steps = [0 if size == 1 else step for size, step in zip(sizes, own, strict=True)]
            own = (*(0,) * missing, *steps)
        strides.append(own)
    if len(shape) == 2:
        return 1, shape[1], [(first, 0, near) for first, near in strides]
    dims: list[tuple[int, tuple[int, ...]]] = []
    for size, near in list(zip(shape, zip(*strides, strict=True), strict=True))[1:]:
        if size == 1:
            continue
        if dims and dims[-1][1] == tuple(stride * size for stride in near):
            size *= dims.pop()[0]
        dims.append((size, near))
    if len(dims) > 2:
        return None
    (outer, far), (inner, near) = [(1, (0,) * len(tracks))] * (2 - len(dims)) + dims
    return outer, inner, list(zip((one[0] for one in strides), far, near, strict=True))


def fuse(images: int, steps: list[Native | Call], result: Track) -> list[Native | Call]:
    """Lets products do what comes right after them and is all that is done with them.

    That is ReLU, adding something, and writing it elsewhere.
    """
    uses = Counter(
        memory(one)
        for step in steps
        for one in (step.reads() if isinstance(step, Native) else tracks_in(step[1:3]))
    )
    uses[memory(result)] += 1
    fused: list[Native | Call] = []
    for step in steps:
        before = fused[-1] if fused else None
        if not (
            isinstance(step, Native)
            and isinstance(before, Native)
            and before.outer == step.outer == 1
            and before.out.track.place.made
            and uses[memory(before.out.track)] == 1
            and memory(step.out.track) not in map(memory, before.reads())
        ):
            fused.append(step)
        elif step.name == "product" and before.name == "relu":
            if images == 1 and step.a.track == before.out.track and before.a.strides[2] == 1:
                step.relu, step.a = 2, before.a
                fused[-1] = step
            else:
                fused.append(step)
        elif before.name != "product" or before.inner != step.inner or step.out.strides[2] != 1:
            fused.append(step)
        elif step.name == "relu" and step.a == before.out and before.more is None:
            before.relu, before.out = before.relu | 1, step.out
        elif step.name == "copy" and step.a == before.out:
            before.out = step.out
        elif (
            step.name == "add"
            and step.b is not None
            and before.out in (step.a, step.b)
            and before.more is None
            and (more := step.a if step.b == before.out else step.b).strides[2] == 1
        ):
            before.more, before.out = more, step.out
        else:
            fused.append(step)
    return fused


def tracks_of(step: Native | Call) -> list[Track]:
    """Lists all that a step reads and writes."""
    if isinstance(step, Native):
        return [*step.reads(), step.out.track]
    return list(tracks_in(tuple(step)))
