"""Keeps a tape from one drawing to the next, which need not record the same steps again.

Only what the steps do is taken to be the same. The memory that they read is filled anew: the model
makes a new cache, whose numbers are copied to where the old ones were, and the weights are laid out
again. Where the model has changed otherwise, or a recorded step read anything else than weights and
cache, the next drawing begins from nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nextpixel.engine.capture import storage
from nextpixel.nn import Cache

__all__ = ["keep_tape", "kept_tape", "surroundings"]

LARGEST = 2**26  # bytes that are kept: where there are more, recording takes little of the time
NAME = "_kept_tape"  # of the model's attribute: as its own, it is found by the garbage collector


@dataclass(eq=False)
class Kept:
    """What a drawing left behind.

    Attributes:
        model: Whose it is.
        cache: The drawing's cache, with the tape.
        before: The surroundings in which the steps were recorded.
    """

    model: weakref.ref[nn.Module]
    cache: Cache
    before: tuple[Any, ...]

    def __deepcopy__(self, memo: object) -> None:
        """Leaves it out of copies of the model."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leaves it out of files."""
        return type(None), ()


def kept_tape(model: nn.Module, new: Cache, now: tuple[Any, ...]) -> Cache:
    """Begins a drawing with the tape of the model's last one.

    Args:
        model: The model.
        new: The cache that it made for the drawing.
        now: The surroundings.

    Returns:
        The last drawing's cache, with the new one's numbers; the new one if they do not fit. Nobody
        else gets it until `keep_tape`.
    """
    kept: Kept | None = vars(model).pop(NAME, None)
    if (
        kept is None
        or kept.cache.tape is None
        or kept.model() is not model
        or not new.even
        or kept.before != now
    ):
        return new
    if not kept.cache.start_like(new, {storage(t) for t in tensors(model)}):
        return new
    kept.cache.tape.read_anew()
    return kept.cache


def keep_tape(model: nn.Module, cache: Cache, before: tuple[Any, ...]) -> None:
    """Keeps the tape of a drawing that has ended, with the memory that it reads, for the next one.

    A user's layers may keep what nobody knows of: theirs is not kept.

    Args:
        model: The model.
        cache: The drawing's cache.
        before: The surroundings when it began.
    """
    if not cache.even or cache.tape is None:
        return
    weights = {storage(t) for t in tensors(model)}
    own = [t for t in cache.tensors() if storage(t) not in weights]
    size = sum(t.nbytes for t in own) + cache.tape.nbytes()
    if size <= LARGEST and cache.tape.memory() <= weights | {storage(t) for t in own}:
        cache.context, cache.biases, cache.parameters = None, [], None
        vars(model)[NAME] = Kept(weakref.ref(model), cache, before)


def surroundings(model: nn.Module) -> tuple[Any, ...]:
    """Describes all that steps depend on, but for the numbers: modules, settings, places."""
    modules = [(name, *state(m)) for name, m in model.named_modules(remove_duplicate=False)]
    return (torch.get_num_threads(), modules)


def state(module: nn.Module) -> tuple[Any, ...]:
    """Describes a module without those inside it."""
    settings = {name: x for name, x in vars(module).items() if name != "training" and plain(x)}
    hooks = (*module._forward_hooks, *module._forward_pre_hooks, vars(module).get("forward"))
    places = [(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in held(module)]
    return weakref.ref(module), settings, hooks, places


def plain(x: object) -> bool:
    """Tells whether it is a number, a word, or a few of them."""
    return isinstance(x, (int, float, str)) or (isinstance(x, (tuple, list)) and all(map(plain, x)))


def held(module: nn.Module) -> Iterator[Tensor]:
    """Goes through the tensors of a module without those inside it."""
    for among in (module._parameters, module._buffers, vars(module)):
        yield from (x for x in among.values() if isinstance(x, Tensor))


def tensors(model: nn.Module) -> Iterator[Tensor]:
    """Goes through the weights of a model, and what else it keeps."""
    for module in model.modules():
        yield from held(module)
