"""One paper, one file."""

from nextpixel.models.gated_pixel_cnn import GatedPixelCNN
from nextpixel.models.pixel_cnn import PixelCNN

__all__ = ["GatedPixelCNN", "PixelCNN"]
