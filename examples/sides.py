"""Measures exact completion of any side by a model of eight orders, for docs/completing.md."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import nextpixel as npx
from nextpixel.conditioning.regions import half_mask
from nextpixel.sampling import complete
from nextpixel.viz import images as plots

IMAGES = 200  # test digits, spread over the test set
SHOWN = 8
OUT = Path(__file__).parents[1] / "docs" / "images" / "sides.png"


def nats(model: npx.AutoregressiveModel, x: Tensor) -> str:
    """Returns the mean of log p with its standard error."""
    with torch.no_grad():
        scores = model.log_prob(x)
    return f"{scores.mean():.1f} ± {scores.std() / len(x) ** 0.5:.1f}"


def measure(name: str = "binarized-mnist-orders") -> None:
    """Hides each side, prints a table and saves a picture."""
    orders, one = npx.load(name), npx.load("binarized-mnist")
    test = npx.load_data("binarized-mnist").test.subset(IMAGES)
    x = torch.from_numpy(test.batch(np.arange(IMAGES))[0])
    print(f"{IMAGES} test digits; their log p by binarized-mnist: {nats(one, x)}")
    print("| hidden | in an order that has it last | in raster order |")
    pictures = {}
    for side in ("top", "bottom", "left", "right"):
        known = ~half_mask(side, 28, 28)
        exact, plain = (complete(model, x, known, seed=1) for model in (orders, one))
        print(f"| {side} | {nats(one, exact)} | {nats(one, plain)} |", flush=True)
        columns = {"given": plots.tint_unknown(x, known, 2), "exact": plots.to_uint8(exact, 2)}
        columns["raster"] = plots.to_uint8(plain, 2)
        some = {caption: pixels[:: IMAGES // SHOWN] for caption, pixels in columns.items()}
        pictures[f"{side} hidden"] = plots.side_by_side(some, 256, scale=2)
    plots.save_image(plots.captioned_row(pictures), OUT)


if __name__ == "__main__":
    measure(*sys.argv[1:])
