"""Watches steps of generation, and finds how the places they use move from site to site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nextpixel.nn import Site

__all__ = ["Call", "Place", "Recording", "Track", "UnevenError", "places", "storage", "track"]

aten = torch.ops.aten


class Place(NamedTuple):
    """Where a tensor lies.

    Attributes:
        memory: Its storage: the address of what was there before the step, or the number of what
            the step made.
        made: Whether the step made it.
        dtype: Type of its elements.
        offset: Elements before its first one in the storage.
        sizes: Its shape.
        strides: Elements from one index to the next, in each dimension.
    """

    memory: int
    made: bool
    dtype: torch.dtype
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


class Call(NamedTuple):
    """An operation, with places for tensors; `track` then makes them tracks.

    Attributes:
        function: The operation.
        args: Its arguments.
        kwargs: Its other arguments.
        out: The place of what it made; None if it writes to its first argument.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Watches the operations of a step.

    Attributes:
        site: Where the step is.
        calls: The operations; those that only make a view are left out.
        kept: A tensor in each storage that was there before the step, by its address.
        sizes: Bytes of the storages that the step made.
        result: What the step returned.
        problem: Why the step cannot be replayed, if so.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.site = site
        self.calls: list[Call] = []
        self.kept: dict[int, Tensor] = {}
        self.sizes: list[int] = []
        self.result: Place
        self.problem: str | None = None
        self._numbers: dict[int, int] = {}  # of the storages that the step made
        self._alive: list[Tensor] = []  # all it made: an address must not come twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Lets PyTorch's compiler look inside: to forbid it, it would have to be imported."""
        return False

    def watch(self, step: Callable[[], Tensor]) -> Tensor:
        """Runs the step."""
        with self:
            result = step()
        self.result = self._place(result)
        self._alive.clear()
        return result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and remembers it."""
        kwargs = kwargs or {}
        does = effect(func)
        if does == "view":
            return func(*args, **kwargs)
        if does == "composite":
            with self:
                return func.decompose(*args, **kwargs)
        places = tuple(map(self._places, args)), self._places(kwargs)
        result = func(*args, **kwargs)
        if does == "write":
            self.calls.append(Call(func, *places, None))
        elif does == "make" and isinstance(result, Tensor):
            storage = result.untyped_storage()
            self._numbers[storage.data_ptr()] = len(self.sizes)
            self.sizes.append(storage.nbytes())
            self._alive.append(result)
            self.calls.append(Call(func, *places, self._place(result)))
        else:
            self.problem = f"{func} cannot be replayed"
        return result

    def _place(self, x: Tensor) -> Place:
        offset, dtype, address = int(x.storage_offset()), x.dtype, storage(x)
        number = self._numbers.get(address)
        if number is None:
            self.kept.setdefault(address, x)
            return Place(address, False, dtype, offset, x.shape, x.stride())
        return Place(number, True, dtype, offset, x.shape, x.stride())

    def _places(self, x: Any) -> Any:
        """Puts places where tensors are."""
        if isinstance(x, Tensor):
            return self._place(x)
        if isinstance(x, (tuple, list)):
            return type(x)([self._places(one) for one in x])
        if isinstance(x, dict):
            return {name: self._places(one) for name, one in x.items()}
        return x


def storage(x: Tensor) -> int:
    """Finds the address of a tensor's storage."""
    return x.data_ptr() - int(x.storage_offset()) * x.dtype.itemsize


@cache
def effect(func: Any) -> str:
    """Says what an operation does.

    Returns:
        "view" if its results lie where its arguments do, "write" if it writes to its first
        argument, "make" if it makes a new tensor, "composite" if it is made of others, and "other"
        if it cannot be replayed: it draws random numbers, say.
    """
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    # Fused attention is replayed as a whole. It may draw random numbers, but for dropout only.
    if func is aten.scaled_dot_product_attention.default:
        return "make"
    if func.has_kernel_for_dispatch_key(composite):
        return "composite"
    if torch.Tag.nondeterministic_seeded in func.tags:
        return "other"
    aliased = [argument.alias_info for argument in func._schema.arguments]
    written = [alias is not None and alias.is_write for alias in aliased]
    if any(written):
        return "write" if written[0] and not any(written[1:]) else "other"
    return "view" if any(alias is not None for alias in aliased) else "make"


