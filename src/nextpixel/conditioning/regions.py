"""Masks of regions of a picture: halves, boxes and cells."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nextpixel.errors import UserError

__all__ = ["Half", "box_mask", "cell_mask", "half_mask"]

Half = Literal["top", "bottom", "left", "right"]


def half_mask(half: Half, height: int, width: int) -> Tensor:
    """Creates a mask that is true on one half of a picture, `(height, width)`.

    The middle row or column of an odd number belongs to the bottom or right half.

    Raises:
        UserError: There is no such half.
    """
    rows, cols = torch.arange(height)[:, None], torch.arange(width)[None]
    inside = {
        "top": rows < height // 2,
        "bottom": rows >= height // 2,
        "left": cols < width // 2,
        "right": cols >= width // 2,
    }
    if half not in inside:
        raise UserError(f"There is no half {half!r}: choose {', '.join(inside)}.")
    return inside[half].expand(height, width).clone()


def box_mask(row: int, col: int, height: int, width: int, shape: tuple[int, int]) -> Tensor:
    """Creates a mask that is true inside a box of a picture.

    Args:
        row: First row of the box.
        col: First column of the box.
        height: Rows of the box.
        width: Columns of the box.
        shape: Height and width of the picture, and of the mask.

    Raises:
        UserError: The box does not lie within the picture.
    """
    inside = row >= 0 and col >= 0 and row + height <= shape[0] and col + width <= shape[1]
    if not (inside and height > 0 and width > 0):
        raise UserError(
            f"The box at row {row}, column {col}, {height} high and {width} wide does not lie "
            f"within a picture of {shape[0]}x{shape[1]}."
        )
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[row : row + height, col : col + width] = True
    return mask


def cell_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Creates a mask of cells, true where all pixels of a cell are, `(height, width)` -> `size`.

    Args:
        mask: A mask of a picture.
        size: Rows and columns of cells, which divide those of the picture.
    """
    height, width = (side // cells for side, cells in zip(mask.shape, size, strict=True))
    cells = torch.unflatten(torch.unflatten(mask, 1, (-1, width)), 0, (-1, height))
    return cells.all(3).all(1)
