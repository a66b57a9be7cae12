"""Gated residual layers on a CPU: convolutions of ELUs, and gates, each with its gradients.

PyTorch needs a pass over the maps for each negation, exponential, product and sum, and as many for
the gradients. `concat_elu` and `gate` here read and write every map once (native_units.c), and keep
only their inputs for the backward pass. `convolve_elus` convolves float32 maps while an image's
ELUs are in the processor's cache, and computes them again for the gradients. All are for training;
elsewhere `nn/resnet.py` uses PyTorch's operations, which a test compares them with.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextpixel.nn.native_conv import Taps
from nextpixel.utils.compiling import load_c_library

__all__ = ["concat_elu", "convolve_elus", "convolves", "fits", "gate"]

SOURCE = Path(__file__).with_name("native_units.c")
# The pointers that they are given, after a description.
FUNCTIONS = {"concat_elu": 2, "concat_elu_gradient": 3, "gate": 3, "gate_gradient": 3}
CONVOLUTIONS = {"convolve_elus": 7, "convolve_elus_gradients": 8}


MOST_TAPS = 64


class Maps(ctypes.Structure):
    """The sizes of maps, see native_units.c."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("sites", "channels", "half", "threads"))


class Description(ctypes.Structure):
    """The description of a convolution, see native_units.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels", "out")),
        *((name, ctypes.c_int64) for name in ("taps", "left", "right", "above", "spread")),
        *((name, ctypes.c_int64) for name in ("threads", "seed", "drop")),
        ("scale", ctypes.c_double),
        ("offsets", ctypes.c_int64 * (2 * MOST_TAPS)),
    )


class Kind(NamedTuple):
    """The options of a convolution of ELUs.

    Attributes:
        taps: The offset of each tap from the output's site, in rows, which are above it or its own,
            and columns to the right.
        dropout: The chance of an ELU to be dropped.
        seed: Decides which ones are.
    """

    taps: Taps
    dropout: float
    seed: int


@lru_cache
def program() -> ctypes.CDLL | None:
    """Compiles native_units.c; returns None if it cannot be compiled."""
    library = load_c_library(SOURCE, "units")
    if library is not None:
        functions = FUNCTIONS
        if hasattr(library, "workspace_of"):  # compiled for a processor with AVX2
            library.workspace_of.argtypes = [ctypes.c_void_p, ctypes.c_int64]
            library.workspace_of.restype = ctypes.c_int64
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


def convolves(x: Tensor, weight: Tensor, taps: Taps) -> bool:
    """Returns whether `convolve_elus` can be used: as `fits`, for float32, and with AVX2.

    Args:
        x: Maps `(B, C, H, W)`.
        weight: `(out, 2 C, ...)`.
        taps: The offsets of the taps.
    """
    return (
        x.dtype == weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and len(taps) <= MOST_TAPS
        and all(down <= 0 for down, _ in taps)
        and not torch.is_autocast_enabled("cpu")
        and fits(x)
        and hasattr(program(), "workspace_of")
    )


def convolve_elus(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    taps: Taps,
    more: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Convolves `concat_elu` of maps; `convolves` must be true.

    Args:
        x: Maps `(B, C, H, W)`; padded with zeros.
        weight: `(out, 2 C, taps)`.
        bias: `(out,)`, or None.
        taps: The offset of each tap from the output's site, in rows, which are above it or its own,
            and columns to the right.
        more: Added to the output, broadcastable to `(B, out, H, W)`.
        dropout: The chance of an ELU to be dropped, below 1; the others are scaled up. PyTorch's
            generator is asked for a seed, and not for each element.

    Returns:
        `(B, out, H, W)`, channels last.
    """
    seed = int(torch.randint(2**63 - 1, ())) if dropout else 0
    kind, outer = Kind(taps, dropout, seed), None
    whole, spread = (len(x), len(weight), *x.shape[2:]), (len(x), len(weight), 1, 1)
    if more is not None and (more.shape not in (whole, spread) or more.dtype != x.dtype):
        more, outer = None, more
    out: Tensor = ConvolvedELUs.apply(x, weight, bias, more, kind)  # type: ignore[no-untyped-call]
    return out if outer is None else out + outer


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


