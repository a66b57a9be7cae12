"""Turns recorded steps into a script: runs of the compiled program, and calls of PyTorch between.

Everything a step makes gets a place in one piece of memory, used again as soon as nobody needs what
lies there, so that it stays in the processor's cache.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nextpixel.nn import Site
from nextpixel.tape.program import INSTRUCTION, OPERATIONS
from nextpixel.tape.recording import Call, Recording, Track, track

__all__ = ["Script", "Weights"]

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
LINE = 64  # bytes that the processor loads at once
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


def with_tensors(x: Any, find: Callable[[Track], Tensor]) -> Any:
    """Puts tensors where tracks are in the arguments of a call."""
    if isinstance(x, Track):
        return find(x)
    if isinstance(x, (tuple, list)):
        return type(x)([with_tensors(one, find) for one in x])
    if isinstance(x, dict):
        return {name: with_tensors(one, find) for name, one in x.items()}
    return x


def tracks_of(step: Native | Call) -> list[Track]:
    """Lists all that a step reads and writes."""
    if isinstance(step, Native):
        return [*step.reads(), step.out.track]
    return list(tracks_in(tuple(step)))


def like(one: Track) -> Tensor:
    """Makes a tensor of the same shape and type."""
    return torch.empty_strided(one.place.sizes, one.place.strides, dtype=one.place.dtype)


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
        operands = map(Operand, tracks, strides)
        return [Native(name, outer, inner, *operands, number=number)]

    def product(
        self, out: Track, a: Track, weight: Track, b: Track | None = None
    ) -> list[Native] | None:
        """Translates a product of a vector for each image with a matrix, plus b."""
        matrix = self.constant(weight)
        seen = matrices(self.images, [out] if b is None else [out, b])
        if matrix is None or seen is None or a.resizes or a.place.sizes[0] != self.images:
            return None
        outer, inner, strides = seen
        near = [a.place.strides[1], *(stride[2] for stride in strides)]
        if outer != 1 or (inner > 1 and set(near) != {1}) or len(matrix) > DEEPEST:
            return None
        operands = [Operand(out, strides[0]), Operand(a, (a.place.strides[0], 0, 1))]
        operands += [Operand(b, strides[1])] if b is not None else []
        return [Native("product", 1, inner, *operands, weight=matrix, depth=len(matrix))]

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
        own = zip(one.place.sizes, one.place.strides, strict=True)
        missing = len(shape) - len(one.place.sizes)
        strides.append([0] * missing + [0 if size == 1 else stride for size, stride in own])
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
    first = (one[0] for one in strides)
    return outer, inner, list(zip(first, far, near, strict=True))


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
            and uses[memory(before.out.track)] == 1
            and memory(step.out.track) not in map(memory, before.reads())
        ):
            fused.append(step)
        elif step.name == "product" and before.name == "relu":
            if images == 1 and step.a.track == before.out.track and before.a.strides[2] == 1:
                fused[-1] = replace(step, relu=2, a=before.a)
            else:
                fused.append(step)
        elif before.name != "product" or before.inner != step.inner or step.out.strides[2] != 1:
            fused.append(step)
        elif step.name == "relu" and step.a == before.out and before.more is None:
            fused[-1] = replace(before, relu=before.relu | 1, out=step.out)
        elif step.name == "copy" and step.a == before.out:
            fused[-1] = replace(before, out=step.out)
        elif (
            step.name == "add"
            and step.b is not None
            and before.out in (step.a, step.b)
            and before.more is None
            and (more := step.a if step.b == before.out else step.b).strides[2] == 1
        ):
            fused[-1] = replace(before, more=more, out=step.out)
        else:
            fused.append(step)
    return fused


class Weights:
    """The weights of products, laid out as the compiled program likes to read them."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.panel = library.panel_columns()
        self.packed: dict[tuple[Any, ...], Tensor] = {}

    def address(self, x: Tensor) -> int:
        """Lays a weight out, once, and says where it is: see `Native.weight`."""
        key = (x.data_ptr(), x.shape, x.stride())
        if key not in self.packed:
            matrix = x.flatten(0, -2)
            depth, columns = matrix.shape
            packed = x.new_empty(depth * -(-columns // self.panel) * self.panel)
            self.library.pack(matrix.data_ptr(), depth, columns, *matrix.stride(), packed.data_ptr())
            self.packed[key] = packed
        return self.packed[key].data_ptr()


class Script:
    """Replays the steps of one kind.

    Args:
        first: A recorded step.
        by_row: One in another row, or the same.
        by_col: One in another column, or the same.
        images: Number of images, the first dimension of everything.
        threads: How many threads to use.
        weights: Those of all scripts.
    """

    def __init__(
        self,
        first: Recording,
        by_row: Recording,
        by_col: Recording,
        *,
        images: int,
        threads: int,
        weights: Weights,
    ) -> None:
        self.images, self.threads, self.weights = images, threads, weights
        everything = [(*r.calls, r.result) for r in (first, by_row, by_col)]
        *calls, result = track(everything, [first.site, by_row.site, by_col.site])
        self.kept = first.kept
        self.written = {memory(call.args[0]) for call in calls if call.out is None}
        self.constants = {
            memory(call.out): call.function(*with_tensors(call.args, like), **call.kwargs)
            for call in calls
            if call.function in CONSTANTS and memory(call.out) not in self.written
        }
        translate = Translator(images, result.place.dtype, self.constant)
        steps: list[Native | Call] = []
        for call in calls:
            if call.out is None or memory(call.out) not in self.constants:
                native = translate(call)
                steps += [call] if native is None else native
        steps = fuse(images, steps, result)
        self.begins, total = self.plan(steps, result, first.sizes)
        self.arena = torch.empty(total, dtype=torch.uint8)
        self.parts: list[Callable[[Site], object]] = []
        for native, run in itertools.groupby(steps, lambda step: isinstance(step, Native)):
            if native:
                self.parts.append(self.run([self.line(one) for one in run]))
            else:
                self.parts += [self.foreign(call) for call in run]
        self.result = self.finder(result)

    def play(self, site: Site) -> Tensor:
        """Takes the step at a site."""
        for part in self.parts:
            part(site)
        return self.result(site)

    def constant(self, one: Track) -> Tensor | None:
        """Finds the tensor of a track if it is always the same."""
        if one.moves or one.place.made or memory(one) in self.written:
            return None
        place = one.place
        return self.kept[place.memory].as_strided(place.sizes, place.strides, place.offset)

    def plan(
        self, steps: list[Native | Call], result: Track, sizes: list[int]
    ) -> tuple[dict[Memory, int], int]:
        """Plans where everything that a step makes lies in the arena.

        A place is used again only for what has the same size: a thread which is ahead of another
        then still keeps to its own images.

        Returns:
            Where each storage begins, in bytes, and how many bytes there are.
        """
        used = [set(map(memory, tracks_of(step))) for step in steps]
        used[-1].add(memory(result))
        last_use = {one: number for number, ones in enumerate(used) for one in ones}
        begins: dict[Memory, int] = {}
        free: dict[int, list[int]] = defaultdict(list)  # places by their size
        total = 0
        for number, ones in enumerate(used):
            mine = [one for one in ones if one[0] and one not in self.constants]
            for one in mine:
                size = -(-sizes[one[1]] // LINE) * LINE
                if one in begins:
                    continue
                if free[size]:
                    begins[one] = free[size].pop()
                else:
                    begins[one] = total
                    total += size
            for one in mine:
                if last_use[one] == number:
                    free[-(-sizes[one[1]] // LINE) * LINE].append(begins[one])
        return begins, total

    def line(self, native: Native) -> tuple[Any, ...]:
        """Describes an instruction to the compiled program."""
        weight = 0 if native.weight is None else self.weights.address(native.weight)
        operands = [native.out, native.a, native.b, native.more]
        return (
            OPERATIONS[native.name],
            native.outer,
            native.inner,
            native.depth,
            weight,
            native.relu,
            *map(self.operand, operands),
            native.number,
        )

    def operand(self, one: Operand | None) -> tuple[Any, ...]:
        """Describes an operand to the compiled program."""
        if one is None:
            return (0, 0, 0, (0, 0, 0))
        (place, by_row, by_col), size = one.track, one.track.place.dtype.itemsize
        if not place.made:
            storage = place.memory
        elif memory(one.track) in self.constants:
            storage = self.constants[memory(one.track)].data_ptr()
        else:
            storage = self.arena.data_ptr() + self.begins[memory(one.track)]
        return (storage + place.offset * size, by_row[0] * size, by_col[0] * size, one.strides)

    def run(self, lines: list[tuple[Any, ...]]) -> Callable[[Site], object]:
        """Makes a run of the compiled program."""
        program = np.array(lines, INSTRUCTION)
        address, count = program.ctypes.data, len(lines)
        replay, images, threads = self.weights.library.replay, self.images, self.threads

        def run(site: Site, program: np.ndarray = program) -> None:  # it keeps the memory
            replay(address, count, site.row, site.col, images, threads)

        return run

    def foreign(self, call: Call) -> Callable[[Site], object]:
        """Makes a call of PyTorch, which writes where it was planned."""
        out = None if call.out is None else self.finder(call.out)

        def find(site: Site) -> Any:
            return with_tensors((call.args, call.kwargs), lambda one: self.finder(one)(site))

        moves = any(one.moves for one in tracks_in((call.args, call.kwargs)))
        fixed = None if moves else find(Site(0, 0))

        def run(site: Site) -> None:
            args, kwargs = fixed or find(site)
            result = call.function(*args, **kwargs)
            if out is not None:
                out(site).copy_(result)

        return run

    def finder(self, one: Track) -> Callable[[Site], Tensor]:
        """Makes a function that finds a tensor at a site."""
        place, offset = one.place, one.place.offset
        if not place.made:
            base = self.kept[place.memory]
        elif memory(one) in self.constants:
            base = self.constants[memory(one)]
        else:
            base = self.arena.view(place.dtype)
            offset += self.begins[memory(one)] // place.dtype.itemsize
        if not one.moves:
            fixed = torch.as_strided(base, place.sizes, place.strides, offset)
            return lambda site: fixed

        def find(site: Site) -> Tensor:
            by_site = zip(one.by_row, one.by_col, strict=True)
            more = [site.row * row + site.col * col for row, col in by_site]
            sizes = [size + n for size, n in zip(place.sizes, more[1:], strict=True)]
            return torch.as_strided(base, sizes, place.strides, offset + more[0])

        return find
