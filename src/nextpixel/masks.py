"""The masks of the PixelCNN family, as pure functions.

References:
    van den Oord, Kalchbrenner, Kavukcuoglu: Pixel Recurrent Neural Networks, 2016, section 3.4
    (https://arxiv.org/abs/1601.06759).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["MaskType", "kernel_mask"]

MaskType = Literal["A", "B"]


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
