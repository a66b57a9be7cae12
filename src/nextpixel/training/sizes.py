"""Sizes of new models: small for two processor cores, medium, and the papers'."""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["SIZES", "Size", "size_arguments"]

Size = Literal["small", "medium", "paper"]

# Arguments of models; without an entry, and for the size "paper", the defaults of the class count.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "PixelCNN": {
        "small": {"width": 32, "blocks": 8, "head": 128},
        "medium": {"width": 64, "blocks": 12, "head": 512},
    },
    "GatedPixelCNN": {
        "small": {"width": 32, "blocks": 7, "kernel_size": 5},
        "medium": {"width": 64, "blocks": 10, "kernel_size": 5},
    },
    "RowLSTM": {
        "small": {"width": 24, "blocks": 4, "head": 96},
        "medium": {"width": 64, "blocks": 7, "head": 256},
    },
    "DiagonalBiLSTM": {
        "small": {"width": 24, "blocks": 3, "head": 96},
        "medium": {"width": 64, "blocks": 5, "head": 256},
    },
    "PixelCNNPP": {
        "small": {"width": 32, "blocks": 1, "components": 5, "dropout": 0.0},
        "medium": {"width": 64, "blocks": 2, "components": 10, "dropout": 0.2},
    },
    "PixelSNAIL": {
        "small": {"width": 32, "blocks": 2, "layers": 2, "components": 5, "dropout": 0.0},
        "medium": {"width": 64, "blocks": 4, "layers": 3, "components": 10, "dropout": 0.2},
    },
}


def size_arguments(model: str, size: Size) -> dict[str, Any]:
    """Returns the arguments that make a model of this size; {} for the defaults of its class.

    Args:
        model: The model's name or dotted path.
        size: "small", "medium" or "paper".
    """
    return SIZES.get(model, {}).get(size, {})
