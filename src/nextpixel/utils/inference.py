"""Switches a model to evaluation mode temporarily, or makes a copy that is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, cast

import torch
from torch import nn

__all__ = ["Switchable", "evaluation_copy", "evaluation_mode"]

Model = TypeVar("Model")


class Switchable(Protocol):
    """Describes a network with a training mode."""

    training: bool

    def train(self, mode: bool = True) -> object:
        """Switches between training mode and evaluation mode."""


@contextmanager
def evaluation_mode(model: Switchable) -> Iterator[None]:
    """Makes a network compute exactly and reproducibly within the context.

    Switches off dropout, autocast on the CPU and on GPUs, and TF32 in convolutions on a GPU. All
    three are restored afterwards, the mode of each submodule, too.

    Args:
        model: The model.
    """
    modules = model.modules() if isinstance(model, nn.Module) else [model]
    training = [module for module in modules if module.training]
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # of torch
    tf32 = on_gpu and torch.backends.cudnn.allow_tf32
    # Not by torch.autocast(enabled=False), which is slow: this runs at every site.
    devices = ("cpu", "cuda") if on_gpu else ("cpu",)
    autocast = [device for device in devices if torch.is_autocast_enabled(device)]
    for module in training:
        module.training = False
    if tf32:
        torch.backends.cudnn.allow_tf32 = False
    for device in autocast:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in autocast:
            torch.set_autocast_enabled(device, True)
        if tf32:
            torch.backends.cudnn.allow_tf32 = True
        for module in training:
            module.training = True


def evaluation_copy(model: Model) -> Model:
    """Returns the model if it is in evaluation mode, else a copy that is, with the same tensors.

    Unlike `evaluation_mode` it changes nothing that another thread could see. A model with methods
    of its own, which may hold the model, is returned as it is: use `evaluation_mode` in any case.
    """
    if not isinstance(model, nn.Module) or not any(m.training for m in model.modules()):
        return model
    if any(callable(x) for m in model.modules() for x in list(vars(m).values())):
        return model
    twins = {module: copy.copy(module) for module in model.modules()}
    for module, twin in twins.items():
        twin.training = False
        children = module._modules.items()
        twin._modules = {name: child and twins[child] for name, child in children}
    return cast(Model, twins[model])
