"""A small classifier; its features serve as conditioning, and to measure sample quality.

Example:
    >>> digits = npx.load_data("mnist")
    >>> classifier = Classifier(shape=digits.shape, levels=digits.levels, classes=digits.classes)
    >>> fit_classifier(classifier, digits, out="runs/classifier")
    >>> classifier.accuracy(digits.test)
    >>> embeddings = load_classifier("runs/classifier").features(x, "embedding")  # (B, 64)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.data import Dataset, Images, batch_indices
from nextpixel.data.sampler import batches
from nextpixel.errors import UserError
from nextpixel.model_folders import find, recorded_classes
from nextpixel.saving import Model, check_images, read_kind
from nextpixel.utils.devices import find_device
from nextpixel.utils.inference import evaluation_mode

__all__ = ["Classifier", "fit_classifier", "load_classifier"]


class Stage(nn.Module):
    """Creates a 3x3 convolution of stride 2, normalised over each image, and a ReLU.

    The normalisation keeps outputs of unit scale, and does not depend on the batch.

    Shape:
        `(B, channels, H, W)` -> `(B, width, ceil(H / 2), ceil(W / 2))`.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, width)

    def forward(self, h: Tensor) -> Tensor:
        """Computes the stage."""
        return F.relu(self.norm(self.conv(h)))


