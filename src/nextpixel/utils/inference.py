"""Runs a network in evaluation mode while the model itself stays as it is, if it can be copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import nn

__all__ = ["evaluation_copy", "evaluation_mode"]

Model = TypeVar("Model")
OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # names of attributes


@contextmanager
def evaluation_mode(model: Model) -> Iterator[Model]:
    """Gives a network that computes exactly and reproducibly within the context.

    Dropout is off, and in this thread autocast, on the CPU and on GPUs. TF32 in convolutions on a
    GPU is off for the whole process. All is restored afterwards.

    Args:
        model: The model, in any mode.

    Yields:
        The network to compute with: the model, or a copy with the same tensors, see
        `evaluation_copy`. Only a model that cannot be copied is switched itself, and each of its
        submodules is restored afterwards.
    """
    network = evaluation_copy(model)
    training = training_modules(network) if network is model else []
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

    A model that may hold parts of itself in places that a copy would share, such as in a list or by
    a method of its own, is returned as it is.
    """
    if not isinstance(model, nn.Module) or not training_modules(model):
        return model
    modules = list(model.modules())
    own = (x for m in modules for name, x in list(vars(m).items()) if name not in OF_EVERY_MODULE)
    if any(map(may_hold_module, own)):
        return model
    # Not by copy.copy, which some modules forbid or change, as parametrized ones do.
    twins = {module: type(module).__new__(type(module)) for module in modules}
    for module, twin in twins.items():
        vars(twin).update(vars(module), training=False)
        children = module._modules.items()
        twin._modules = {name: None if x is None else twins[x] for name, x in children}
    return cast(Model, twins[model])


def may_hold_module(x: Any) -> bool:
    """Whether an attribute may hold a module: it can be called, or is a container of such."""
    if isinstance(x, dict):
        return any(map(may_hold_module, x.values()))
    if isinstance(x, (list, tuple, set, frozenset)):
        return any(map(may_hold_module, x))
    return callable(x)


def training_modules(model: object) -> list[nn.Module]:
    """Lists the modules that are in training mode."""
    modules = model.modules() if isinstance(model, nn.Module) else [cast(nn.Module, model)]
    return [module for module in modules if module.training]
