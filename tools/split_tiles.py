"""Splits the patches of magnetic tiles for docs/compression.md.

    python tools/split_tiles.py ../shared/data/tiles

writes tiles.npz, the training patches, of which those of every 20th tile are for validation, and
good.npz, the test patches without a fault.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main() -> None:
    """Writes both files into the current folder."""
    with np.load(Path(sys.argv[1]) / "magnetic_tile_patches32.npz") as found:
        held = np.isin(found["train_file"], np.unique(found["train_file"])[::20])
        good = found["test"][found["test_label"] == 0]
        train = found["train"]
        np.savez("tiles.npz", x_train=train[~held], x_valid=train[held], x_test=good)
    np.savez("good.npz", x=good)


if __name__ == "__main__":
    main()
