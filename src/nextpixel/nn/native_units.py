"""The elementwise functions of gated residual layers on a CPU, each with its gradient in one pass.

PyTorch needs a pass over the maps for each negation, exponential, product and sum, and as many for
the gradients. `concat_elu` and `gate` here read and write every map once (native_units.c), and keep
only their inputs for the backward pass. They are for training; elsewhere `nn/resnet.py` uses
PyTorch's operations, which a test compares them with.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextpixel.utils.compiling import load_c_library

__all__ = ["Border", "concat_elu", "fits", "gate"]

SOURCE = Path(__file__).with_name("native_units.c")
FUNCTIONS = {"concat_elu": 2, "concat_elu_gradient": 3, "gate": 3, "gate_gradient": 3}  # maps


class Maps(ctypes.Structure):
    """The sizes of maps, see native_units.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels")),
        *((name, ctypes.c_int64) for name in ("left", "right", "above", "half", "threads")),
    )


class Border(NamedTuple):
    """Columns and rows around a map, for a convolution that sees only what is above it.

    Attributes:
        left: Columns to the left.
        right: Columns to the right.
        above: Rows above.
    """

    left: int
    right: int
    above: int


NO_BORDER = Border(0, 0, 0)


@lru_cache
def program() -> ctypes.CDLL | None:
    """Compiles native_units.c; returns None if it cannot be compiled."""
    library = load_c_library(SOURCE, "units")
    if library is not None:
        for name, maps in FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = [ctypes.c_void_p] * (1 + maps), None
    return library


def fits(*maps: Tensor) -> bool:
    """Returns whether the program can be used: for training, on a CPU, channels last.

    Without gradients it cannot, so that the scores of a model and its programs for generation do
    not depend on a compiler.

    Args:
        maps: `(B, ..., H, W)`, of one type, float32 or bfloat16.
    """
    return (
        torch.is_grad_enabled()
        and any(x.requires_grad for x in maps)
        and all(x.ndim == 4 and x.device.type == "cpu" and x.numel() > 0 for x in maps)
        and maps[0].dtype in (torch.float32, torch.bfloat16)
        and all(x.dtype == maps[0].dtype for x in maps)
        and all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
        and program() is not None
    )


def concat_elu(x: Tensor, border: Border = NO_BORDER) -> Tensor:
    """Computes ELU of x and of -x; `fits` must be true.

    Args:
        x: `(B, C, H, W)`.
        border: Zeros to put around the output, so that a convolution needs not copy it.

    Returns:
        `(B, 2 C, above + H, left + W + right)`.
    """
    out: Tensor = ConcatELU.apply(x, border)  # type: ignore[no-untyped-call]
    return out


def gate(x: Tensor, y: Tensor) -> Tensor:
    """Computes x + a sigmoid(b); `fits` must be true.

    Args:
        x: `(B, C, H, W)`.
        y: a and b, `(B, 2 C, H, W)`.
    """
    out: Tensor = Gate.apply(x, y)  # type: ignore[no-untyped-call]
    return out


class ConcatELU(torch.autograd.Function):
    """`concat_elu` and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, border: Border) -> Tensor:
        """Computes the function; the two ELUs share an exponential."""
        ctx.save_for_backward(x)
        ctx.border = border
        out = wide(x, border)
        call("concat_elu", x, border, x, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Computes the gradient of x, from x: e^x cannot be had from a rounded e^x - 1."""
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x, memory_format=torch.channels_last)
        call("concat_elu_gradient", x, ctx.border, x, gradient, out)
        return out, None


class Gate(torch.autograd.Function):
    """`gate` and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        """Computes the function."""
        ctx.save_for_backward(y)
        out = torch.empty_like(x, memory_format=torch.channels_last)
        call("gate", x, NO_BORDER, x, y, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the gradients of x, which is that of the output, and of y."""
        (y,) = ctx.saved_tensors
        out = torch.empty_like(y, memory_format=torch.channels_last)
        call("gate_gradient", gradient, NO_BORDER, y, gradient, out)
        return gradient, out


def wide(x: Tensor, border: Border) -> Tensor:
    """Makes a map of twice the channels of x, with a border."""
    images, channels, height, width = x.shape
    size = (images, 2 * channels, border.above + height, border.left + width + border.right)
    return torch.empty(size, dtype=x.dtype, device="cpu", memory_format=torch.channels_last)


def call(name: str, narrow: Tensor, border: Border, *maps: Tensor) -> None:
    """Calls a function of the program.

    Args:
        name: Its name.
        narrow: One of the maps without twice the channels, `(B, C, H, W)`.
        border: The border of the maps with twice the channels.
        maps: Its inputs, of any layout, and its output, channels last.
    """
    library = program()
    assert library is not None  # since `fits` was true
    images, channels, height, width = narrow.shape
    half, threads = narrow.dtype == torch.bfloat16, torch.get_num_threads()
    sizes = Maps(images, height, width, channels, *border, half, threads)
    maps = tuple(x.contiguous(memory_format=torch.channels_last) for x in maps)
    getattr(library, name)(ctypes.byref(sizes), *(x.data_ptr() for x in maps))
