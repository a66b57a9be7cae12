"""Frozen classifier features as conditioning.

Example:
    >>> features = Features(load_classifier("runs/classifier"), "embedding")
    >>> model = GatedPixelCNN(shape=(1, 28, 28), vector=64, width=32, blocks=5, kernel_size=3)
    >>> model.conditioner = features
    >>> npx.fit(model, "mnist", out="runs/mine")
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from nextpixel.conditioning.classifier import Classifier
from nextpixel.errors import UserError
from nextpixel.utils.inference import evaluation_mode

if TYPE_CHECKING:
    from nextpixel.data import Dataset

__all__ = ["Features"]


class Features(nn.Module):
    """Creates a conditioner that computes the features of a classifier's layer.

    It holds a frozen copy of the classifier: always in evaluation mode, without gradients. The copy
    is saved with the model, so that the model needs no other folder.

    Args:
        classifier: A trained classifier of images like those of the model.
        layer: One of its layers.

    Attributes:
        shape: The shape of the features of an image: `(C, H, W)`, or `(D,)` of a dense layer.
        part: The part of the context that it computes: "image", or "vector" for a dense layer.

    Raises:
        UserError: There is no such layer.

    References:
        van den Oord et al.: Conditional Image Generation with PixelCNN Decoders, 2016, section 3.3
        (https://arxiv.org/abs/1606.05328): portraits by the embedding of a face.
    """

    kind: ClassVar[str] = "features"
    role: ClassVar[str] = "vary"
    advice: ClassVar[str] = "use nextpixel vary, or nextpixel eval"

    def __init__(self, classifier: Classifier, layer: str) -> None:
        super().__init__()
        self.shape = classifier.layer_shape(layer)
        self.layer = layer
        self.part: Literal["vector", "image"] = "vector" if len(self.shape) == 1 else "image"
        self.classifier = copy.deepcopy(classifier).eval().requires_grad_(False)

    def check(self, shape: tuple[int, int, int], levels: int) -> None:
        """Checks that the classifier takes images of a shape and a number of levels.

        Raises:
            UserError: It does not.
        """
        classifier = self.classifier
        if classifier.shape != shape or classifier.levels != levels:
            raise UserError(
                f"The classifier is for images {classifier.shape} with {classifier.levels} levels, "
                f"but the model's are {shape} with {levels}: train one on images like these."
            )

    def train(self, mode: bool = True) -> Features:
        """Stays in evaluation mode, whatever the model around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Computes the features of images, integers `(B, C, H, W)` -> `(B, *shape)`."""
        with evaluation_mode(self.classifier) as classifier:
            return classifier.features(x.to(classifier.device), self.layer)

    def between(self, a: Tensor, b: Tensor, t: float) -> Tensor:
        """Interpolates between the features of two images.

        Args:
            a: The features at t = 0, `(B, *shape)`.
            b: The features at t = 1, the same shape.
            t: A number from 0 to 1.

        Returns:
            The interpolated features: spherically for embeddings, which lie on a sphere, else
            linearly.
        """
        if self.layer != "embedding":
            return torch.lerp(a, b, t)
        cosine = torch.cosine_similarity(a.double(), b.double(), dim=1)[:, None]
        # Equal embeddings get the limit; between opposite ones every great circle is as good.
        angle = cosine.clamp(-1, 1).acos().clamp(1e-4, math.pi - 1e-4)
        mixed = a * ((1 - t) * angle).sin() + b * (t * angle).sin()
        return (mixed / angle.sin()).to(a.dtype)

    def context_size(self, data: Dataset) -> int | tuple[int, int, int]:
        """Returns the length of the context's vector, or the shape of its image.

        Raises:
            UserError: The classifier does not take these images.
        """
        self.check(data.shape, data.levels)
        return self.shape[0] if self.part == "vector" else cast("tuple[int, int, int]", self.shape)

    def condition(
        self,
        x: Tensor,
        levels: int,
        numbers: Sequence[int],
        seed: int,
        coarse_codes: Tensor | None,
    ) -> tuple[Tensor, None]:
        """Computes the features of images, see `Conditioner.condition`."""
        return self(x), None

    def in_words(self) -> str:
        """Describes the context in a few words."""
        return f"a classifier's features of the image ({self.layer})"

    def settings(self) -> dict[str, Any]:
        """Returns its arguments, see `Conditioner.settings`."""
        return {"layer": self.layer, "classifier": self.classifier.hyperparameters}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Features:
        """Makes a conditioner from its `settings`, with random weights."""
        return cls(Classifier(**settings["classifier"]), settings["layer"])
