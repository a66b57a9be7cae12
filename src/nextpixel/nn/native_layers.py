"""Gated residual layers on a CPU, and their convolutions of ELUs, each one call of a program.

An image's ELUs are written into the processor's cache, with a border of zeros, and multiplied there
(native_units.c); they are computed again for the gradients and never stored. All is for training in
float32, on processors with AVX2. Elsewhere `nn/resnet.py` uses PyTorch's convolutions, which a test
compares it with.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nextpixel.nn.native_conv import Taps
from nextpixel.nn.native_units import call, fits, last, new_maps, program, room

__all__ = ["Convolution", "convolve_elus", "convolves", "gated_layer", "takes"]

MOST_TAPS = 64
MOST_BYTES = 1 << 20  # of an image's ELUs; those of larger maps leave the cache


class Description(ctypes.Structure):
    """The description of a convolution, see native_units.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "channels", "out")),
        *((name, ctypes.c_int64) for name in ("taps", "left", "right", "above", "spread")),
        *((name, ctypes.c_int64) for name in ("threads", "seed", "drop")),
        ("scale", ctypes.c_double),
        ("offsets", ctypes.c_int64 * (2 * MOST_TAPS)),
    )


class Weights(ctypes.Structure):
    """The weights of a convolution and their gradients, see native_units.c."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("strides", ctypes.c_int64 * 3),
        ("of_weight", ctypes.c_void_p),
        ("of_image", ctypes.c_void_p),
    )


class Layer(ctypes.Structure):
    """A gated residual layer, see native_units.c."""

    _fields_ = (
        *((name, ctypes.POINTER(Description)) for name in ("first", "skip", "second")),
        *((name, ctypes.POINTER(Weights)) for name in ("of_first", "of_skip", "of_second")),
        *((name, ctypes.c_void_p) for name in ("x", "s", "context", "bias", "h", "y", "workspace")),
    )


class Convolution(NamedTuple):
    """A convolution of ELUs.

    Attributes:
        weight: `(out, 2 C, taps)` for maps of C channels.
        bias: `(out,)`, or None.
        taps: The offset of each tap from the output's site, in rows, which are above it or its own,
            and columns to the right.
    """

    weight: Tensor
    bias: Tensor | None
    taps: Taps


class Kind(NamedTuple):
    """The options of a convolution.

    Attributes:
        taps: See `Convolution`.
        dropout: The chance of an ELU to be dropped.
        seed: Decides which ones are.
    """

    taps: Taps
    dropout: float = 0.0
    seed: int = 0


def convolves(x: Tensor, convolution: Convolution) -> bool:
    """Returns whether `convolve_elus` can be used, and is faster than PyTorch.

    It can as `fits` says, for float32, with AVX2, and if each thread has an image. It is not faster
    for large maps.

    Args:
        x: Maps `(B, C, H, W)`.
        convolution: The convolution.
    """
    weight, bias, taps = convolution
    threads, library = torch.get_num_threads(), program()
    return (
        fits(x)
        and x.dtype == torch.float32
        and weight.shape[1] == 2 * x.shape[1]
        and all(
            tensor is None or (tensor.dtype == x.dtype and tensor.device == x.device)
            for tensor in (weight, bias)
        )
        and (bias is None or bias.is_contiguous())
        and len(taps) <= MOST_TAPS
        and all(down <= 0 for down, _ in taps)
        and 8 * x[0].numel() <= MOST_BYTES
        and not torch.is_autocast_enabled("cpu")
        and library is not None
        and hasattr(library, "workspace_of")
        and threads <= len(x)
        and (threads == 1 or bool(library.has_threads()))
    )


def takes(x: Tensor, channels: int, more: Tensor | None) -> bool:
    """Returns whether `more` has a shape and a type that the program can add to maps.

    Args:
        x: The input of a convolution, `(B, C, H, W)`.
        channels: Channels of its output.
        more: What is to be added; it can be `(B, channels, H, W)` or `(B, channels, 1, 1)`.
    """
    shapes = ((len(x), channels, *x.shape[2:]), (len(x), channels, 1, 1))
    return more is None or (
        more.shape in shapes and more.dtype == x.dtype and more.device == x.device
    )


def convolve_elus(
    x: Tensor, convolution: Convolution, more: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Convolves the ELUs of x and of -x; `convolves` must be true.

    Args:
        x: Maps `(B, C, H, W)`; padded with zeros.
        convolution: The convolution.
        more: Added to the output, see `takes`.
        dropout: The chance of an ELU to be dropped, below 1; the others are scaled up. PyTorch's
            generator is asked for a seed, and not for each element.

    Returns:
        `(B, out, H, W)`, channels last.
    """
    weight, bias, taps = convolution
    out: Tensor = ConvolvedELUs.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, more, kind_of(taps, dropout)
    )
    return out


