"""Draws reconstructions and interpolations of images by models with a latent code."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.data.sampler import batches
from nextpixel.errors import UserError
from nextpixel.models.base.latent import LatentModel
from nextpixel.sampling.config import CommonOptions
from nextpixel.utils.inference import evaluation_mode
from nextpixel.viz import images as pictures

__all__ = [
    "check_continuous_code",
    "draw_interpolations",
    "draw_reconstructions",
    "embed",
    "embed_all",
    "latent_model",
]


def latent_model(model: object, name: object) -> LatentModel:
    """Returns a model if it has a latent code.

    Args:
        model: The model.
        name: Its name for the message.

    Raises:
        UserError: It has none.
    """
    if not isinstance(model, LatentModel):
        raise UserError(
            f"{name} ({type(model).__name__}) has no codes to reconstruct images from: give an "
            "Autoencoder, a VAE, a VQVAE or a PixelCNNAutoencoder."
        )
    return model


def draw_reconstructions(
    model: LatentModel,
    x: Tensor,
    draws: int = 4,
    padding: Tensor | None = None,
    **options: Unpack[CommonOptions],
) -> Image.Image:
    """Lays out a row for each image: the original and draws from p(x | z) at its code.

    Where the pixels are independent given the code, their means come before the draws.

    Args:
        model: The model.
        x: The images, integers `(B, C, H, W)`.
        draws: Number of draws for each image.
        padding: True where images are padding, `(B, 1, H, W)`; padding is shown as level 0.
        options: Other arguments of the model's `sample`.
    """
    columns = {"original": pictures.to_uint8(x, model.levels)}
    if model.has_pixel_means:
        columns["mean"] = pictures.real_to_uint8(model.picture(embed(model, x)), model.levels)
    for number, draw in enumerate(model.reconstruct(x, draws, **options), 1):
        columns[f"draw {number}"] = pictures.to_uint8(draw, model.levels)
    empty = np.zeros((1, 1, 1, 1), bool) if padding is None else padding.numpy(force=True)
    spectrogram = model.data_record.spectrogram
    columns = {
        caption: pictures.for_display(np.where(empty, 0, column), spectrogram)
        for caption, column in columns.items()
    }
    return pictures.side_by_side(columns, 256)


def draw_interpolations(model: LatentModel, x: Tensor, steps: int, seed: int = 0) -> Image.Image:
    """Lays out a row for each pair of images, with a linear interpolation of their codes.

    Args:
        model: The model.
        x: Pairs of images, one after the other, integers `(2 P, C, H, W)`.
        steps: Interpolated images in a row, at least 2; the first and the last are at the codes of
            the pair.
        seed: Seed of the noise, which is the same along a row.

    Raises:
        UserError: The number of images is odd, there are too few steps, or the codes cannot be
            interpolated.
    """
    check_continuous_code(model)
    if len(x) % 2:
        raise UserError(f"Interpolation needs pairs of images, and there are {len(x)}.")
    if steps < 2:
        raise UserError(f"An interpolation has at least 2 pictures, not {steps}.")
    first, last = torch.unflatten(embed(model, x), 0, (-1, 2)).unbind(1)
    columns = {"from": pictures.to_uint8(x[::2], model.levels)}
    for step in range(steps):
        t = step / (steps - 1)
        means = model.picture(torch.lerp(first, last, t), seed)
        columns[f"{t:.0%}"] = pictures.real_to_uint8(means, model.levels)
    columns["to"] = pictures.to_uint8(x[1::2], model.levels)
    return pictures.side_by_side(columns, 256)


def embed_all(model: LatentModel, images: Images) -> Tensor:
    """Computes the codes of all images, on the CPU, see `LatentModel.embed`."""
    parts = [images.batch(numbers)[0] for numbers in batches(len(images), 500)]
    return torch.cat([embed(model, torch.from_numpy(part)) for part in parts])


def check_continuous_code(model: LatentModel) -> None:
    """Checks that a model's codes are real numbers, which can be interpolated and plotted.

    Raises:
        UserError: They are entries of a codebook.
    """
    if model.code != "numbers":
        raise UserError(
            f"The codes of a {type(model).__name__} are entries of a codebook and cannot be "
            "interpolated or plotted: give an Autoencoder, a VAE or a PixelCNNAutoencoder."
        )


@torch.no_grad()
def embed(model: LatentModel, x: Tensor) -> Tensor:
    """Computes the codes of images in evaluation mode, on the CPU."""
    with evaluation_mode(model) as network:
        return network.embed(x.to(model.device)).cpu()
