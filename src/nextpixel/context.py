"""The context c of p(x | c): from what a user gives to the biases that the layers add."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.errors import UserError

__all__ = ["ClassBias", "class_weights"]


def class_weights(c: object, classes: int | None, batch: int) -> Tensor | None:
    """Turns what the user gave as context into class weights.

    Args:
        c: None, one class id for all images, class ids `(B,)`, or a mix of classes: real weights
            `(classes,)` for all images or `(B, classes)`.
        classes: Number of classes of the model; None for an unconditional one.
        batch: Number of images B.

    Returns:
        Weights `(B, classes)`, float32: one-hot for class ids. None without classes.

    Raises:
        UserError: The context does not fit the model.
    """
    if classes is None:
        if c is not None:
            raise UserError("This model is unconditional: it takes no class; leave c out.")
        return None
    if c is None:
        raise UserError(
            f"This model needs a class from 0 to {classes - 1} for every image: give c, an id, "
            "ids (B,) or weights (B, classes)."
        )
    given = torch.as_tensor(c)
    if given.dtype == torch.bool or given.is_complex():
        raise UserError(f"Class ids are integers and class weights reals, not {given.dtype}.")
    if given.is_floating_point():
        if given.shape not in ((classes,), (batch, classes)):
            raise UserError(
                f"Class weights are {(batch, classes)} or {(classes,)} numbers here, "
                f"not {tuple(given.shape)}."
            )
        return given.float().expand(batch, classes)
    if given.shape not in ((), (1,), (batch,)):
        raise UserError(
            f"Give one class id, or one for each of the {batch} images, not {tuple(given.shape)}."
        )
    wrong = given[(given < 0) | (given >= classes)]
    if wrong.numel():
        raise UserError(
            f"There is no class {int(wrong.flatten()[0])}: the classes are 0 to {classes - 1}."
        )
    return F.one_hot(given.long().expand(batch), classes).float()


class ClassBias(nn.Module):
    """Creates the biases that a class adds, one for every layer that asks for it.

    Args:
        classes: Number of classes, or None for an unconditional model: then there are no biases.
        channels: Channels of each layer's bias.

    References:
        van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016, equation 4
        (https://arxiv.org/abs/1606.05328): the terms V h, with h one-hot.
    """

    def __init__(self, classes: int | None, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        # Zero at first: training starts from the unconditional model.
        self.weight = nn.Parameter(torch.zeros(classes, sum(channels))) if classes else None

    def forward(self, weights: Tensor | None) -> list[Tensor | None]:
        """Computes one bias `(B, channels, 1, 1)` a layer from class weights `(B, classes)`."""
        if self.weight is None or weights is None:
            return [None] * len(self.channels)
        biases = weights.to(self.weight) @ self.weight
        return list(torch.split(biases[:, :, None, None], self.channels, 1))
