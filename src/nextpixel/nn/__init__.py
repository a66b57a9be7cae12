"""Causal layers: each has a forward pass for whole maps and one for a step of generation.

A layer is called in one of two ways, with the same weights:

* without a cache, it gets whole maps `(B, C, H, W)` and returns whole maps;
* with a cache, it gets the newest values, a pixel `(B, C)`, one channel group of a pixel, or (in a
  vertical stack) a row `(B, C, 1, W)`; it stores what later sites need, and returns its output in
  the same form.

The channels are always dimension 1, so activations, gates and sums between the layers are written
once.
"""

from nextpixel.nn.attention import CausalAttention, Delayed
from nextpixel.nn.cache import Cache, CausalLayer, Site
from nextpixel.nn.causal_conv import CausalConv2d, MaskedConv2d, OncePerRow, RowConv2d
from nextpixel.nn.checkpointing import checkpoint, checkpointing
from nextpixel.nn.context_bias import ContextBias
from nextpixel.nn.encoders import ImageDecoder, ImageEncoder, MapDecoder, MapEncoder
from nextpixel.nn.lstm import DiagonalLayer, RowLayer
from nextpixel.nn.multiscale import Halved, HalvedRows
from nextpixel.nn.pointwise import Head, Pointwise
from nextpixel.nn.quantize import Codebook, Quantized, Quantizer, perplexity
from nextpixel.nn.resnet import GatedResNet, convolve_elus, start_weights

__all__ = [
    "Cache",
    "CausalAttention",
    "CausalConv2d",
    "CausalLayer",
    "Codebook",
    "ContextBias",
    "Delayed",
    "DiagonalLayer",
    "GatedResNet",
    "Halved",
    "HalvedRows",
    "Head",
    "ImageDecoder",
    "ImageEncoder",
    "MapDecoder",
    "MapEncoder",
    "MaskedConv2d",
    "OncePerRow",
    "Pointwise",
    "Quantized",
    "Quantizer",
    "RowConv2d",
    "RowLayer",
    "Site",
    "checkpoint",
    "checkpointing",
    "convolve_elus",
    "perplexity",
    "start_weights",
]
