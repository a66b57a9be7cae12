"""Reuses a replay for the next generation, which then need not capture the same steps again.

Only the operations are reused. The memory that they read is filled again: the model makes a new
cache, its values are copied into the old one, and the weights are packed again. If anything else
about the model has changed, or a captured step read memory other than weights and cache, the next
generation begins without a replay.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nextpixel.engine.capture import storage_address
from nextpixel.nn import Cache

__all__ = ["fingerprint", "resume_replay", "store_replay"]

LARGEST = 2**26  # most bytes stored; for larger models capturing takes little of the time
NAME = "_stored_replay"  # an attribute of the model, so that the garbage collector finds it


@dataclass(eq=False)
class StoredReplay:
    """The replay that a generation left behind.

    Attributes:
        model: The model it belongs to.
        cache: The generation's cache, with the replay.
        fingerprint: The model's fingerprint when the steps were captured.
    """

    model: weakref.ref[nn.Module]
    cache: Cache
    fingerprint: tuple[Any, ...]

    def __deepcopy__(self, memo: object) -> None:
        """Leaves it out of copies of the model."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leaves it out of files."""
        return type(None), ()


def store_replay(model: nn.Module, cache: Cache, before: tuple[Any, ...]) -> None:
    """Stores the replay of a finished generation, with its memory, for the next one.

    Nothing is stored for a user's layers: they may read memory that is unknown here.

    Args:
        model: The model.
        cache: The generation's cache.
        before: The model's fingerprint when the generation began.
    """
    if not cache.replay_safe or cache.replay is None:
        return
    weights = {storage_address(t) for t in model_tensors(model)}
    own = [t for t in cache.tensors() if storage_address(t) not in weights]
    size = sum(t.nbytes for t in own) + cache.replay.nbytes()
    known = weights | {storage_address(t) for t in own}
    if size <= LARGEST and cache.replay.external_storages() <= known:
        cache.context, cache.biases, cache.parameters = None, [], None
        vars(model)[NAME] = StoredReplay(weakref.ref(model), cache, before)


def resume_replay(model: nn.Module, new: Cache, now: tuple[Any, ...]) -> Cache:
    """Resumes the model's stored replay for a new generation.

    Args:
        model: The model.
        new: The cache that it made for the generation.
        now: Its fingerprint.

    Returns:
        The stored cache, with its replay and the values of the new one; the new one if the stored
        one does not fit. The stored one is removed from the model until `store_replay`.
    """
    stored: StoredReplay | None = vars(model).pop(NAME, None)
    if (
        stored is None
        or stored.cache.replay is None
        or stored.model() is not model
        or not new.replay_safe
        or stored.fingerprint != now
    ):
        return new
    if not stored.cache.restart_from(new, {storage_address(t) for t in model_tensors(model)}):
        return new
    stored.cache.replay.refresh_weights()
    return stored.cache


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """Lists what steps depend on, except values: threads, modules, settings, addresses."""
    modules = model.named_modules(remove_duplicate=False)
    return (torch.get_num_threads(), [(name, *module_state(module)) for name, module in modules])


def module_state(module: nn.Module) -> tuple[Any, ...]:
    """Lists what the steps of a module depend on, without the modules inside it."""
    settings = {k: x for k, x in vars(module).items() if k != "training" and is_plain(x)}
    hooks = (*module._forward_hooks, *module._forward_pre_hooks, vars(module).get("forward"))
    layouts = [(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in own_tensors(module)]
    return weakref.ref(module), settings, hooks, layouts


def is_plain(x: object) -> bool:
    """Returns whether x is a number, a string, or a tuple or list of these."""
    if isinstance(x, (tuple, list)):
        return all(map(is_plain, x))
    return isinstance(x, (int, float, str))


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Iterates over the tensors of a module, without those of the modules inside it."""
    for attributes in (module._parameters, module._buffers, vars(module)):
        yield from (x for x in attributes.values() if isinstance(x, Tensor))


def model_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Iterates over the weights of a model, and the other tensors that it holds."""
    for module in model.modules():
        yield from own_tensors(module)
