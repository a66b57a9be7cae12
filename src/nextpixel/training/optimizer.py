"""Makes the optimizer of a run: AdamW, or Muon for the matrices and AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nextpixel.training.config import TrainArgs

__all__ = ["Muon", "make_optimizer", "matrices"]

MOMENTUM = 0.95
# Odd polynomials a x + b x^3 + c x^5 that bring all singular values in (0, 1] near 1 (Jordan).
STEPS, A, B, C = 5, 3.4445, -4.7750, 2.0315
SCALE = 1.5  # one learning rate serves both optimizers, and the best ones need no more digits


def make_optimizer(model: nn.Module, args: TrainArgs) -> torch.optim.Optimizer:
    """Makes the optimizer that the options ask for."""
    if args.optimizer == "muon":
        return Muon(model, args.lr, args.weight_decay)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=args.lr, weight_decay=args.weight_decay, fused=True)


class Muon(torch.optim.AdamW):
    """Creates the optimizer Muon for a network's matrices, with AdamW for its other parameters.

    The gradient of a matrix, with Nesterov's momentum, is replaced by a matrix with the same
    singular vectors whose singular values are all about 1, so that the directions that have small
    gradients are learned as fast as those with large ones. A convolution's kernel is a matrix with
    a row for each output. Muon: An optimizer for hidden layers in neural networks (Jordan and
    others, 2024); the length of the steps and the weight decay are those of Muon is Scalable for
    LLM Training (Liu et al., 2025), equation 4, but for the factor, which is always 0.2 there.
    Here it is the norm of the gradient's moving average, over the root of the moving average of its
    squared norm: Adam's ratio (Kingma and Ba, 2015), but of a whole matrix. It is near 1 as long as
    the gradients agree, which they do in the first hundreds of steps, and 0.16 in mere noise.

    `torch.optim.Muon` takes no kernels of convolutions, computes one matrix after the other, and
    all of them in bfloat16. Here matrices of the same shape are computed together, in float32.

    Args:
        model: The network. Which of its parameters are matrices is said by `matrices`.
        lr: Learning rate of all parameters.
        weight_decay: Weight decay of all parameters, as of AdamW: a step takes this share, times
            the learning rate, from each.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float) -> None:
        hidden = matrices(model)
        known = set(map(id, hidden))
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups = [{"params": others, "matrices": False}, {"params": hidden, "matrices": True}]
        super().__init__(
            [group for group in groups if group["params"]],
            lr=lr,
            weight_decay=weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step. The gradients of matrices are gone after it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["matrices"]:
                self.step_matrices(group)
        super().step()
        return loss

    def step_matrices(self, group: dict[str, Any]) -> None:
        """Takes the step of the matrices, and drops their gradients, so that AdamW skips them."""
        by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                by_shape[len(p), p[0].numel()].append(p)
        for shape, same in by_shape.items():
            ahead, agreement = zip(*map(self.gradient_ahead, same), strict=True)
            lengths = group["lr"] * SCALE * max(shape) ** 0.5 * torch.stack(agreement)
            steps = orthogonalized(torch.stack([one.reshape(shape) for one in ahead]))
            for p, step in zip(same, lengths[:, None, None] * steps, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(step.view(p.shape))
                p.grad = None

    def gradient_ahead(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Updates the moving averages of a gradient.

        Returns:
            The average with Nesterov's look ahead, and how far the gradients agree, from 0 to 1.
        """
        assert p.grad is not None
        state = self.state[p]
        if not state:
            zero = p.new_zeros(())
            state.update(momentum=torch.zeros_like(p), square=zero, step=torch.zeros(()))
        state["step"] += 1
        momentum: Tensor = state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
        square = state["square"].lerp_(p.grad.square().sum(), 1 - MOMENTUM)
        seen = 1 - MOMENTUM ** state["step"].to(p.device)  # both averages began with zeros
        agreement = momentum.norm() / (square * seen).sqrt().clamp(min=1e-30)
        return p.grad.lerp(momentum, MOMENTUM), agreement


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Returns the weights of a network that map features to features, a row for each output.

    These are the weights of linear layers and convolutions, but not those of the last layer, which
    computes the parameters of distributions, nor embeddings: their rows are not mixed, and AdamW
    serves them better (Jordan and others, 2024). So it does the state-to-state weights of LSTMs
    (measured, docs/experiments.md).
    """
    found = {}  # in their order; a weight that two layers share counts once
    for layer in model.modules():
        last = not getattr(layer, "autocast", True)
        if last or isinstance(layer, nn.Embedding | nn.ConvTranspose2d):
            continue
        for name, p in layer.named_parameters(recurse=False):
            if name.startswith("weight") and p.ndim >= 2 and p.requires_grad:
                found[id(p)] = p
    return list(found.values())


def orthogonalized(matrices: Tensor) -> Tensor:
    """Returns matrices with the same singular vectors; all but tiny singular values become about 1.

    Args:
        matrices: `(N, rows, columns)`.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
    for _ in range(STEPS):
        squares = x @ x.mT
        x = A * x + (B * squares + C * (squares @ squares)) @ x
    result: Tensor = x if wide else x.mT
    return result
