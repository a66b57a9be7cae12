"""Cuts photographs into random square crops at several scales, to train a model of any size.

    python tools/cut_photographs.py ../shared/data/photos photos.npz

writes x_train, the crops of all photographs but every ninth, and x_valid and x_test, crops of every
ninth. How many crops a photograph and a scale give follows their area, so that each pixel is as
likely as any other; half of the crops are mirrored.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from nextpixel.cli.options import positive
from nextpixel.data.folders import read_picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SCALES = (
    1.0,
    0.7,
    0.5,
)  # a photograph made smaller has finer detail, as if taken from further away


def main() -> None:
    """Writes the crops."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path, help="the folder of photographs")
    parser.add_argument("out", type=Path, help="the .npz file to write")
    parser.add_argument("--size", type=positive, default=32, help="side of a crop (default: 32)")
    parser.add_argument("--count", type=positive, default=150_000, help="training crops (150,000)")
    args = parser.parse_args()
    paths = sorted(p for p in args.pictures.iterdir() if p.suffix.lower() in SUFFIXES)
    held = paths[::9]
    rng = np.random.default_rng(0)
    train = crops([p for p in paths if p not in held], args.size, args.count, rng)
    valid = crops(held, args.size, 2000, rng)
    np.savez(args.out, x_train=train, x_valid=valid[::2], x_test=valid[1::2])
    print(f"{args.out}: {len(train):,} crops of {len(paths) - len(held)} photographs to train on")


def crops(paths: list[Path], size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts about `count` crops `(N, 3, size, size)`, in random order."""
    pictures = [scaled(path, scale) for path in paths for scale in SCALES]
    area = sum(x.shape[1] * x.shape[2] for x in pictures)
    cut = []
    for x in pictures:
        n = round(count * x.shape[1] * x.shape[2] / area)
        rows = rng.integers(0, x.shape[1] - size + 1, n)
        cols = rng.integers(0, x.shape[2] - size + 1, n)
        found = np.stack(
            [x[:, r : r + size, c : c + size] for r, c in zip(rows, cols, strict=True)]
        )
        found[::2] = found[::2, :, :, ::-1]
        cut.append(found)
    return rng.permutation(np.concatenate(cut))


def scaled(path: Path, scale: float) -> np.ndarray:
    """Reads a photograph as `(3, H, W)` at a scale."""
    x = read_picture(path, None, 3)
    if scale == 1:
        return x
    picture = Image.fromarray(x.transpose(1, 2, 0))
    size = round(picture.width * scale), round(picture.height * scale)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).transpose(2, 0, 1)


if __name__ == "__main__":
    main()
