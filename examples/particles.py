"""Measures completion with particles, for the picture and the table of docs/completing.md."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

import nextpixel as npx
from nextpixel.conditioning.regions import box_mask, half_mask
from nextpixel.viz import images as plots

IMAGES = 24  # test digits in the table, spread over the test set
SHOWN = 8  # and in the picture
COUNTS = (1, 16, 64, 256)
OUT = Path(__file__).parents[1] / "docs" / "images" / "particles.png"


def measure() -> None:
    """Completes digits with more and more particles, prints a table and saves the picture."""
    torch.set_num_threads(1)
    model = npx.load("mnist")
    test = npx.load_data("mnist").test.subset(IMAGES)
    x, c = map(torch.from_numpy, test.batch(np.arange(IMAGES)))
    hidden = {
        "upper half": half_mask("top", 28, 28),
        "rows 10 to 13": box_mask(10, 0, 4, 28, (28, 28)),
    }
    with torch.no_grad():
        true = model.log_prob(x, c).mean()
    print(f"{IMAGES} test digits; log p(true picture) {true:.1f} nats on average")
    pictures = []
    for name, mask in hidden.items():
        columns = {"original": plots.to_uint8(x, 256), "given": plots.tint_unknown(x, ~mask, 256)}
        print(f"{name} hidden\n| particles | smallest | below 2 | evidence | completed | seconds |")
        for count in COUNTS:
            began = time.process_time()
            done = npx.complete_with_particles(model, x, ~mask, c, particles=count, seed=1)
            seconds = time.process_time() - began
            with torch.no_grad():
                whole = model.log_prob(done.x, c).mean()
            least, evidence = done.least_effective, done.log_evidence.mean()
            print(
                f"| {count} | {least.median():.1f} | {int((least < 2).sum())} | {evidence:.1f} "
                f"| {whole:.1f} | {seconds:.1f} |",
                flush=True,
            )
            columns["plain" if count == 1 else str(count)] = plots.to_uint8(done.x, 256)
        first = {caption: pixels[:SHOWN] for caption, pixels in columns.items()}
        pictures.append(plots.side_by_side(first, 256, scale=3))
    plots.save_image(plots.captioned_row(dict(zip(hidden, pictures, strict=True))), OUT)


if __name__ == "__main__":
    measure()
