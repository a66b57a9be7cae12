"""Switches a model to evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

__all__ = ["Switchable", "evaluation_mode"]


class Switchable(Protocol):
    """A network with a training mode."""

    training: bool

    def train(self, mode: bool = True) -> object:
        """Switches dropout on or off."""


@contextmanager
def evaluation_mode(model: Switchable) -> Iterator[None]:
    """Makes a network compute exactly and repeatably while the context lasts.

    Dropout is off, autocast is off on the CPU and on GPUs, and convolutions on a GPU use no TF32.
    Afterwards everything is as it was before.

    Args:
        model: The model.
    """
    training = model.training
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # of torch
    tf32 = on_gpu and torch.backends.cudnn.allow_tf32
    # Not by torch.autocast(enabled=False): this runs at every site, and must take no time.
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
