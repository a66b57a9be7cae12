"""The models, one file for each paper; `base/` has what they share."""

from nextpixel.models.autoencoder import Autoencoder
from nextpixel.models.gated_pixel_cnn import GatedPixelCNN
from nextpixel.models.pixel_cnn import PixelCNN
from nextpixel.models.pixel_cnn_autoencoder import PixelCNNAutoencoder
from nextpixel.models.pixel_cnn_pp import PixelCNNPP
from nextpixel.models.pixel_rnn import DiagonalBiLSTM, RowLSTM
from nextpixel.models.pixel_snail import PixelSNAIL
from nextpixel.models.vae import VAE
from nextpixel.models.vq_vae import VQVAE
from nextpixel.models.vq_vae_2 import VQVAE2

__all__ = [
    "VAE",
    "VQVAE",
    "VQVAE2",
    "Autoencoder",
    "DiagonalBiLSTM",
    "GatedPixelCNN",
    "PixelCNN",
    "PixelCNNAutoencoder",
    "PixelCNNPP",
    "PixelSNAIL",
    "RowLSTM",
]
