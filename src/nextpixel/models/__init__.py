"""One paper, one file."""

from nextpixel.models.gated_pixel_cnn import GatedPixelCNN
from nextpixel.models.pixel_cnn import PixelCNN
from nextpixel.models.pixel_cnn_pp import PixelCNNPP
from nextpixel.models.pixel_rnn import DiagonalBiLSTM, RowLSTM
from nextpixel.models.pixel_snail import PixelSNAIL

__all__ = ["DiagonalBiLSTM", "GatedPixelCNN", "PixelCNN", "PixelCNNPP", "PixelSNAIL", "RowLSTM"]
