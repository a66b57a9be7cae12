"""Compares PixelCNN++ with and without weight normalisation and data-dependent initialisation.

    python benchmarks/weight_norm.py --steps 600

Both variants are the same small network with the same initial weights, data and learning rates. The
first is `PixelCNNPP`: plain weights, initialised so that layers preserve the standard deviation.
The second reparametrises every convolution (except those that double the resolution) as direction
and length, and sets lengths and biases on a first batch so that every output has mean 0 and
standard deviation 1 (0.1 at the end of a residual layer), as Salimans and Kingma (2016, arXiv
1602.07868, section 3) do.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import nextpixel as npx
from nextpixel.data import Dataset, batch_indices
from nextpixel.evaluation.likelihood import evaluate
from nextpixel.nn import CausalConv2d, GatedResNet, Pointwise, RowConv2d
from nextpixel.training.config import learning_rate

LAYERS = (CausalConv2d, RowConv2d, Pointwise)


def normalise_weights(model: npx.PixelCNNPP, x: Tensor) -> None:
    """Adds weight normalisation to every convolution, and initialises it from data."""
    ends = {layer.conv_out for layer in model.modules() if isinstance(layer, GatedResNet)}

    def start(layer: nn.Module, args: tuple[Any, ...], kwargs: Any, _: Tensor) -> Tensor:
        alone = layer.forward(args[0])  # without the sum with the other stack
        std, mean = torch.std_mean(alone, [d for d in range(alone.ndim) if d != 1])
        scale = (0.1 if layer in ends else 1) / (std + 1e-8)
        for name, parameter in layer.named_parameters(recurse=False):
            shape = (-1, *[1] * (parameter.ndim - 1))
            parameter.mul_(scale.view(shape))
            if name == "bias":
                parameter.sub_(mean * scale)
        out: Tensor = layer.forward(*args, **kwargs)
        return out

    layers = [layer for layer in model.modules() if isinstance(layer, LAYERS)]
    hooks = [layer.register_forward_hook(start, with_kwargs=True) for layer in layers]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        for name in ("weight", "weight_row", "weight_above"):
            if isinstance(getattr(layer, name, None), nn.Parameter):
                weight_norm(layer, name)


def train(model: npx.PixelCNNPP, data: Dataset, args: argparse.Namespace, label: str) -> None:
    """Trains a variant, and prints its validation score four times."""
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # of torch
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=True)
    options = npx.training.TrainArgs(steps=args.steps, lr=args.lr, warmup=100)
    began = time.perf_counter()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step + 1, options)
        indices = batch_indices(len(data.train), args.batch, step, seed=0, rank=0, world=1)
        x, _ = data.train.batch(indices)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.bits_per_dim(torch.from_numpy(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % (args.steps // 4) == 0:
            score = evaluate(model, data.valid, limit=args.valid)
            seconds = time.perf_counter() - began
            print(
                f"{label:12} step {step + 1:5}: training {loss:.3f}, gradient {norm:.2f}, "
                f"validation {score} ({seconds:.0f} s)",
                flush=True,
            )


def main() -> None:
    """Trains both variants and prints their validation scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--valid", type=int, default=500, help="validation images")
    parser.add_argument("--only", choices=["plain", "weight norm"])
    args = parser.parse_args()
    data = npx.load_data(args.data)
    for label in ("plain", "weight norm"):
        if args.only not in (None, label):
            continue
        torch.manual_seed(0)
        model = npx.PixelCNNPP(
            shape=data.shape,
            levels=data.levels,
            width=args.width,
            blocks=args.blocks,
            dropout=0.0,
        )
        if label == "weight norm":
            x, _ = data.train.batch(batch_indices(len(data.train), 64, 0, seed=1, rank=0, world=1))
            normalise_weights(model, torch.from_numpy(x))
        train(model, data, args, label)


if __name__ == "__main__":
    main()
