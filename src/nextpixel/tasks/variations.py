"""Samples variations: images given the classifier features of another image.

Samples given the same features show the information in a layer: what they share is in the features,
and what varies is not.

Example:
    >>> model = npx.load("runs/mine")  # trained with --features
    >>> context = model.conditioning(x, None, range(len(x))).context
    >>> draws = vary(model, context, draws=8)  # (8, B, C, H, W)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Unpack, cast

import torch
from PIL import Image
from torch import Tensor

from nextpixel.conditioning.features import Features
from nextpixel.context import Context
from nextpixel.data import Images
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import Score, evaluate
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.sampling.config import CompleteOptions
from nextpixel.sampling.loop import repeat_draws
from nextpixel.viz import images as pictures

__all__ = [
    "LayerScore",
    "draw_interpolations",
    "get_features",
    "interpolate",
    "order_by_layer",
    "side_by_side",
    "vary",
]


def get_features(model: AutoregressiveModel) -> Features:
    """Returns the features that a model is conditioned on.

    Raises:
        UserError: The model is not conditioned on features.
    """
    if model.role != "vary":
        raise UserError(
            "This model is not conditioned on a classifier's features: train one with --features "
            "to draw variations."
        )
    return cast(Features, model.conditioner)


def vary(
    model: AutoregressiveModel,
    context: Context,
    *,
    draws: int = 4,
    **options: Unpack[CompleteOptions],
) -> Tensor:
    """Samples images given the contexts of other images.

    Args:
        model: The model.
        context: The context of B images, see `ImageModel.conditioning`.
        draws: Number of samples for each image.
        options: Other arguments of `sampling.sample`.

    Returns:
        Integers in `[0, levels)`, `(draws, B, C, H, W)`, int64, on the CPU.
    """

    def sample(numbers: Tensor) -> Tensor:
        return model.sample(len(numbers), context[numbers], **options)

    return repeat_draws(sample, len(context), draws)


def interpolate(
    model: AutoregressiveModel,
    context: Context,
    *,
    draws: int = 1,
    steps: int = 8,
    **options: Unpack[CompleteOptions],
) -> Tensor:
    """Samples images while interpolating from each image's features to the next one's.

    Args:
        model: A model that is conditioned on features.
        context: The context of B images, at least two.
        draws: Number of rows for each pair. The noise is the same along a row, so changes are due
            to the features alone.
        steps: Number of images in a row, both ends included.
        options: Other arguments of `sampling.sample`.

    Returns:
        Integers in `[0, levels)`, `(B - 1, draws, steps, C, H, W)`, int64, on the CPU.

    Raises:
        UserError: There is only one image, or the model is not conditioned on features.
    """
    features, pairs = get_features(model), len(context) - 1
    if pairs < 1:
        raise UserError("An interpolation needs at least two images: give another one.")
    progress = options.pop("progress", None)  # of all columns, not of each
    rows = torch.arange(pairs).repeat_interleave(draws)
    a, b = context[rows], context[rows + 1]
    columns = []
    for done, t in enumerate(torch.linspace(0, 1, steps).tolist(), 1):
        columns.append(model.sample(len(rows), mix_contexts(features, a, b, t), **options))
        if progress is not None:
            progress(done / steps)
    return torch.unflatten(torch.stack(columns, 1), 0, (pairs, draws))


def mix_contexts(features: Features, a: Context, b: Context, t: float) -> Context:
    """Interpolates the features of two contexts, see `Features.between`, and their classes."""
    part = features.between(getattr(a, features.part), getattr(b, features.part), t)
    mixed = replace(a, **{features.part: part})
    if a.classes is not None and b.classes is not None:
        mixed = replace(mixed, classes=torch.lerp(a.classes, b.classes, t))
    return mixed


class LayerScore(NamedTuple):
    """The score of images given a layer's features: few bits left mean an informative layer.

    Attributes:
        layer: What the model is conditioned on, see `layer_name`.
        numbers: Number of features; 0 for a model without features.
        score: The score of the images under the model.
    """

    layer: str
    numbers: int
    score: Score

    @classmethod
    def of(
        cls,
        model: AutoregressiveModel,
        images: Images,
        *,
        limit: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> LayerScore:
        """Scores images under a model, see `evaluate`."""
        numbers = math.prod(get_features(model).shape) if model.role == "vary" else 0
        score = evaluate(model, images, limit=limit, progress=progress)
        return cls(layer_name(model), numbers, score)


def layer_name(model: AutoregressiveModel) -> str:
    """Returns the layer that a model is conditioned on, or "class" or "nothing"."""
    if model.role == "vary":
        return get_features(model).layer
    return "class" if model.classes else "nothing"


def order_by_layer(models: Sequence[AutoregressiveModel]) -> list[AutoregressiveModel]:
    """Sorts models by their conditioning: nothing, the class, then the classifier's layers.

    Raises:
        UserError: The models are conditioned on different classifiers, two on the same layer, or
            none on a layer.
    """
    features = [get_features(model) for model in models if model.role == "vary"]
    if not features:
        raise UserError(
            "None of these models is conditioned on a classifier's layer: train one with "
            "--features."
        )
    first = features[0]
    weights = first.classifier.state_dict()
    for other in features[1:]:
        other_weights = other.classifier.state_dict()
        if not all(torch.equal(other_weights[name], weights[name]) for name in weights):
            raise UserError(
                "The models are conditioned on layers of different classifiers "
                f"({first.layer} and {other.layer}): train them with the same --features."
            )
    order = ["nothing", "class", *first.classifier.layers]
    names = [layer_name(model) for model in models]
    if len(set(names)) < len(names):
        raise UserError(f"Give models of different layers: these are {', '.join(names)}.")
    return sorted(models, key=lambda model: order.index(layer_name(model)))


def side_by_side(columns: Mapping[str, Tensor], levels: int) -> Image.Image:
    """Lays out a row for each image: the original and its variations.

    Args:
        columns: Caption -> images `(B, C, H, W)`, or several samples of each,
            `(draws, B, C, H, W)`, whose captions are numbered.
        levels: Number of levels.
    """
    stacks: dict[str, Tensor] = {}
    for caption, x in columns.items():
        if x.ndim == 4:
            stacks[caption] = x
        else:
            stacks |= {f"{caption} {number}": images for number, images in enumerate(x, 1)}
    return pictures.side_by_side(stacks, levels)


def draw_interpolations(x: Tensor, samples: Tensor, levels: int) -> Image.Image:
    """Lays out interpolations, a row each, between the two images that they connect.

    Args:
        x: The images, `(B, C, H, W)`.
        samples: From `interpolate`, `(B - 1, draws, steps, C, H, W)`.
        levels: Number of levels.
    """
    pairs, draws, steps = samples.shape[:3]
    first, second = (
        part[:, None, None].expand(pairs, draws, 1, *x.shape[1:]) for part in (x[:-1], x[1:])
    )
    rows = torch.cat([first, samples, second], 2)
    labels = [f"{t:.2f}" for t in torch.linspace(0, 1, steps).tolist()]
    return pictures.grid(
        rows.flatten(0, 2), levels, columns=steps + 2, column_labels=["from", *labels, "to"]
    )
