"""Replays recorded steps: one tape for each batch that is drawn."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nextpixel.engine.capture import Recording, UnevenError
from nextpixel.engine.program import program
from nextpixel.engine.script import Script, Weights
from nextpixel.nn import Cache, Site

__all__ = ["Tape", "begin_tape"]


@dataclass
class Kind:
    """Steps that do the same, at other places.

    Attributes:
        first: The first one that was recorded.
        by_row: One in another row.
        by_col: One in another column.
        script: What replays them.
        recordable: Whether they can be replayed at all.
    """

    first: Recording | None = None
    by_row: Recording | None = None
    by_col: Recording | None = None
    script: Script | None = None
    recordable: bool = True

    def covers(self, site: Site) -> bool:
        """Tells whether the recorded steps say what is to be done at a site."""
        return self.first is not None and not (
            (site.row != self.first.site.row and self.by_row is None)
            or (site.col != self.first.site.col and self.by_col is None)
        )

    def add(self, recording: Recording) -> None:
        """Takes in a step that was computed."""
        assert self.recordable
        if recording.problem is not None:
            self.recordable = False
        elif self.first is None:
            self.first = recording
        elif self.covers(recording.site):
            self.recordable = self.script is not None and self.script.agrees(recording)
        elif recording.site.col != self.first.site.col:
            self.by_col, self.script = recording, None
        else:
            self.by_row, self.script = recording, None


class Tape:
    """The recorded steps of generating one batch.

    Everything in a step must have the images as its first dimension, weights excepted, and must
    use the same memory at every site, as the layers of `nextpixel.nn` do.

    Args:
        library: The compiled program.
        real: Its type of numbers.
        images: Number of images.
        size: Height and width of an image.
        period: After how many rows, and columns, the steps do the same again.
        sure: Whether the steps are known to move evenly, as those of our own layers are by test.
            Else three whole rows are computed, to see whether they do.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        real: torch.dtype,
        images: int,
        size: tuple[int, int],
        period: int,
        sure: bool,
    ) -> None:
        self.images, self.size, self.period = images, size, period
        self.watched_rows = 0 if sure else 3 * period
        self.threads = torch.get_num_threads()
        self.weights = Weights(library, real)
        self.kinds: dict[tuple[int | bool, ...], Kind] = {}

    def step(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """Takes a step: replays it, or computes and records it.

        Args:
            site: Where.
            compute: Computes the step in PyTorch.

        Returns:
            What the step computes; replayed, it stays valid until the next step only.
        """
        row, col, channel = site
        if row == col == 0:
            return compute()  # with nothing before it, it is like no other
        key = row % self.period, col % self.period, channel, col == 0
        kind = self.kinds.setdefault(key, Kind())
        if kind.recordable and kind.covers(site) and not self.mixed():
            kind.script = kind.script or self.script(kind)
            if kind.script is not None and row >= self.watched_rows:
                return kind.script.play(site)
        if not kind.recordable or self.mixed():
            return compute()
        recording = Recording(site)
        result = recording.watch(compute)
        kind.add(recording)
        return result

    def read_anew(self) -> None:
        """Reads the weights again: they may have changed."""
        self.weights.read_anew()

    def memory(self) -> set[int]:
        """Lists the storages that were there before the recorded steps, by their addresses."""
        kinds = self.kinds.values()
        recordings = (r for kind in kinds for r in (kind.first, kind.by_row, kind.by_col))
        return {address for r in recordings if r is not None for address in r.kept}

    def nbytes(self) -> int:
        """Counts the bytes of what the steps make."""
        scripts = (kind.script for kind in self.kinds.values())
        return sum(script.arena.nbytes for script in scripts if script is not None)

    def mixed(self) -> bool:
        """Whether some steps must be computed: a user's may need what Python keeps from others."""
        return bool(self.watched_rows) and not all(k.recordable for k in self.kinds.values())

    def script(self, kind: Kind) -> Script | None:
        """Makes the script of a kind of steps; None if they cannot be replayed."""
        assert kind.first is not None
        others = kind.by_row or kind.first, kind.by_col or kind.first
        corners = self.corners(kind.first.site)
        try:
            return Script(kind.first, *others, corners, self.images, self.threads, self.weights)
        except UnevenError:
            kind.recordable = False
            return None

    def corners(self, site: Site) -> list[Site]:
        """Finds the first and the last rows and columns where the steps do the same as at a site.

        What moves evenly is farthest out at one of these. Column 0 is of a kind of its own.
        """
        height, width = self.size
        first_row = site.row % self.period or (self.period if site.col == 0 else 0)
        first_col = site.col % self.period or (self.period if site.col else 0)
        cols = range(first_col, width if site.col else 1, self.period)
        rows = range(first_row, height, self.period)
        return [Site(row, col) for row in (rows[0], rows[-1]) for col in (cols[0], cols[-1])]


def begin_tape(cache: Cache, images: int, size: tuple[int, int]) -> Tape | None:
    """Makes a tape for a generation that begins.

    Args:
        cache: What the model remembers.
        images: Number of images.
        size: Height and width of an image.

    Returns:
        The tape; None without a C compiler, on an accelerator, and for a model that remembers
        nothing from step to step.
    """
    tensor = next((t for tensors in cache.layers.values() for t in tensors), None)
    if tensor is None or tensor.device.type != "cpu":
        return None
    library = program(tensor.dtype)
    if library is None:
        return None
    return Tape(library, tensor.dtype, images, size, cache.period, cache.even)
