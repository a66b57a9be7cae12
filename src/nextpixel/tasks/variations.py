"""Variations: new images from what a classifier's layer says of an image.

Drawn again and again from the same features, images show what a layer keeps, by what stays, and
what it forgets, by what changes.

Example:
    >>> model = npx.load("runs/mine")  # trained with --features
    >>> context = model.conditioning(x, None, range(len(x))).context
    >>> draws = vary(model, context, draws=8)  # (8, B, C, H, W)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor

from nextpixel.conditioning.features import Features
from nextpixel.context import Context
from nextpixel.data import Images
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import Score, evaluate
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.sampling.loop import repeat_draws
from nextpixel.viz import images as pictures

__all__ = [
    "Kept",
    "features_of",
    "interpolate",
    "same_classifier",
    "side_by_side",
    "vary",
    "ways",
]


def features_of(model: AutoregressiveModel) -> Features:
    """Returns the features that a model is conditioned on.

    Raises:
        UserError: It is conditioned on none.
    """
    if model.role != "vary":
        raise UserError(
            "This model is not conditioned on a classifier's features: train one with --features "
            "to draw variations."
        )
    return cast(Features, model.conditioner)


def vary(model: AutoregressiveModel, context: Context, *, draws: int = 4, **how: Any) -> Tensor:
    """Draws new images from the context of given ones.

    Args:
        model: The model.
        context: The context of B images, see `ImageModel.conditioning`.
        draws: How many to draw of each.
        how: Other arguments of `sampling.sample`.

    Returns:
        Integers in `[0, levels)`, `(draws, B, C, H, W)`, int64, on the CPU.
    """

    def draw(again: Tensor) -> Tensor:
        return model.sample(len(again), context[again], **how)

    return repeat_draws(draw, len(context), draws)


def interpolate(
    model: AutoregressiveModel,
    context: Context,
    *,
    draws: int = 1,
    steps: int = 8,
    progress: Callable[[float], None] | None = None,
    **how: Any,
) -> Tensor:
    """Draws images on the way from each image's features to the next one's.

    Args:
        model: A model that is conditioned on features.
        context: The context of B images, two at least.
        draws: How many rows to draw of each way. The noise is the same all along a row, so that
            what changes in it is due to the features.
        steps: How many images to draw on the way, both ends included.
        progress: Called with the fraction done, between 0 and 1.
        how: Other arguments of `sampling.sample`.

    Returns:
        Integers in `[0, levels)`, `(B - 1, draws, steps, C, H, W)`, int64, on the CPU.

    Raises:
        UserError: There is no next image, or the model is not conditioned on features.
    """
    features, ways = features_of(model), len(context) - 1
    if ways < 1:
        raise UserError("To interpolate takes two images at least: give another one.")
    rows = torch.arange(ways).repeat_interleave(draws)
    a, b = context[rows], context[rows + 1]
    columns = []
    for done, t in enumerate(torch.linspace(0, 1, steps).tolist(), 1):
        here = replace(a, **{features.part: between(features, a, b, t)})
        if a.classes is not None and b.classes is not None:
            here = replace(here, classes=torch.lerp(a.classes, b.classes, t))
        columns.append(model.sample(len(rows), here, **how))
        if progress is not None:
            progress(done / steps)
    return torch.unflatten(torch.stack(columns, 1), 0, (ways, draws))


def between(features: Features, a: Context, b: Context, t: float) -> Tensor:
    """Goes from one image's features to another's, see `Features.between`."""
    begin, end = getattr(a, features.part), getattr(b, features.part)
    return features.between(begin, end, t)


class Kept(NamedTuple):
    """How much a layer says of images, by how many bits they take once it is known.

    Attributes:
        layer: What the model is conditioned on, see `layer_of`.
        numbers: How many numbers the layer has; 0 without one.
        score: The score of images under the model that is given these numbers.
    """

    layer: str
    numbers: int
    score: Score

    @classmethod
    def by(cls, model: AutoregressiveModel, images: Images, **how: Any) -> Kept:
        """Scores images by a model, see `evaluate` (also for how)."""
        numbers = math.prod(features_of(model).shape) if model.role == "vary" else 0
        return cls(layer_of(model), numbers, evaluate(model, images, **how))


def layer_of(model: AutoregressiveModel) -> str:
    """Names the layer that a model is conditioned on; without one "class" or "nothing"."""
    if model.role == "vary":
        return features_of(model).layer
    return "class" if model.classes else "nothing"


def same_classifier(models: Sequence[AutoregressiveModel]) -> list[AutoregressiveModel]:
    """Sorts models by what they are conditioned on: nothing, the class, the first layer, ...

    Raises:
        UserError: They are conditioned on layers of different classifiers, or two on the same
            layer, or none on a layer.
    """
    found = [features_of(model) for model in models if model.role == "vary"]
    if not found:
        raise UserError(
            "None of these models is conditioned on a classifier's layer: train --features."
        )
    first = found[0].classifier
    weights = first.state_dict()
    for features in found[1:]:
        its = features.classifier.state_dict()
        if not all(torch.equal(its[name], weights[name]) for name in weights):
            raise UserError(
                "The models are conditioned on layers of different classifiers "
                f"({found[0].layer} and {features.layer}): train them with the same --features."
            )
    order = ["nothing", "class", *first.layers]
    names = [layer_of(model) for model in models]
    if len(set(names)) < len(names):
        raise UserError(f"Give models of different layers: these are {', '.join(names)}.")
    return sorted(models, key=lambda model: order.index(layer_of(model)))


def side_by_side(columns: Mapping[str, Tensor], levels: int) -> Image.Image:
    """Lays out a row an image: its original beside what was drawn of it.

    Args:
        columns: Caption -> images `(B, C, H, W)`, or several draws of each `(draws, B, C, H, W)`,
            whose captions are numbered.
        levels: Number of levels.
    """
    stacks: dict[str, Tensor] = {}
    for caption, x in columns.items():
        if x.ndim == 4:
            stacks[caption] = x
        else:
            stacks |= {f"{caption} {number}": one for number, one in enumerate(x, 1)}
    return pictures.side_by_side(stacks, levels)


def ways(x: Tensor, drawn: Tensor, levels: int) -> Image.Image:
    """Lays out a row a way: an image, what was drawn on the way from it to the next, the next.

    Args:
        x: The images, `(B, C, H, W)`.
        drawn: From `interpolate`, `(B - 1, draws, steps, C, H, W)`.
        levels: Number of levels.
    """
    count, draws, steps = drawn.shape[:3]
    begin, end = (
        part[:, None, None].expand(count, draws, 1, *x.shape[1:]) for part in (x[:-1], x[1:])
    )
    rows = torch.cat([begin, drawn, end], 2)
    labels = [f"{t:.2f}" for t in torch.linspace(0, 1, steps).tolist()]
    return pictures.grid(
        rows.flatten(0, 2), levels, columns=steps + 2, column_labels=["from", *labels, "to"]
    )
