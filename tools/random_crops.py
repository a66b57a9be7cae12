"""Cuts squares at random places out of photographs, as an array to train on.

    python tools/random_crops.py ../shared/data/photos runs/photos.npz
    nextpixel train --config recipes/photos/photos.yaml --out runs/photos

Each square comes from a picture that is made smaller by one of the scales, with a chance in
proportion to its pixels then, and half of them are mirrored: a model of photographs is to know fine
and coarse detail, and neither side. Every ninth picture is held out, for validation and testing,
so that no split has seen anything of another's pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from nextpixel.cli.options import positive
from nextpixel.data.folders import PICTURE_FILES, read_picture

HELD_OUT = 9  # every ninth picture
CROPS = {"valid": 1000, "test": 1000}


def main() -> None:
    """Writes the crops of three splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path, help="the folder of photographs")
    parser.add_argument("out", type=Path, help="the .npz file to write; it must not exist")
    parser.add_argument("--size", type=positive, default=32, help="side of a square (default: 32)")
    parser.add_argument(
        "--count", type=positive, default=150_000, help="squares to train on (default: 150000)"
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1, 0.7, 0.5],
        help="what a picture's sides are multiplied by (default: 1 0.7 0.5)",
    )
    args = parser.parse_args()
    if not args.pictures.is_dir():
        parser.error(f"there is no folder {args.pictures}")
    if args.out.exists():
        parser.error(f"{args.out} exists: remove it, or name another file")
    paths = sorted(p for p in args.pictures.iterdir() if p.suffix.lower() in PICTURE_FILES.endings)
    if len(paths) < HELD_OUT:
        parser.error(f"{args.pictures} has {len(paths)} pictures: at least {HELD_OUT} are needed")
    generator = np.random.default_rng(0)
    arrays = {}
    held_out = scaled(paths[HELD_OUT - 1 :: HELD_OUT], args.scales, args.size)
    for split, count in (("train", args.count), *CROPS.items()):
        if split == "train":
            known = [p for k, p in enumerate(paths) if (k + 1) % HELD_OUT]
            pictures = scaled(known, args.scales, args.size)
        else:
            pictures = held_out
        arrays[f"x_{split}"] = cut(pictures, count, args.size, generator)
        print(f"{split}: {count:,} squares of {len(pictures):,} pictures and scales")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("xb") as file:
        np.savez(file, **arrays)


def scaled(paths: list[Path], scales: list[float], size: int) -> list[np.ndarray]:
    """Reads pictures at all scales at which a square fits, `(H, W, 3)` each."""
    found = []
    for path in paths:
        picture = Image.fromarray(read_picture(path, None, 3).transpose(1, 2, 0))
        for scale in scales:
            width, height = (round(length * scale) for length in picture.size)
            if min(width, height) >= size:
                found.append(np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS)))
    return found


def cut(
    pictures: list[np.ndarray], count: int, size: int, generator: np.random.Generator
) -> np.ndarray:
    """Cuts squares at random places, half of them mirrored, as `(count, 3, size, size)`."""
    pixels = np.array([x.shape[0] * x.shape[1] for x in pictures])
    squares = np.empty((count, 3, size, size), np.uint8)
    for k, choice in enumerate(generator.choice(len(pictures), count, p=pixels / pixels.sum())):
        x = pictures[choice]
        top, left = (generator.integers(0, length - size + 1) for length in x.shape[:2])
        square = x[top : top + size, left : left + size]
        squares[k] = (square[:, ::-1] if generator.random() < 0.5 else square).transpose(2, 0, 1)
    return squares


if __name__ == "__main__":
    main()
