"""LSTMs over maps on a CPU: `sweep` goes over the sites of an image in one call of a program.

The states are small, and PyTorch needs a dozen calls for each of thousands of steps. native_lstm.c
computes a site's state in the processor's registers. It is for training in float32; elsewhere
`nn/lstm.py` uses PyTorch's operations, which a test compares it with.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextpixel.utils.compiling import load_c_library

__all__ = ["Kind", "fits", "sweep"]

SOURCE = Path(__file__).with_name("native_lstm.c")
MOST_NEIGHBOURS = 16


class Recurrence(ctypes.Structure):
    """The description of an LSTM, see native_lstm.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels")),
        *((name, ctypes.c_int64) for name in ("neighbours", "carry", "mirrored", "threads")),
        ("offsets", ctypes.c_int64 * (2 * MOST_NEIGHBOURS)),
    )


class Kind(NamedTuple):
    """What a site's state depends on.

    Attributes:
        offsets: The neighbours' rows below and columns to the right. They come before the site.
        carry: The neighbour, by its place in `offsets`, whose cell state goes on.
        mirrored: Whether rows go from right to left; the columns of `offsets` count to the left.
    """

    offsets: tuple[tuple[int, int], ...]
    carry: int
    mirrored: bool = False


@lru_cache
def program() -> ctypes.CDLL | None:
    """Compiles native_lstm.c; returns None if it cannot be compiled."""
    library = load_c_library(SOURCE, "lstm")
    if library is not None:
        library.workspace_of.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        library.workspace_of.restype = ctypes.c_int64
        library.sweep.argtypes = library.sweep_gradients.argtypes = [ctypes.c_void_p] * 7
        library.sweep.restype = library.sweep_gradients.restype = None
    return library


def fits(x: Tensor, weight: Tensor, neighbours: int) -> bool:
    """Returns whether `sweep` can be used: for training, on a CPU.

    Without gradients it cannot, so that the scores of a model and its programs for generation do
    not depend on a compiler.

    Args:
        x: The input of the layer, `(B, C, H, W)`.
        weight: Weights of the layer, float32.
        neighbours: Their number.
    """
    return (
        torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and x.device.type == weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and neighbours <= MOST_NEIGHBOURS
        and program() is not None
    )


def sweep(contributions: Tensor, weight: Tensor, kind: Kind) -> Tensor:
    """Computes the hidden states of an LSTM; `fits` must be true.

    Args:
        contributions: Of the input to the gates o, f, i and g, `(B, 4 C, H, W)`.
        weight: From each neighbour's state to the gates, `(neighbours, C, 4 C)`, float32.
        kind: What a state depends on.

    Returns:
        `(B, C, H, W)`, float32, channels last. Everything is computed in float32.
    """
    out: Tensor = Sweep.apply(contributions.float(), weight, kind)  # type: ignore[no-untyped-call]
    return out


class Sweep(torch.autograd.Function):
    """`sweep` and its gradients."""

    @staticmethod
    def forward(ctx: Any, contributions: Tensor, weight: Tensor, kind: Kind) -> Tensor:
        """Computes the states; keeps the gates, and the cell states."""
        images, _, *size = contributions.shape
        channels = weight.shape[1]
        contributions, weight = last(contributions), weight.contiguous()
        gates = torch.empty_like(contributions)
        cells, states = (new_maps(images, channels, *size) for _ in range(2))
        described = describe(states, kind)
        packed = room(described, backward=False)
        call("sweep", described, contributions, weight, packed, gates, cells, states)
        ctx.save_for_backward(weight, gates, cells, states)
        ctx.kind = kind
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Computes the gradients of the contributions and the weights."""
        weight, gates, cells, states = ctx.saved_tensors
        gates, cells, gradient = last(gates), last(cells), last(gradient)
        described, of_gates = describe(states, ctx.kind), torch.empty_like(gates)
        workspace = room(described, backward=True)
        call("sweep_gradients", described, gates, cells, gradient, weight, workspace, of_gates)
        seen = neighbours_of(states, ctx.kind).flatten(0, 2)
        of_weight = seen.T @ of_gates.permute(0, 2, 3, 1).flatten(0, 2)
        return of_gates, of_weight.view(weight.shape), None


def neighbours_of(states: Tensor, kind: Kind) -> Tensor:
    """Collects the neighbours' states, `(B, C, H, W)` -> `(B, H, W, neighbours C)`."""
    height, width = states.shape[2:]
    rows, columns = zip(*kind.offsets, strict=True)
    columns = tuple(-col for col in columns) if kind.mirrored else columns
    left, above = max(0, -min(columns)), -min(rows)
    # Channels first of all sizes, as F.pad counts them from the end.
    bordered = F.pad(states.permute(0, 2, 3, 1), (0, 0, left, max(0, *columns), above, 0))
    return torch.cat(
        [
            bordered[:, above + row : above + row + height, left + col : left + col + width]
            for row, col in zip(rows, columns, strict=True)
        ],
        3,
    )


def last(x: Tensor) -> Tensor:
    """Makes maps channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def new_maps(*shape: int) -> Tensor:
    """Makes maps `(B, C, H, W)`, channels last."""
    return torch.empty(shape, device="cpu", memory_format=torch.channels_last)


def describe(states: Tensor, kind: Kind) -> Recurrence:
    """Describes an LSTM with states `(B, C, H, W)`."""
    images, channels, *size = states.shape
    offsets = (ctypes.c_int64 * (2 * MOST_NEIGHBOURS))(*(n for pair in kind.offsets for n in pair))
    numbers = (channels, len(kind.offsets), kind.carry, kind.mirrored, torch.get_num_threads())
    return Recurrence(images, *size, *numbers, offsets)


def room(described: Recurrence, *, backward: bool) -> Tensor:
    """Makes room for the packed weights and, for the gradients, for some images' states."""
    library = program()
    assert library is not None  # since `fits` was true
    return torch.empty(library.workspace_of(ctypes.byref(described), backward), device="cpu")


def call(name: str, described: Recurrence, *tensors: Tensor) -> None:
    """Calls a function of the program; tensors are passed by their addresses."""
    library = program()
    assert library is not None  # since `fits` was true
    getattr(library, name)(ctypes.byref(described), *(tensor.data_ptr() for tensor in tensors))
