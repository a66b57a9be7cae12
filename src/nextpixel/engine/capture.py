"""Captures a step of generation: the operations that PyTorch runs, and the memory they use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nextpixel.nn import Site

__all__ = ["Call", "Capture", "Storage", "View", "replace_each", "storage_address"]

aten = torch.ops.aten


class Storage(NamedTuple):
    """A piece of memory that a step uses.

    Attributes:
        created: Whether the step allocated it. Otherwise it existed before: weights and cache.
        key: If created, its number in order of allocation; otherwise its address.
    """

    created: bool
    key: int


class View(NamedTuple):
    """Where a tensor lies in memory.

    Attributes:
        storage: The storage that holds it.
        dtype: Type of its elements.
        offset: Index of its first element in the storage.
        sizes: Its shape.
        strides: Elements from one index to the next, in each dimension.
    """

    storage: Storage
    dtype: torch.dtype
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


class Call(NamedTuple):
    """An operation and its arguments, with a `View` (later an `AffineView`) for each tensor.

    Attributes:
        function: The operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: The view of its result; None if it writes to its first argument.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


class Capture(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Captures the operations of one step while PyTorch computes it.

    Attributes:
        site: The site of the step.
        calls: The operations in order, without those that only return a view.
        external: One tensor in each storage that existed before the step, by the storage's address.
        created_sizes: Bytes of each storage that the step allocated.
        result: The view of the step's result.
        problem: Why the step cannot be compiled; None if nothing prevents it.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.site = site
        self.calls: list[Call] = []
        self.external: dict[int, Tensor] = {}
        self.created_sizes: list[int] = []
        self.result: View
        self.problem: str | None = None
        self._numbers: dict[int, int] = {}  # of the created storages, by their addresses
        self._alive: list[Tensor] = []  # all results, so that no address is used twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Lets PyTorch's compiler look inside: to forbid it, it would have to be imported."""
        return False

    def run(self, compute: Callable[[], Tensor]) -> Tensor:
        """Runs the step and returns its result."""
        with self:
            result = compute()
        self.result = self._view(result)
        self._alive.clear()
        return result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and adds it to the calls."""
        kwargs = kwargs or {}
        effect = effect_of(func)
        if effect == "view":
            return func(*args, **kwargs)
        if effect == "composite":
            with self:
                return func.decompose(*args, **kwargs)
        views = replace_each(Tensor, args, self._view), replace_each(Tensor, kwargs, self._view)
        result = func(*args, **kwargs)
        if effect == "write":
            self.calls.append(Call(func, *views, None))
        elif effect == "create" and isinstance(result, Tensor):
            self._add_created(result)
            self.calls.append(Call(func, *views, self._view(result)))
        else:
            self.problem = f"{func} cannot be compiled"
        return result

    def _add_created(self, result: Tensor) -> None:
        storage = result.untyped_storage()
        self._numbers[storage.data_ptr()] = len(self.created_sizes)
        self.created_sizes.append(storage.nbytes())
        self._alive.append(result)

    def _view(self, x: Tensor) -> View:
        address = storage_address(x)
        number = self._numbers.get(address)
        if number is None:
            self.external.setdefault(address, x)
            storage = Storage(created=False, key=address)
        else:
            storage = Storage(created=True, key=number)
        return View(storage, x.dtype, int(x.storage_offset()), x.shape, x.stride())


def replace_each(kind: type, x: Any, new: Callable[[Any], Any]) -> Any:
    """Replaces every object of a kind by `new(object)`, inside tuples, lists, dicts and calls."""
    if isinstance(x, kind):
        return new(x)
    if type(x) in (tuple, list):
        return type(x)([replace_each(kind, part, new) for part in x])
    if type(x) is Call:
        return Call(*[replace_each(kind, part, new) for part in x])
    if type(x) is dict:
        return {name: replace_each(kind, part, new) for name, part in x.items()}
    return x


def storage_address(x: Tensor) -> int:
    """Returns the address of the storage in which a tensor lies."""
    return x.data_ptr() - int(x.storage_offset()) * x.dtype.itemsize


@cache
def effect_of(func: Any) -> Literal["view", "write", "create", "composite", "other"]:
    """Classifies an operation by what it does to memory.

    Returns:
        "view" if its results share the memory of its arguments; "write" if it writes to its first
        argument; "create" if it returns a new tensor; "composite" if it consists of other
        operations; "other" if it cannot be compiled, for example because it draws random numbers.
    """
    # Fused attention is one instruction. It draws random numbers only for dropout.
    if func is aten.scaled_dot_product_attention.default:
        return "create"
    if func is aten._unsafe_view.default:  # shares its memory, though its schema denies it
        return "view"
    if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
        return "composite"
    if torch.Tag.nondeterministic_seeded in func.tags:
        return "other"
    aliased = [argument.alias_info for argument in func._schema.arguments]
    written = [alias is not None and alias.is_write for alias in aliased]
    if any(written):
        return "write" if written[0] and not any(written[1:]) else "other"
    return "view" if any(alias is not None for alias in aliased) else "create"
