"""The context c of p(x | c): a class, a vector or an image, or several of them.

The *null context* means "any context": its bias is 0. A model learns it if training drops the
context now and then (`train.drop_context`), and guidance needs it (see `sampling.SamplingConfig`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nextpixel.errors import MIX_ERROR, UserError
from nextpixel.utils.words import list_names

__all__ = ["PARTS", "Context", "ContextLike", "ContextPart", "ContextSpec", "read_tensor"]


# One part of a context, as a caller passes it: a class id, ids, class weights, a vector, an image.
ContextPart: TypeAlias = int | Sequence[Any] | NDArray[Any] | Tensor
PARTS = ("classes", "vector", "image")  # the parts of a context that a caller gives
# What every `c` takes, see `ContextSpec.read`.
ContextLike: TypeAlias = (
    "ContextPart | Mapping[str, ContextPart | None] | Literal['null'] | Context | None"
)


@dataclass(eq=False)  # not frozen: Fabric changes the types of its tensors where it wraps a model
class Context:
    """The context of a batch, one row for each image.

    Attributes:
        present: 1 where an image has a context, 0 where it has the null context, `(B,)`.
        classes: Weights of the classes, `(B, classes)`, 0 in the null context; None if the model
            takes no class.
        vector: Real numbers, `(B, D)`, or None.
        image: Real numbers, `(B, Cc, Hc, Wc)`, or None.
        order: The order of each image, one-hot, `(B, orders)`, also in the null context; None if
            the model has only raster order. See `nextpixel.orders`.
    """

    present: Tensor
    classes: Tensor | None = None
    vector: Tensor | None = None
    image: Tensor | None = None
    order: Tensor | None = None

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, images: Any) -> Context:
        """Picks out images: a slice or indices."""
        return self._each(lambda x: x[images])

    @property
    def choices(self) -> Tensor | None:
        """The weights of the classes, followed by those of the orders, `(B, classes + orders)`."""
        if self.classes is None or self.order is None:
            return self.order if self.classes is None else self.classes
        return torch.cat([self.classes, self.order], 1)

    def in_order(self, order: int | Tensor, orders: int) -> Context:
        """Returns the context of images in an order, or each in its own, integers `(B,)`.

        The images themselves must be turned, see `nextpixel.orders.turn`.
        """
        device = self.present.device
        each = torch.as_tensor(order, device=device).expand(len(self))
        return replace(self, order=F.one_hot(each, orders).float())

    def to(self, device: torch.device) -> Context:
        """Moves the context to a device."""
        return self._each(lambda x: x.to(device))

    def null(self, where: Tensor | bool = True) -> Context:
        """Returns the null context for all images, or only where `where`, `(B,)`, is true."""
        keep = ~torch.as_tensor(where).to(self.present.device)
        classes = None if self.classes is None else self.classes * keep[..., None]
        return replace(self, present=self.present * keep, classes=classes)

    def cat(self, other: Context) -> Context:
        """Appends another batch."""
        return self._each(lambda x, y: torch.cat([x, y]), other)

    def _each(self, change: Callable[..., Tensor], *others: Context) -> Context:
        parts = zip(*(vars(context).values() for context in (self, *others)), strict=True)
        return Context(*(None if x[0] is None else change(*x) for x in parts))  # type: ignore[arg-type]


class ContextSpec(NamedTuple):
    """The contexts that a model takes.

    Attributes:
        classes: Number of classes, or None.
        vector: Length of a vector, or None.
        image: `(Cc, Hc, Wc)` of an image, or None.
        orders: Number of orders of the pixels.
    """

    classes: int | None = None
    vector: int | None = None
    image: tuple[int, int, int] | None = None
    orders: int = 1

    @property
    def parts(self) -> list[str]:
        """The names of the parts that a caller gives."""
        parts = {"classes": self.classes, "vector": self.vector, "image": self.image}
        return [name for name, size in parts.items() if size is not None]

    def read(
        self, c: ContextLike, batch: int, class_names: Sequence[str] | None = None
    ) -> Context | None:
        """Turns a context given by a user into a `Context`.

        Args:
            c: One of:

                - None, for an unconditional model;
                - a class id for all images, or ids `(B,)`; or their names;
                - a mix of classes, real weights `(classes,)` or `(B, classes)`, none negative and
                  with the sum 1;
                - a vector `(D,)` or `(B, D)`;
                - an image `(Cc, Hc, Wc)` or `(B, Cc, Hc, Wc)`;
                - codes in `[0, Cc)`, integers `(Hc, Wc)` or `(B, Hc, Wc)`, which become one-hot;
                - a dictionary of "classes", "vector" and "image", for a model that takes several;
                - "null", the null context;
                - a `Context`.
            batch: Number of images B.
            class_names: The names of the classes, if they are known.

        Returns:
            The context, or None for an unconditional model; in raster order, unless it is a
            `Context` in another one.

        Raises:
            UserError: The context does not fit the model.
        """
        context = self._read(c, batch, class_names)
        if self.orders == 1 or (context is not None and context.order is not None):
            return context
        return (context or Context(torch.ones(batch))).in_order(0, self.orders)

    def _read(
        self, c: ContextLike, batch: int, class_names: Sequence[str] | None
    ) -> Context | None:
        """Turns a context given by a user into a `Context`, without an order."""
        if isinstance(c, Context) and (self.parts or self.orders > 1):
            parts = [name for name in PARTS if getattr(c, name) is not None]
            order = None if c.order is None else c.order.shape[1]
            if len(c) != batch or parts != self.parts or order not in (None, self.orders):
                raise UserError(
                    "This context was made for other images, or for another model: make it again."
                )
            return c
        if not self.parts:
            if c is not None:
                raise UserError(
                    "This model is unconditional: it takes no class, vector or image; leave c out."
                )
            return None
        if isinstance(c, str) and c == "null":
            return self._null(batch)
        if not isinstance(c, Mapping):
            if c is not None and len(self.parts) > 1:
                example = ", ".join(f'"{name}": ...' for name in self.parts)
                raise UserError(f"This model takes several contexts: give c={{{example}}}.")
            c = {self.parts[0]: cast("ContextPart | None", c)}
        given: dict[str, ContextPart] = {k: part for k, part in c.items() if part is not None}
        if "classes" in given:
            given["classes"] = ids_of_names(given["classes"], class_names)
        if set(given) != set(self.parts):
            raise UserError(
                f"This model needs {self._needed()} for every image, and was given "
                f"{' and '.join(map(str, given)) or 'nothing'}: give c."
            )
        read = (self._read_classes, self._read_vector, self._read_image)
        tensors = {
            name: function(given[name], batch)
            for name, function in zip(PARTS, read, strict=True)
            if name in given
        }
        first = next(iter(tensors.values()))
        return Context(torch.ones(batch, device=first.device), **tensors)

    def _needed(self) -> str:
        needed = {
            "classes": f"a class from 0 to {(self.classes or 0) - 1}",
            "vector": f"a vector of {self.vector} numbers",
            "image": f"an image {self.image}",
        }
        return " and ".join(needed[name] for name in self.parts)

    def _null(self, batch: int) -> Context:
        return Context(
            torch.zeros(batch),
            None if self.classes is None else torch.zeros(batch, self.classes),
            None if self.vector is None else torch.zeros(batch, self.vector),
            None if self.image is None else torch.zeros(batch, *self.image),
        )

    def _read_classes(self, c: ContextPart, batch: int) -> Tensor:
        """Makes class weights, one-hot for class ids."""
        classes = cast(int, self.classes)
        given = read_tensor(c)
        if given.dtype == torch.bool or given.is_complex():
            raise UserError(f"Class ids are integers and class weights reals, not {given.dtype}.")
        if given.is_floating_point():
            return _mix(_reals(given, (classes,), batch, "Class weights are", "numbers"))
        if given.shape not in ((), (1,), (batch,)):
            raise UserError(
                f"Give one class id, or one for each of the {batch} images, not "
                f"{tuple(given.shape)}."
            )
        wrong = given[(given < 0) | (given >= classes)]
        if wrong.numel():
            raise UserError(
                f"There is no class {int(wrong.flatten()[0])}: the classes are 0 to {classes - 1}."
            )
        return F.one_hot(given.long().expand(batch), classes).float()

    def _read_vector(self, c: ContextPart, batch: int) -> Tensor:
        return _reals(
            read_tensor(c), (cast(int, self.vector),), batch, "A context vector is", "real numbers"
        )

    def _read_image(self, c: ContextPart, batch: int) -> Tensor:
        shape, given = cast("tuple[int, int, int]", self.image), read_tensor(c)
        if given.dtype == torch.int64 and given.shape in (shape[1:], (batch, *shape[1:])):
            if given.min() < 0 or given.max() >= shape[0]:
                raise UserError(
                    f"The codes in the context lie in [0, {shape[0]}), but these go from "
                    f"{int(given.min())} to {int(given.max())}: give codes of the right codebook."
                )
            given = F.one_hot(given, shape[0]).movedim(-1, -3).float()
        return _reals(given, shape, batch, "A context image is", "real numbers")


def ids_of_names(c: ContextPart, names: Sequence[str] | None) -> ContextPart:
    """Replaces names of classes, one or a list, by their ids.

    Raises:
        UserError: There is no such class, or no names are known.
    """
    parts = [c] if isinstance(c, str) else c
    if not isinstance(parts, (list, tuple)) or not any(isinstance(part, str) for part in parts):
        return c
    known = list(names or ())
    for name in parts:
        if name not in known:
            among = f"one of {list_names(known)}" if known else "an id (the names are unknown)"
            raise UserError(f'There is no class {name!r}: give {among}, or "null" for any class.')
    ids = [known.index(name) for name in parts]
    return ids[0] if isinstance(c, str) else ids


def read_tensor(c: object) -> Tensor:
    """Turns numbers that a user gave into a tensor.

    Raises:
        UserError: They are not numbers.
    """
    try:
        return torch.as_tensor(c)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"A context is made of numbers, not {type(c).__name__}.") from None


def _mix(weights: Tensor) -> Tensor:
    """Checks that the weights of each mix of classes are not negative and sum to 1."""
    sums = weights.sum(1)
    wrong = (weights < 0).any(1) | ((sums - 1).abs() > MIX_ERROR)
    if bool(wrong.any()):
        first = weights[wrong][0]
        problem = "one is negative" if bool((first < 0).any()) else f"some sum to {first.sum():.4g}"
        raise UserError(
            f"Class weights are at least 0 and sum to 1, but {problem}: give class ids as "
            "integers, or weights that sum to 1."
        )
    return weights


def _reals(given: Tensor, shape: tuple[int, ...], batch: int, subject: str, unit: str) -> Tensor:
    """Checks a part of real numbers and expands it to the batch."""
    if not given.is_floating_point() or given.shape not in (
        shape,
        (1, *shape),
        (batch, *shape),
    ):
        raise UserError(
            f"{subject} {(batch, *shape)} or {shape} {unit}, not {tuple(given.shape)} of "
            f"{given.dtype}."
        )
    if given.device.type == "cpu" and not bool(given.isfinite().all()):
        raise UserError(f"{subject} finite numbers, but some are not.")
    return given.float().expand(batch, *shape)
