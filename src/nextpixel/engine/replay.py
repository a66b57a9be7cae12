"""Replays the steps of generating one batch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nextpixel.engine.affine import NotAffineError
from nextpixel.engine.capture import Capture
from nextpixel.engine.program import load_program
from nextpixel.engine.script import PackedWeights, Script, compile_script
from nextpixel.nn import Cache, Site

__all__ = ["Replay", "begin_replay"]


def begin_replay(cache: Cache, images: int, size: tuple[int, int]) -> Replay | None:
    """Makes the replay for a new generation.

    Args:
        cache: The model's cache for this generation.
        images: Number of images.
        size: Height and width of an image.

    Returns:
        The replay; None without a C compiler, on an accelerator, and for a model whose layers
        cache nothing.
    """
    tensor = next((t for tensors in cache.layers.values() for t in tensors), None)
    if tensor is None or tensor.device.type != "cpu":
        return None
    library = load_program(tensor.dtype)
    if library is None:
        return None
    return Replay(library, tensor.dtype, images, size, cache.period, not cache.replay_safe)


class Replay:
    """Captures the first steps of a generation, and replays the others.

    Every tensor of a step must have the images as its first dimension, weights excepted, and must
    use the same memory at every site, as the layers of `nextpixel.nn` do.

    Args:
        library: The compiled program.
        real: Its type of numbers.
        images: Number of images.
        size: Height and width of an image.
        period: After how many rows, and columns, the steps repeat (strided layers).
        verify: Whether to compute three periods of rows first, and compare each of their steps
            with what would be replayed. Needed for layers whose steps are not tested.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        real: torch.dtype,
        images: int,
        size: tuple[int, int],
        period: int,
        verify: bool,
    ) -> None:
        self.images, self.size, self.period = images, size, period
        self.verified_rows = 3 * period if verify else 0
        self.threads = torch.get_num_threads()
        self.weights = PackedWeights(library, real)
        self.kinds: dict[tuple[int | bool, ...], StepKind] = {}

    def step(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """Takes a step: replays it, or computes and captures it.

        Args:
            site: Its site.
            compute: Computes the step in PyTorch.

        Returns:
            The step's result; if replayed, it is valid until the next step only.
        """
        row, col, channel = site
        if row == col == 0:
            return compute()  # nothing lies before it, so no other step is like it
        key = row % self.period, col % self.period, channel, col == 0
        kind = self.kinds.setdefault(key, StepKind())
        if not kind.replayable or self.must_compute():
            return compute()
        if kind.covers(site):
            kind.script = kind.script or self.compile(kind)
            if kind.script is None:
                return compute()
            if row >= self.verified_rows:
                return kind.script.play(site)
        capture = Capture(site)
        result = capture.run(compute)
        kind.add(capture)
        return result

    def must_compute(self) -> bool:
        """Returns whether PyTorch must compute every step from now on.

        If one kind of step of a user's layers cannot be replayed, its Python code may depend on
        state from the other steps.
        """
        return bool(self.verified_rows) and not all(k.replayable for k in self.kinds.values())

    def compile(self, kind: StepKind) -> Script | None:
        """Compiles the script for a kind of steps; returns None if they cannot be replayed."""
        assert kind.first is not None
        captures = kind.first, kind.by_row or kind.first, kind.by_col or kind.first
        corners = self.corners(kind.first.site)
        try:
            return compile_script(captures, corners, self.images, self.threads, self.weights)
        except NotAffineError:
            kind.replayable = False
            return None

    def corners(self, site: Site) -> list[Site]:
        """Lists the corners of the sites that share a kind: first and last row, first and last col.

        Column 0 is a kind of its own.
        """
        height, width = self.size
        first_row = site.row % self.period or (self.period if site.col == 0 else 0)
        first_col = site.col % self.period or (self.period if site.col else 0)
        cols = range(first_col, width if site.col else 1, self.period)
        rows = range(first_row, height, self.period)
        return [Site(row, col) for row in (rows[0], rows[-1]) for col in (cols[0], cols[-1])]

    def refresh_weights(self) -> None:
        """Reads the weights again: their numbers may have changed."""
        self.weights.refresh()

    def external_storages(self) -> set[int]:
        """Lists the storages that the steps use but do not create, by their addresses."""
        kinds = self.kinds.values()
        captures = (c for kind in kinds for c in (kind.first, kind.by_row, kind.by_col))
        return {address for c in captures if c is not None for address in c.external}

    def nbytes(self) -> int:
        """Counts the bytes of the tensors that the steps create."""
        scripts = (kind.script for kind in self.kinds.values())
        return sum(script.memory.arena.nbytes for script in scripts if script is not None)


@dataclass
class StepKind:
    """Steps that run the same operations, on memory that depends on the site.

    Attributes:
        first: The first captured step.
        by_row: One in another row.
        by_col: One in another column.
        script: The script that replays them, once it is compiled.
        replayable: Whether they can be replayed, as far as is known.
    """

    first: Capture | None = None
    by_row: Capture | None = None
    by_col: Capture | None = None
    script: Script | None = None
    replayable: bool = True

    def covers(self, site: Site) -> bool:
        """Returns whether the captured steps determine the step at a site."""
        return self.first is not None and not (
            (site.row != self.first.site.row and self.by_row is None)
            or (site.col != self.first.site.col and self.by_col is None)
        )

    def add(self, capture: Capture) -> None:
        """Adds a captured step, or compares it with the script if that is compiled already."""
        assert self.replayable
        if capture.problem is not None:
            self.replayable = False
        elif self.first is None:
            self.first = capture
        elif self.covers(capture.site):
            self.replayable = self.script is not None and self.script.agrees_with(capture)
        elif capture.site.col != self.first.site.col:
            self.by_col, self.script = capture, None
        else:
            self.by_row, self.script = capture, None
