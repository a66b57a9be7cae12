"""Rounds the weights of a network as coarsely as the description length wants.

A coarse weight takes few bits itself, and the images under the model take more. Where training has
ended, an error e of a weight costs F e^2 / 2 nats, F being its Fisher information. The errors of a
step s have the mean square s^2 / 12, and the weight takes log(1 / s) nats more than with a step of
1. The sum is least at s = sqrt(12 / F) (Rissanen, 1978: stochastic complexity).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nextpixel.codec.models import Coding, Size, compiled
from nextpixel.codec.packing import pack_program
from nextpixel.codec.sources import Source
from nextpixel.data.sampler import evenly_spaced
from nextpixel.engine import Program
from nextpixel.models.base.autoregressive import CausalNetwork
from nextpixel.noise import Stream
from nextpixel.utils.progress import track

__all__ = ["Rounding", "best_rounding", "best_steps", "cut", "rounded", "with_rounded_weights"]

LEVELS = 1 << 17  # of the images that rounding is tried on, at most
COARSENESS = (0.5, 1.0, 1.5, 2.0, 3.0)  # in best steps: the theory is for a model at its optimum
TOGETHER = 4  # images whose gradients are summed before they are squared
COARSEST = 0  # steps are powers of 2 from 2^-14 to 2^0
FINEST = -14

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Rounding:
    """How coarsely weights are rounded, and what it costs.

    Attributes:
        coarseness: The steps of the weights, in best ones.
        model_bytes: Bytes of the packed program.
        bits_per_dim: Of the images that it was tried on.
    """

    coarseness: float
    model_bytes: int
    bits_per_dim: float

    def total(self, dims: float) -> float:
        """Bytes of the program and of images of so many levels in all."""
        return self.model_bytes + self.bits_per_dim * dims / 8


def best_rounding(
    network: CausalNetwork, x: NDArray[Any], classes: Sequence[int] | None, dims: float
) -> tuple[CausalNetwork, Rounding]:
    """Rounds the weights of a network so that program and images take the fewest bytes together.

    Args:
        network: The network.
        x: Some of the images, `(B, C, H, W)`.
        classes: Their classes, for a network with classes.
        dims: Levels of all images that are described.
    """
    c: dict[str, Any] = {} if classes is None else {"classes": list(classes)}
    steps = best_steps(network, torch.as_tensor(x.astype(np.int64)), x.size / dims, classes)
    tried = {}
    for coarseness in track(COARSENESS, "rounding the weights", len(COARSENESS)):
        coarse = rounded(network, steps, coarseness)
        file = compiled(coarse)
        nats = -Program(file).log_prob(x, **c)
        bits = float(nats.sum()) / (x.size * math.log(2))
        tried[coarseness] = coarse, Rounding(coarseness, len(pack_program(file)), bits)
    return min(tried.values(), key=lambda found: found[1].total(dims))


def with_rounded_weights(coding: Coding, network: CausalNetwork, source: Source) -> Coding:
    """Rounds the weights of a program for the images that it shall code, and reads some of them.

    Args:
        coding: The program.
        network: What it was compiled from.
        source: The images.
    """
    generator, shape = Stream.CROPS.generator(0, source.count), coding.program.shape
    crops, classes = list[NDArray[Any]](), list[int]()
    for number in evenly_spaced(source.count, most_images(network.shape)):
        item = next(source.items(coding, int(number)))
        if item.levels is not None:
            crops.append(cut(item.levels, network.shape[1:], generator))
            classes.append(item.class_id or 0)
    if not crops:
        return coding
    dims = source.count * shape[0] * np.mean([math.prod(size) for size in source.sizes()])
    of_classes = classes if network.classes else None
    best, _ = best_rounding(network, np.stack(crops), of_classes, float(dims))
    return replace(coding, file=compiled(best.resized(shape)), network=None)


def cut(x: NDArray[Any], side: Size, generator: np.random.Generator) -> NDArray[Any]:
    """Cuts a part out of an image at a random place; what it has less is 0."""
    top, left = (
        generator.integers(0, max(0, n - s) + 1) for n, s in zip(x.shape[1:], side, strict=True)
    )
    part = x[:, top : top + side[0], left : left + side[1]]
    missing = side[0] - part.shape[1], side[1] - part.shape[2]
    return np.pad(part, ((0, 0), (0, missing[0]), (0, missing[1])))


def most_images(shape: Sequence[int]) -> int:
    """Returns on how many images of a shape rounding is tried."""
    return max(4, min(96, LEVELS // math.prod(shape)))


def best_steps(
    network: CausalNetwork, x: Tensor, share: float, classes: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Computes the best step of the weights of each parameter.

    Args:
        network: The network.
        x: Some images, `(B, C, H, W)`.
        share: The share that they are of all images that are described.
        classes: Their classes, for a network with classes.

    Returns:
        The steps, scalars, by the names of the parameters.
    """
    names, parameters = zip(*network.named_parameters(), strict=True)
    information = {name: torch.zeros(()) for name in names}
    for begin in range(0, len(x), TOGETHER):
        some = slice(begin, begin + TOGETHER)
        nats = network.log_prob(x[some], None if classes is None else classes[some]).sum()
        gradients = torch.autograd.grad(nats, parameters, allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                information[name] += gradient.square().mean() / share
    return {name: (12 / found.clamp(min=1e-9)).sqrt() for name, found in information.items()}


def rounded(network: Network, steps: dict[str, Tensor], coarseness: float) -> Network:
    """Returns a copy whose weights are multiples of powers of two near `coarseness` x `steps`."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for name, weights in network.named_parameters():
            exponent = torch.log2(coarseness * steps[name]).round().clamp(FINEST, COARSEST)
            step = torch.exp2(exponent)
            weights.copy_((weights / step).round() * step + 0.0)  # + 0 makes 0 of -0
    return network
