"""The figures of `nextpixel inspect`: masks, receptive fields, and the bits of an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from nextpixel.context import ContextLike
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import entropy, surprisal
from nextpixel.evaluation.receptive_field import (
    CHEAP,
    DEPTHS,
    FAR,
    INPUTS,
    KERNEL,
    KINDS,
    NEAR,
    SITE,
    Progress,
    blind_spot,
    centre_channels,
    effective_field,
    growth,
    kernel_field,
    random_images,
    random_network_field,
    receptive_field,
)
from nextpixel.models.base.autoregressive import AutoregressiveModel, CausalNetwork
from nextpixel.models.base.image_model import find_class
from nextpixel.nn import Site
from nextpixel.nn.masks import MaskType
from nextpixel.viz import field_figures
from nextpixel.viz import images as plots

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from nextpixel.context import Context

__all__ = ["Inspection", "draw_kind", "draw_kinds", "draw_model", "summary"]


def draw_kinds(out: Path, *, seed: int = 0, progress: Progress | None = None) -> list[Path]:
    """Draws the receptive fields of all kinds of models, in one picture.

    Args:
        out: The folder to write into.
        seed: Seed of the random weights and images.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The file.
    """
    panels = []
    for done, kind in enumerate(KINDS, 1):
        # Shallow networks, which differ most; the blind spot is that of a deep one.
        shallow = random_network_field(kind, seed, {"blocks": 2})
        deep = random_network_field(kind, seed, DEPTHS[kind][-1])
        panels.append(field_figures.Panel(f"{kind}, blocks=2", shallow, blind_spot(deep, SITE)))
        if progress is not None:
            progress(done / len(KINDS))
    field_figures.save_figure(
        field_figures.receptive_fields(panels, SITE[:2], columns=3), out / "kinds.png"
    )
    return [out / "kinds.png"]


def draw_kind(
    kind: str, out: Path, *, seed: int = 0, progress: Progress | None = None
) -> list[Path]:
    """Draws a kind of model: its masks, its receptive field by depth, and its blind spot.

    Args:
        kind: One of `KINDS`.
        out: The folder to write into.
        seed: Seed of the random weights and images.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The files.
    """
    pair = ("PixelCNN", "GatedPixelCNN")
    compared = pair if kind in pair else (kind,)
    grown = {
        name: growth(name, seed=seed, progress=_part(progress, part, len(compared)))
        for part, name in enumerate(compared)
    }
    files = [out / "masks.png", out / "field.png", out / "slide.gif"]
    field_figures.save_figure(_masks_figure(kind, seed), files[0])
    panels = [
        field_figures.Panel(depth, field, grown[kind].blind)
        for depth, field in grown[kind].fields.items()
    ]
    field_figures.save_figure(field_figures.receptive_fields(panels, SITE[:2]), files[1])
    _save_sliding(field_figures.example_digit(), files[2])
    if kind in pair:
        files.append(out / "blind-spot.png")
        panels = []
        for name, each in grown.items():
            depth, field = list(each.fields.items())[-1]
            panels.append(field_figures.Panel(f"{name}, {depth}", field, each.blind))
        field_figures.save_figure(field_figures.receptive_fields(panels, SITE[:2]), files[-1])
    return files


def _save_sliding(image: ArrayLike, file: Path) -> None:
    """Writes an animation of the masked kernels sliding over an image."""
    plots.save_gif(field_figures.sliding_mask(image, _kernels(KERNEL)), file, seconds=14)


def _kernels(size: int) -> dict[str, Tensor]:
    """Returns the visible taps of a kernel over grey pixels by mask type, booleans `(k, k)`."""
    types: list[MaskType] = ["A", "B"]
    return {mask_type: kernel_field(mask_type, size, groups=1)[0, 0] for mask_type in types}


def _masks_figure(kind: str, seed: int) -> field_figures.Figure:
    """Draws the kernels, and which of R, G and B are visible to each other at the centre."""
    groups = 1 if cast("type[CausalNetwork]", find_class(kind)).whole_pixels else 3
    middle = KERNEL // 2
    types: list[MaskType] = ["A", "B"]
    centres = {
        f"mask {mask_type} at the centre": kernel_field(mask_type, groups=groups)[
            ..., middle, middle
        ]
        for mask_type in types
    }
    centres[f"the whole {kind}"] = centre_channels(kind, seed=seed)
    return field_figures.kernel_masks(_kernels(KERNEL), centres)


class Inspection(NamedTuple):
    """What a trained model looks at, and where the bits of an image are.

    Attributes:
        files: The pictures.
        surprise: Bits of each pixel of the image, `(H, W)`.
        entropy: Entropy of each pixel's distribution, in bits, `(H, W)`.
        site: Row and column of the central pixel, to which `reach` and `heat` belong.
        reach: Its receptive field, booleans `(H, W)`.
        heat: Its effective receptive field, see `effective_field`, `(H, W)`.
        images: Number of images that `heat` is the mean over.
    """

    files: list[Path]
    surprise: Tensor
    entropy: Tensor
    site: tuple[int, int]
    reach: Tensor
    heat: Tensor
    images: int


def draw_model(
    model: AutoregressiveModel,
    x: Tensor,
    c: ContextLike,
    out: Path,
    *,
    averaged: tuple[Tensor, ContextLike] | None = None,
    what: str = "the image",
    seed: int = 0,
    progress: Progress | None = None,
) -> Inspection:
    """Draws a trained model: its effective receptive field, and the bits of an image.

    Args:
        model: The model, in float64.
        x: An image, integers `(1, C, H, W)`, to map surprise and entropy of, and to slide a kernel
            over.
        c: Its context.
        out: The folder to write into.
        averaged: Images and their context for the effective receptive field, the mean over them;
            None for the one image.
        what: The image's name.
        seed: Seed of the random images, and of the random sum of parameters, that `reach` comes
            from.
        progress: Called with the fraction done, between 0 and 1.

    Raises:
        UserError: The model is no `CausalNetwork`, so there is no `encode` to take gradients of.
    """
    if not isinstance(model, CausalNetwork):
        raise UserError(
            f"The receptive field of a {type(model).__name__} cannot be measured, because it is no "
            "CausalNetwork: name a model that is one."
        )
    _, height, width = model.shape
    row, col = height // 2, width // 2
    files = [out / "effective.png", out / "surprise.png", out / "slide.gif"]
    bits, expected = surprisal(model, x, c)[0], entropy(model, x, c)[0]
    several, their_context = (x, c) if averaged is None else averaged
    context = model.context(their_context, len(several))
    heat = effective_field(model, several, context, row=row, col=col, progress=progress)
    reach = _reach(model, context, Site(row, col), seed)
    field_figures.save_figure(
        field_figures.effective_field(heat, reach, (row, col), len(several)), files[0]
    )
    pixels = plots.to_uint8(x, model.levels)[0]
    field_figures.save_figure(field_figures.bit_maps(pixels, bits, expected, what), files[1])
    _save_sliding(pixels, files[2])
    return Inspection(files, bits, expected, (row, col), reach, heat, len(several))


def _reach(model: CausalNetwork, context: Context | None, site: Site, seed: int) -> Tensor:
    """Measures the receptive field of a pixel, booleans `(H, W)`."""
    # On random images: on black ones, the ReLUs of a trained network may all have gradient 0.
    noise = random_images(model, INPUTS, seed)
    first = None if context is None else context[torch.zeros(INPUTS, dtype=torch.int64)]
    return receptive_field(model, site, noise, first, seed=seed).any(0)


def summary(found: Inspection) -> str:
    """Returns in two lines where the bits are, and how near the pixels that a pixel depends on."""
    cheap, worst = int((found.surprise < CHEAP).sum()), int(found.surprise.argmax())
    row, col = divmod(worst, found.surprise.shape[1])
    near, far = (field_figures.share_within(found.heat, found.site, d) for d in (NEAR, FAR))
    near_area, far_area = (
        field_figures.share_within(found.reach, found.site, d) for d in (NEAR, FAR)
    )
    images = f"mean of {found.images} images" if found.images > 1 else "of this image"
    return (
        f"{cheap} of {found.surprise.numel()} pixels cost{'s' * (cheap == 1)} less than {CHEAP} "
        f"bits each; the most surprising, row {row}, column {col}, costs "
        f"{found.surprise.max():.1f} bits\n"
        f"gradient at row {found.site[0]}, column {found.site[1]}, {images}: {near:.0%} within "
        f"{NEAR} pixels ({near_area:.0%} of the receptive field), {far:.0%} within {FAR} "
        f"({far_area:.0%})"
    )


def _part(progress: Progress | None, part: int, parts: int) -> Progress | None:
    """Returns the progress function of one of several equal parts."""
    return None if progress is None else lambda done: progress((part + done) / parts)
