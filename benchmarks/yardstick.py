"""Baselines of the benchmarks: the textbook's network, and the limits of the machine.

The textbook's network stays as it is: k x k convolutions whose mask is multiplied onto the weight
in every pass, float32, NCHW, no compilation, no TF32, and a full forward pass for every pixel. It
shares only the values of the weights with our layers, so a faster layer does not change it.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.models.pixel_cnn import ResidualBlock
from nextpixel.nn import CausalConv2d, CausalLayer, Halved, HalvedRows, RowConv2d

__all__ = [
    "limits",
    "median_seconds",
    "multiplications",
    "print_table",
    "textbook",
    "wait",
    "write_json",
]


class TextbookConv2d(nn.Module):
    """Creates the k x k convolution with a mask that computes the same as one of our layers.

    Args:
        layer: The layer; its weights are copied.
    """

    mask: Tensor

    def __init__(self, layer: CausalConv2d | RowConv2d) -> None:
        super().__init__()
        if isinstance(layer, CausalConv2d):
            self.padding = (layer.rows_above, layer.left)
            weight, mask = self.unfold_causal(layer)
        else:
            self.padding = (layer.rows_above, layer.reach)
            weight, mask = self.unfold_rows(layer)
        self.weight, self.bias = nn.Parameter(weight), layer.bias
        self.register_buffer("mask", mask)

    @staticmethod
    def unfold_causal(layer: CausalConv2d) -> tuple[Tensor, Tensor]:
        """Lays the visible taps into a k x k kernel, and makes its mask."""
        size = (2 * layer.rows_above + 1, 2 * layer.left + 1)
        weight = layer.weight_row.new_zeros(layer.out_channels, layer.in_channels, *size)
        mask = torch.zeros_like(weight)
        taps = layer.weight_row.shape[-1]
        weight[:, :, layer.rows_above, :taps] = layer.weight_row.detach()[:, :, 0]
        mask[:, :, layer.rows_above, :taps] = 1
        if layer.row_mask is not None:
            mask[:, :, layer.rows_above, :taps] = layer.row_mask[:, :, 0].to(mask)
        if layer.weight_above is not None:
            weight[:, :, : layer.rows_above] = layer.weight_above.detach()
            mask[:, :, : layer.rows_above] = 1
        return weight, mask

    @staticmethod
    def unfold_rows(layer: RowConv2d) -> tuple[Tensor, Tensor]:
        """Lays the rows of a vertical stack's kernel into a k x k one, and makes its mask."""
        height, width = layer.weight.shape[2:]
        weight = layer.weight.new_zeros(*layer.weight.shape[:2], 2 * height - 1, width)
        mask = torch.zeros_like(weight)
        weight[:, :, :height] = layer.weight.detach()
        mask[:, :, :height] = 1
        return weight, mask

    def forward(self, x: Tensor, context: Tensor | None = None, cache: None = None) -> Tensor:
        """Convolves a whole map."""
        out = F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)
        return out if context is None else out + context


class TextbookBlock(ResidualBlock):
    """A PixelCNN's residual block, one layer after another."""

    def forward(self, x: Tensor, bias: Tensor | None, cache: None) -> Tensor:
        """Computes the block."""
        h = self.reduce(F.relu(x))
        h = self.conv(F.relu(h, inplace=True), bias)
        return self.expand(F.relu(h, inplace=True)).add_(x)


def textbook(model: AutoregressiveModel) -> AutoregressiveModel:
    """Makes the textbook's network with the same weights; it computes whole maps only.

    The masked convolutions of a PixelCNN and both stacks of a Gated PixelCNN become k x k kernels
    with masks. Models whose textbook form is our own forward pass stay as they are: PixelCNN++ and
    PixelSNAIL shift small kernels in their authors' code too, and a recurrence is a loop.
    """
    book = copy.deepcopy(model)
    if type(model).__name__ in ("PixelCNN", "GatedPixelCNN"):
        for module in list(book.modules()):
            if isinstance(module, ResidualBlock):
                module.__class__ = TextbookBlock
            for name, child in module.named_children():
                if isinstance(child, (CausalConv2d, RowConv2d)):
                    setattr(module, name, TextbookConv2d(child))
    return book


def multiplications(model: AutoregressiveModel) -> float:
    """Counts the multiplications by a weight for one site of one image.

    Masked taps do not count; a layer at half the resolution counts a fourth. The products of
    attention, of queries with keys, are not included.
    """
    count = 0.0
    for layer in model.modules():
        if isinstance(layer, CausalLayer):  # its own weights, and those of PyTorch layers in it
            sites = layer.scale * getattr(layer, "stride", 1)
            own = [layer, *(part for part in layer.children() if "torch" in type(part).__module__)]
            weights = [p for part in own for p in part.parameters(recurse=False) if p.ndim > 1]
            doubles = isinstance(layer, (Halved, HalvedRows))  # a site gets one of four matrices
            count += sum(p.numel() for p in weights) / (4 if doubles else 1) / sites**2
    return count


def median_seconds(function: Callable[[], object], times: int, warmup: int = 1) -> float:
    """Runs a function several times, and returns the median of its seconds."""
    for _ in range(warmup):
        function()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def wait(device: torch.device) -> None:
    """Waits until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def limits(device: torch.device) -> dict[str, float]:
    """Measures the peak rates of the machine in float32, with the number of threads set in torch.

    Returns:
        `gflops` per second, of the faster of two large matrix products (`torch.mm`, and a 1x1
        convolution, which another library computes), and `gbytes` read per second, by a sum over
        64 MiB.
    """
    a = torch.randn(2048, 2048, device=device)
    maps = torch.randn(1, 2048, 32, 64, device=device).to(memory_format=torch.channels_last)
    kernel, numbers = torch.randn(2048, 2048, 1, 1, device=device), torch.randn(2**24).to(device)

    def seconds(function: Callable[[], Tensor]) -> float:
        return median_seconds(lambda: (function(), wait(device)), 9)

    with torch.inference_mode():
        product = min(seconds(lambda: torch.mm(a, a)), seconds(lambda: F.conv2d(maps, kernel)))
        read = seconds(lambda: numbers.sum())
    return {"gflops": 2 * 2048**3 / product / 1e9, "gbytes": numbers.nbytes / read / 1e9}


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(f"| {' | '.join(cells)} |")


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Writes measurements to a JSON file, if a path is given."""
    if path is not None:
        path.write_text(json.dumps(content, indent=2) + "\n")
