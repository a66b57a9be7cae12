"""Compiles captured steps to a script: runs of instructions, with calls of PyTorch between them.

All tensors that a step creates are in one arena. Its memory is reused as soon as a tensor is no
longer needed, so that it stays in the processor's cache.
"""

from __future__ import annotations

import ctypes
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextpixel.engine.affine import AffineView, NotAffineError, at_site, fit, views_in
from nextpixel.engine.capture import Call, Capture, Storage, replace_each
from nextpixel.engine.lowering import (
    CONSTANTS,
    Instruction,
    Operand,
    Step,
    Target,
    fuse,
    lower,
    views_of,
)
from nextpixel.engine.program import INSTRUCTION, OPERATIONS
from nextpixel.nn import Site

__all__ = ["PackedWeights", "Script", "compile_script"]

CACHE_LINE = 64  # bytes

Part = Callable[[Site], object]


@dataclass(frozen=True)
class Script:
    """Replays the steps of one kind.

    Attributes:
        calls: The operations of a step in PyTorch.
        result: The view of its result.
        memory: The memory that it uses.
        parts: The functions to run for a step, in order.
        find_result: Returns the result's tensor at a site.
    """

    calls: list[Call]
    result: AffineView
    memory: Memory
    parts: list[Part]
    find_result: Callable[[Site], Tensor]

    def play(self, site: Site) -> Tensor:
        """Runs the step at a site and returns its result, valid until the next step."""
        for part in self.parts:
            part(site)
        return self.find_result(site)

    def agrees_with(self, capture: Capture) -> bool:
        """Returns whether a captured step did the same as this script would at its site."""
        captured = [*capture.calls, capture.result]
        return bool(at_site([*self.calls, self.result], capture.site) == captured)


def compile_script(
    captures: Sequence[Capture],
    corners: Sequence[Site],
    images: int,
    threads: int,
    weights: PackedWeights,
) -> Script:
    """Compiles the script for one kind of steps.

    Args:
        captures: A step, one in another row (or the same) and one in another column (or the same).
        corners: Of all sites where the script will be played, those in the first and the last row
            and column.
        images: Number of images, the first dimension of every tensor but the weights.
        threads: The most threads to use.
        weights: The packed weights, shared by all scripts.

    Raises:
        NotAffineError: The captured steps do not determine the others.
    """
    first, sites = captures[0], [capture.site for capture in captures]
    *calls, result = fit([(*capture.calls, capture.result) for capture in captures], sites)
    if any(capture.created_sizes != first.created_sizes for capture in captures):
        raise NotAffineError("the steps create tensors of other sizes")
    check_bounds({view for view in views_in((calls, result)) if view.moves}, corners, first)
    written = {call.args[0].storage for call in calls if call.out is None}
    constants = fold_constants(calls, written)
    target = Target(images, weights.real, partial(constant, first.external, written))
    steps = fuse(images, lower_all(calls, constants, target), result)
    memory = allocate(steps, result, first, constants)
    parts = assemble(steps, memory, images, threads, weights)
    return Script(calls, result, memory, parts, memory.finder(result))


def check_bounds(views: set[AffineView], corners: Sequence[Site], capture: Capture) -> None:
    """Checks that views stay inside their storages at all sites.

    An affine function takes its extremes at the corners.

    Raises:
        NotAffineError: A view would leave its storage, so it cannot be affine everywhere.
    """
    for view in (affine.at(site) for affine in views for site in corners):
        created, key = view.storage
        if created:
            size = capture.created_sizes[key]
        else:
            size = capture.external[key].untyped_storage().nbytes()
        last = sum((n - 1) * step for n, step in zip(view.sizes, view.strides, strict=True))
        end = (view.offset + last + 1) * view.dtype.itemsize
        if min(view.offset, *view.sizes) < 0 or (all(view.sizes) and end > size):
            raise NotAffineError(f"{view} would lie outside of its storage")


def fold_constants(calls: Sequence[Call], written: set[Storage]) -> dict[Storage, Tensor]:
    """Makes the constant tensors, such as zeros, once instead of in every step."""
    return {
        call.out.storage: call.function(
            *replace_each(AffineView, call.args, empty_like), **call.kwargs
        )
        for call in calls
        if call.function in CONSTANTS and call.out.storage not in written
    }


