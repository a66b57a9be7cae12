"""Saves models, each as a folder with a configuration and weights, and finds and reads them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.resources
import inspect
import json
from abc import ABC
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from nextpixel.data.catalogue import NAMED
from nextpixel.errors import UserError
from nextpixel.utils.files import replace_file

__all__ = [
    "Model",
    "arguments_of",
    "bound_arguments",
    "bundles",
    "check_images",
    "find",
    "find_kind",
    "judges",
    "model_name",
    "read_kind",
    "recorded_classes",
    "shipped",
    "training_record",
]

FORMAT = 1  # of config.json
RENAMED = {"located": "spatial"}  # hyperparameters that had another name before 0.2
# Only the classifier is saved by its dotted path: models in nextpixel.models have bare names.
CLASSIFIER = "nextpixel.conditioning.classifier.Classifier"
# Hyperparameters added in 0.2, with the values that models saved before it were trained with.
ADDED = {model: {"max_log_scale": 40.0} for model in ("PixelCNNPP", "PixelSNAIL")}
MOVED = {"nextpixel.classifier.Classifier": CLASSIFIER}  # its path before 0.2
TRAINING = "training.yaml"  # in a bundle, a copy of the run's configuration beside config.json


class Model(nn.Module, ABC):
    """A network that can be saved to a folder and loaded from it.

    A subclass passes every argument of its `__init__` on to `Model.__init__`, which stores them as
    `hyperparameters`; JSON must be able to hold them.

    Attributes:
        noun: What models of this kind are, for messages.
    """

    noun = "a network"

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__()
        expected = arguments_of(type(self))
        if set(hyperparameters) != expected:
            raise TypeError(
                f"{type(self).__name__}.__init__ takes {sorted(expected)} but passed "
                f"{sorted(hyperparameters)} on to Model.__init__: they must be the same"
            )
        self.hyperparameters: dict[str, Any] = json.loads(json.dumps(hyperparameters))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters(), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return next(self.parameters(), torch.empty(0)).dtype

    def extra_config(self) -> dict[str, Any]:
        """Returns further entries for `config.json`, which JSON can hold: by default none."""
        return {}

    def load_extra_config(self, config: dict[str, Any]) -> None:
        """Restores what `extra_config` added to `config.json`; called before the weights load."""

    def weights(self) -> bytes:
        """Returns the weights as the content of a safetensors file."""
        state = self.state_dict().items()
        return save_tensors({name: t.detach().cpu().contiguous() for name, t in state})

    def digest(self) -> str:
        """Computes the sha256 of the weights, as in `config.json`."""
        return hashlib.sha256(self.weights()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Saves the weights and `config.json` into a folder.

        The name of the weights' file contains their hash, and `config.json` is replaced last: a
        crash leaves the old model or the new one.
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
            **self.extra_config(),
        }
        replace_file(folder / weights, data)
        replace_file(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        for old in folder.glob("model-*.safetensors"):
            if old.name != weights:
                old.unlink()


M = TypeVar("M", bound=Model)


def arguments_of(cls: type[Model]) -> set[str]:
    """Returns the names of the arguments that a model's `__init__` takes."""
    parameters = inspect.signature(cls.__init__).parameters
    named = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    return named - {"self"}


def shipped() -> dict[str, Path]:
    """Lists the pretrained models by name, with their folders."""
    return _folders("weights", "config.json")


def bundles() -> dict[str, Path]:
    """Lists the pretrained VQ-VAEs with priors by name, with their folders."""
    return _folders("weights", "bundle.json")


def judges() -> dict[str, Path]:
    """Lists the pretrained classifiers, which score sample quality, by name, with their folders."""
    return _folders("judges", "config.json")


def _folders(part: str, record: str) -> dict[str, Path]:
    """Lists the folders of the package's `part` that hold a file named `record`."""
    folder = Path(str(importlib.resources.files("nextpixel"))) / part
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{record}"))}


def find(name: str | Path) -> Path:
    """Finds the folder of a saved model.

    Args:
        name: The name of a pretrained model, a run folder (its best model, else its last one), a
            folder with a `config.json`, or a file in it.

    Raises:
        UserError: There is no such model.
    """
    pretrained = shipped() | judges()
    if str(name) in pretrained:
        return pretrained[str(name)]
    path = bundles().get(str(name), Path(name))
    folder = path.parent if path.suffix in (".json", ".safetensors") else path
    for candidate in (folder, folder / "best", folder / "last"):
        if (candidate / "config.json").is_file():
            return candidate
    if (path / "bundle.json").is_file():
        raise UserError(
            f"{name} holds a VQ-VAE and its prior: use nextpixel sample or complete, or name its "
            "folder decoder or prior."
        )
    problem = "has no saved model" if path.exists() else "does not exist"
    raise UserError(
        f"{name} {problem}: give a run folder, a folder with a config.json, or a pretrained model "
        f"({', '.join([*shipped(), *bundles()]) or 'none'})."
    )


