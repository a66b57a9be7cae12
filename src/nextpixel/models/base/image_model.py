"""The abstract model of images, which can be trained, scored and sampled from."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel.conditioning.conditioner import Conditioner, load_conditioner
from nextpixel.context import Context, ContextLike, ContextPart, ContextSpec
from nextpixel.data import DataRecord, Dataset, Images
from nextpixel.data.classes import translate_ids
from nextpixel.data.pictures import ImagesLike, to_model_images
from nextpixel.errors import UserError
from nextpixel.model_folders import find, recorded_classes
from nextpixel.orders import check_orders, turn
from nextpixel.sampling.config import CommonOptions
from nextpixel.saving import Model, arguments_of, check_images, find_kind, read_kind
from nextpixel.utils.devices import find_device
from nextpixel.utils.inference import evaluation_mode

__all__ = ["Conditioning", "ImageModel", "find_class", "in_orders", "load", "read_model"]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The context of a batch of images, and the pixels that are known.

    Attributes:
        context: The context of each image, or None.
        mask: True at known pixels, which do not count in the score, `(B, 1, H, W)`, or None.
    """

    context: Context | None = None
    mask: Tensor | None = None

    def __getitem__(self, images: Any) -> Conditioning:
        """Picks out images: a slice or indices."""
        context = None if self.context is None else self.context[images]
        return Conditioning(context, None if self.mask is None else self.mask[images])


def in_orders(
    x: Tensor, conditioning: Conditioning, order: NDArray[np.int64], orders: int
) -> tuple[Tensor, Conditioning]:
    """Turns each image of a batch to its own order, and tells its context.

    Args:
        x: The images, integers `(B, C, H, W)`.
        conditioning: Their conditioning, with a context.
        order: The order of each, `(B,)`.
        orders: The number of orders of the model.
    """
    context, mask = cast(Context, conditioning.context), conditioning.mask

    def each_turned(maps: Tensor) -> Tensor:
        return torch.stack([turn(one, k) for one, k in zip(maps, order.tolist(), strict=True)])

    context = context.in_order(torch.from_numpy(order), orders)
    return each_turned(x), Conditioning(context, None if mask is None else each_turned(mask))


