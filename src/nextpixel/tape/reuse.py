"""Keeps a tape from one drawing to the next, which need not record the same steps again.

Only what the steps do is taken to be the same. The memory that they read is filled anew: the model
makes a new cache, whose numbers are copied to where the old ones were, and the weights are laid out
again. Where any weight lies elsewhere than it did, or a recorded step read anything else than
weights and cache, the next drawing begins from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nextpixel.nn import Cache
from nextpixel.nn.cache import Replay

__all__ = ["keep_tape", "kept_tape"]

LARGEST = 2**26  # bytes of a cache that is kept: where it is larger, recording takes little time


class Model(Protocol):
    """A module."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Goes through the weights."""

    def buffers(self) -> Iterator[Tensor]:
        """Goes through what else it keeps."""


class Kept(NamedTuple):
    """What a drawing left behind.

    Attributes:
        cache: Its cache.
        tape: The cache's.
        surroundings: What must not have changed, see `surroundings`.
    """

    cache: Cache
    tape: Replay
    surroundings: tuple[Any, ...]


_kept: WeakKeyDictionary[Model, Kept] = WeakKeyDictionary()


def kept_tape(model: Model, new: Cache) -> Cache:
    """Begins a drawing with the tape of the model's last one.

    Args:
        model: The model.
        new: The cache that it made for the drawing.

    Returns:
        The last drawing's cache, with the new one's numbers; the new one if they do not fit. Nobody
        else gets it until `keep_tape`.
    """
    kept = _kept.pop(model, None)
    if kept is None or kept.surroundings != surroundings(model) or not kept.cache.start_like(new):
        return new
    kept.tape.read_anew()
    return kept.cache


def keep_tape(model: Model, cache: Cache) -> None:
    """Keeps the tape of a drawing that has ended, with the memory that it reads, for the next one.

    It is gone with the model. A user's layers may keep what nobody knows of: theirs is not kept.
    """
    if not cache.even or cache.tape is None or cache.nbytes() > LARGEST:
        return
    known = {storage(t) for t in (*weights(model), *cache.tensors())}
    if cache.tape.memory() <= known:
        _kept[model] = Kept(cache, cache.tape, surroundings(model))


def surroundings(model: Model) -> tuple[Any, ...]:
    """Describes where the weights lie, and the settings that steps depend on."""
    places = [(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in weights(model)]
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    return (torch.get_num_threads(), autocast, places)


def weights(model: Model) -> list[Tensor]:
    """Lists a model's weights, and what else it keeps."""
    return [*model.parameters(), *model.buffers()]


def storage(x: Tensor) -> int:
    """Says where a tensor's storage begins."""
    return x.data_ptr() - int(x.storage_offset()) * x.dtype.itemsize