def training_record(name: str | Path) -> dict[str, Any]:
    """Reads how a model was trained from its card, or from its run's configuration.

    Returns:
        The entries of the first of these files that exists, the name of the data as "data" and the
        training options as "train"; empty without such a file. There is no "data" if a run was
        trained on data made in Python.

    Raises:
        UserError: There is no such model, or the file is damaged.
    """
    folder = find(name)
    for file in (folder / "card.json", folder / TRAINING, folder.parent / "config.yaml"):
        if file.is_file():
            try:
                record = renamed_options(yaml.safe_load(file.read_text("utf-8")))  # JSON is YAML
            except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError):
                raise UserError(f"{file} is damaged: take another copy, or give --data.") from None
            if record.get("data") is None:
                record.pop("data", None)
            return record
    return {}


def recorded_classes(folder: Path, classes: int) -> tuple[str, ...] | None:
    """Finds the names of the classes of a model that was saved without them.

    Args:
        folder: The folder that `Model.save` wrote.
        classes: Number of classes.

    Returns:
        The names of the classes of the data set of the catalogue that the model was trained on;
        None if it was trained on other data, or it is not known on which.
    """
    with suppress(UserError):  # a damaged record
        entry = NAMED.get(str(training_record(folder).get("data")))
        if entry is not None and entry.class_names and len(entry.class_names) == classes:
            return entry.class_names
    return None


def renamed_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the options of a run that was begun before 0.2."""
    return {"resize" if name == "size" else name: value for name, value in settings.items()}


def read_kind(folder: Path, kind: type[M], *, trust: bool = False) -> M:
    """Reads a saved model from its folder and checks the hash of its weights.

    Args:
        folder: The folder that `Model.save` wrote.
        kind: The class that the model must be an instance of.
        trust: Whether to load a model that is not nextpixel's own, which runs the code of the
            module that `config.json` names.

    Raises:
        UserError: The folder is damaged, holds another kind of model, or is not trusted.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        name = str(config["model"])
        hyperparameters = up_to_date(name, dict(config["hyperparameters"]))
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
    check_trusted(name, folder / "config.json", trust)
    if not weights.is_file():
        raise UserError(f"{weights} is missing: take another copy of the model's whole folder.")
    data = weights.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{weights} is damaged (wrong sha256): take another copy of the model.")
    try:
        cls = find_kind(name, Model)
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
    if not issubclass(cls, kind):
        raise UserError(f"{folder} holds {cls.noun}, not {kind.noun}: name another one.")
    try:
        model = cls(**hyperparameters)
        model.load_extra_config(config)
        model.load_state_dict(load_tensors(data))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The weights in {folder} do not fit {name}: {reason}") from None
    return model


def up_to_date(model: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Renames hyperparameters of a model saved before 0.2, and adds those that were constants."""
    renamed = {RENAMED.get(name, name): value for name, value in hyperparameters.items()}
    return ADDED.get(model, {}) | renamed


def check_trusted(name: str, file: Path, trust: bool) -> None:
    """Refuses a file that names a class outside nextpixel, unless the caller trusts it.

    Finding the class imports its module, and that runs the module's code: a folder from a
    stranger, with a module beside it, could do anything.

    Args:
        name: The name or the dotted path of a class, from the file.
        file: The file, for the message.
        trust: Whether the caller trusts it.

    Raises:
        UserError: It is not trusted.
    """
    known = "." not in name or name.startswith("nextpixel.models.") or name in (CLASSIFIER, *MOVED)
    if not trust and not known:
        raise UserError(
            f"{file} names a model that is not nextpixel's, {name}, and loading it runs that "
            "module's code: if you trust it, add --trust, or trust=True in Python."
        )


def model_name(cls: type[Model]) -> str:
    """Returns the name of a model's class: bare for nextpixel's models, else a dotted path."""
    module = cls.__module__
    ours = module.startswith("nextpixel.models.") and ".base." not in module
    return cls.__name__ if ours else f"{module}.{cls.__qualname__}"


def find_kind(name: str, kind: type[M]) -> type[M]:
    """Finds a subclass of a kind of models by its name or dotted path, see `model_name`.

    Raises:
        UserError: There is no such class, or it is not a subclass, or abstract.
    """
    module, _, cls_name = MOVED.get(name, name).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module or "nextpixel.models"), cls_name)
    except Exception as error:  # a user's own file may fail in any way while it is imported
        reason = f" ({type(error).__name__}: {error})" if module else ""
        raise UserError(
            f"There is no model {name}{reason}: give the name of one of nextpixel's models, or "
            "the dotted path of a class that can be imported from here."
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise UserError(f"{name} is not a subclass of {kind.__module__}.{kind.__name__}.")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise UserError(f"{name} is abstract, it does not define {missing}: name a subclass.")
    return cls


def bound_arguments(scope: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments that a model's `__init__` was called with, to pass them on.

    Args:
        scope: `locals()`, on the first line of `__init__`.
    """
    return {name: value for name, value in scope.items() if name not in ("self", "__class__")}


def check_images(x: Tensor, shape: tuple[int, int, int], levels: int) -> None:
    """Checks that x holds images of a shape, with pixels in `[0, levels)`.

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
    # Reading values waits for the accelerator. So a training step there does not check: its images
    # were checked when they were loaded.
    if x.numel() and (x.device.type == "cpu" or not torch.is_grad_enabled()):
        least, most = int(x.min()), int(x.max())
        if least < 0 or most >= levels:
            raise UserError(
                f"Pixels must lie in [0, {levels}), but these go from {least} to {most}: "
                "were the images requantised to the model's levels?"
            )