class ConvolvedELUs(torch.autograd.Function):
    """`convolve_elus` and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, more: Tensor | None, kind: Kind
    ) -> Tensor:
        """Convolves."""
        ctx.save_for_backward(x, weight)
        ctx.kind, ctx.spread = kind, more is not None and more.shape[2:] != x.shape[2:]
        described = describe(x, weight, kind, spread=ctx.spread)
        out = new_maps(x, len(weight), *x.shape[2:])
        strides = (ctypes.c_int64 * 3)(*weight.stride())
        if more is not None:
            more = more.contiguous(memory_format=torch.channels_last)
        workspace = room(described, backward=False)
        call("convolve_elus", described, x, weight, strides, bias, more, workspace, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of input, weight, bias and the summand."""
        x, weight = ctx.saved_tensors
        to_x, _, to_bias, to_more, _ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        described = describe(x, weight, ctx.kind)
        outputs, inputs, taps = weight.shape
        of_x = torch.empty_like(x, memory_format=torch.channels_last) if to_x else None
        of_weight = torch.empty(outputs, taps, inputs, dtype=x.dtype, device=x.device)
        of_image = torch.empty(len(x), outputs, dtype=x.dtype, device=x.device)
        strides = (ctypes.c_int64 * 3)(*weight.stride())
        out = (of_x, of_weight, of_image)
        workspace = room(described, backward=True)
        call("convolve_elus_gradients", described, x, gradient, weight, strides, workspace, *out)
        of_bias = of_image.sum(0) if to_bias else None
        of_more = (of_image[..., None, None] if ctx.spread else gradient) if to_more else None
        return of_x, of_weight.transpose(1, 2), of_bias, of_more, None


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


def describe(x: Tensor, weight: Tensor, kind: Kind, *, spread: bool = False) -> Description:
    """Describes a convolution for the program."""
    threads = torch.get_num_threads()
    of_shapes = describe_shapes(tuple(x.shape), len(weight), kind.taps, spread, threads)
    if not kind.dropout:
        return of_shapes
    described = Description.from_buffer_copy(of_shapes)
    described.seed, described.drop = kind.seed, round(kind.dropout * 2**32)
    described.scale = 1 / (1 - kind.dropout)
    return described


@lru_cache(maxsize=1024)
def describe_shapes(
    shape: tuple[int, int, int, int], outputs: int, taps: Taps, spread: bool, threads: int
) -> Description:
    """Describes a convolution without dropout."""
    images, channels, *size = shape
    rows, columns = zip(*taps, strict=True)
    border = (max(0, -min(columns)), max(0, *columns), -min(rows))
    offsets = (ctypes.c_int64 * (2 * MOST_TAPS))(*(step for tap in taps for step in tap))
    numbers = (outputs, len(taps), *border, spread, threads, 0, 0)
    return Description(images, *size, channels, *numbers, 1.0, offsets)


def room(described: Description, *, backward: bool) -> Tensor:
    """Makes the workspace of a convolution."""
    library = program()
    assert library is not None  # since `convolves` was true
    numbers = library.workspace_of(ctypes.byref(described), backward)
    return torch.empty(numbers, dtype=torch.float32, device="cpu")


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
    call(name, sizes, *(x.contiguous(memory_format=torch.channels_last) for x in maps))


def call(
    name: str, described: ctypes.Structure, *arguments: Tensor | ctypes.Array[Any] | None
) -> None:
    """Calls a function of the program; tensors are passed by their addresses."""
    library = program()
    assert library is not None  # since `fits` was true
    pointers = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
    getattr(library, name)(ctypes.byref(described), *pointers)
