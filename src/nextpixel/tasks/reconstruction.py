"""Pictures of what models with a code make of images: reconstructions, interpolation, codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextpixel.data.images import Images
from nextpixel.data.sampler import batches
from nextpixel.errors import UserError
from nextpixel.models.base.latent import LatentModel
from nextpixel.utils.inference import evaluation_mode
from nextpixel.viz import images as pictures

__all__ = ["draw_interpolations", "draw_reconstructions", "embed_all", "latent", "refuse_codebook"]


def latent(model: object, name: object) -> LatentModel:
    """Makes sure that a model has codes, for what only such models can do.

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
    model: LatentModel, x: Tensor, draws: int = 4, padding: Tensor | None = None, **how: Any
) -> Image.Image:
    """Lays out a row an image: the original and draws from p(x | z) at its code.

    Where the pixels are independent given the code, their means stand before the draws.

    Args:
        model: The model.
        x: The images, integers `(B, C, H, W)`.
        draws: Of each image.
        padding: Where images are padding, `(B, 1, H, W)`: there nothing is shown.
        how: Other arguments of the model's `sample`.
    """
    columns = {"original": pictures.to_uint8(x, model.levels)}
    if model.has_pixel_means:
        columns["mean"] = pictures.real_to_uint8(model.picture(embed(model, x)), model.levels)
    for number, drawn in enumerate(model.reconstruct(x, draws, **how), 1):
        columns[f"draw {number}"] = pictures.to_uint8(drawn, model.levels)
    empty = np.zeros((1, 1, 1, 1), bool) if padding is None else padding.numpy(force=True)
    shown = {name: np.where(empty, 0, column) for name, column in columns.items()}
    return pictures.side_by_side(
        {
            name: pictures.for_display(column, model.data_record.spectrogram)
            for name, column in shown.items()
        },
        256,
    )


def draw_interpolations(model: LatentModel, x: Tensor, steps: int, seed: int = 0) -> Image.Image:
    """Lays out a row for each pair of images: the ones that lie between on a line of codes.

    Args:
        model: The model.
        x: The images, integers `(2 P, C, H, W)`: the first and the second, the third and the
            fourth, and so on.
        steps: Pictures of a row, those of both codes included; two at least.
        seed: Of the noise, which is the same all along a row.

    Raises:
        UserError: The images are not in pairs, there are too few steps, or nothing lies between
            codes.
    """
    refuse_codebook(model)
    if len(x) % 2:
        raise UserError(f"Interpolation is between pairs of images, and there are {len(x)}.")
    if steps < 2:
        raise UserError(f"An interpolation has at least 2 pictures, not {steps}.")
    first, last = torch.unflatten(embed(model, x), 0, (-1, 2)).unbind(1)
    columns = {"from": pictures.to_uint8(x[::2], model.levels)}
    for step in range(steps):
        way = step / (steps - 1)
        between = model.picture(torch.lerp(first, last, way), seed)
        columns[f"{way:.0%}"] = pictures.real_to_uint8(between, model.levels)
    columns["to"] = pictures.to_uint8(x[1::2], model.levels)
    return pictures.side_by_side(columns, 256)


def embed_all(model: LatentModel, images: Images) -> Tensor:
    """Computes the codes of all images of a split, on the CPU, see `LatentModel.embed`."""
    parts = [images.batch(numbers)[0] for numbers in batches(len(images), 500)]
    return torch.cat([embed(model, torch.from_numpy(part)) for part in parts])


def refuse_codebook(model: LatentModel) -> None:
    """Refuses a model whose codes are no numbers on a line.

    Raises:
        UserError: It is such a model.
    """
    if model.code != "numbers":
        raise UserError(
            f"Nothing lies between the codes of a {type(model).__name__}, which are entries of a "
            "codebook: give an Autoencoder, a VAE or a PixelCNNAutoencoder."
        )


@torch.no_grad()
def embed(model: LatentModel, x: Tensor) -> Tensor:
    """Computes the codes of images without dropout, on the CPU."""
    with evaluation_mode(model):
        return model.embed(x.to(model.device)).cpu()
