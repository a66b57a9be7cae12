"""Memory for time: the activations of a network's blocks are computed again in the backward pass.

A network calls its blocks through `recompute`. Inside `recomputing` only what goes into a block is
kept for the backward pass, which then runs the block once more; elsewhere it is a plain call.

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
from torch.utils.checkpoint import checkpoint

__all__ = ["recompute", "recomputing"]

_wanted = ContextVar("recomputing", default=False)


@contextmanager
def recomputing(wanted: bool = True) -> Iterator[None]:
    """Makes `recompute` keep no activations, in the forward passes inside."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def recompute(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a block; inside `recomputing` its activations are computed again when needed.

    Random numbers and autocast are the same both times. Blocks inside the block are plain calls.
    """
    if not (_wanted.get() and torch.is_grad_enabled()):
        return block(*args, **kwargs)

    def plain(*args: Any, **kwargs: Any) -> Any:
        with recomputing(False):
            return block(*args, **kwargs)

    return checkpoint(plain, *args, use_reentrant=False, **kwargs)
