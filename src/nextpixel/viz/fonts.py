"""The font of labels in pictures."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

__all__ = ["label_font"]


@lru_cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """Loads the font of labels, DejaVu Sans, which Matplotlib has in its package.

    Pillow's own font lacks most letters but those of English, and names of classes may have any.
    """
    package = find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "mpl-data/fonts/ttf"
    return ImageFont.truetype(folder / "DejaVuSans.ttf", size)
