"""Makes the data sets of docs/variations.md.

    python tools/make_variations_data.py $N runs/joined

where $N is the IDX file of the notMNIST images, writes
- `joined.npz`: the notMNIST letters and the MNIST digits 0 to 7, 18 classes, to train a classifier
  and a model conditioned on its features;
- `held-out.npz`: alternating 8s and 9s, classes that are in neither;
- `small.npz`: all ten digits at half the resolution, to train many models in little time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import nextpixel as npx
from nextpixel.data import Images
from nextpixel.utils.files import atomic_write

SPLITS = ("train", "valid", "test")
KNOWN = 8  # the digits 0 to 7


def main() -> None:
    """Writes the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("letters", help="the IDX file of notMNIST's images")
    parser.add_argument("out", type=Path, help="the folder to write into")
    args = parser.parse_args()
    letters, digits = npx.load_data(args.letters), npx.load_data("mnist")
    if letters.classes is None:
        parser.error(f"{args.letters} has no class ids: give images with classes")
    files: dict[str, dict[str, np.ndarray]] = {"joined": {}, "held-out": {}, "small": {}}
    for split in SPLITS:
        some_letters, some_digits = getattr(letters, split), getattr(digits, split)
        x, y = some_digits.x, some_digits.y
        known, held_out = y < KNOWN, alternate(some_digits)
        pairs = {
            "joined": (
                np.concatenate([some_letters.x, x[known]]),
                np.concatenate([some_letters.y, letters.classes + y[known]]),
            ),
            "held-out": (x[held_out], y[held_out] - KNOWN),
            "small": (halved(x), y),
        }
        for name, (images, ids) in pairs.items():
            files[name] |= {f"x_{split}": images, f"y_{split}": ids}
    args.out.mkdir(parents=True, exist_ok=True)
    for name, arrays in files.items():
        with atomic_write(args.out / f"{name}.npz") as file:
            np.savez(file, **arrays)
        counts = ", ".join(f"{len(arrays[f'x_{split}']):,} {split}" for split in SPLITS)
        print(f"{args.out / name}.npz: {counts}")


def alternate(digits: Images) -> np.ndarray:
    """Returns the indices of alternating 8s and 9s, until one of the two runs out."""
    eights, nines = np.flatnonzero(digits.y == 8), np.flatnonzero(digits.y == 9)
    count = min(len(eights), len(nines))
    return np.stack([eights[:count], nines[:count]], axis=1).reshape(-1)


def halved(x: np.ndarray) -> np.ndarray:
    """Halves the resolution: the mean of each 2x2 block of pixels."""
    n, channels, height, width = x.shape
    blocks = x.reshape(n, channels, height // 2, 2, width // 2, 2)
    return blocks.mean((3, 5)).round().astype(np.uint8)


if __name__ == "__main__":
    main()
