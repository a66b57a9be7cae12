"""Captures the steps of every kind of site, and lowers them to instructions.

Sites are of one kind if their steps run the same operations. Strided layers repeat after a period
of rows and columns; the first column, where a row's biases are computed, is a kind of its own, and
so is the first pixel, which has nothing before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nextpixel.engine.affine import AffineView, NotAffineError, at_site, fit
from nextpixel.engine.capture import Capture, Storage, View, replace_each
from nextpixel.engine.fusion import fuse
from nextpixel.engine.instructions import Instruction, storages_of
from nextpixel.engine.lowering import (
    CONSTANTS,
    Target,
    constant_value,
    lower,
)
from nextpixel.nn import Cache, Site

__all__ = [
    "IMAGES",
    "Section",
    "Steps",
    "capture_prologue",
    "capture_steps",
    "kinds_of",
    "lower_calls",
    "padded",
    "storage_numbers",
]

IMAGES = 2  # with which steps are captured: a tensor of images differs from one that they share


class Steps(Protocol):
    """The part of a causal network that steps need."""

    shape: tuple[int, int, int]

    def step(self, x: Tensor, site: Site, cache: Cache) -> Any:
        """Computes the distribution at a site, and watches it by `cache.watch`."""


class CapturedKind(NamedTuple):
    """The sites to capture for a kind: the last one is to check what the others say.

    Attributes:
        first: The first site.
        in_next_row: The next one in the same column, or the first one again.
        in_next_col: The next one in the same row, or the first one again.
        last: The last one.
    """

    first: Site
    in_next_row: Site
    in_next_col: Site
    last: Site


def kinds_of(size: tuple[int, int], period: int, groups: int) -> list[CapturedKind | None]:
    """Lists the kinds of sites in the order of `np_kind_of` in engine.h; None where there is none.

    Args:
        size: `(H, W)` of a picture.
        period: Rows, and columns, after which the steps repeat.
        groups: Steps at each pixel.
    """
    height, width = size

    def kind(row: int, col: int, group: int) -> CapturedKind | None:
        if row >= height or col >= width:
            return None
        rows, cols = range(row, height, period), range(col, width if col else 1, period)
        corners = [
            (rows[0], cols[0]),
            (rows[:2][-1], cols[0]),
            (rows[0], cols[:2][-1]),
            (rows[-1], cols[-1]),
        ]
        return CapturedKind(*(Site(*corner, group) for corner in corners))

    kinds: list[CapturedKind | None] = [
        CapturedKind(*(Site(0, 0, group),) * 4) for group in range(groups)
    ]
    kinds += [kind(row or period, 0, g) for row in range(period) for g in range(groups)]
    kinds += [
        kind(row, col or period, group)
        for row in range(period)
        for col in range(period)
        for group in range(groups)
    ]
    return kinds


def capture_steps(
    model: Steps, cache: Cache, kinds: list[CapturedKind | None]
) -> dict[Site, Capture]:
    """Captures the steps at the sites of kinds, in raster order; their numbers do not matter."""
    wanted = {site for kind in kinds if kind is not None for site in kind}
    begins = {Site(site.row, 0, 0) for site in wanted}  # where a row's biases are computed
    captures: dict[Site, Capture] = {}

    def watch(site: Site, compute: Callable[[], Tensor]) -> Tensor:
        captures[site] = Capture(site)
        return captures[site].run(compute)

    cache.watch = watch
    x = torch.zeros(IMAGES, *model.shape, dtype=torch.int64)
    for site in sorted(wanted | begins):
        model.step(x, site, cache)
    cache.watch = None
    return captures


def capture_prologue(compute: Callable[[], Tensor]) -> Capture:
    """Captures what all sites share, without the calls that its result does not depend on."""
    capture = Capture(Site(0, 0))
    capture.run(compute)
    needed, calls = {capture.result.storage}, []
    for call in reversed(capture.calls):
        out = call.args[0] if call.out is None else call.out
        if out.storage in needed:
            calls.append(call)
            replace_each(View, (call.args, call.kwargs), lambda view: needed.add(view.storage))
    capture.calls[:] = calls[::-1]
    return capture


@dataclass
class Section:
    """The lowered steps of a kind of sites.

    Attributes:
        steps: The instructions.
        result: Where they leave their result.
        sizes: Numbers for each image of every created storage, by its key.
        constants: The value of storages that hold one number everywhere.
        external: A tensor in each storage that existed before, by its address.
    """

    steps: list[Instruction]
    result: AffineView
    sizes: list[int]
    constants: dict[Storage, float]
    external: dict[int, Tensor]

    def allocate(self, at: int) -> tuple[dict[Storage, int], int]:
        """Places the created storages; memory is used again when a tensor is no longer needed.

        Args:
            at: The number where free memory begins.

        Returns:
            Where each storage begins, and where the memory ends.
        """
        used = [storages_of(step) for step in self.steps]
        if used:
            used[-1].add(self.result.storage)
        last_use = {storage: number for number, some in enumerate(used) for storage in some}
        begins: dict[Storage, int] = {}
        free: dict[int, list[int]] = {}
        for number, some in enumerate(used):
            created = sorted(s for s in some if s.created and s not in self.constants)
            for storage in created:
                size = padded(self.sizes[storage.key])
                if storage in begins:
                    continue
                if free.get(size):
                    begins[storage] = free[size].pop()
                else:
                    begins[storage], at = at, at + size
            for storage in created:
                if last_use[storage] == number:
                    free.setdefault(padded(self.sizes[storage.key]), []).append(begins[storage])
        return begins, at


def padded(numbers: int) -> int:
    """Rounds up, so that tensors begin at multiples of 64 bytes."""
    return -(-numbers // 16) * 16


def lower_calls(captures: Sequence[Capture], state: set[int], period: int = 1) -> Section:
    """Lowers the calls that were captured at the sites of a kind.

    Args:
        captures: Those at the sites of a `CapturedKind`, in its order.
        state: The addresses of the storages that hold something for each image.
        period: Rows, and columns, from one site of the kind to the next.

    Raises:
        NotAffineError: The steps differ, or there is no instruction for a call.
    """
    for capture in captures:
        if capture.problem is not None:
            raise NotAffineError(capture.problem)
    first, _, _, last = captures
    # Places are affine in the number of the period: maps of strided layers have fewer columns.
    *sites, last_site = (Site(c.site.row // period, c.site.col // period) for c in captures)
    *calls, result = fit([(*c.calls, c.result) for c in captures[:3]], sites)
    if at_site([*calls, result], last_site) != [*last.calls, last.result]:
        raise NotAffineError(f"the step at {last.site} does other things than those before it")
    written = {call.args[0].storage for call in calls if call.out is None}
    constants = {
        call.out.storage: constant_value(call)
        for call in calls
        if call.function in CONSTANTS and call.out.storage not in written
    }
    external = {address: x for c in captures for address, x in c.external.items()}
    sizes = [size // first.result.dtype.itemsize // IMAGES for size in first.created_sizes]
    target = make_target(state, constants, external, sizes)
    steps: list[Instruction] = []
    for call in calls:
        if call.out is not None and call.out.storage in constants:
            continue
        lowered = lower(call, target)
        if lowered is None:
            raise NotAffineError(f"the engine has no instruction for {call.function}")
        steps += lowered
    return Section(fuse(steps, result), result, sizes, constants, external)


def make_target(
    state: set[int],
    constants: dict[Storage, float],
    external: dict[int, Tensor],
    sizes: list[int],
) -> Target:
    """Makes the target of lowering; new storages are appended to `sizes`."""

    def image_size(view: AffineView) -> int | None:
        key = view.storage.key
        if view.storage.created:
            return None if view.storage in constants else sizes[key]
        return storage_numbers(external[key]) // IMAGES if key in state else 0

    def constant(view: AffineView) -> Tensor | None:
        if view.moves or view.storage.created or view.storage.key in state:
            return None
        _, _, offset, shape, strides = view.origin
        return external[view.storage.key].detach().as_strided(shape, strides, offset)

    def new(numbers: int) -> Storage:
        sizes.append(numbers)
        return Storage(created=True, key=len(sizes) - 1)

    return Target(IMAGES, torch.float32, constant, image_size, new)


def storage_numbers(x: Tensor) -> int:
    """Counts the numbers in the storage of a tensor."""
    return x.untyped_storage().nbytes() // x.itemsize
