"""Decompress images, pixel by pixel as they were."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, positive
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse

__all__ = ["EXAMPLES", "arguments", "run"]

EXAMPLES = [
    "nextpixel decompress my-pictures.npxz -o restored",
    "nextpixel decompress digits.npxz -o digits.npz",
    "nextpixel decompress damaged.npxz -o rest --salvage",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("file", metavar="FILE", help="a .npxz of nextpixel compress")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="PATH",
        help="a new folder for pictures, a new .npz for an array (default: named after FILE)",
    )
    add_program(parser)
    parser.add_argument(
        "--salvage", action="store_true", help="go on after damage, and say what is lost"
    )
    parser.add_argument("--threads", type=positive, help="number of processor threads")


def add_program(parser: Parser) -> None:
    """Adds --program."""
    parser.add_argument(
        "--program",
        metavar="FILE",
        help="the .program that the file was compressed with, if it is not in the file",
    )


def run(args: argparse.Namespace) -> int:
    """Decompresses the file; the status is 1 where something is damaged."""
    from nextpixel.codec.decompress import Compressed, decompress
    from nextpixel.utils.files import unused

    began = time.perf_counter()
    with Compressed(args.file, salvage=args.salvage) as compressed:
        images, array = max(1, compressed.head["images"]), compressed.head["array"]
        levels = compressed.totals().levels
    out = args.out or unused(Path(Path(args.file).stem + (".npz" if array else "")))
    with progress("decompressing") as show:
        done = decompress(
            args.file,
            out,
            salvage=args.salvage,
            program=args.program,
            threads=args.threads,
            show=lambda n: show(min(1.0, n / images)),
        )
    seconds = time.perf_counter() - began
    speed = f", {levels / seconds / 1000:,.0f} KB/s by the model" if levels and done.images else ""
    print(f"Wrote {count(done.images, 'image')} to {done.path} in {seconds:.1f} s{speed}.")
    for fault in done.faults:
        print(f"nextpixel: {args.file}: {fault}", file=sys.stderr)
    return 1 if done.faults else 0
