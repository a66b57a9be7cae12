"""Stops the making of a network that would be too large, before most of its memory is touched."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from nextpixel.errors import UserError

__all__ = ["at_most", "check_sizes"]

LARGEST = 65_536  # as many classes, levels and codes are possible
MOST_LAYERS = 5_000  # the published networks of this family have some 400


def check_sizes(arguments: Mapping[str, Any], name: str) -> None:
    """Checks the numbers that a network is made with: sizes, counts of layers and the like.

    Raises:
        UserError: One is above 65,536, so that lists of that length would fill the memory.
    """
    for argument, value in arguments.items():
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(each, int) and each > LARGEST for each in values):
            raise UserError(f"{name} has {argument} above {LARGEST:,}: make it smaller.")


@contextmanager
def at_most(parameters: int, name: str) -> Iterator[None]:
    """Limits the networks that this thread makes in the block, all of them together.

    Args:
        parameters: The largest number of parameters; as many numbers may stand in buffers.
        name: What is made, to begin the message with.

    Raises:
        UserError: They get larger, or have more than 5,000 layers.
    """
    maker = threading.get_ident()
    counts = {"parameters": 0, "layers": 0, "numbers in buffers": 0}
    limits = {"parameters": parameters, "layers": MOST_LAYERS, "numbers in buffers": parameters}

    def add(what: str, n: int) -> None:
        if threading.get_ident() != maker:
            return
        counts[what] += n
        if counts[what] > limits[what]:
            raise UserError(
                f"{name} has more than {limits[what]:,} {what}, too many here: make it smaller."
            )

    def size(x: Any) -> int:
        return x.numel() if isinstance(x, Tensor) else 0

    def add_parameter(_: nn.Module, __: str, x: Any) -> None:
        add("parameters", size(x))

    def add_buffer(_: nn.Module, __: str, x: Any) -> None:
        add("numbers in buffers", size(x))

    def add_layer(_: nn.Module, __: str, ___: Any) -> None:
        add("layers", 1)

    handles = [
        hooks.register_module_parameter_registration_hook(add_parameter),
        hooks.register_module_buffer_registration_hook(add_buffer),
        hooks.register_module_module_registration_hook(add_layer),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
