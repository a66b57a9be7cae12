"""The orders in which a model may take the pixels of an image: raster order in eight turns.

A model with several orders always takes pixels in raster order, but of images that are turned and
mirrored, and the number of the order is part of its context. So one network gives eight exact
factorisations of the same likelihood: a part that is hidden on any side can come last, and the
mixture of all is a better likelihood (Jain, Abbeel, Pathak: Locally Masked Convolution for
Autoregressive Models, 2020, https://arxiv.org/abs/2006.12486, where masks take the place of turns).
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError

__all__ = [
    "best_order",
    "check_orders",
    "in_words",
    "left_over",
    "turn",
    "turn_back",
    "with_orders",
]

MIRROR, FLIP, TRANSPOSE = 1, 2, 4  # bits of the number of an order
Maps = TypeVar("Maps", bound=Any)  # a NumPy array or a PyTorch tensor


def turn(x: Maps, order: int) -> Maps:
    """Turns maps so that raster order goes through them in another order.

    Args:
        x: A NumPy array or a tensor, `(..., H, W)`.
        order: 0 for raster order itself. Its bits say what is done: 4 exchanges rows and columns,
            then 2 reverses the rows, and 1 the columns.

    Returns:
        Maps of the same kind, `(..., W, H)` where rows and columns are exchanged.
    """
    if order & TRANSPOSE:
        x = x.swapaxes(-1, -2)
    return mirrored(x, order)


def turn_back(x: Maps, order: int) -> Maps:
    """Undoes `turn`."""
    x = mirrored(x, order)
    if order & TRANSPOSE:
        x = x.swapaxes(-1, -2)
    return x


def mirrored(x: Maps, order: int) -> Maps:
    """Reverses the rows or the columns, or both, or none."""
    if order & FLIP:
        x = x[..., list(range(x.shape[-2] - 1, -1, -1)), :]
    if order & MIRROR:
        x = x[..., list(range(x.shape[-1] - 1, -1, -1))]
    return x


def check_orders(orders: int, shape: tuple[int, int, int]) -> None:
    """Checks a number of orders.

    Raises:
        UserError: There are other numbers of orders for images of this shape.
    """
    if orders not in (1, 4, 8):
        raise UserError(f"orders is 1, 4 (with mirrors) or 8 (with turns, too), not {orders}.")
    if orders == 8 and shape[1] != shape[2]:
        raise UserError(
            f"Images of {shape[2]} x {shape[1]} pixels cannot be turned to the same shape: give "
            "orders=4."
        )


def best_order(known: Any, orders: int) -> int:
    """Finds the order in which the fewest known pixels come after a hidden one.

    Args:
        known: True at known pixels, booleans `(..., H, W)`, an array or a tensor.
        orders: The number of orders.

    Returns:
        The first of the best orders: with none left over, what is hidden is sampled exactly.
    """
    return min(range(orders), key=lambda order: left_over(turn(known, order)))


def left_over(known: Any) -> int:
    """Counts the known pixels of a mask, `(..., H, W)`, that come after a hidden one."""
    flat = known.reshape(-1, known.shape[-2] * known.shape[-1])
    return int((flat & ((~flat).cumsum(-1) > 0)).sum())


def with_orders(
    classes: NDArray[np.float32], orders: int, order: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Appends the weights of the orders to those of the classes, as a program takes them.

    Args:
        classes: `(n, classes)`.
        orders: The number of orders; with one there is nothing to say.
        order: The order of each, `(n,)`; by default raster order.

    Returns:
        `(n, classes + orders)`, with a weight of 1 for its order.
    """
    if orders == 1:
        return classes
    order = np.zeros(len(classes), np.int64) if order is None else order
    return np.concatenate([classes, np.eye(orders, dtype=np.float32)[order]], 1)


def in_words(order: int) -> str:
    """Describes an order, as in "row by row from the bottom, each from the left"."""
    line, ends, other_ends = "row", ("top", "bottom"), ("left", "right")
    if order & TRANSPOSE:
        line, ends, other_ends = "column", other_ends, ends
    first, each = ends[bool(order & FLIP)], other_ends[bool(order & MIRROR)]
    return f"{line} by {line} from the {first}, each from the {each}"