class Track(NamedTuple):
    """The places of a tensor at all sites.

    Attributes:
        place: At row 0 and column 0, or where it would be there.
        by_row: What each row adds to the offset and to each of the sizes.
        by_col: The same for each column.
    """

    place: Place
    by_row: tuple[int, ...]
    by_col: tuple[int, ...]

    @property
    def resizes(self) -> bool:
        """Whether its shape depends on the site."""
        return any(self.by_row[1:]) or any(self.by_col[1:])

    @property
    def moves(self) -> bool:
        """Whether its place or its shape depends on the site."""
        return any(self.by_row) or any(self.by_col)


class UnevenError(Exception):
    """The steps of a kind differ in more than where they are."""


def track(recorded: Sequence[Any], sites: Sequence[Site]) -> Any:
    """Finds how places move: puts tracks where they are in the arguments of calls.

    Args:
        recorded: The same calls at three sites.
        sites: The sites: one, another in its column or the same, another in its row or the same.

    Raises:
        UnevenError: They are not the same calls, or do not move evenly.
    """
    first, by_row, by_col = recorded
    if first == by_row == by_col:
        return stay(first)
    if not type(first) is type(by_row) is type(by_col):
        raise UnevenError(f"an argument is something else: {recorded}")
    if isinstance(first, Place):
        return track_place(first, by_row, by_col, sites)
    if isinstance(first, (tuple, list, dict)):
        if not len(first) == len(by_row) == len(by_col):
            raise UnevenError("there are more or fewer calls, or arguments, than before")
        if isinstance(first, dict):
            return {name: track([r[name] for r in recorded], sites) for name in first}
        each = [track(parts, sites) for parts in zip(*recorded, strict=True)]
        return type(first)(*each) if isinstance(first, Call) else type(first)(each)
    raise UnevenError(f"an argument changes: {recorded}")


def stay(x: Any) -> Any:
    """Puts tracks where places are that do not move, see `track`."""
    if isinstance(x, Place):
        still = (0,) * (1 + len(x.sizes))
        return Track(x, still, still)
    if isinstance(x, Call):
        return Call(x.function, stay(x.args), stay(x.kwargs), stay(x.out))
    if isinstance(x, (tuple, list)):
        return type(x)([stay(one) for one in x])
    return {name: stay(one) for name, one in x.items()} if isinstance(x, dict) else x


def places(x: Any, site: Site) -> Any:
    """Undoes `track`: puts places at a site where tracks are."""
    if isinstance(x, Track):
        by_site = zip([x.place.offset, *x.place.sizes], x.by_row, x.by_col, strict=True)
        offset, *sizes = (n + site.row * row + site.col * col for n, row, col in by_site)
        return x.place._replace(offset=offset, sizes=tuple(sizes))
    if isinstance(x, Call):
        return Call(*(places(one, site) for one in x))
    if isinstance(x, (tuple, list)):
        return type(x)([places(one, site) for one in x])
    if isinstance(x, dict):
        return {name: places(one, site) for name, one in x.items()}
    return x


def track_place(first: Place, by_row: Place, by_col: Place, sites: Sequence[Site]) -> Track:
    """Finds how a place moves, see `track`."""
    row, col = sites[1].row - sites[0].row, sites[2].col - sites[0].col
    each_row = change(first, by_row, row)
    each_col = change(first, by_col, col)
    numbers = zip([first.offset, *first.sizes], each_row, each_col, strict=True)
    origin = [n - sites[0].row * r - sites[0].col * c for n, r, c in numbers]
    return Track(first._replace(offset=origin[0], sizes=tuple(origin[1:])), each_row, each_col)


def change(before: Place, after: Place, steps: int) -> tuple[int, ...]:
    """Finds what each of so many steps adds to an offset and to the sizes."""
    same = [(p.memory, p.made, p.dtype, p.strides, len(p.sizes)) for p in (before, after)]
    numbers = [[p.offset, *p.sizes] for p in (before, after)]
    differences = [b - a for a, b in zip(*numbers, strict=False)]
    if same[0] != same[1] or any(d % steps if steps else d for d in differences):
        raise UnevenError(f"a place does not move evenly: {before}, {after}")
    return tuple(d // steps if steps else 0 for d in differences)