def empty_like(view: AffineView) -> Tensor:
    """Makes a tensor of the same shape and type."""
    origin = view.origin
    return torch.empty_strided(origin.sizes, origin.strides, dtype=origin.dtype)


def constant(external: dict[int, Tensor], written: set[Storage], view: AffineView) -> Tensor | None:
    """Returns the tensor of a view that no step moves or writes to, see `Target.constant`."""
    if view.moves or view.storage.created or view.storage in written:
        return None
    origin = view.origin
    return external[view.storage.key].as_strided(origin.sizes, origin.strides, origin.offset)


def lower_all(
    calls: Sequence[Call], constants: dict[Storage, Tensor], target: Target
) -> list[Step]:
    """Lowers all calls, leaving those that have no instructions as they are."""
    steps: list[Step] = []
    for call in calls:
        if call.out is None or call.out.storage not in constants:
            instructions = lower(call, target)
            steps += [call] if instructions is None else instructions
    return steps


# --- memory ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """The memory of a script.

    Attributes:
        external: A tensor in each storage that existed before the steps, by its address.
        constants: The tensors of the created storages that are the same in every step.
        begins: Where the other created storages begin in the arena, in bytes.
        arena: Their memory.
    """

    external: dict[int, Tensor]
    constants: dict[Storage, Tensor]
    begins: dict[Storage, int]
    arena: Tensor

    def address(self, view: AffineView) -> int:
        """Returns the address of a view at row 0 and column 0."""
        if not view.storage.created:
            begin = view.storage.key
        elif view.storage in self.constants:
            begin = self.constants[view.storage].data_ptr()
        else:
            begin = self.arena.data_ptr() + self.begins[view.storage]
        return begin + view.origin.offset * view.origin.dtype.itemsize

    def finder(self, view: AffineView) -> Callable[[Site], Tensor]:
        """Makes a function that returns the tensor of a view at a site."""
        dtype, strides, begin = view.origin.dtype, view.origin.strides, 0
        if not view.storage.created:
            base = self.external[view.storage.key]
        elif view.storage in self.constants:
            base = self.constants[view.storage]
        else:
            base = self.arena.view(dtype)
            begin = self.begins[view.storage] // dtype.itemsize

        def find(site: Site) -> Tensor:
            at = view.at(site)
            return torch.as_strided(base, at.sizes, strides, begin + at.offset)

        if view.moves:
            return find
        fixed = find(Site(0, 0))
        return lambda site: fixed


def allocate(
    steps: list[Step], result: AffineView, capture: Capture, constants: dict[Storage, Tensor]
) -> Memory:
    """Allocates memory for the tensors that the steps create.

    Memory is reused only for storages of the same size: then a thread that is ahead of another one
    still writes only to the memory of its own images.
    """
    used = [{view.storage for view in views_of(step)} for step in steps]
    used[-1].add(result.storage)
    last_use = {storage: number for number, storages in enumerate(used) for storage in storages}
    begins: dict[Storage, int] = {}
    free: dict[int, list[int]] = defaultdict(list)  # where reusable memory begins, by its size
    total = 0
    for number, storages in enumerate(used):
        created = [s for s in storages if s.created and s not in constants]
        for storage in created:
            size = capture.created_sizes[storage.key]
            if storage in begins:
                continue
            if free[size]:
                begins[storage] = free[size].pop()
            else:
                begins[storage] = total
                total += -(-size // CACHE_LINE) * CACHE_LINE
        for storage in created:
            if last_use[storage] == number:
                free[capture.created_sizes[storage.key]].append(begins[storage])
    arena = torch.empty(total, dtype=torch.uint8)
    return Memory(capture.external, constants, begins, arena)


class PackedWeights:
    """The weights of products, copied into the layout that the compiled program reads.

    Args:
        library: The compiled program.
        real: Its type of numbers.
    """

    def __init__(self, library: ctypes.CDLL, real: torch.dtype) -> None:
        self.library, self.real = library, real
        self.panel = library.panel_columns()
        self.packed: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}  # weights and their copies

    def address(self, weight: Tensor) -> int:
        """Packs a weight if that is not done yet, and returns the address of the copy."""
        key = (weight.data_ptr(), weight.shape, weight.stride())
        if key not in self.packed:
            depth, columns = weight.shape[:-1].numel(), weight.shape[-1]
            packed = weight.new_empty(depth * -(-columns // self.panel) * self.panel)
            self.packed[key] = weight, packed
            self._pack(weight, packed)
        return self.packed[key][1].data_ptr()

    def refresh(self) -> None:
        """Packs all weights again: their numbers may have changed."""
        for weight, packed in self.packed.values():
            self._pack(weight, packed)

    def _pack(self, weight: Tensor, to: Tensor) -> None:
        matrix = weight.flatten(0, -2)
        self.library.pack(matrix.data_ptr(), *matrix.shape, *matrix.stride(), to.data_ptr())


# --- execution ------------------------------------------------------------------------------------


def assemble(
    steps: list[Step], memory: Memory, images: int, threads: int, weights: PackedWeights
) -> list[Part]:
    """Makes a function for each run of instructions, and for each call between them."""
    parts: list[Part] = []
    for _, group in itertools.groupby(steps, type):
        alike = list(group)
        parts += [torch_call(step, memory) for step in alike if isinstance(step, Call)]
        instructions = [step for step in alike if isinstance(step, Instruction)]
        if instructions:
            lines = [encode(instruction, memory, weights) for instruction in instructions]
            parts.append(native_run(lines, images, threads, weights.library))
    return parts


def native_run(
    lines: list[tuple[Any, ...]], images: int, threads: int, library: ctypes.CDLL
) -> Part:
    """Makes a function that runs instructions in the compiled program."""
    program = np.array(lines, INSTRUCTION)
    address, count = program.ctypes.data, len(lines)
    replay, choice = library.replay, ThreadChoice(threads)

    def run(site: Site, program: np.ndarray = program) -> None:  # it keeps the memory alive
        threads, began = choice.choose(), perf_counter()
        replay(address, count, site.row, site.col, images, threads)
        choice.record(threads, perf_counter() - began)

    return run


def encode(line: Instruction, memory: Memory, weights: PackedWeights) -> tuple[Any, ...]:
    """Encodes an instruction for the compiled program, see `program.INSTRUCTION`."""
    weight = 0 if line.weight is None else weights.address(line.weight)
    operands = [encode_operand(x, memory) for x in (line.out, line.a, line.b, line.more)]
    numbers = (line.outer, line.inner, line.depth, weight, line.relu)
    return (OPERATIONS[line.name], *numbers, *operands, line.number)


def encode_operand(operand: Operand | None, memory: Memory) -> tuple[Any, ...]:
    """Encodes an operand for the compiled program, see `program.OPERAND`."""
    if operand is None:
        return (0, 0, 0, (0, 0, 0))
    view, size = operand.view, operand.view.origin.dtype.itemsize
    return (memory.address(view), view.per_row[0] * size, view.per_col[0] * size, operand.strides)


def torch_call(call: Call, memory: Memory) -> Part:
    """Makes a function that runs an operation in PyTorch and writes its result to the arena."""
    find_out = None if call.out is None else memory.finder(call.out)
    arguments = (call.args, call.kwargs)

    def find(site: Site) -> Any:
        return replace_each(AffineView, arguments, lambda view: memory.finder(view)(site))

    moves = any(view.moves for view in views_in(arguments))
    fixed = None if moves else find(Site(0, 0))

    def run(site: Site) -> None:
        args, kwargs = fixed or find(site)
        result = call.function(*args, **kwargs)
        if find_out is not None:
            find_out(site).copy_(result)

    return run


class ThreadChoice:
    """Chooses between one thread and all of them, by which was faster recently.

    Threads that wait for each other after every tiny operation are much faster on an idle machine,
    but far slower when another process needs the processor. The results are the same.
    """

    RETRY_EVERY = 32  # runs, after which the slower choice is tried again

    def __init__(self, threads: int) -> None:
        self.seconds = dict.fromkeys((threads, 1), 0.0)  # running means; a faster run replaces one
        self.runs = 0

    def choose(self) -> int:
        """Returns the number of threads for the next run."""
        self.runs += 1
        pick = max if self.runs % self.RETRY_EVERY == 0 else min
        return pick(self.seconds, key=self.seconds.__getitem__)

    def record(self, threads: int, seconds: float) -> None:
        """Records how long a run took."""
        mean = self.seconds[threads]
        slower = 0 < mean < seconds
        self.seconds[threads] = mean + 0.3 * (seconds - mean) if slower else seconds
