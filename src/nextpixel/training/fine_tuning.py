"""Starts a model from the weights of another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nextpixel.errors import UserError
from nextpixel.models.base.image_model import ImageModel

__all__ = ["copy_weights"]

BY_CLASS = "condition.weight"  # one row for each class
CONTEXT = "condition."  # begins the names of the weights that read the context


@torch.no_grad()
def copy_weights(
    model: ImageModel, source: ImageModel, class_names: Sequence[str] | None = None
) -> list[str]:
    """Copies all weights of a model that fit, to train on from there.

    Weights of another shape keep their initial values. If both models have names of classes, a
    class takes over the weights of the class of its name, whatever the ids.

    Args:
        model: The model to train; changed in place.
        source: The model to start from, of the same kind.
        class_names: The names of the model's classes; None if they have only ids.

    Returns:
        What keeps its initial values: the names of weights, and of classes as "class cat".

    Raises:
        UserError: The models differ in channels or kind, or fewer than half of the weights fit,
            without those that read the context.
    """
    if type(model) is not type(source) or model.shape[0] != source.shape[0]:
        raise UserError(
            f"A {type(model).__name__} for {model.shape[0]} channels cannot start from a "
            f"{type(source).__name__} for {source.shape[0]}: leave --from out, or name another one."
        )
    own, others = model.state_dict(), dict(source.state_dict())
    known, new_classes = source.data_record.class_names, []
    if class_names is not None and known is not None and tuple(class_names) != tuple(known):
        new_classes = [f"class {name}" for name in class_names if name not in known]
        by_class = rows_by_name(own, others, class_names, known)
        others = {k: v for k, v in others.items() if not k.startswith(CONTEXT)} | by_class
    fitting = {
        name: tensor
        for name, tensor in others.items()
        if name in own and own[name].shape == tensor.shape
    }
    # The layers that read the classes are not counted: they start anew for other classes.
    copied, total = (
        sum(tensor.numel() for name, tensor in part.items() if not name.startswith(CONTEXT))
        for part in (fitting, own)
    )
    if copied < 0.5 * total:
        raise UserError(
            f"Fewer than half of the weights of the {type(source).__name__} to start from fit this "
            f"one: both need the same arguments, and shapes such as {source.shape}."
        )
    model.load_state_dict(own | fitting)
    return [name for name in own if name not in fitting] + new_classes


def rows_by_name(
    own: dict[str, Tensor], others: dict[str, Tensor], names: Sequence[str], known: Sequence[str]
) -> dict[str, Tensor]:
    """Returns the weights of classes, with the rows of those that the other model knows."""
    if BY_CLASS not in own or own[BY_CLASS].shape[1:] != others[BY_CLASS].shape[1:]:
        return {}
    rows = own[BY_CLASS].clone()
    for i, name in enumerate(names):
        if name in known:
            rows[i] = others[BY_CLASS][known.index(name)]
    return {BY_CLASS: rows}
