"""Activation checkpointing: the backward pass computes the blocks of a network again.

A network calls its blocks through `checkpoint`. Inside `checkpointing` only the inputs of a block
are stored for the backward pass, which runs the block once more; elsewhere it is a plain call.

References:
    Chen, Xu, Zhang, Guestrin: Training Deep Nets with Sublinear Memory Cost, 2016
    (https://arxiv.org/abs/1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.utils import checkpoint as torch_checkpoint

__all__ = ["checkpoint", "checkpointing"]

_wanted = ContextVar("checkpointing", default=False)


@contextmanager
def checkpointing(wanted: bool = True) -> Iterator[None]:
    """Makes `checkpoint` store no activations in the forward passes inside."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def checkpoint(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a block; inside `checkpointing`, the backward pass computes its activations again.

    Random numbers and autocast are the same both times. Blocks inside the block are plain calls.
    """
    if not (_wanted.get() and torch.is_grad_enabled()):
        return block(*args, **kwargs)

    def plain(*args: Any, **kwargs: Any) -> Any:
        with checkpointing(False):
            return block(*args, **kwargs)

    return torch_checkpoint.checkpoint(plain, *args, use_reentrant=False, **kwargs)
