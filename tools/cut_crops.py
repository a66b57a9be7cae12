"""Cuts large pictures into square crops to train on.

    python tools/cut_crops.py my-photographs runs/kodak-crops

writes PNG files into the folders train, valid and test of runs/kodak-crops.

The splits share no pixels, even with a single picture. Each picture is divided along its longer
side into three parts: the first for training, the second for validation and the last for testing
(each of these two a tenth of the length, but at least one crop). Training crops begin one stride
apart, and overlap if the stride is smaller than a crop; the others lie side by side. An odd stride
shifts the picture against the grid of a VQ-VAE's codes, so that overlapping crops have different
codes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from nextpixel.cli.options import positive
from nextpixel.data.folders import PICTURE_FILES, picture_size, read_picture
from nextpixel.errors import UserError


def main() -> None:
    """Writes the crops."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path, help="the folder of pictures")
    parser.add_argument("out", type=Path, help="the folder to write; it must not exist")
    parser.add_argument("--size", type=positive, default=128, help="side of a crop (default: 128)")
    parser.add_argument(
        "--stride",
        type=positive,
        default=15,
        help="pixels from one training crop to the next (default: 15)",
    )
    args = parser.parse_args()
    if not args.pictures.is_dir():
        parser.error(f"there is no folder {args.pictures}")
    if args.out.exists():
        parser.error(f"{args.out} exists: remove it, or name another folder")
    try:
        write_crops(args.pictures, args.out, args.size, args.stride)
    except UserError as error:
        parser.error(str(error))
    counts = {folder.name: sum(1 for _ in folder.iterdir()) for folder in args.out.iterdir()}
    print(f"{args.out}: " + ", ".join(f"{n:,} {split}" for split, n in sorted(counts.items())))


def write_crops(pictures: Path, out: Path, size: int, stride: int) -> None:
    """Cuts all pictures of a folder.

    Raises:
        UserError: There are none, or one is too small or cannot be read.
    """
    paths = sorted(p for p in pictures.iterdir() if p.suffix.lower() in PICTURE_FILES.endings)
    if len({path.stem for path in paths}) < max(1, len(paths)):
        raise UserError(
            f"{pictures} has no pictures, or two with names that differ only in the suffix"
        )
    for path in paths:
        width, height = picture_size(path)
        if min(width, height) < size or max(width, height) < 3 * size:
            raise UserError(
                f"{path} is {width} x {height} pixels: for three parts it must be at least "
                f"{3 * size} x {size}, or --size smaller"
            )
    for path in paths:
        x = read_picture(path, None, 3).transpose(1, 2, 0)
        for split, part in parts(x, size).items():
            folder = out / split
            folder.mkdir(parents=True, exist_ok=True)
            step = stride if split == "train" else size
            for (row, col), crop in crops(part, size, step).items():
                Image.fromarray(crop).save(folder / f"{path.stem}-{row:04}-{col:04}.png")


def parts(x: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Divides a picture `(H, W, 3)` along its longer side into a part for each split."""
    axis = int(x.shape[1] > x.shape[0])
    length = x.shape[axis]
    end = max(size, length // 10)
    train, valid, test = np.split(x, [length - 2 * end, length - end], axis)
    return {"train": train, "valid": valid, "test": test}


def crops(part: np.ndarray, size: int, stride: int) -> dict[tuple[int, int], np.ndarray]:
    """Cuts a part into squares, by the row and column of their upper left corner."""
    rows, columns = (range(0, length - size + 1, stride) for length in part.shape[:2])
    return {(row, col): part[row : row + size, col : col + size] for row in rows for col in columns}


if __name__ == "__main__":
    main()
