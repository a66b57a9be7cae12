"""LSTMs over maps on a CPU: `sweep` goes over the sites of an image in one call of a program.

The states are small, and PyTorch needs a dozen calls for each of thousands of steps. native_lstm.c
computes a site's state in the processor's registers. It is for training, in float32; elsewhere
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

from nextpixel.nn.native_units import call, last, new_maps, room
from nextpixel.utils.compiling import load_c_library, trains_in_c

__all__ = ["Recurrence", "fits", "sweep"]

SOURCE = Path(__file__).with_name("native_lstm.c")
MOST_NEIGHBOURS = 16  # as in native_lstm.c


class Description(ctypes.Structure):
    """The description of an LSTM, see native_lstm.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels")),
        *((name, ctypes.c_int64) for name in ("neighbours", "carry", "mirrored", "threads")),
        ("offsets", ctypes.c_int64 * (2 * MOST_NEIGHBOURS)),
    )


class Recurrence(NamedTuple):
    """What a site's state depends on.

    Attributes:
        offsets: The neighbours, which come before the site: their distance in rows (0 or less) and
            in columns to the right (to the left if mirrored).
        carry: The neighbour, by its place in `offsets`, whose cell state goes on.
        mirrored: Whether rows go from right to left.
    """

    offsets: tuple[tuple[int, int], ...]
    carry: int
    mirrored: bool = False


@lru_cache
def program() -> ctypes.CDLL | None:
    """Compiles native_lstm.c; returns None if it cannot be compiled, or is switched off."""
    library = load_c_library(SOURCE, "lstm") if trains_in_c() else None
    if library is not None:
        library.workspace_of.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        library.workspace_of.restype = ctypes.c_int64
        library.sweep.argtypes = library.sweep_gradients.argtypes = [ctypes.c_void_p] * 7
        library.sweep.restype = library.sweep_gradients.restype = None
    return library


def fits(contributions: Tensor, weight: Tensor, recurrence: Recurrence) -> bool:
    """Returns whether `sweep` can be used: for training, on a CPU, with float32 weights.

    Without gradients it cannot, so that the scores of a model and its programs for generation do
    not depend on a compiler.

    Args:
        contributions: As for `sweep`, float32 or bfloat16.
        weight: The weights in any shape.
        recurrence: What a state depends on.
    """
    return (
        torch.is_grad_enabled()
        and (contributions.requires_grad or weight.requires_grad)
        and contributions.device.type == weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and contributions.dtype in (torch.float32, torch.bfloat16)
        and contributions.numel() > 0
        and len(recurrence.offsets) <= MOST_NEIGHBOURS
        and program() is not None
    )


def sweep(contributions: Tensor, weight: Tensor, recurrence: Recurrence) -> Tensor:
    """Computes the hidden states of an LSTM; `fits` must be true.

    Its gradients cannot be differentiated again.

    Args:
        contributions: Of the input to the gates o, f, i and g, `(B, 4 C, H, W)`.
        weight: From each neighbour's state to the gates, `(neighbours, C, 4 C)`.
        recurrence: What a state depends on.

    Returns:
        `(B, C, H, W)`, float32, channels last. Everything is computed in float32.
    """
    out: Tensor = States.apply(contributions.float(), weight, recurrence)  # type: ignore[no-untyped-call]
    return out


class States(torch.autograd.Function):
    """`sweep` and its gradients."""

    @staticmethod
    def forward(ctx: Any, contributions: Tensor, weight: Tensor, recurrence: Recurrence) -> Tensor:
        """Computes the states; keeps the gates and the cell states, too."""
        contributions, weight = last(contributions), weight.contiguous()
        gates = torch.empty_like(contributions)
        size = (weight.shape[1], *contributions.shape[2:])
        cells, states = (new_maps(contributions, *size) for _ in range(2))
        described, library = describe(states, recurrence), program()
        packed = room("workspace_of", described, backward=False, library=library)
        maps = (contributions, weight, packed, gates, cells, states)
        call("sweep", described, *maps, library=library)
        ctx.save_for_backward(weight, gates, cells, states)
        ctx.recurrence = recurrence
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Computes the gradients of the contributions and the weights."""
        weight, gates, cells, states = ctx.saved_tensors
        # Hooks may have saved another layout.
        weight, gates, cells, gradient = (
            weight.contiguous(),
            last(gates),
            last(cells),
            last(gradient),
        )
        described, of_gates = describe(states, ctx.recurrence), torch.empty_like(gates)
        library = program()
        workspace = room("workspace_of", described, backward=True, library=library)
        maps = (gates, cells, gradient, weight, workspace, of_gates)
        call("sweep_gradients", described, *maps, library=library)
        if not ctx.needs_input_grad[1]:
            return of_gates, None, None
        with torch.autocast("cpu", enabled=False):
            seen = neighbours_of(states, ctx.recurrence).flatten(0, 2)
            of_weight = seen.T @ of_gates.permute(0, 2, 3, 1).flatten(0, 2)
        return of_gates, of_weight.view(weight.shape), None


def neighbours_of(states: Tensor, recurrence: Recurrence) -> Tensor:
    """Collects the neighbours' states, `(B, C, H, W)` -> `(B, H, W, neighbours C)`."""
    height, width = states.shape[2:]
    rows, columns = zip(*recurrence.offsets, strict=True)
    columns = tuple(-col for col in columns) if recurrence.mirrored else columns
    left, above = max(0, -min(columns)), -min(rows)
    # F.pad takes the dimensions from the last one on: channels, columns, rows.
    bordered = F.pad(states.permute(0, 2, 3, 1), (0, 0, left, max(0, *columns), above, 0))
    return torch.cat(
        [
            bordered[:, above + row : above + row + height, left + col : left + col + width]
            for row, col in zip(rows, columns, strict=True)
        ],
        3,
    )


def describe(states: Tensor, recurrence: Recurrence) -> Description:
    """Describes an LSTM with states `(B, C, H, W)`."""
    images, channels, *size = states.shape
    steps = (step for offset in recurrence.offsets for step in offset)
    offsets = (ctypes.c_int64 * (2 * MOST_NEIGHBOURS))(*steps)
    numbers = (channels, len(recurrence.offsets), recurrence.carry, recurrence.mirrored)
    return Description(images, *size, *numbers, torch.get_num_threads(), offsets)
