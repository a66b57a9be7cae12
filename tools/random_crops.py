"""Cuts squares at random places out of photographs, as an array to train on.

    python tools/random_crops.py ../shared/data/photos runs/photos.npz
    nextpixel train --config recipes/photos/photos.yaml --out runs/photos

Each square comes from a picture that is made smaller by one of the scales, with a chance in
proportion to its pixels then, and half of them are mirrored: a model of photographs is to know fine
and coarse detail, and neither side. Squares to train on and others are of different pictures; those
for validation and testing share theirs, every ninth one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from nextpixel.cli.options import positive
from nextpixel.data.folders import PICTURE_FILES, picture_size, read_picture
from nextpixel.errors import UserError
from nextpixel.utils.files import atomic_write
from nextpixel.utils.progress import track

HELD_OUT = 9  # every ninth picture
OTHERS = {"valid": 1000, "test": 1000}


def main() -> None:
    """Writes the squares of three splits."""
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
    if args.out.suffix != ".npz" or args.out.exists():
        parser.error(f"name a new .npz file, not {args.out}")
    if not all(0 < scale <= 1 for scale in args.scales):
        parser.error("scales are above 0, and 1 at most")
    paths = sorted(p for p in args.pictures.iterdir() if p.suffix.lower() in PICTURE_FILES.endings)
    if len(paths) < HELD_OUT:
        parser.error(f"{args.pictures} has {len(paths)} pictures: at least {HELD_OUT} are needed")
    held_out = paths[HELD_OUT - 1 :: HELD_OUT]
    train = [path for path in paths if path not in held_out]
    generator = np.random.default_rng(0)
    try:
        arrays = {"x_train": squares(train, args.count, args.size, args.scales, generator)}
        for split, count in OTHERS.items():
            arrays[f"x_{split}"] = squares(held_out, count, args.size, args.scales, generator)
    except UserError as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out) as file:
        np.savez(file, **arrays)
    more = f"{sum(OTHERS.values()):,} of {len(held_out)}"
    print(f"{args.out}: {args.count:,} squares of {len(train)} pictures, and {more} others")


def squares(
    paths: list[Path], count: int, size: int, scales: list[float], generator: np.random.Generator
) -> np.ndarray:
    """Cuts squares out of pictures, one picture after the other, as `(count, 3, size, size)`.

    Raises:
        UserError: A picture cannot be read, or none has room for a square.
    """
    sizes = [(path, *scaled(picture_size(path), scale)) for path in paths for scale in scales]
    sizes = [(path, width, height) for path, width, height in sizes if min(width, height) >= size]
    if not sizes:
        raise UserError(f"No picture is {size} pixels wide and high at these scales.")
    pixels = np.array([width * height for _, width, height in sizes])
    choices = generator.choice(len(sizes), count, p=pixels / pixels.sum())
    found = np.empty((count, 3, size, size), np.uint8)
    for k, (path, width, height) in enumerate(track(sizes, "cutting", len(sizes))):
        picture = Image.fromarray(read_picture(path, None, 3).transpose(1, 2, 0))
        if (picture.width < picture.height) != (width < height):  # turned by its EXIF data
            width, height = height, width
        x = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
        for number in np.flatnonzero(choices == k):
            found[number] = square_of(x, size, generator)
    return found


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Returns the sides of a picture that is made smaller."""
    return round(size[0] * scale), round(size[1] * scale)


def square_of(x: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Cuts a square at a random place out of a picture `(H, W, 3)`, mirrored or not."""
    top, left = (generator.integers(0, length - size + 1) for length in x.shape[:2])
    square = x[top : top + size, left : left + size]
    return (square[:, ::-1] if generator.random() < 0.5 else square).transpose(2, 0, 1)


if __name__ == "__main__":
    main()
