"""Turns recorded steps into a script: runs of the compiled program, and calls of PyTorch between.

Everything a step makes gets a place in one piece of memory, used again as soon as nobody needs what
lies there, so that it stays in the processor's cache.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
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


def memory(one: Track | None) -> Memory | None:
    """Names the storage a tensor lies in."""
    return None if one is None else (one.place.made, one.place.memory)


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


def like(one: Track) -> Tensor:
    """Makes a tensor of the same shape and type."""
    return torch.empty_strided(one.place.sizes, one.place.strides, dtype=one.place.dtype)


class Simple(NamedTuple):
    """An operation that the compiled program may have."""

    name: str
    out: Track
    a: Track
    b: Track | None = None
    weight: Track | None = None
    number: float = 0.0


def simplify(call: Call) -> list[Simple] | None:
    """Says an operation in those that the compiled program may have, or returns None."""
    function, args, out = call.function, call.args, call.out
    if function is aten.copy_.default and len(args) == 2:
        return [Simple("copy", *args)]
    if function in EMPTY:
        return []
    if out is None:
        return None
    if function in UNARY and len(args) == 1:
        return [Simple(UNARY[function], out, args[0])]
    if call.kwargs:
        return None
    if function in BINARY:
        with_tensor, with_number, sign = BINARY[function]
        a, b = args
        if isinstance(b, Track):
            return [Simple(with_tensor, out, a, b)]
        return [Simple(with_number, out, a, number=sign * b)]
    if function is aten.addmm.default:
        return [Simple("product", out, args[1], args[0], args[2])]
    if function is aten.mm.default:
        return [Simple("product", out, args[0], None, args[1])]
    if function is aten.embedding.default and len(args) == 2:
        return [Simple("gather", out, args[1], args[0])]
    if function is aten.cat.default:
        return [Simple("copy", to, piece) for to, piece in pieces(out, *args)]
    return None


def pieces(whole: Track, tracks: list[Track], dim: int = 0) -> Iterator[tuple[Track, Track]]:
    """Goes through what is concatenated: where each comes to lie, and where it is."""
    begin = whole.place.offset
    for one in tracks:
        yield replace(whole, place=replace(whole.place, offset=begin, sizes=one.place.sizes)), one
        begin += one.place.sizes[dim] * whole.place.strides[dim]


Strides = tuple[int, int, int]


def matrices(images: int, tracks: list[Track]) -> tuple[int, int, list[Strides]] | None:
    """Sees tensors as images x outer x inner, the first one's shape; the others are broadcast.

    Returns:
        The outer and the inner size, and the strides of each tensor; None if there is no such view.
    """
    shape = tracks[0].place.sizes
    if not shape or shape[0] != images:
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


class Weights:
    """The weights of products, laid out as the compiled program likes to read them."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.panel = library.panel_columns()
        self.packed: dict[tuple[Any, ...], Tensor] = {}

    def address(self, x: Tensor) -> int:
        """Lays a weight `(depth, columns)` out, once, and says where it is."""
        key = (x.data_ptr(), x.shape, x.stride())
        if key not in self.packed:
            depth, columns = x.shape
            whole = -(-columns // self.panel) * self.panel
            self.packed[key] = x.new_empty(whole * depth)
            self.library.pack(
                x.data_ptr(), depth, columns, *x.stride(), self.packed[key].data_ptr()
            )
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
        self.calls: list[Call] = calls
        self.kept = first.kept
        self.written = {memory(call.args[0]) for call in calls if call.out is None}
        self.constants = {
            memory(call.out): call.function(*with_tensors(call.args, like), **call.kwargs)
            for call in calls
            if call.function in CONSTANTS and memory(call.out) not in self.written
        }
        self.begins, total = self.plan(result, first.sizes)
        self.arena = torch.empty(total, dtype=torch.uint8)
        self.real = result.place.dtype
        self.result = self.finder(result)
        lines: list[tuple[Any, ...]] = []
        self.parts: list[Callable[[Site], object]] = []
        for call in calls:
            if memory(call.out) in self.constants:
                continue
            own = self.instructions(call)
            if own is None:
                self.add_run(lines)
                self.parts.append(self.foreign(call))
                lines = []
            else:
                lines += own
        self.add_run(lines)

    def play(self, site: Site) -> Tensor:
        """Takes the step at a site."""
        for part in self.parts:
            part(site)
        return self.result(site)

    def plan(self, result: Track, sizes: list[int]) -> tuple[dict[Memory, int], int]:
        """Plans where everything that a step makes lies in the arena.

        A place is used again only for what has the same size: a thread which is ahead of another
        then still keeps to its own images.

        Returns:
            Where each storage begins, in bytes, and how many bytes there are.
        """
        last_use = {}
        for number, call in enumerate([*self.calls, Call(None, (result,), {}, None)]):
            for one in tracks_in((call.args, call.kwargs, call.out)):
                last_use[memory(one)] = number
        begins: dict[Memory, int] = {}
        free: dict[int, list[int]] = defaultdict(list)  # places by their size
        total = 0
        for number, call in enumerate(self.calls):
            new = memory(call.out)
            if call.out is not None and new not in self.constants:
                size = -(-sizes[call.out.place.memory] // LINE) * LINE
                if free[size]:
                    begins[new] = free[size].pop()
                else:
                    begins[new] = total
                    total += size
            for one in [one for one in begins if last_use.get(one) == number]:
                free[-(-sizes[one[1]] // LINE) * LINE].append(begins[one])
                del last_use[one]
        return begins, total

    def address(self, one: Track) -> int:
        """Finds where a tensor begins at the site that was recorded first."""
        place = one.place
        if not place.made:
            storage = place.memory
        elif memory(one) in self.constants:
            storage = self.constants[memory(one)].untyped_storage().data_ptr()
        else:
            storage = self.arena.data_ptr() + self.begins[memory(one)]
        return storage + place.offset * place.dtype.itemsize

    def operand(self, one: Track | None, strides: Strides = (0, 0, 0)) -> tuple[Any, ...]:
        """Describes an operand to the compiled program."""
        if one is None:
            return (0, 0, 0, strides)
        size = one.place.dtype.itemsize
        return (self.address(one), one.by_row[0] * size, one.by_col[0] * size, strides)

    def instructions(self, call: Call) -> list[tuple[Any, ...]] | None:
        """Makes the compiled program's instructions for a call; None if it has none for it."""
        simple = simplify(call)
        lines = [] if simple is None else [self.instruction(one) for one in simple]
        return None if simple is None or None in lines else lines  # type: ignore[return-value]

    def instruction(self, simple: Simple) -> tuple[Any, ...] | None:
        """Makes one instruction; None if its tensors are not such as it wants."""
        name, out, a, b, weight, number = simple
        if name == "copy" and a.place.dtype == torch.int64:
            name = "cast"
        types = [torch.int64 if name in ("cast", "gather") else self.real, self.real]
        operands = [(out, self.real), *zip((a, b), types, strict=True)]
        if any(one and (one.resizes or one.place.dtype != kind) for one, kind in operands):
            return None
        if name == "product":
            return self.product(out, a, b, weight)
        if name == "gather":
            return self.gather(out, a, b)
        shaped = [one for one in (out, a, b) if one is not None]
        seen = matrices(self.images, shaped)
        if seen is None:
            return None
        outer, inner, strides = seen
        places = [self.operand(*each) for each in zip(shaped, strides, strict=True)]
        places += [self.operand(None)] * (3 - len(places))
        return (OPERATIONS[name], outer, inner, 0, 0, *places, number)

    def product(
        self, out: Track, a: Track, b: Track | None, weight: Track | None
    ) -> tuple[Any, ...] | None:
        """Makes the instruction `out = b + a weight`, for one vector an image."""
        assert weight is not None
        seen = matrices(self.images, [out] if b is None else [out, b])
        vectors = a.place.sizes[0] == self.images and a.place.strides[1] == 1
        constant = not weight.place.made and memory(weight) not in self.written
        depth = a.place.sizes[1]
        if seen is None or not vectors or not constant or weight.moves or depth > DEEPEST:
            return None
        _, columns, strides = seen
        if any(stride[2] != 1 for stride in strides) and columns > 1:
            return None
        packed = self.weights.address(self.finder(weight)(Site(0, 0)))
        places = [self.operand(out, strides[0]), self.operand(a, (a.place.strides[0], 0, 1))]
        places.append(self.operand(b, *strides[1:]))
        return (OPERATIONS["product"], 1, columns, depth, packed, *places, 0.0)

    def gather(self, out: Track, a: Track, table: Track | None) -> tuple[Any, ...] | None:
        """Makes the instruction that looks up a row of a table for every integer."""
        assert table is not None
        images, channels = [*a.place.sizes, 1][:2]
        depth = table.place.sizes[1]
        wanted = (self.images, channels, depth) if a.place.sizes[1:] else (self.images, depth)
        if out.place.sizes != wanted or table.place.strides != (depth, 1) or table.place.made:
            return None
        near = a.place.strides[1] if a.place.sizes[1:] else 0
        places = [
            self.operand(out, (channels * depth, depth, 1)),
            self.operand(a, (a.place.strides[0], near, 0)),
            self.operand(table),
        ]
        return (OPERATIONS["gather"], channels, depth, depth, 0, *places, 0.0)

    def add_run(self, lines: list[tuple[Any, ...]]) -> None:
        """Adds a run of the compiled program."""
        if not lines:
            return
        program = np.array(lines, INSTRUCTION)
        address, count = program.ctypes.data, len(lines)
        replay, images, threads = self.weights.library.replay, self.images, self.threads

        def run(site: Site, program: np.ndarray = program) -> None:  # keeps the memory
            replay(address, count, site.row, site.col, images, threads)

        self.parts.append(run)

    def foreign(self, call: Call) -> Callable[[Site], object]:
        """Makes a call of PyTorch, which writes where it was planned."""
        moves = any(one.moves for one in tracks_in((call.args, call.kwargs)))
        out = None if call.out is None else self.finder(call.out)

        def run(site: Site) -> None:
            args, kwargs = fixed or find(site)
            result = call.function(*args, **kwargs)
            if out is not None:
                out(site).copy_(result)

        def find(site: Site) -> Any:
            return with_tensors((call.args, call.kwargs), lambda one: self.finder(one)(site))

        fixed = None if moves else find(Site(0, 0))
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
