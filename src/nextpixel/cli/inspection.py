"""Figures of what a network sees, for `nextpixel see`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

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
from nextpixel.viz import images as pictures

__all__ = ["Seen", "draw_kind", "draw_kinds", "draw_model", "sums"]

# --- pictures -------------------------------------------------------------------------------------


def draw_kinds(out: Path, *, seed: int = 0, progress: Progress | None = None) -> list[Path]:
    """Draws what every kind of model sees, in one picture.

    Args:
        out: The folder to write into.
        seed: Of the random weights and images.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The file.
    """
    panels = []
    for done, kind in enumerate(KINDS, 1):
        # Shallow, where they differ most.
        seen = random_network_field(kind, seed, {"blocks": 2})
        deepest = random_network_field(kind, seed, DEPTHS[kind][-1])
        panels.append(field_figures.Panel(f"{kind}, blocks=2", seen, blind_spot(deepest, SITE)))
        if progress is not None:
            progress(done / len(KINDS))
    field_figures.save_figure(
        field_figures.receptive_fields(panels, SITE[:2], columns=3), out / "kinds.png"
    )
    return [out / "kinds.png"]


def draw_kind(
    kind: str, out: Path, *, seed: int = 0, progress: Progress | None = None
) -> list[Path]:
    """Draws a kind of model: its masks, what it sees as it gets deeper, and its blind spot.

    Args:
        kind: One of `KINDS`.
        out: The folder to write into.
        seed: Of the random weights and images.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The files.
    """
    compared = ["PixelCNN", "GatedPixelCNN"] if kind in ("PixelCNN", "GatedPixelCNN") else [kind]
    grown = {}
    for number, name in enumerate(compared):
        grown[name] = growth(name, seed=seed, progress=_part(progress, number, len(compared)))
    written = [out / "masks.png", out / "field.png", out / "slide.gif"]
    field_figures.save_figure(_masks_figure(kind, seed), written[0])
    panels = [
        field_figures.Panel(n, seen, grown[kind].blind) for n, seen in grown[kind].fields.items()
    ]
    field_figures.save_figure(field_figures.receptive_fields(panels, SITE[:2]), written[1])
    pictures.save_gif(
        field_figures.sliding_mask(field_figures.example_digit(), _kernels(KERNEL)),
        written[2],
        seconds=14,
    )
    if len(compared) > 1:
        deepest = {name: list(each.fields.items())[-1] for name, each in grown.items()}
        pair = [
            field_figures.Panel(f"{name}, {depth}", seen, grown[name].blind)
            for name, (depth, seen) in deepest.items()
        ]
        written.append(out / "blind-spot.png")
        field_figures.save_figure(field_figures.receptive_fields(pair, SITE[:2]), written[-1])
    return written


def _kernels(size: int) -> dict[str, Tensor]:
    """What the masks show of grey pictures: the type -> booleans `(k, k)`."""
    types: list[MaskType] = ["A", "B"]
    return {mask_type: kernel_field(mask_type, size, groups=1)[0, 0] for mask_type in types}


def _masks_figure(kind: str, seed: int) -> field_figures.Figure:
    """Draws the kernels, and what R, G and B see at the centre."""
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


class Seen(NamedTuple):
    """What a trained model sees, and what an image costs it.

    Attributes:
        files: The pictures.
        surprise: The image's map of `surprisal`, `(H, W)`.
        entropy: Its map of `entropy`, `(H, W)`.
        site: Row and column of the central pixel, to which the rest belongs.
        reach: What it sees at all, booleans `(H, W)`.
        heat: What it looks at, see `effective_field`, `(H, W)`.
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
    c: object,
    out: Path,
    *,
    averaged: tuple[Tensor, object] | None = None,
    what: str = "the image",
    seed: int = 0,
    progress: Progress | None = None,
) -> Seen:
    """Draws a trained model: what it looks at, and what surprises it.

    Args:
        model: The model, in float64.
        x: An image, integers `(1, C, H, W)`, to map surprise and entropy of, and to slide a kernel
            over.
        c: Its context.
        out: The folder to write into.
        averaged: The images, and their context, that the effective field is the mean over; the one
            image if None.
        what: The image's name.
        seed: Of the random sum of parameters that shows what is seen at all.
        progress: Called with the fraction done, between 0 and 1.

    Raises:
        UserError: The model has no `encode`, so there is nothing to take gradients of.
    """
    if not isinstance(model, CausalNetwork):
        raise UserError(
            f"What a {type(model).__name__} sees cannot be measured: it is no CausalNetwork, whose "
            "encode tells where pixels become numbers."
        )
    _, height, width = model.shape
    row, col = height // 2, width // 2
    written = [out / "effective.png", out / "surprise.png", out / "slide.gif"]
    bits, expected = surprisal(model, x, c)[0], entropy(model, x, c)[0]
    some, their = (x, c) if averaged is None else averaged
    context = model.context(their, len(some))
    heat = effective_field(model, some, context, row=row, col=col, progress=progress)
    # Random images: where all of them are black, a trained network's ReLUs may all be asleep.
    noise = random_images(model, INPUTS, seed)
    one = None if context is None else context[torch.zeros(INPUTS, dtype=torch.int64)]
    reach = receptive_field(model, Site(row, col), noise, one, seed=seed).any(0)
    field_figures.save_figure(
        field_figures.effective_field(heat, reach, (row, col), len(some)), written[0]
    )
    pixels = pictures.to_uint8(x, model.levels)[0]
    field_figures.save_figure(field_figures.bit_maps(pixels, bits, expected, what), written[1])
    pictures.save_gif(field_figures.sliding_mask(pixels, _kernels(KERNEL)), written[2], seconds=14)
    return Seen(written, bits, expected, (row, col), reach, heat, len(some))


def sums(seen: Seen) -> str:
    """Says in two lines what the maps of a trained model add up to."""
    cheap, dearest = int((seen.surprise < CHEAP).sum()), int(seen.surprise.argmax())
    row, col = divmod(dearest, seen.surprise.shape[1])
    near, far = (
        field_figures.share_within(seen.heat, seen.site, distance) for distance in (NEAR, FAR)
    )
    few, more = (
        field_figures.share_within(seen.reach, seen.site, distance) for distance in (NEAR, FAR)
    )
    images = f"mean of {seen.images} images" if seen.images > 1 else "of this image"
    return (
        f"{cheap} of {seen.surprise.numel()} pixels cost less than {CHEAP} bits each; the most "
        f"surprising, row {row}, column {col}, costs {seen.surprise.max():.1f} bits\n"
        f"gradient at row {seen.site[0]}, column {seen.site[1]}, {images}: {near:.0%} within "
        f"{NEAR} pixels ({few:.0%} of all seen), {far:.0%} within {FAR} ({more:.0%})"
    )


def _part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Makes the progress of one part of so many."""
    return None if progress is None else lambda done: progress((number + done) / parts)
