"""The font of labels in pictures."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from PIL import ImageFont

__all__ = ["label_font"]


@lru_cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """Loads the font of labels: DejaVu Sans, which Matplotlib has in its package.

    Where only programs run, there may be no Matplotlib. Pillow's own font then has to do, which
    lacks most letters but those of English.
    """
    package = find_spec("matplotlib")
    if package is None or package.origin is None:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
    folder = Path(package.origin).parent / "mpl-data/fonts/ttf"
    return ImageFont.truetype(folder / "DejaVuSans.ttf", size)
