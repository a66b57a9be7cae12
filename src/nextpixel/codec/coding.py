"""Codes the levels of images to bytes and back, by a program.

A picture as large as the program's is coded at once. Any other is cut into tiles: a program runs on
a canvas of its own size, which holds a tile and the pixels around it that are known by then. So one
program codes pictures of any size, and many tiles side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.levels import level_type
from nextpixel.engine import Coder, Images, Program, Session
from nextpixel.orders import turn, turn_back, with_orders

__all__ = [
    "TOGETHER",
    "Inputs",
    "Levels",
    "Plan",
    "Tile",
    "bytes_of_tiles",
    "count_parts",
    "decode",
    "encode",
    "waves_of",
]

TOGETHER = 64

Levels = NDArray[Any]  # (C, H, W), uint8 or uint16
Inputs = dict[str, NDArray[np.float32]]
Cut = tuple[int, int, int]  # where a part of a side begins, its length, where its canvas begins


@dataclass(frozen=True)
class Plan:
    """How images are coded.

    Attributes:
        program: The program.
        context: Rows above a tile, and columns on each side of it, that its canvas keeps for what
            is known; at most a quarter of the canvas.
        together: Tiles that the engine takes through a canvas side by side, at most `TOGETHER`.
        lanes: Codes that may be made at the same time; the tiles of a wave take turns.
        pool: Runs lanes at the same time; None for one after the other.
        orders: Orders of the pixels that an image may be coded in; 1 for raster order alone.
    """

    program: Program
    context: tuple[int, int]
    together: int
    lanes: int = 1
    pool: Executor | None = None
    orders: int = 1


@dataclass(frozen=True)
class Tile:
    """A part of a picture, and the canvas on which it is coded.

    Attributes:
        image: The number of the picture.
        y: The first row of the part.
        x: Its first column.
        height: Its rows.
        width: Its columns.
        top: The row of the picture at the top of the canvas.
        left: The column of the picture at the left of the canvas.
    """

    image: int
    y: int
    x: int
    height: int
    width: int
    top: int
    left: int

    @property
    def part(self) -> tuple[slice, slice, slice]:
        """Where it lies in its picture."""
        return np.s_[:, self.y : self.y + self.height, self.x : self.x + self.width]

    @property
    def own(self) -> tuple[slice, slice, slice]:
        """Where it lies on its canvas."""
        y, x = self.y - self.top, self.x - self.left
        return np.s_[:, y : y + self.height, x : x + self.width]


def waves_of(
    sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], context: tuple[int, int]
) -> Iterator[list[Tile]]:
    """Cuts pictures into tiles, and yields them in waves.

    A tile depends on tiles of earlier waves only: those above it, on both sides, and to its left.

    Args:
        sizes: `(H, W)` of each picture.
        canvas: `(H, W)` of the program.
        context: See `Plan`.
    """
    cuts = [
        (cut(height, canvas[0], context[0], 0), cut(width, canvas[1], context[1], context[1]))
        for height, width in sizes
    ]
    left, wave = list(range(len(sizes))), 0
    while left:
        left = [n for n in left if wave < 2 * len(cuts[n][0]) + len(cuts[n][1]) - 2]
        yield [tile for n in left for tile in _tiles(n, *cuts[n], wave)]
        wave += 1


def _tiles(image: int, rows: list[Cut], cols: list[Cut], wave: int) -> Iterator[Tile]:
    """Yields the tiles of a wave: row i and column j with 2 i + j = wave."""
    for i in range(max(0, (wave - len(cols)) // 2 + 1), min(len(rows), wave // 2 + 1)):
        (y, height, top), (x, width, left) = rows[i], cols[wave - 2 * i]
        yield Tile(image, y, x, height, width, top, left)


def cut(length: int, canvas: int, before: int, after: int) -> list[Cut]:
    """Cuts a side into parts; `before + after` must be less than `canvas`."""
    parts, at = [], 0
    while at < length:
        begin = max(0, at - before)
        end = begin + canvas - after
        if begin + canvas >= length:  # the last part: its canvas ends with the picture
            begin, end = max(0, length - canvas), length
        parts.append((at, end - at, begin))
        at = end
    return parts


def count_parts(length: int, canvas: int, before: int, after: int) -> int:
    """Counts the parts into which `cut` cuts a side."""
    if length <= canvas:
        return min(1, length)
    return 2 + (length - canvas - 1) // (canvas - before - after)


def encode(
    plan: Plan,
    images: Sequence[Levels],
    classes: Sequence[int],
    order: Sequence[int] | None = None,
    show: Callable[[float], None] | None = None,
) -> tuple[list[bytes], NDArray[np.float64]]:
    """Encodes images, and their classes if the program takes any.

    Args:
        plan: How.
        images: Their levels.
        classes: The class of each; they do not matter to a program without classes.
        order: The order of the pixels of each; by default raster order, the only one of a plan
            without others.
        show: Called with the fraction done.

    Returns:
        The code of each lane, and the bits of each image, `(n,)`.

    Raises:
        UserError: The program has no such class, or computes no number.
    """
    room = 4 * (sum(x.size for x in images) + 2 * len(images)) + 8
    coders = [Coder.encoder(room) for _ in range(plan.lanes)]
    choices = np.array([classes, order or [0] * len(images)], np.int64)
    _code_choices(plan, choices, coders[0])
    turned = [turn(x, k) for x, k in zip(images, choices[1], strict=True)]
    bits = np.zeros((plan.lanes, len(images)))
    _code(plan, turned, choices, coders, bits, show)
    return [coder.finish() for coder in coders], bits.sum(0)


def decode(
    plan: Plan,
    codes: Sequence[bytes],
    sizes: Sequence[tuple[int, int]],
    show: Callable[[float], None] | None = None,
) -> tuple[list[Levels], NDArray[np.int64]]:
    """Decodes images; whether they are the right ones, a checksum must say.

    Args:
        plan: As for `encode`.
        codes: The code of each lane.
        sizes: `(H, W)` of each image.
        show: Called with the fraction done.

    Returns:
        Their levels, and their classes.
    """
    channels, kind = plan.program.shape[0], level_type(plan.program.levels)
    coders = [Coder.decoder(code) for code in codes]
    choices = np.zeros((2, len(sizes)), np.int64)
    _code_choices(plan, choices, coders[0])
    order = choices[1].tolist()
    blank = [np.zeros((channels, *size), kind) for size in sizes]
    turned = [turn(x, k) for x, k in zip(blank, order, strict=True)]
    _code(plan, turned, choices, coders, None, show)
    return [turn_back(x, k) for x, k in zip(turned, order, strict=True)], choices[0]


def bytes_of_tiles(program: Program, tiles: int) -> int:
    """Counts the bytes that tiles side by side take: their states, levels and intervals."""
    return program.state_bytes(tiles) + tiles * (8 + 1 + 8) * math.prod(program.shape)


def _code_choices(plan: Plan, choices: NDArray[np.int64], coder: Coder) -> None:
    """Codes the classes and the orders of images, `(2, n)`, where there are several."""
    if plan.program.classes:
        coder.code_numbers(choices[0], plan.program.classes)
    if plan.orders > 1:
        coder.code_numbers(choices[1], plan.orders)
    else:
        choices[1] = 0


def _code(
    plan: Plan,
    images: Sequence[Levels],
    choices: NDArray[np.int64],
    coders: Sequence[Coder],
    bits: NDArray[np.float64] | None,
    show: Callable[[float], None] | None,
) -> None:
    """Takes all images, turned to their orders, through the program, a wave of tiles at a time."""
    inputs = inputs_of(plan.program, choices)
    done = [np.zeros(x.shape[1:], np.bool_) for x in images]
    sizes = [(x.shape[1], x.shape[2]) for x in images]
    total, finished = sum(map(np.size, done)), [0] * plan.lanes
    for wave in waves_of(sizes, plan.program.shape[1:], plan.context):

        def run(lane: int, wave: Sequence[Tile] = wave) -> None:
            tiles = wave[lane :: plan.lanes]
            for begin in range(0, len(tiles), plan.together):
                some = tiles[begin : begin + plan.together]
                of_lane = None if bits is None else bits[lane]
                _code_tiles(plan.program, some, images, done, inputs, coders[lane], of_lane)
                finished[lane] += sum(tile.height * tile.width for tile in some)
                if show is not None:
                    show(sum(finished) / total)

        for _ in (map if plan.pool is None else plan.pool.map)(run, range(plan.lanes)):
            pass
        for tile in wave:
            done[tile.image][tile.part[1:]] = True


def _code_tiles(
    program: Program,
    tiles: Sequence[Tile],
    images: Sequence[Levels],
    done: Sequence[NDArray[np.bool_]],
    inputs: Inputs,
    coder: Coder,
    bits: NDArray[np.float64] | None,
) -> None:
    """Codes some tiles side by side."""
    levels = np.zeros((len(tiles), *program.shape), np.int64)
    known = np.ones(levels.shape, np.bool_)
    for k, tile in enumerate(tiles):
        _fill_canvas(levels[k], tile, images[tile.image], done[tile.image])
        known[k][tile.own] = False
    whose = [tile.image for tile in tiles]
    canvases = Images(
        levels,
        {name: np.ascontiguousarray(values[whose]) for name, values in inputs.items()},
        known=known,
        intervals=None if bits is None else np.zeros((*levels.shape, 2), np.uint32),
    )
    rows = max(tile.y + tile.height - tile.top for tile in tiles)
    Session(program, canvases, coder=coder).run_rows(0, rows)
    if coder.decodes:
        for k, tile in enumerate(tiles):
            images[tile.image][tile.part] = levels[k][tile.own]
    if bits is not None and canvases.intervals is not None:
        widths = np.where(known, 1 << 30, canvases.intervals[..., 1])
        for k, tile in enumerate(tiles):  # several may be of one image
            bits[tile.image] += 30 * widths[k].size - float(np.log2(widths[k]).sum())


def inputs_of(program: Program, choices: NDArray[np.int64]) -> Inputs:
    """Makes a program's inputs of the classes and the orders of some images, `(2, n)`."""
    if "classes" not in program.inputs:
        return {}
    ids, order = choices
    classes = np.zeros((len(ids), program.classes), np.float32)
    if program.classes:
        classes[np.arange(len(ids)), ids] = 1
    present = np.ones((len(ids), 1), np.float32)
    return {"classes": with_orders(classes, program.orders, order), "present": present}


def _fill_canvas(
    canvas: NDArray[np.int64], tile: Tile, image: Levels, done: NDArray[np.bool_]
) -> None:
    """Fills a canvas with the tile, and with what is known around it.

    A pixel that is not known yet, to the right of the tile, is that of the last row above the tile.
    What lies outside the picture is 0.
    """
    _, height, width = canvas.shape
    there = np.s_[tile.top : tile.top + height, tile.left : tile.left + width]
    x = np.where(done[there], image[:, there[0], there[1]], 0)
    above = tile.y - tile.top
    if above:
        unknown = ~done[there][above:]
        x[:, above:] = np.where(unknown, x[:, above - 1 : above], x[:, above:])
    canvas[:, : x.shape[1], : x.shape[2]] = x
    canvas[tile.own] = image[tile.part]
