"""Turns recorded steps into a script: runs of the compiled program, and calls of PyTorch between.

Everything a step makes gets a place in one piece of memory, used again as soon as nobody needs what
lies there, so that it stays in the processor's cache.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextpixel.engine.capture import Call, Recording, Track, UnevenError, places, track
from nextpixel.engine.lowering import (
    CONSTANTS,
    Memory,
    Native,
    Operand,
    Translator,
    fuse,
    memory,
    tracks_in,
    tracks_of,
)
from nextpixel.engine.program import INSTRUCTION, OPERATIONS
from nextpixel.nn import Site

__all__ = ["Script", "Weights"]

LINE = 64  # bytes that the processor loads at once


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


class Weights:
    """The weights of products, laid out as the compiled program likes to read them."""

    def __init__(self, library: ctypes.CDLL, real: torch.dtype) -> None:
        self.library, self.real = library, real
        self.panel = library.panel_columns()
        self.packed: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}  # each with its layout

    def address(self, x: Tensor) -> int:
        """Lays a weight out, once, and says where it is: see `Native.weight`."""
        key = (x.data_ptr(), x.shape, x.stride())
        if key not in self.packed:
            depth, columns = x.shape[:-1].numel(), x.shape[-1]
            packed = x.new_empty(depth * -(-columns // self.panel) * self.panel)
            self.packed[key] = x, packed
            self.pack(x, packed)
        return self.packed[key][1].data_ptr()

    def read_anew(self) -> None:
        """Lays all weights out again: they may have changed."""
        for x, packed in self.packed.values():
            self.pack(x, packed)

    def pack(self, x: Tensor, to: Tensor) -> None:
        """Lays a weight out."""
        matrix = x.flatten(0, -2)
        self.library.pack(matrix.data_ptr(), *matrix.shape, *matrix.stride(), to.data_ptr())


class Pace:
    """Chooses between one thread and all of them, whichever was quicker of late.

    Threads that wait for each other after every tiny operation gain much on an idle machine, and
    lose a hundred times as much when something else needs the processor. The numbers that come
    out are the same.
    """

    TRY_AGAIN = 32  # every so many times the slower choice gets another chance

    def __init__(self, threads: int) -> None:
        self.seconds = dict.fromkeys((threads, 1), 0.0)  # of late; less counts at once
        self.times = 0

    def choose(self) -> int:
        """Says how many threads to use now."""
        self.times += 1
        pick = max if self.times % self.TRY_AGAIN == 0 else min
        return pick(self.seconds, key=self.seconds.__getitem__)

    def note(self, threads: int, seconds: float) -> None:
        """Remembers how long it took."""
        mean = self.seconds[threads]
        slower = 0 < mean < seconds
        self.seconds[threads] = mean + 0.3 * (seconds - mean) if slower else seconds


class Script:
    """Replays the steps of one kind.

    Args:
        first: A recorded step.
        by_row: One in another row, or the same.
        by_col: One in another column, or the same.
        corners: Sites, of all where it will be played, where what moves evenly is farthest out.
        images: Number of images, the first dimension of everything.
        threads: How many threads to use at most.
        weights: Those of all scripts.
    """

    def __init__(
        self,
        first: Recording,
        by_row: Recording,
        by_col: Recording,
        corners: Sequence[Site],
        images: int,
        threads: int,
        weights: Weights,
    ) -> None:
        self.images, self.threads, self.weights = images, threads, weights
        everything = [(*r.calls, r.result) for r in (first, by_row, by_col)]
        *calls, result = track(everything, [first.site, by_row.site, by_col.site])
        self.calls, self.last = calls, result
        self.kept = first.kept
        self.check(corners, first.sizes)
        self.written = {memory(call.args[0]) for call in calls if call.out is None}
        self.constants = {
            memory(call.out): call.function(*with_tensors(call.args, like), **call.kwargs)
            for call in calls
            if call.function in CONSTANTS and memory(call.out) not in self.written
        }
        if not first.sizes == by_row.sizes == by_col.sizes:
            raise UnevenError("what is made is larger elsewhere")
        translate = Translator(images, weights.real, self.constant)
        steps: list[Native | Call] = []
        for call in calls:
            if call.out is None or memory(call.out) not in self.constants:
                native = translate(call)
                steps += [call] if native is None else native
        steps = fuse(images, steps, result)
        self.begins, total = self.plan(steps, result, first.sizes)
        self.arena = torch.empty(total, dtype=torch.uint8)
        self.parts: list[Callable[[Site], object]] = []
        for _, alike in itertools.groupby(steps, type):
            run = list(alike)
            self.parts += [self.foreign(call) for call in run if isinstance(call, Call)]
            if lines := [self.line(native) for native in run if isinstance(native, Native)]:
                self.parts.append(self.run(lines))
        self.result = self.finder(result)

    def play(self, site: Site) -> Tensor:
        """Takes the step at a site."""
        for part in self.parts:
            part(site)
        return self.result(site)

    def agrees(self, recording: Recording) -> bool:
        """Tells whether a step that was computed did what would have been replayed."""
        calls, site = [*recording.calls, recording.result], recording.site
        return bool(places([*self.calls, self.last], site) == calls)

    def check(self, corners: Sequence[Site], sizes: list[int]) -> None:
        """Makes sure that all places stay within their storages.

        Raises:
            UnevenError: One would not, so that it does not move as it seems to.
        """
        for one in {one for one in tracks_in((self.calls, self.last)) if one.moves}:
            for place in (places(one, site) for site in corners):
                made, number = memory(one)
                size = sizes[number] if made else self.kept[number].untyped_storage().nbytes()
                far = sum(
                    (n - 1) * step for n, step in zip(place.sizes, place.strides, strict=True)
                )
                end = (place.offset + far + 1) * place.dtype.itemsize
                if min(place.offset, *place.sizes) < 0 or (all(place.sizes) and end > size):
                    raise UnevenError(f"{place} would lie outside of its storage")

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
                size = sizes[one[1]]
                if one in begins:
                    continue
                if free[size]:
                    begins[one] = free[size].pop()
                else:
                    begins[one] = total
                    total += -(-size // LINE) * LINE
            for one in mine:
                if last_use[one] == number:
                    free[sizes[one[1]]].append(begins[one])
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
        replay, images, pace = self.weights.library.replay, self.images, Pace(self.threads)

        def run(site: Site, program: np.ndarray = program) -> None:  # it keeps the memory
            threads, began = pace.choose(), perf_counter()
            replay(address, count, site.row, site.col, images, threads)
            pace.note(threads, perf_counter() - began)

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
