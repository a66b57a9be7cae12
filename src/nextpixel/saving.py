"""How models are saved: a folder with a configuration and weights, found by name or path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.resources
import inspect
import json
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

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
    "shipped",
    "training_record",
]

FORMAT = 1  # of config.json
RENAMED = {"located": "spatial"}  # hyperparameters that had another name before 0.2
# Modules that have moved, by the names that models saved before then may give: the `config.json`
# of a classifier said "nextpixel.classifier.Classifier".
MOVED = {
    "nextpixel.autoregressive": "nextpixel.models.base.autoregressive",
    "nextpixel.classifier": "nextpixel.conditioning.classifier",
    "nextpixel.latent": "nextpixel.models.base.latent",
    "nextpixel.model": "nextpixel.models.base.image_model",
}
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

    def extra_config(self) -> dict[str, Any]:
        """Returns further entries for `config.json`, as JSON holds them: by default none."""
        return {}

    def load_extra_config(self, config: dict[str, Any]) -> None:
        """Restores what `extra_config` added to `config.json`; called before weights load."""

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
            **self.extra_config(),
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


def read_kind(folder: Path, kind: type[M], *, trust: bool = False) -> M:
    """Reads a saved model of a kind from its folder, after checking its weights by their hash.

    Args:
        folder: Where `Model.save` wrote it.
        kind: The class that it must be a subclass of.
        trust: Import the module that `config.json` names where the model is not one of
            nextpixel's own: that runs its code.

    Raises:
        UserError: The folder is damaged, of another kind, or not trusted.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        name, hyperparameters = str(config["model"]), with_new_names(config["hyperparameters"])
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
        model = find_kind(name, kind)(**hyperparameters)
        model.load_extra_config(config)
        model.load_state_dict(load_tensors(data))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The weights in {folder} do not fit {name}: {reason}") from None
    return model


def with_new_names(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the hyperparameters that had another name when the model was saved."""
    return {RENAMED.get(name, name): value for name, value in hyperparameters.items()}


def check_trusted(name: str, file: Path, trust: bool) -> None:
    """Refuses a file that names a class outside nextpixel, unless the caller trusts it.

    To find such a class its module is imported, and that runs whatever the module holds: a folder
    from a stranger, with a module beside it, could do anything.

    Args:
        name: A class's name or dotted path, as the file has it.
        file: The file, for the message.
        trust: Whether the caller trusts it.

    Raises:
        UserError: It is not trusted.
    """
    if not trust and "." in name and not name.startswith("nextpixel."):
        raise UserError(
            f"{file} names a model that is not nextpixel's, {name}, and loading it runs that "
            "module's code: if you trust it, add --trust, or trust=True in Python."
        )


def model_name(cls: type[Model]) -> str:
    """Names a model's class: a bare name for one of ours, else a dotted path."""
    module = cls.__module__
    ours = module.startswith("nextpixel.models.") and ".base." not in module
    return cls.__name__ if ours else f"{module}.{cls.__qualname__}"


def find_kind(name: str, kind: type[M]) -> type[M]:
    """Finds a class of a kind of models by its name or dotted path, see `model_name`."""
    module, _, cls_name = name.rpartition(".")
    module = MOVED.get(module, module)
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


def bound_arguments(scope: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments that a model's `__init__` was called with, to hand them on.

    Args:
        scope: `locals()`, on the first line of `__init__`.
    """
    return {name: value for name, value in scope.items() if name not in ("self", "__class__")}


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
    # On an accelerator a look at the values waits for it: in scores, but not in training steps,
    # whose images were checked when they were read.
    if x.numel() and (x.device.type == "cpu" or not torch.is_grad_enabled()):
        least, most = int(x.min()), int(x.max())
        if least < 0 or most >= levels:
            raise UserError(
                f"Pixels must lie in [0, {levels}), but these go from {least} to {most}: "
                "were the images requantised to the model's levels?"
            )