class ImageModel(Model):
    """A model of images, which can be trained, scored and sampled from.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes that the model is conditioned on, or None.
        vector: Length of the vector that it is conditioned on, or None.
        image: `(Cc, Hc, Wc)` of the image that it is conditioned on, or None.
        orders: Number of orders of the pixels that it learns, see `nextpixel.orders`.
        hyperparameters: The other arguments of the subclass.

    Attributes:
        paper: Title, authors and year of the model's paper.
        context_spec: The contexts that it is conditioned on.
        scores: A description of the score.
        conditioner: Computes the vector or the image of the context for each image of a data set:
            a restoration task, a classifier's features, coarse codes. Set it before training; it
            is saved with the model, its weights included.
        data_record: Facts about the training data that are saved with the model; set by training.
        is_likelihood: Whether the score is log p(x | c) itself, not a bound or a part of it.
        has_importance_bound: Whether it has `importance_bound`, a tighter bound than its score.
        fits_codes: Whether it can be a prior over the codes of a VQ-VAE.
        fixed_size: Why its weights do not apply to images of another size; "" if they do, unless
            the shape of one of them says otherwise.
    """

    noun = "a model of images"
    paper = ""
    scores = "log p(x | c)"
    is_likelihood = False
    has_importance_bound = False
    fits_codes = False
    fixed_size = ""
    conditioner: Conditioner | None

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int,
        classes: int | None = None,
        vector: int | None = None,
        image: tuple[int, int, int] | None = None,
        orders: int = 1,
        **hyperparameters: Any,
    ) -> None:
        image = None if image is None else cast("tuple[int, int, int]", tuple(image))
        spec = ContextSpec(classes, vector, image, orders)
        for name, size in (("classes", classes), ("vector", vector), ("image", image)):
            if size is not None or name in arguments_of(type(self)):
                hyperparameters[name] = size
        if orders != 1 or "orders" in arguments_of(type(self)):
            hyperparameters["orders"] = orders
        super().__init__(shape=shape, levels=levels, **hyperparameters)
        if len(shape) != 3 or min(shape) < 1:
            raise UserError(f"shape is (channels, height, width), not {tuple(shape)}.")
        if levels < 2:
            raise UserError(f"A pixel has at least 2 levels, not {levels}.")
        if classes is not None and classes < 1:
            raise UserError(f"A conditional model has at least 1 class, not {classes}.")
        if vector is not None and vector < 1:
            raise UserError(f"A context vector has at least 1 number, not {vector}.")
        if image is not None and (len(image) != 3 or min(image) < 1):
            raise UserError(f"A context image has (channels, height, width), not {image}.")
        check_orders(orders, shape)
        if orders > 1 and image is not None:
            raise UserError("A context image has one order: leave orders or image out.")
        self.context_spec = spec
        self.conditioner = None
        self.data_record = DataRecord()
        channels, height, width = shape
        self.shape, self.levels, self.classes = (channels, height, width), levels, classes
        self.orders = orders

    @property
    def role(self) -> str:
        """The purpose of the model: "sample", "restore", "vary", "reconstruct" or "prior".

        It decides which previews training shows, and which commands accept the model.
        """
        if self.conditioner is not None:
            return self.conditioner.role
        return "sample" if self.data_record.codes_of is None else "prior"

    def context(self, c: ContextLike, batch: int) -> Context | None:
        """Turns a context given by a user into one row per image, see `ContextSpec.read`."""
        context = self.context_spec.read(c, batch, self.data_record.class_names)
        return None if context is None else context.to(self.device)

    def inputs(
        self,
        images: Images,
        numbers: NDArray[np.integer[Any]],
        seed: int = 0,
        draw: tuple[int, int] = (0, 0),
    ) -> tuple[Tensor, Conditioning]:
        """Reads images of a data set and computes their conditioning.

        Their class ids are translated to the model's, by the names of the classes.

        Args:
            images: A split of the data set.
            numbers: The indices of the images, `(B,)`.
            seed: Together with an image's number decides what is random in its conditioning, such
                as the place of a hole; training uses another seed in each step.
            draw: The key of the noise in the images themselves, see `Images.batch`.

        Returns:
            The images, integers `(B, C, H, W)` on the CPU, and their conditioning on the model's
            device. Padding counts as known.

        Raises:
            UserError: The model needs something that the images do not have, or has no class of the
                name of theirs.
        """
        pixels, ids = images.batch(numbers, draw)
        if self.classes is not None and ids is not None:
            ids = translate_ids(ids, images.class_names, self.data_record.class_names)
        x, y = torch.from_numpy(pixels), None if ids is None else torch.from_numpy(ids)
        coarse_codes = None
        if images.coarse_codes is not None:
            coarse_codes = torch.from_numpy(images.coarse_codes.batch(numbers)[0])[:, 0].long()
        conditioning = self.conditioning(x, y, numbers.tolist(), seed, coarse_codes)
        padding, mask = self.padding(images, numbers), conditioning.mask
        if padding is not None:
            mask = padding if mask is None else mask | padding
        return x, Conditioning(conditioning.context, mask)

    def conditioning(
        self,
        x: Tensor,
        y: Tensor | None,
        numbers: Sequence[int],
        seed: int = 0,
        coarse_codes: Tensor | None = None,
    ) -> Conditioning:
        """Computes the conditioning of images, for training and for scores.

        Override it for a context that is neither a class nor computed by the conditioner.

        Args:
            x: The images, integers `(B, C, H, W)`.
            y: Their class ids `(B,)`, or None.
            numbers: Their indices in the data set.
            seed: Not negative; see `inputs`.
            coarse_codes: Integers `(B, h, w)` where the data set has them, else None.

        Raises:
            UserError: The model needs another context, or a class where y is None.
        """
        parts: dict[str, ContextPart | None] = {"classes": y} if self.classes else {}
        mask = None
        if self.conditioner is not None:
            part, mask = self.conditioner.condition(x, self.levels, numbers, seed, coarse_codes)
            parts[self.conditioner.part] = part
        mask = None if mask is None else mask.to(self.device)
        return Conditioning(self.context(parts or None, len(x)), mask)

    def padding(self, images: Images, numbers: NDArray[np.integer[Any]]) -> Tensor | None:
        """Returns the mask of padding, `(B, 1, H, W)` on the model's device; None without any."""
        padding = images.padding(numbers)
        return None if padding is None else torch.tensor(padding, device=self.device)

    def check_dataset(self, data: Dataset) -> None:
        """Checks that the model can be trained or scored on a data set.

        Raises:
            UserError: Its shape, levels, classes, coarse codes or codebook do not fit the model, or
                the conditioner cannot compute the model's context for its images.
        """
        if data.shape != self.shape or data.levels != self.levels:
            raise UserError(
                f"The model is for images {self.shape} with {self.levels} levels, but {data.name} "
                f"has {data.shape} with {data.levels}: give other data, or a model made with "
                f"shape={data.shape}, levels={data.levels}."
            )
        if self.classes is not None:
            self.check_classes(data)
        if data.coarse_codes is not None and self.context_spec.image != data.coarse_codes:
            raise UserError(
                f"{data.name} has coarse codes for each image, but the model is not conditioned on "
                f"them: make it with image={data.coarse_codes}."
            )
        if self.conditioner is not None:
            self.check_conditioner(self.conditioner, data)
        codes_of = self.data_record.codes_of
        if codes_of not in (None, data.codes_of):
            raise UserError(
                f"The model is a prior over codes, and {data.name} is not of the same codebook: "
                "was the VQ-VAE trained further? Train the prior again, on --data codes:RUN."
            )

    def check_classes(self, data: Dataset) -> None:
        """Checks that a data set has classes, and all of them are the model's, by their names.

        Raises:
            UserError: They are not. Where names are unknown, the numbers of classes are compared.
        """
        if data.class_names is None:
            raise UserError(
                f"The model needs the class of each image, but {data.name} has no classes: put the "
                "images into a folder for each class, name one by --class where there is such an "
                "option, or score them by nextpixel score, which needs none."
            )
        known = self.data_record.class_names
        if known is not None:
            data.with_class_names(known)
        elif data.classes != self.classes:
            raise UserError(
                f"The model has {self.classes} classes, but {data.name} has {data.classes}: give "
                f"other data, or a model made with classes={data.classes}."
            )

    def check_conditioner(self, conditioner: Conditioner, data: Dataset) -> None:
        """Checks that a conditioner computes the context that the model takes.

        Raises:
            UserError: It does not.
        """
        if not isinstance(conditioner, Conditioner):  # a user's own network may have the name
            raise UserError(
                f"{type(self).__name__}.conditioner is what computes the context of images: give "
                f"your {type(conditioner).__name__} another name."
            )
        part, size = conditioner.part, conditioner.context_size(data)
        if getattr(self.context_spec, part) != size:
            raise UserError(
                f"The model is conditioned on {conditioner.in_words()}: make it with {part}={size}."
            )

    def resized(self, shape: tuple[int, int, int]) -> Self:
        """Makes a model with the same weights for images of another height and width.

        Args:
            shape: `(C, H, W)` of an image; the channels stay.

        Raises:
            UserError: Its weights belong to places in images of one size.
        """
        old, new = self.state_dict(), " x ".join(map(str, shape[1:]))
        refused = f"{type(self).__name__} cannot be used on images of {new}:"
        if len(shape) != 3 or shape[0] != self.shape[0]:
            raise UserError(f"shape is ({self.shape[0]}, height, width), not {tuple(shape)}.")
        if tuple(shape) == self.shape:
            return self
        if self.fixed_size:
            raise UserError(f"{refused} {self.fixed_size}.")
        if self.orders == 8 and shape[1] != shape[2]:
            raise UserError(f"{refused} its eight orders need as many rows as columns.")
        if self.conditioner is not None or self.context_spec.image is not None:
            raise UserError(f"{refused} it is given an image or its features, of one size.")
        model = type(self)(**{**self.hyperparameters, "shape": tuple(shape)})
        for name, weight in model.state_dict().items():
            if name not in old or old[name].shape != weight.shape:
                raise UserError(f"{refused} its weights {name} belong to places of an image.")
        model.load_state_dict(old)
        model.data_record = self.data_record
        return model.to(self.device).train(self.training)

    def extra_config(self) -> dict[str, Any]:
        """Returns the entries of the conditioner and the data record for `config.json`."""
        entries = self.data_record.settings()
        if self.conditioner is None:
            return entries
        return {self.conditioner.kind: self.conditioner.settings(), **entries}

    def load_extra_config(self, config: dict[str, Any]) -> None:
        """Restores the conditioner and the data record from `config.json`.

        Raises:
            ValueError: The record has other classes than the model.
        """
        self.conditioner = load_conditioner(config)
        self.data_record = record = DataRecord.from_settings(config)
        if self.classes is None:
            return
        if record.class_names is not None and len(record.class_names) != self.classes:
            raise ValueError(f"{len(record.class_names)} class_names for {self.classes} classes")
        if not set(record.untrained) < set(range(self.classes)):
            raise ValueError("untrained_classes are some of the classes")

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Copies weights into the model, see `torch.nn.Module.load_state_dict`.

        Before 0.2 the weights of a conditioner were saved as `features.*`; now they are
        `conditioner.*`.
        """
        names = self.state_dict().keys()
        renamed = {
            name if name in names else re.sub(r"^features\.", "conditioner.", name): weight
            for name, weight in state_dict.items()
        }
        return super().load_state_dict(renamed, strict, assign)

    def to_images(self, pictures: ImagesLike) -> Tensor:
        """Turns pictures into images of this model, on its device; see `nextpixel.to_images`.

        Pictures of another size are cropped to their central square and resized, with a warning.

        Raises:
            UserError: They do not fit the model.
        """
        return to_model_images(pictures, self.shape, self.levels).to(self.device)

    def of_pictures(self, method: str, pictures: ImagesLike, *arguments: Any) -> Tensor:
        """Computes something of pictures, in evaluation mode.

        Args:
            method: The name of a method that takes images.
            pictures: The pictures, see `to_images`.
            arguments: Its other arguments.

        Returns:
            The result, without a graph, on the CPU.
        """
        with torch.no_grad(), evaluation_mode(self) as network:
            result: Tensor = getattr(network, method)(self.to_images(pictures), *arguments)
            return result.cpu()

    @abstractmethod
    def score(self, x: Tensor, c: ContextLike = None, mask: Tensor | None = None) -> Tensor:
        """Computes the score of images in nats, the number that is reported for a model.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`.
            c: The context, see `context`.
            mask: True at known pixels, which do not count, broadcastable to x.

        Returns:
            log p(x | c), or the model's substitute for it, which `scores` describes, `(B,)`.
        """

    def objective(self, x: Tensor, c: ContextLike = None, mask: Tensor | None = None) -> Tensor:
        """Computes the objective that training maximises, by default the score, `(B,)`."""
        return self.score(x, c, mask)

    @abstractmethod
    def sample(self, n: int = 1, c: ContextLike = None, **how: Unpack[CommonOptions]) -> Tensor:
        """Samples n images, integers `(n, C, H, W)`; a model may take more options than these."""

    def after_step(
        self,
        parts: Sequence[tuple[Tensor, Tensor | None]],
        gather: Callable[[Tensor], Tensor],
        seed: int,
    ) -> None:
        """Updates what is not trained by gradients, such as a codebook: by default nothing.

        It is called without gradients after each step of the optimizer, and must compute the same
        on all ranks.

        Args:
            parts: The images of this rank's batch, integers `(B, C, H, W)` in one part or more,
                each with the mask of its known pixels, see `score`.
            gather: Stacks a tensor over the ranks, in their order.
            seed: Decides what is random; the same on all ranks.
        """

    def diagnose(self, x: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """Computes further numbers to log at a validation, by name: by default none.

        Args:
            x: A sample of validation images, integers `(B, C, H, W)`.
            mask: True at known pixels, see `score`.
        """
        return {}

    def check(self, x: Tensor) -> None:
        """Checks that x holds images of this model's shape and levels.

        Raises:
            UserError: Its type, shape or range is wrong, or it is on another device.
        """
        if x.device != self.device:
            raise UserError(f"The images are on {x.device}, the model is on {self.device}.")
        check_images(x, self.shape, self.levels)


def load(
    name: str | Path,
    *,
    shape: tuple[int, int, int] | None = None,
    device: str | torch.device = "cpu",
    trust: bool = False,
) -> ImageModel:
    """Loads a model: a pretrained one by name, the best one of a run, or any saved folder.

    Args:
        name: The name of a pretrained model, a run folder, or a folder with a `config.json`.
        shape: `(C, H, W)` for images of another height and width, with the same weights: a network
            whose layers do the same everywhere draws textures, and scores, completes and compresses
            images of any size.
        device: The device for the weights, as "cpu", "cuda", "cuda:N" or "auto".
        trust: Whether to load a model that is not nextpixel's own, by importing the module that its
            `config.json` names. Set it only for a folder whose code you would run.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: There is no such model or device, it is damaged, it is not trusted, or its
            weights belong to places in images of its own size.
    """
    found = find_device(device)
    model = read_model(find(name), trust=trust)
    if shape is not None:
        model = model.resized(shape)
    return model.to(found).eval()


def read_model(folder: Path, *, trust: bool = False) -> ImageModel:
    """Reads a saved model of images from its folder, see `read_kind`."""
    # A subclass is made, not the abstract class.
    model = read_kind(folder, ImageModel, trust=trust)  # type: ignore[type-abstract]
    if model.classes is not None and model.data_record.class_names is None:
        names = recorded_classes(folder, model.classes)
        model.data_record = replace(model.data_record, class_names=names)
    return model


def find_class(name: str) -> type[ImageModel]:
    """Finds the class of a model of images by its name or dotted path, see `model_name`."""
    return find_kind(name, ImageModel)  # type: ignore[type-abstract]  # a subclass is found
