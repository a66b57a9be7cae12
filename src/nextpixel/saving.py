"""Saves models, each as a folder with a configuration and weights, and reads them."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from nextpixel.errors import UserError
from nextpixel.model_folders import FORMAT, MOVED, read_folder
from nextpixel.utils.files import replace_file
from nextpixel.utils.limits import at_most, check_sizes
from nextpixel.utils.reading import refusing_damage

__all__ = [
    "Model",
    "arguments_of",
    "bound_arguments",
    "check_images",
    "find_kind",
    "model_name",
    "read_kind",
]


MOST_UNSAVED = 2**24  # numbers in a network's buffers that are not in its file
# PyTorch computes little with its other integers, as uint16.
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


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
        """The device of the weights.

        Raises:
            UserError: It is "meta", where they have no values.
        """
        device = next(self.parameters(), torch.empty(0)).device
        if device.type == "meta":
            raise UserError(f"This {type(self).__name__} has no weights on {device}: load it anew.")
        return device

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
        _ = self.device  # refuses weights without values
        state = self.state_dict().items()
        return save_tensors({name: t.detach().cpu().contiguous() for name, t in state})

    def digest(self) -> str:
        """Computes the sha256 of the weights, as in `config.json`."""
        return hashlib.sha256(self.weights()).hexdigest()

    def saved_config(self, digest: str) -> dict[str, Any]:
        """Returns what `config.json` says about the model, whose weights have this sha256."""
        return {
            "model": model_name(type(self)),
            "hyperparameters": self.hyperparameters,
            "sha256": digest,
            **self.extra_config(),
        }

    def save(self, folder: str | Path) -> None:
        """Saves the weights and `config.json` into a folder.

        The name of the weights' file contains their hash, and `config.json` is replaced last: a
        crash leaves the old model or the new one.

        Raises:
            UserError: A weight is infinite or no number.
        """
        _ = self.device  # refuses weights without values
        check_finite(self.state_dict(), "This model cannot be saved")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data = self.weights()
        digest = hashlib.sha256(data).hexdigest()
        weights = f"model-{digest[:12]}.safetensors"
        config = {"format": FORMAT, "weights": weights, **self.saved_config(digest)}
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


def read_kind(folder: Path, kind: type[M], *, trust: bool = False) -> M:
    """Reads a saved model from its folder and checks the hash of its weights.

    Args:
        folder: The folder that `Model.save` wrote.
        kind: The class that the model must be an instance of.
        trust: Whether to load a model that is not nextpixel's own, which runs the code of the
            module that `config.json` names.

    Raises:
        UserError: The folder is damaged, holds another kind of model or weights that are not
            finite, or is not trusted.
    """
    name, hyperparameters, data, config = read_folder(folder, trust=trust)
    try:
        cls = find_kind(name, Model)
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
    if not issubclass(cls, kind):
        raise UserError(f"{folder} holds {cls.noun}, not {kind.noun}: name another one.")
    with refusing_damage(folder / "config.json", f"configuration of a {name}", "take another copy"):
        check_sizes(hyperparameters, name)
        with at_most(len(data) + MOST_UNSAVED, name):
            model = cls(**hyperparameters)
        model.load_extra_config(config)
    try:
        model.load_state_dict(load_tensors(data))
    except Exception as error:  # of any kind where the configuration is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"The weights in {folder} do not fit {name}: {reason[:300]}") from None
    check_finite(model.state_dict(), f"The model in {folder} is of no use")
    return model


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Checks that all weights are finite numbers.

    Args:
        tensors: The weights by name.
        what: Begins the message.

    Raises:
        UserError: One is not.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{what}: {name} holds infinity or no number.")


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
    if x.dtype not in INTEGERS:
        raise UserError(
            f"Images are integers in [0, {levels}) of int64, int32, int16, int8 or uint8, not "
            f"{x.dtype}: convert them, as with x.long()."
        )
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
