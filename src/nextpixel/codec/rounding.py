"""Rounds the weights of a network as coarsely as the description length wants.

A coarse weight takes few bits itself, and the images under the model take more. Where training has
ended, an error e of a weight costs F e^2 / 2 nats, F being its Fisher information. The errors of a
step s have the mean square s^2 / 12, and the weight takes log(1 / s) nats more than with a step of
1. The sum is least at s = sqrt(12 / F) (Rissanen, 1978: stochastic complexity).
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from nextpixel.models.base.autoregressive import CausalNetwork

__all__ = ["best_steps", "rounded"]

TOGETHER = 4  # images whose gradients are summed before they are squared
COARSEST = 0  # steps are powers of 2 from 2^-14 to 2^0
FINEST = -14

Network = TypeVar("Network", bound=nn.Module)


def best_steps(network: CausalNetwork, x: Tensor, share: float) -> dict[str, Tensor]:
    """Computes the best step of the weights of each parameter.

    Args:
        network: The network.
        x: Some images, `(B, C, H, W)`.
        share: The share that they are of all images that are described.

    Returns:
        The steps, scalars, by the names of the parameters.
    """
    names, parameters = zip(*network.named_parameters(), strict=True)
    information = {name: torch.zeros(()) for name in names}
    for begin in range(0, len(x), TOGETHER):
        nats = network.log_prob(x[begin : begin + TOGETHER]).sum()
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