class Embedding(nn.Module):
    """Creates the dense layer that embeds an image as a vector of norm `sqrt(size)`.

    With a constant norm only the direction carries information, embeddings can be interpolated on
    the sphere, and their entries have unit scale.

    Shape:
        `(B, ...)` -> `(B, size)`.
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, size)

    def forward(self, h: Tensor) -> Tensor:
        """Computes the embedding."""
        vector = self.linear(h.flatten(1))
        return F.normalize(vector) * math.sqrt(vector.shape[1])


class Classifier(Model):
    """Creates a small convolutional classifier of images.

    Its layers are `conv1`, `conv2` and `conv3`, each of half the resolution of the previous one;
    `embedding`, a vector of constant norm; and `logits`, linear in the embedding.

    Args:
        shape: `(C, H, W)` of an image, 8x8 or more.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes, 2 or more.
        width: Channels of `conv1`; the next ones have twice and four times as many.
        embedding: Length of the embedding.

    Attributes:
        class_names: The name of each class id, or None if they are not known; set by training.

    Raises:
        UserError: An argument is out of range.
    """

    noun = "a classifier"

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int,
        classes: int,
        width: int = 32,
        embedding: int = 64,
    ) -> None:
        super().__init__(
            shape=shape, levels=levels, classes=classes, width=width, embedding=embedding
        )
        channels, height, width_of_image = shape
        if channels < 1 or min(height, width_of_image) < 8:
            raise UserError(f"A classifier takes images (C, H, W) of 8x8 or more, not {shape}.")
        if min(levels, classes) < 2 or min(width, embedding) < 1:
            raise UserError(
                "A classifier needs 2 levels, 2 classes, a width and an embedding of 1 at least, "
                f"not {levels}, {classes}, {width} and {embedding}."
            )
        self.shape, self.levels, self.classes = (channels, height, width_of_image), levels, classes
        self.class_names: tuple[str, ...] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        stages: dict[str, nn.Module] = {}
        for number in range(3):
            out = width * 2**number
            stages[f"conv{number + 1}"] = Stage(channels, out)
            channels, height, width_of_image = out, -(-height // 2), -(-width_of_image // 2)
            self.shapes[f"conv{number + 1}"] = (channels, height, width_of_image)
        stages["embedding"] = Embedding(channels * height * width_of_image, embedding)
        stages["logits"] = nn.Linear(embedding, classes)
        self.shapes |= {"embedding": (embedding,), "logits": (classes,)}
        self.stages = nn.ModuleDict(stages)

    def extra_config(self) -> dict[str, Any]:
        """Returns the names of the classes for `config.json`, if they are known."""
        return {} if self.class_names is None else {"class_names": self.class_names}

    def load_extra_config(self, config: dict[str, Any]) -> None:
        """Restores the names of the classes from `config.json`."""
        names = config.get("class_names")
        self.class_names = None if names is None else tuple(names)

    @property
    def layers(self) -> list[str]:
        """The names of the layers, from the image to the classes."""
        return list(self.shapes)

    def layer_shape(self, layer: str) -> tuple[int, ...]:
        """Returns the shape of a layer's features of an image: `(C, H, W)`, or `(D,)` if dense.

        Raises:
            UserError: There is no such layer.
        """
        if layer not in self.shapes:
            raise UserError(
                f"The classifier has no layer {layer}: its layers are {', '.join(self.layers)}."
            )
        return self.shapes[layer]

    def encode(self, x: Tensor) -> Tensor:
        """Scales integers to [-1, 1]: the only place where pixels become floats."""
        return x.to(self.dtype) * (2 / (self.levels - 1)) - 1

    def features(self, x: Tensor, layer: str) -> Tensor:
        """Computes the features of images at a layer.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`.
            layer: One of `layers`.

        Returns:
            `(B, *layer_shape(layer))`. They do not depend on the other images of the batch.

        Raises:
            UserError: The images do not fit the classifier, or there is no such layer.
        """
        self.layer_shape(layer)
        check_images(x, self.shape, self.levels)
        h = self.encode(x)
        for name in self.layers[: self.layers.index(layer) + 1]:
            h = self.stages[name](h)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Computes the logits of the classes, `(B, classes)`, from integers `(B, C, H, W)`."""
        return self.features(x, "logits")

    @torch.inference_mode()
    def accuracy(self, images: Images, *, batch_size: int = 500) -> float:
        """Computes the fraction of the images whose true class has the largest logit.

        Raises:
            UserError: The images have no classes, or others than the classifier, or there are none.
        """
        images = images.with_class_names(self.class_names)
        if images.y is None or not len(images):
            raise UserError("Accuracy needs images with classes: give a data set that has them.")
        correct = 0
        for numbers in batches(len(images), batch_size):
            x, y = images.batch(numbers)
            with evaluation_mode(self) as network:
                guess = network(torch.from_numpy(x).to(self.device)).argmax(1)
            correct += int((guess.cpu() == torch.as_tensor(y)).sum())
        return correct / len(images)


def load_classifier(name: str | Path, *, device: str | torch.device = "cpu") -> Classifier:
    """Loads a classifier: a pretrained one by name, or one from its folder.

    Raises:
        UserError: There is no such model, it is damaged, or it is no classifier.
    """
    found = find_device(device)
    folder = find(name)
    classifier = read_kind(folder, Classifier)
    if classifier.class_names is None:
        classifier.class_names = recorded_classes(folder, classifier.classes)
    return classifier.to(found).eval()


def fit_classifier(
    classifier: Classifier,
    data: Dataset,
    *,
    out: str | Path,
    steps: int = 2000,
    batch_size: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> list[float]:
    """Trains a classifier by cross entropy (AdamW, cosine schedule), and saves it to a folder.

    Args:
        classifier: The classifier; trained in place, and in evaluation mode afterwards.
        data: Images with classes; only the training split is used.
        out: The folder.
        steps: Number of optimizer steps.
        batch_size: Images per step.
        lr: Learning rate of the first step; it falls to 0.
        seed: Decides the order of the images.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The loss of each step, in nats per image.

    Raises:
        UserError: The data do not fit the classifier, or the folder holds a model already.
    """
    expected = (classifier.shape, classifier.levels, classifier.classes)
    if expected != (data.shape, data.levels, data.classes):
        raise UserError(
            "The classifier is for images {} with {} levels and {} classes".format(*expected)
            + f", but {data.name} has {data.shape}, {data.levels} and {data.classes or 'none'}."
        )
    if (Path(out) / "config.json").exists():
        raise UserError(f"{out} already holds a model: name another folder.")
    classifier.class_names = data.train.class_names
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    classifier.train()
    losses = []
    for step in range(steps):
        indices = batch_indices(len(data.train), batch_size, step, seed=seed)
        x, y = data.train.batch(indices, (seed, step))
        logits = classifier(torch.from_numpy(x).to(classifier.device))
        loss = F.cross_entropy(logits, torch.as_tensor(y, device=classifier.device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # of torch
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if progress is not None:
            progress((step + 1) / steps)
    classifier.eval().save(out)
    return losses
