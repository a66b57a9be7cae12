"""The elementwise functions of gated residual layers on a CPU, each with its gradient in one pass.

PyTorch needs a pass over the maps for each negation, exponential, product and sum, and as many for
the gradients. `concat_elu` and `gate` here read and write every map once (native_units.c), and keep
only their inputs for the backward pass. They are for training; elsewhere `nn/resnet.py` uses
PyTorch's operations, which a test compares them with. Whole layers are in `nn/native_layers.py`.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextpixel.utils.compiling import load_c_library, trains_in_c

__all__ = ["call", "concat_elu", "fits", "gate", "last", "new_maps", "program", "room"]

SOURCE = Path(__file__).with_name("native_units.c")
# The pointers that they are given, after a description.
FUNCTIONS = {"concat_elu": 2, "concat_elu_gradient": 3, "gate": 3, "gate_gradient": 3}
CONVOLUTIONS = {"convolve_elus": 5, "convolve_elus_gradients": 5}
CONVOLUTIONS |= {"gated_layer": 1, "gated_layer_gradients": 5}


class Maps(ctypes.Structure):
    """The sizes of maps, see native_units.c."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("sites", "channels", "half", "threads"))


@lru_cache
def program() -> ctypes.CDLL | None:
    """Compiles native_units.c; returns None if it cannot be compiled, or is switched off."""
    library = load_c_library(SOURCE, "units") if trains_in_c() else None
    if library is not None:
        functions = FUNCTIONS
        if hasattr(library, "workspace_of"):  # compiled for a processor with AVX2
            library.has_threads.restype = ctypes.c_int64
            for function in (library.workspace_of, library.workspace_of_layer):
                function.argtypes, function.restype = (
                    [ctypes.c_void_p, ctypes.c_int64],
                    ctypes.c_int64,
                )
            functions = FUNCTIONS | CONVOLUTIONS
        for name, pointers in functions.items():
            function = getattr(library, name)
            function.argtypes, function.restype = [ctypes.c_void_p] * (1 + pointers), None
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


def concat_elu(x: Tensor) -> Tensor:
    """Computes ELU of x and of -x, `(B, C, H, W)` -> `(B, 2 C, H, W)`; `fits` must be true."""
    out: Tensor = ConcatELU.apply(x)  # type: ignore[no-untyped-call]
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
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Computes the function; the two ELUs share an exponential."""
        ctx.save_for_backward(x)
        out = new_maps(x, 2 * x.shape[1], *x.shape[2:])
        call_units("concat_elu", x, x, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Computes the gradient of x, from x: e^x cannot be had from a rounded e^x - 1."""
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x, memory_format=torch.channels_last)
        call_units("concat_elu_gradient", x, x, gradient, out)
        return out


class Gate(torch.autograd.Function):
    """`gate` and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        """Computes the function."""
        ctx.save_for_backward(y)
        out = torch.empty_like(x, memory_format=torch.channels_last)
        call_units("gate", x, x, y, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the gradients of x, which is that of the output, and of y."""
        (y,) = ctx.saved_tensors
        out = torch.empty_like(y, memory_format=torch.channels_last)
        call_units("gate_gradient", gradient, y, gradient, out)
        return gradient, out


def new_maps(x: Tensor, channels: int, *size: int) -> Tensor:
    """Makes maps for the images of x, `(B, channels, *size)`, channels last."""
    shape = (len(x), channels, *size)
    return torch.empty(shape, dtype=x.dtype, device="cpu", memory_format=torch.channels_last)


def call_units(name: str, narrow: Tensor, *maps: Tensor) -> None:
    """Calls an elementwise function of the program.

    Args:
        name: Its name.
        narrow: One of the maps without twice the channels, `(B, C, H, W)`.
        maps: Its inputs, of any layout, and its output, channels last.
    """
    channels = narrow.shape[1]
    half, threads = narrow.dtype == torch.bfloat16, torch.get_num_threads()
    sizes = Maps(narrow.numel() // channels, channels, half, threads)
    call(name, sizes, *map(last, maps))


def last(x: Tensor) -> Tensor:
    """Makes maps channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def call(
    name: str,
    described: ctypes.Structure,
    *arguments: Tensor | ctypes.Structure | None,
    library: ctypes.CDLL | None = None,
) -> None:
    """Calls a function of the program, or of another one; tensors are passed by their addresses."""
    pointers = (
        a.data_ptr() if isinstance(a, Tensor) else None if a is None else ctypes.byref(a)
        for a in arguments
    )
    getattr(library or program(), name)(ctypes.byref(described), *pointers)


def room(
    name: str,
    described: ctypes.Structure,
    *,
    backward: bool,
    library: ctypes.CDLL | None = None,
) -> Tensor:
    """Makes the workspace that a function of the program, or of another one, asks for."""
    numbers = getattr(library or program(), name)(ctypes.byref(described), backward)
    return torch.empty(numbers, dtype=torch.float32, device="cpu")
