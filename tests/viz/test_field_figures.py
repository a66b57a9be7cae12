"""Figures of kernels and receptive fields."""

import numpy as np
import torch
from PIL import Image

from nextpixel.viz import field_figures


def test_the_sliding_kernel_shows_its_taps() -> None:
    white = np.full((1, 5, 5), 255, dtype=np.uint8)
    kernels = {"A": (torch.arange(9) < 4).view(3, 3), "B": (torch.arange(9) < 5).view(3, 3)}
    frames = list(field_figures.sliding_mask(white, kernels))
    assert len(frames) == 50
    assert len({frame.size for frame in frames}) == 1
    width = field_figures.SIDE // 5 * 5 + 2 * field_figures.GAP
    cell = field_figures.SIDE // 3

    def tap(frame: Image.Image, row: int, col: int) -> object:
        """A colour inside the cell, where there is no line, and no digit for the padding."""
        return frame.getpixel((width + col * cell + 12, field_figures.TOP + row * cell + 12))

    white_pixel, black = (255, 255, 255), (0, 0, 0)
    middle, first = 12, 0
    assert tap(frames[middle], 0, 0) == tap(frames[middle], 1, 0) == white_pixel
    assert tap(frames[25 + middle], 1, 1) == white_pixel
    assert tap(frames[middle], 1, 1) not in (white_pixel, black)  # hidden
    assert tap(frames[first], 0, 1) == black  # padding
