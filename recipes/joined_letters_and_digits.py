"""Joins letters (notMNIST) and the digits 0 to 7 (MNIST), and keeps the 8s and 9s for later.

    python recipes/joined_letters_and_digits.py $N runs/joined

where $N is the IDX file of notMNIST's images, writes `joined.npz`, 18 classes, of which
docs/variations.md trains a classifier and a model that is told what the classifier says; and
`held-out.npz`, 8s and 9s in turn, which neither has seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import nextpixel as npx
from nextpixel.data import Images
from nextpixel.files import atomic_write

SPLITS = ("train", "valid", "test")
KNOWN = 8  # the digits 0 to 7


def main() -> None:
    """Writes the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("letters", help="the IDX file of notMNIST's images")
    parser.add_argument("out", type=Path, help="the folder to write into")
    args = parser.parse_args()
    letters, digits = npx.load_data(args.letters), npx.load_data("mnist")
    if letters.classes is None:
        parser.error(f"{args.letters} has no class ids")
    joined, held_out = {}, {}
    for split in SPLITS:
        of_letters, of_digits = getattr(letters, split), getattr(digits, split)
        known = of_digits.y < KNOWN
        joined[f"x_{split}"] = np.concatenate([of_letters.x, of_digits.x[known]])
        joined[f"y_{split}"] = np.concatenate([of_letters.y, letters.classes + of_digits.y[known]])
        held_out[f"x_{split}"], held_out[f"y_{split}"] = in_turn(of_digits)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, arrays in (("joined", joined), ("held-out", held_out)):
        with atomic_write(args.out / f"{name}.npz") as file:
            np.savez(file, **arrays)
        counts = ", ".join(f"{len(arrays[f'x_{split}']):,} {split}" for split in SPLITS)
        print(f"{args.out / name}.npz: {counts}")


def in_turn(digits: Images) -> tuple[np.ndarray, np.ndarray]:
    """Takes an 8, a 9, an 8 and so on, as far as there are both."""
    assert digits.y is not None  # MNIST's have classes
    eights, nines = np.flatnonzero(digits.y == 8), np.flatnonzero(digits.y == 9)
    count = min(len(eights), len(nines))
    order = np.stack([eights[:count], nines[:count]], axis=1).reshape(-1)
    return digits.x[order], digits.y[order] - KNOWN


if __name__ == "__main__":
    main()
