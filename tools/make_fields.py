"""Measures what each pixel of a small network depends on, for the page's panel "See".

    python tools/make_fields.py

writes src/nextpixel/web/page/fields.png: for each kind of model a square of (side x side)^2
values, a row for each pixel, a column for each pixel that it may depend on. 0 is no influence at
all; others are the logarithm of the gradient. The networks have random weights and enough layers to
reach all that more would, see `nextpixel.evaluation.receptive_field`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nextpixel.evaluation.receptive_field import (
    DEPTHS,
    INPUTS,
    KINDS,
    random_images,
    random_network,
    site_gradient,
)
from nextpixel.nn import Site

SIDE = 13
DECADES = 4.0  # of the gradient, from the darkest to the brightest
OUT = Path(__file__).parents[1] / "src/nextpixel/web/page/fields.png"


def main() -> None:
    """Writes the picture."""
    squares = []
    for kind in KINDS:
        model = random_network(kind, (1, SIDE, SIDE), seed=0, **DEPTHS[kind][-1])
        x = random_images(model, INPUTS, seed=0)
        square = np.zeros((SIDE**2, SIDE**2))
        for pixel in range(SIDE**2):
            site = Site(*divmod(pixel, SIDE))
            gradient = site_gradient(model, site, x, None, seed=0)
            square[pixel] = gradient.abs().mean(0).sum(0).flatten().numpy()
        squares.append(as_bytes(square))
        print(kind, f"{(squares[-1] > 0).mean():.3f}", flush=True)
    about = PngInfo()
    about.add_text("kinds", " ".join(KINDS))
    Image.fromarray(np.concatenate(squares)).save(OUT, optimize=True, pnginfo=about)
    print(f"{OUT.stat().st_size:,} bytes")


def as_bytes(gradient: np.ndarray) -> np.ndarray:
    """Maps gradients to 1 to 255 by their logarithms, and 0 to 0."""
    with np.errstate(divide="ignore"):
        decades = np.log10(gradient / gradient.max())
    return np.where(gradient == 0, 0, np.clip(1 + 254 * (1 + decades / DECADES), 1, 255)).astype(
        np.uint8
    )


if __name__ == "__main__":
    main()
