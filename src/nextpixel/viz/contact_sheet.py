"""Draws pictures with a caption below each, to look through many at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from nextpixel.viz.fonts import label_font
from nextpixel.viz.images import INK, to_uint8

__all__ = ["contact_sheet"]

SIDE = 120  # pixels of a picture's longer side, about
GAP = 8
FONT = 11
BACKGROUND = 255


def contact_sheet(
    x: ArrayLike, captions: Sequence[str], levels: int, *, columns: int = 6
) -> Image.Image:
    """Arranges images in rows, each above its caption.

    Args:
        x: Images `(N, C, H, W)`, C = 1 or 3.
        captions: A caption for each, of one or more lines; a line that is too long loses its
            beginning, because file names differ at the end.
        levels: Number of levels of `x`.
        columns: Images in a row, at most.

    Raises:
        ValueError: There is not one caption for each image.
    """
    pixels = to_uint8(x, levels)
    if len(captions) != len(pixels):
        raise ValueError(f"{len(pixels)} images need {len(pixels)} captions, not {len(captions)}")
    scale = max(1, round(SIDE / max(pixels.shape[2:])))
    height, width = (scale * side for side in pixels.shape[2:])
    font, line = label_font(FONT), round(1.3 * FONT)
    lines = max(caption.count("\n") + 1 for caption in captions)
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    cell = max(width, SIDE) + GAP, height + lines * line + GAP
    sheet = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + GAP), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        left = GAP + number % columns * cell[0]
        top = GAP + number // columns * cell[1]
        array = np.ascontiguousarray(image.transpose(1, 2, 0)).squeeze(
            -1 if len(image) == 1 else ()
        )
        picture = Image.fromarray(array).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, top))
        for i, text in enumerate(caption.split("\n")):
            place = left, top + height + i * line + 1
            draw.text(place, shortened(text, cell[0] - GAP, font), INK, font)
    return sheet


def shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cuts the beginning of a text that is wider than this many pixels."""
    kept = text
    while len(kept) > 1 and font.getlength(kept if kept == text else f"...{kept}") > width:
        kept = kept[1:]
    return text if kept == text else f"...{kept}"
