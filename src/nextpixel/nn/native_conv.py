"""Masked convolutions in bfloat16 on a CPU, fused with the ReLU before and the sum after them.

PyTorch convolves with whole rectangles of taps, and needs separate passes for sums, ReLUs and their
gradients. `convolve` does all of it in one pass over the maps (native_conv.c), with the visible
taps only. It is for training on processors that multiply bfloat16 numbers; elsewhere the layers use
PyTorch's convolutions, which a test compares it with.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextpixel.utils.compiling import load_c_library, trains_in_c

__all__ = ["Kind", "Taps", "convolve", "fits"]

# The offset of each tap from the output's site, in rows down and columns to the right.
Taps = tuple[tuple[int, int], ...]

SOURCE = Path(__file__).with_name("native_conv.c")
MOST_TAPS, MOST_CHANNELS = 64, 4096
MULTIPLE = 32  # divides the numbers of channels


class Layer(ctypes.Structure):
    """The description of a convolution, see native_conv.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "inputs", "outputs")),
        *((name, ctypes.c_int64) for name in ("taps", "relu", "full", "threads")),
        ("offsets", ctypes.c_int64 * (2 * MOST_TAPS)),
    )


@lru_cache
def program() -> ctypes.CDLL | None:
    """Compiles native_conv.c.

    Returns:
        The library; None if it cannot be compiled or is switched off, or if the processor has AMX,
        which PyTorch uses and the program does not.
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not trains_in_c() or capabilities.get("amx_bf16"):
        return None
    library = load_c_library(SOURCE, "convolution")
    if library is not None:
        library.convolve.argtypes = [ctypes.c_void_p] * 9
        library.weight_gradient.argtypes = [ctypes.c_void_p] * 5
        library.convolve.restype = library.weight_gradient.restype = None
    return library


def fits(x: Tensor, weight: Tensor, taps: int = 1) -> bool:
    """Returns whether `convolve` can compute a convolution: bfloat16, channels last, on a CPU.

    Args:
        x: Maps `(B, in, H, W)`.
        weight: `(out, in, ...)`.
        taps: Number of taps.
    """
    outputs, inputs = weight.shape[:2]
    return (
        x.dtype == torch.bfloat16
        and x.ndim == 4
        and x.numel() > 0
        and x.shape[1] == inputs
        and x.device.type == weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and outputs % MULTIPLE == inputs % MULTIPLE == 0
        and max(outputs, inputs) <= MOST_CHANNELS
        and taps <= MOST_TAPS
        and x.is_contiguous(memory_format=torch.channels_last)
        and program() is not None
    )


class Kind(NamedTuple):
    """The options of a convolution.

    Attributes:
        taps: The offsets of the taps.
        relu: Whether to apply a ReLU to the input.
        full: Whether the output is float32.
    """

    taps: Taps
    relu: bool = False
    full: bool = False


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, kind: Kind, more: Tensor | None = None
) -> Tensor:
    """Convolves maps; `fits` must be true.

    Args:
        x: Maps `(B, in, H, W)`, bfloat16; padded with zeros.
        weight: `(out, in, taps)`, float32. It is rounded to bfloat16; for a full output, to twice
            as many bits.
        bias: `(out,)`, float32, or None.
        kind: The options.
        more: Added to the output, broadcastable to `(B, out, H, W)`.

    Returns:
        `(B, out, H, W)`, channels last. Sums are computed in float32, and rounded at most once.
    """
    inside = None  # added before the sums are rounded
    whole = (len(x), len(weight), *x.shape[2:])
    if more is not None and not kind.full and (more.shape, more.dtype) == (whole, x.dtype):
        inside = more.contiguous(memory_format=torch.channels_last)
    out: Tensor = Convolution.apply(x, weight, bias, inside, kind)  # type: ignore[no-untyped-call]
    return out if more is None or inside is not None else out + more


class Convolution(torch.autograd.Function):
    """The convolution and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, more: Tensor | None, kind: Kind
    ) -> Tensor:
        """Convolves, see `convolve`."""
        ctx.save_for_backward(x, weight)
        ctx.kind = kind
        if kind.full:  # further taps add the rounding error of the weights
            rounded = weight.to(x.dtype).to(weight.dtype)
            weight = torch.cat([rounded, weight - rounded], 2)
            kind = kind._replace(taps=kind.taps * 2)
        return product(x, weight, kind, bias=bias, more=more)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of input, weight, bias and the summand."""
        x, weight = ctx.saved_tensors
        kind, (to_x, to_weight, to_bias, to_more, _) = ctx.kind, ctx.needs_input_grad
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        if to_x:
            back = Kind(tuple((-down, -right) for down, right in kind.taps))
            gate = x if kind.relu else None
            of_x = product(gradient, weight.transpose(0, 1), back, gate=gate)
        if to_weight or to_bias:
            of_weight, of_bias = weight_gradient(x, gradient, kind)
        return of_x, of_weight, of_bias if to_bias else None, gradient if to_more else None, None


def product(
    x: Tensor,
    weight: Tensor,
    kind: Kind,
    *,
    bias: Tensor | None = None,
    more: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """Computes a convolution; the output is 0 where the gate, `(B, out, H, W)`, is at most 0."""
    size, dtype = (len(x), len(weight), *x.shape[2:]), torch.float32 if kind.full else x.dtype
    out = torch.empty(size, dtype=dtype, device="cpu", memory_format=torch.channels_last)
    workspace = x.new_empty(weight.numel())
    call(
        "convolve",
        layer(tuple(x.shape), len(weight), kind, torch.get_num_threads()),
        x,
        weight,
        (ctypes.c_int64 * 3)(*weight.stride()),
        *(workspace, bias, more, gate, out),
    )
    return out


def weight_gradient(x: Tensor, gradient: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Computes the gradients of weight and bias, `(out, in, taps)` and `(out,)`, float32."""
    outputs = gradient.shape[1]
    weight = x.new_empty(outputs, len(kind.taps), x.shape[1], dtype=torch.float32)
    bias = x.new_empty(outputs, dtype=torch.float32)
    described = layer(tuple(x.shape), outputs, kind, torch.get_num_threads())
    call("weight_gradient", described, x, gradient, weight, bias)
    return weight.transpose(1, 2), bias


@lru_cache(maxsize=1024)
def layer(shape: tuple[int, int, int, int], outputs: int, kind: Kind, threads: int) -> Layer:
    """Describes the convolution of maps `(B, in, H, W)` for the program."""
    images, inputs, *size = shape
    offsets = (ctypes.c_int64 * (2 * MOST_TAPS))(*(step for tap in kind.taps for step in tap))
    numbers = (len(kind.taps), kind.relu, kind.full, threads)
    return Layer(images, *size, inputs, outputs, *numbers, offsets)


def call(name: str, described: Layer, *arguments: Tensor | ctypes.Array[Any] | None) -> None:
    """Calls a function of the program; tensors are passed by their addresses."""
    library = program()
    assert library is not None  # since `fits` was true
    pointers = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
    getattr(library, name)(ctypes.byref(described), *pointers)
