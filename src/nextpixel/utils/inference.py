"""Switches a model to evaluation mode temporarily."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

__all__ = ["Switchable", "evaluation_mode"]


class Switchable(Protocol):
    """Describes a network with a training mode."""

    training: bool

    def train(self, mode: bool = True) -> object:
        """Switches between training mode and evaluation mode."""


@contextmanager
def evaluation_mode(model: Switchable) -> Iterator[None]:
    """Makes a network compute exactly and reproducibly within the context.

    Switches off dropout, autocast on the CPU and on GPUs, and TF32 in convolutions on a GPU. All
    three are restored afterwards.

    Args:
        model: The model.
    """
    training = model.training
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # of torch
    tf32 = on_gpu and torch.backends.cudnn.allow_tf32
    # Not by torch.autocast(enabled=False), which is slow: this runs at every site.
    devices = ("cpu", "cuda") if on_gpu else ("cpu",)
    autocast = [device for device in devices if torch.is_autocast_enabled(device)]
    if training:
        model.train(False)
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
        if training:
            model.train()
