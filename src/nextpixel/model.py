"""The abstract models of images, and how they are saved and loaded."""

from __future__ import annotations

import hashlib
import importlib
import importlib.resources
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from nextpixel.context import Context, Takes
from nextpixel.errors import UserError
from nextpixel.files import replace_file
from nextpixel.restoration import Task
from nextpixel.sampling import CommonOptions
from nextpixel.sound import Spectrogram

if TYPE_CHECKING:
    from nextpixel.features import Features

__all__ = ["Given", "ImageModel", "Model", "bundles", "judges", "load", "shipped"]

FORMAT = 1  # of config.json
TRAINING = "training.yaml"  # beside config.json, what a bundle keeps of the run's configuration


class Model(nn.Module, ABC):
    """A network that can be saved to a folder and loaded from it.

    A subclass hands every argument of its `__init__` on to `Model.__init__`, which keeps them as
    `hyperparameters`; they are what JSON can hold.
    """

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__()
        expected = arguments_of(type(self))
        if set(hyperparameters) != expected:
            raise TypeError(
                f"{type(self).__name__}.__init__ takes {sorted(expected)} but handed "
                f"{sorted(hyperparameters)} on to Model.__init__: they must be the same"
            )
        self.hyperparameters: dict[str, Any] = json.loads(json.dumps(hyperparameters))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters(), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return next(self.parameters(), torch.empty(0)).dtype

    def described(self) -> dict[str, Any]:
        """Says what else belongs into `config.json`, as JSON holds it."""
        return {}

    def take_described(self, config: dict[str, Any]) -> None:
        """Takes from `config.json` what `described` wrote there."""

    def weights(self) -> bytes:
        """Turns the weights into the content of a safetensors file."""
        state = self.state_dict().items()
        return save_tensors({name: t.detach().cpu().contiguous() for name, t in state})

    def digest(self) -> str:
        """Computes the sha256 of the weights, as in `config.json`."""
        return hashlib.sha256(self.weights()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Saves the weights and `config.json` into a folder.

        The new weights are written beside the old ones under a name made of their hash, and replace
        them in the moment `config.json` is replaced: a crash leaves the old model or the new one.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data = self.weights()
        digest = hashlib.sha256(data).hexdigest()
        weights = f"model-{digest[:12]}.safetensors"
        config = {
            "format": FORMAT,
            "model": model_name(type(self)),
            "hyperparameters": self.hyperparameters,
            "weights": weights,
            "sha256": digest,
            **self.described(),
        }
        replace_file(folder / weights, data)
        replace_file(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        for old in folder.glob("model-*.safetensors"):
            if old.name != weights:
                old.unlink()


M = TypeVar("M", bound=Model)


def arguments_of(cls: type[Model]) -> set[str]:
    """Names the arguments that a model's `__init__` takes."""
    parameters = inspect.signature(cls.__init__).parameters
    named = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    return named - {"self"}


@dataclass(frozen=True, eq=False)
class Given:
    """What a model is told about images before it says how likely they are.

    Attributes:
        context: Their context, or None.
        mask: True at pixels that are known already and carry no bits, `(B, 1, H, W)`, or None.
    """

    context: Context | None = None
    mask: Tensor | None = None

    def __getitem__(self, images: Any) -> Given:
        """Picks out images: a slice or indices."""
        context = None if self.context is None else self.context[images]
        return Given(context, None if self.mask is None else self.mask[images])

    def without(self, padding: Tensor | None) -> Given:
        """Takes padding out of what carries bits: True there, `(B, 1, H, W)`, or None."""
        if padding is None:
            return self
        mask = padding if self.mask is None else self.mask | padding.to(self.mask.device)
        return replace(self, mask=mask)


class ImageModel(Model):
    """A model of images, which can be trained, scored and drawn from.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes the model is conditioned on, or None.
        vector: Length of the vector that it is conditioned on, or None.
        image: `(Cc, Hc, Wc)` of the image that it is conditioned on, or None.
        hyperparameters: The subclass's other arguments.

    Attributes:
        paper: Title, authors and year of the paper a model comes from.
        takes: The contexts that it is conditioned on.
        scores: What its score is, in words.
        task: What was done to the image that it is given as context, and is to be undone. Set it
            before training; it is saved with the model.
        features: What tells it of an image what a layer of a frozen classifier says, as its vector
            or image. Set them before training; they are saved with the model, weights and all.
        class_names: A name for each class, or None. This and what follows is set by training, and
            saved with the model.
        spectrogram: How sounds became its images, or None.
        codes_of: Where its images are grids of codes: which these are, see `Dataset.codes_of`.
    """

    paper = ""
    scores = "log p(x | c)"
    task: Task | None = None
    class_names: tuple[str, ...] | None = None
    spectrogram: Spectrogram | None = None
    codes_of: str | None = None

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int,
        classes: int | None = None,
        vector: int | None = None,
        image: tuple[int, int, int] | None = None,
        **hyperparameters: Any,
    ) -> None:
        image = None if image is None else cast("tuple[int, int, int]", tuple(image))
        takes = Takes(classes, vector, image)
        for name, what in takes._asdict().items():
            if what is not None or name in arguments_of(type(self)):
                hyperparameters[name] = what
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
        self.takes = takes
        self.features: Features | None = None
        channels, height, width = shape
        self.shape, self.levels, self.classes = (channels, height, width), levels, classes

    def context(self, c: object, batch: int) -> Context | None:
        """Turns what a user gave as context into one row an image, see `Takes.read`."""
        context = self.takes.read(c, batch)
        return None if context is None else context.to(self.device)

    def given(
        self,
        x: Tensor,
        y: Tensor | None,
        numbers: Sequence[int],
        seed: int = 0,
        beside: Tensor | None = None,
    ) -> Given:
        """Says what the model is told about images of a data set, in training and in a score.

        A model that is conditioned on something else overrides this.

        Args:
            x: The images, integers `(B, C, H, W)`.
            y: Their class ids `(B,)`, or None.
            numbers: Their numbers in the data set; with the seed they decide what is random in a
                degradation.
            seed: Not negative; training takes another one in each step.
            beside: The codes that stand beside them, integers `(B, h, w)`; given only where the
                data set has some, see `Images.beside`.

        Raises:
            UserError: The model needs to be told more than this.
        """
        parts: dict[str, object] = {"classes": y} if self.classes else {}
        mask = None
        if self.task is not None:
            degraded = self.task.degrade(x, self.levels, numbers, seed)
            parts["image"] = degraded.image
            mask = None if degraded.mask is None else degraded.mask.to(self.device)
        if self.features is not None:
            parts[self.features.part] = self.features(x)
        if beside is not None:
            parts["image"] = beside
        return Given(self.context(parts or None, len(x)), mask)

    def described(self) -> dict[str, Any]:
        """Says what else belongs into `config.json`: the attributes that are not None."""
        parts = {"task": self.task, "features": self.features, "spectrogram": self.spectrogram}
        settings = {name: part.settings() for name, part in parts.items() if part is not None}
        plain = {"class_names": self.class_names, "codes_of": self.codes_of}
        return settings | {name: what for name, what in plain.items() if what is not None}

    def take_described(self, config: dict[str, Any]) -> None:
        """Takes from `config.json` what `described` wrote there."""
        from nextpixel.features import Features  # they hold a Model themselves

        self.task = Task(**config["task"]) if "task" in config else None
        self.features = Features.like(config["features"]) if "features" in config else None
        self.spectrogram = Spectrogram(**config["spectrogram"]) if "spectrogram" in config else None
        self.class_names = tuple(config["class_names"]) if "class_names" in config else None
        self.codes_of = config.get("codes_of")

    @abstractmethod
    def score(self, x: Tensor, c: object = None, mask: Tensor | None = None) -> Tensor:
        """Computes how likely images are, in nats: what is reported of a model.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`.
            c: The context, see `context`.
            mask: True at pixels that carry no bits, broadcastable to x.

        Returns:
            log p(x | c), or what the model has in its place and says in `scores`, `(B,)`.
        """

    def objective(self, x: Tensor, c: object = None, mask: Tensor | None = None) -> Tensor:
        """Computes what training makes as large as it can: by default the score, `(B,)`."""
        return self.score(x, c, mask)

    @abstractmethod
    def sample(self, n: int = 1, c: object = None, **how: Unpack[CommonOptions]) -> Tensor:
        """Draws n images, integers `(n, C, H, W)`; a model may take more options than these."""

    def after_step(
        self,
        parts: Sequence[tuple[Tensor, Tensor | None]],
        gather: Callable[[Tensor], Tensor],
        seed: int,
    ) -> None:
        """Changes what does not follow the gradient: called after each step of the optimizer.

        By default that is nothing. It is computed without gradients, and must come to the same on
        all ranks.

        Args:
            parts: The images of this rank's batch, integers `(B, C, H, W)` in one part or more,
                and which of their pixels are known, see `score`.
            gather: Stacks a tensor over the ranks, in their order.
            seed: Of what is random; the same on all ranks.
        """

    def diagnose(self, x: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """Computes what else is worth logging at a validation, by name: by default nothing.

        Args:
            x: Some validation images, integers `(B, C, H, W)`.
            mask: Which of their pixels are known, see `score`.
        """
        return {}

    def check(self, x: Tensor) -> None:
        """Checks that x are images of this model.

        Raises:
            UserError: Its type, shape or range is wrong.
        """
        check_images(x, self.shape, self.levels)


def check_images(x: Tensor, shape: tuple[int, int, int], levels: int) -> None:
    """Checks that x are images of this shape and so many levels.

    Raises:
        UserError: Its type, shape or range is wrong.
    """
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise UserError(f"Images are integers in [0, {levels}), not {x.dtype}.")
    if x.ndim != 4 or tuple(x.shape[1:]) != shape:
        raise UserError(
            f"This model's images have the shape (B, {', '.join(map(str, shape))}), "
            f"not {tuple(x.shape)}."
        )
    # Elsewhere, looking at the values would make the accelerator wait.
    if x.device.type == "cpu" and x.numel():
        least, most = int(x.min()), int(x.max())
        if least < 0 or most >= levels:
            raise UserError(
                f"Pixels must lie in [0, {levels}), but these go from {least} to {most}: "
                "were the images requantised to the model's levels?"
            )


def load(name: str | Path, *, device: str | torch.device = "cpu") -> ImageModel:
    """Loads a model: a shipped one by name, a run's best one, or any saved folder.

    Args:
        name: A name from `shipped()`, a run folder, or a folder with a `config.json`.
        device: Where to put the weights.

    Returns:
        The model, ready to score and to sample.

    Raises:
        UserError: There is no such model, or it is damaged.
    """
    return read_model(find(name)).to(device).eval()


def shipped() -> dict[str, Path]:
    """Lists the trained models that come with the package: name and folder."""
    return _holding("weights", "config.json")


def bundles() -> dict[str, Path]:
    """Lists the VQ-VAEs with their priors that come with the package: name and folder."""
    return _holding("weights", "bundle.json")


def judges() -> dict[str, Path]:
    """Lists the classifiers that come with the package, to judge images by: name and folder."""
    return _holding("judges", "config.json")


def _holding(part: str, record: str) -> dict[str, Path]:
    folder = Path(str(importlib.resources.files("nextpixel"))) / part
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{record}"))}


def find(name: str | Path) -> Path:
    """Finds the folder of a saved model, see `load`."""
    come_along = shipped() | judges()
    if str(name) in come_along:
        return come_along[str(name)]
    path = bundles().get(str(name), Path(name))
    folder = path.parent if path.suffix in (".json", ".safetensors") else path
    for candidate in (folder, folder / "best", folder / "last"):
        if (candidate / "config.json").is_file():
            return candidate
    if (path / "bundle.json").is_file():
        raise UserError(
            f"{name} holds a VQ-VAE and its prior: use nextpixel sample or complete, or name the "
            "folder decoder or prior in it."
        )
    what = "has no saved model" if path.exists() else "does not exist"
    raise UserError(
        f"{name} {what}: give a run folder, a folder with a config.json, or a model that comes "
        f"with nextpixel ({', '.join(shipped()) or 'none'})."
    )


def training_record(name: str | Path) -> dict[str, Any]:
    """Reads how a model was trained: from its card, a bundle's record, or its run's configuration.

    Returns:
        Their entries, the data's name as "data" and the training options as "train"; none where
        none of these files is there.
    """
    folder = find(name)
    for file in (folder / "card.json", folder / TRAINING, folder.parent / "config.yaml"):
        if file.is_file():
            try:
                return dict(yaml.safe_load(file.read_text()))  # JSON is YAML
            except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError):
                raise UserError(f"{file} is damaged: take another copy, or give --data.") from None
    return {}


def read_model(folder: Path) -> ImageModel:
    """Reads a saved model of images from its folder, see `read_kind`."""
    return read_kind(folder, ImageModel)  # type: ignore[type-abstract]  # a subclass is made


def read_kind(folder: Path, kind: type[M]) -> M:
    """Reads a saved model of a kind from its folder, after checking its weights by their hash."""
    try:
        config = json.loads((folder / "config.json").read_text())
        name, hyperparameters = str(config["model"]), dict(config["hyperparameters"])
        weights, digest = folder / Path(config["weights"]).name, config["sha256"]
        saved_format = config["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'config.json'} is not the configuration of a model ({error}): "
            "save the model again, or take another copy."
        ) from None
    if saved_format != FORMAT:
        raise UserError(
            f"{folder} was saved in format {saved_format}, and this version of nextpixel reads "
            f"format {FORMAT}: install the version that wrote it."
        )
    if not weights.is_file():
        raise UserError(f"{weights} is missing: take another copy of the model's whole folder.")
    data = weights.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{weights} is damaged (wrong sha256): take another copy of the model.")
    try:
        model = find_kind(name, kind)(**hyperparameters)
        model.take_described(config)
        model.load_state_dict(load_tensors(data))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The weights in {folder} do not fit {name}: {reason}") from None
    return model


def model_name(cls: type[Model]) -> str:
    """Names a model's class: a bare name for one of ours, else a dotted path."""
    ours = cls.__module__.startswith("nextpixel.models.")
    return cls.__name__ if ours else f"{cls.__module__}.{cls.__qualname__}"


def find_class(name: str) -> type[ImageModel]:
    """Finds the class of a model of images by its name or dotted path, see `model_name`."""
    return find_kind(name, ImageModel)  # type: ignore[type-abstract]  # a subclass is found


def find_kind(name: str, kind: type[M]) -> type[M]:
    """Finds a class of a kind of models by its name or dotted path, see `model_name`."""
    module, _, cls_name = name.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module or "nextpixel.models"), cls_name)
    except Exception as error:  # a user's own file may fail in any way while it is imported
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"There is no model {name} ({reason}): give the name of one of nextpixel's models, or "
            "the dotted path of a class that can be imported from here."
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise UserError(f"{name} is not a subclass of {kind.__module__}.{kind.__name__}.")
    return cls
