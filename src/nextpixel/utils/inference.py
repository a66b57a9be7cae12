"""Gives a network in evaluation mode, without a change that another thread could see."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import nn

__all__ = ["evaluation_copy", "evaluation_mode"]

Model = TypeVar("Model")


@contextmanager
def evaluation_mode(model: Model) -> Iterator[Model]:
    """Gives a network that computes exactly and reproducibly within the context.

    It has no dropout. Autocast is off in this thread, on the CPU and on GPUs, and so is TF32 in
    convolutions on a GPU; both are restored afterwards.

    Args:
        model: The model, in any mode.

    Yields:
        The network to compute with: the model, or a copy with the same tensors, see
        `evaluation_copy`. Only a model that cannot be copied is switched itself, and each of its
        submodules is restored afterwards.
    """
    network = evaluation_copy(model)
    training = training_modules(network)
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
        yield network
    finally:
        for device in autocast:
            torch.set_autocast_enabled(device, True)
        if tf32:
            torch.backends.cudnn.allow_tf32 = True
        for module in training:
            module.training = True


def evaluation_copy(model: Model) -> Model:
    """Returns the model if it is in evaluation mode, else a copy that is, with the same tensors.

    A model with methods of its own, which may hold the model, is returned as it is.
    """
    if not isinstance(model, nn.Module) or not training_modules(model):
        return model
    if any(callable(x) for m in model.modules() for x in list(vars(m).values())):
        return model
    twins = {module: copy.copy(module) for module in model.modules()}
    for module, twin in twins.items():
        twin.training = False
        children = module._modules.items()
        twin._modules = {name: child and twins[child] for name, child in children}
    return cast(Model, twins[model])


def training_modules(model: object) -> list[nn.Module]:
    """Lists the modules that are in training mode."""
    modules = model.modules() if isinstance(model, nn.Module) else [cast(nn.Module, model)]
    return [module for module in modules if module.training]