def gated_layer(
    x: Tensor,
    first: Convolution,
    second: Convolution,
    *,
    skip: tuple[Tensor, Convolution] | None = None,
    context: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Computes a gated residual layer; `convolves` must be true of its maps and convolutions.

    Their numbers of channels must match, too.

    It is x + a sigmoid(b), where (a, b) = second(h) + bias and h = first(x) + skip(s) + context.

    Args:
        x: Maps `(B, C, H, W)`.
        first: Convolves the ELUs of x to C channels.
        second: Convolves those of h to 2 C channels.
        skip: A second input s, `(B, Cs, H, W)`, and what convolves it to C channels.
        context: Added to h, see `takes`.
        bias: Added to a and b.
        dropout: The chance of an ELU of h to be dropped, see `convolve_elus`.

    Returns:
        `(B, C, H, W)`, channels last.
    """
    s, third = (None, None) if skip is None else skip
    kinds = (
        Kind(first.taps),
        None if third is None else Kind(third.taps),
        kind_of(second.taps, dropout),
    )
    weights = list[Tensor | None]()
    for one in (first, third, second):
        weights += (None, None) if one is None else (one.weight, one.bias)
    out: Tensor = GatedLayer.apply(  # type: ignore[no-untyped-call]
        kinds, x, s, context, bias, *weights
    )
    return out


def kind_of(taps: Taps, dropout: float) -> Kind:
    """Draws a seed if something is dropped."""
    return Kind(taps, dropout, int(torch.randint(2**63 - 1, (), device="cpu")) if dropout else 0)


class ConvolvedELUs(torch.autograd.Function):
    """`convolve_elus` and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, more: Tensor | None, kind: Kind
    ) -> Tensor:
        """Convolves."""
        ctx.save_for_backward(x, weight)
        ctx.kind, ctx.spread = kind, is_spread(more, x)
        described = describe(x, weight, kind, spread=ctx.spread)
        out, more = new_maps(x, len(weight), *x.shape[2:]), None if more is None else last(more)
        workspace = room("workspace_of", described, backward=False)
        call("convolve_elus", described, weights_of(weight, bias), x, more, workspace, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of input, weight, bias and the summand."""
        x, weight = ctx.saved_tensors
        x, gradient = last(x), last(gradient)  # hooks may have saved another layout
        to_x, to_weight, to_bias, to_more, _ = ctx.needs_input_grad
        described, new = describe(x, weight, ctx.kind), Gradients.of(x, weight, to_weight)
        of_x = torch.empty_like(x, memory_format=torch.channels_last) if to_x else None
        workspace = room("workspace_of", described, backward=True)
        weights = weights_of(weight, None, new)
        call("convolve_elus_gradients", described, weights, x, gradient, workspace, of_x)
        of_bias = new.image.sum(0) if to_bias else None
        of_more = (new.image[..., None, None] if ctx.spread else gradient) if to_more else None
        return of_x, new.of_weight(), of_bias, of_more, None


class GatedLayer(torch.autograd.Function):
    """`gated_layer` and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        kinds: tuple[Kind, Kind | None, Kind],
        x: Tensor,
        s: Tensor | None,
        context: Tensor | None,
        bias: Tensor | None,
        *weights: Tensor | None,
    ) -> Tensor:
        """Computes the layer."""
        channels, *size = x.shape[1:]
        h, y, out = (new_maps(x, n, *size) for n in (channels, 2 * channels, channels))
        ctx.kinds, ctx.spread = kinds, (is_spread(context, x), False, is_spread(bias, x))
        ctx.save_for_backward(x, s, h, y, *weights[::2])
        layer = layer_of(kinds, (x, s, h), weights[::2], weights[1::2], spread=ctx.spread)
        added = (None if more is None else last(more) for more in (context, bias))
        inputs = (x, s, *added, h, y)
        call("gated_layer", with_maps(layer, inputs, backward=False), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of the inputs, the summands and the weights."""
        x, s, h, y, *weights = ctx.saved_tensors
        x, h, y, s = last(x), last(h), last(y), None if s is None else last(s)
        _, to_x, to_s, to_context, to_bias, *to_weights = ctx.needs_input_grad
        gradient = last(gradient)
        new = [
            None if w is None else Gradients.of(x, w, wanted)
            for w, wanted in zip(weights, to_weights[::2], strict=True)
        ]
        layer = layer_of(ctx.kinds, (x, s, h), weights, (None,) * 3, new)
        wanted = (to_x, to_s, to_context and not ctx.spread[0], to_bias and not ctx.spread[2])
        found = [
            None if like is None or not want else new_maps(like, *like.shape[1:])
            for like, want in zip((x, s, h, y), wanted, strict=True)
        ]
        inputs = (x, s, None, None, h, y)
        call("gated_layer_gradients", with_maps(layer, inputs, backward=True), gradient, *found)
        of_x, of_s, of_h, of_y = found
        first, _, second = new
        assert first is not None
        assert second is not None
        if to_context and ctx.spread[0]:
            of_h = first.image[..., None, None]
        if to_bias and ctx.spread[2]:
            of_y = second.image[..., None, None]
        of_weights = list[Tensor | None]()
        for one, to_the_bias in zip(new, to_weights[1::2], strict=True):
            of_weights.append(None if one is None else one.of_weight())
            of_weights.append(None if one is None or not to_the_bias else one.image.sum(0))
        return None, of_x, of_s, of_h, of_y, *of_weights


class Gradients(NamedTuple):
    """The gradients of a convolution's weights.

    Attributes:
        weight: `(out, taps, 2 C)`, or None if they are not wanted.
        image: Those of what is added to an image, `(B, out)`.
    """

    weight: Tensor | None
    image: Tensor

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, wanted: bool) -> Gradients:
        """Makes room for the gradients of weights `(out, 2 C, taps)`."""
        outputs, inputs, taps = weight.shape
        image = x.new_empty(len(x), outputs)
        return cls(x.new_empty(outputs, taps, inputs) if wanted else None, image)

    def of_weight(self) -> Tensor | None:
        """Returns those of the weights as `(out, 2 C, taps)`."""
        return None if self.weight is None else self.weight.transpose(1, 2)


def is_spread(more: Tensor | None, x: Tensor) -> bool:
    """Returns whether something is added to all sites of an image alike."""
    return more is not None and more.shape[2:] != x.shape[2:]


def weights_of(weight: Tensor, bias: Tensor | None, new: Gradients | None = None) -> Weights:
    """Describes the weights of a convolution, and where their gradients go."""
    strides = (ctypes.c_int64 * 3)(*weight.stride())
    described = Weights(weight.data_ptr(), None if bias is None else bias.data_ptr(), strides)
    if new is not None:
        described.of_image = new.image.data_ptr()
        described.of_weight = None if new.weight is None else new.weight.data_ptr()
    return described


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


def layer_of(
    kinds: Sequence[Kind | None],
    inputs: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    new: Sequence[Gradients | None] = (None,) * 3,
    spread: Sequence[bool] = (False,) * 3,
) -> Layer:
    """Describes the three convolutions of a layer, of which the second one may be missing."""
    layer = Layer()
    for k, name in enumerate(("first", "skip", "second")):
        x, weight, kind = inputs[k], weights[k], kinds[k]
        if x is not None and weight is not None and kind is not None:
            described = describe(x, weight, kind, spread=spread[k])
            setattr(layer, name, ctypes.pointer(described))
            setattr(layer, f"of_{name}", ctypes.pointer(weights_of(weight, biases[k], new[k])))
    return layer


def with_maps(layer: Layer, maps: Sequence[Tensor | None], *, backward: bool) -> Layer:
    """Sets the maps and the workspace of a layer."""
    workspace = room("workspace_of_layer", layer, backward=backward)
    names = ("x", "s", "context", "bias", "h", "y", "workspace")
    for name, x in zip(names, (*maps, workspace), strict=True):
        setattr(layer, name, None if x is None else x.data_ptr())
    layer.kept = (maps, workspace)  # whose addresses it has
    return layer
