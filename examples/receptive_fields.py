"""Makes the figures of docs/receptive-fields.md by the commands in their captions.

The commands also write figures that the page does not show; these are not copied.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from nextpixel.cli.main import main

OUT = Path(__file__).parents[1] / "docs" / "images" / "receptive-fields"
SHOWN = {
    "": ["kinds.png"],
    "PixelCNN": ["masks.png", "slide.gif", "field.png", "blind-spot.png"],
    "GatedPixelCNN": ["field.png"],
    "RowLSTM": ["field.png"],
    "DiagonalBiLSTM": ["field.png"],
    "PixelCNNPP": ["masks.png", "field.png"],
    "mnist": ["effective.png", "surprise.png"],
}


def make_figures() -> None:
    """Runs the commands and copies the figures."""
    for model, files in SHOWN.items():
        with TemporaryDirectory() as folder:
            words = [model] if model else []
            if main(["inspect", *words, "--out", folder, "--threads", "1"]) != 0:
                sys.exit(1)
            (OUT / model).mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copyfile(Path(folder) / file, OUT / model / file)


if __name__ == "__main__":
    make_figures()
