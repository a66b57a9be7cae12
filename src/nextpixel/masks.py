"""Masks as pure functions: of the PixelCNN family's kernels, and of pictures to complete.

References:
    van den Oord, Kalchbrenner, Kavukcuoglu: Pixel Recurrent Neural Networks, 2016, section 3.4
    (https://arxiv.org/abs/1601.06759).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nextpixel.errors import UserError

__all__ = ["Half", "MaskType", "box_mask", "half_mask", "kernel_mask"]

MaskType = Literal["A", "B"]
Half = Literal["top", "bottom", "left", "right"]


def kernel_mask(mask_type: MaskType, kernel_size: tuple[int, int]) -> Tensor:
    """Creates the mask of a convolution in raster order.

    Args:
        mask_type: "A" hides the centre (the first layer, whose input is the picture itself), "B"
            shows it (all later layers).
        kernel_size: Height and width of the kernel, both odd.

    Returns:
        Booleans `(height, width)`, true where a tap comes before the centre in raster order, and
        at the centre for type B.
    """
    height, width = kernel_size
    before_centre = height // 2 * width + width // 2
    visible = before_centre + (mask_type == "B")
    return (torch.arange(height * width) < visible).view(height, width)


def half_mask(half: Half, height: int, width: int) -> Tensor:
    """Creates a mask that is true on one half of a picture, `(height, width)`.

    The middle row or column of an odd number belongs to the bottom or right half.
    """
    rows, cols = torch.arange(height)[:, None], torch.arange(width)[None]
    inside = {
        "top": rows < height // 2,
        "bottom": rows >= height // 2,
        "left": cols < width // 2,
        "right": cols >= width // 2,
    }
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
