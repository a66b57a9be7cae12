"""Decode a compressed file, and compare all checksums."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nextpixel.cli.commands.decompress import add_program
from nextpixel.cli.options import Parser, positive
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse

__all__ = ["EXAMPLES", "arguments", "run"]

EXAMPLES = ["nextpixel verify my-pictures.npxz"]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("file", metavar="FILE", help="a .npxz of nextpixel compress")
    add_program(parser)
    parser.add_argument("--threads", type=positive, help="number of processor threads")


def run(args: argparse.Namespace) -> None:
    """Decodes everything."""
    from nextpixel.codec.decompress import Compressed
    from nextpixel.engine.program import processors

    began = time.perf_counter()
    with Compressed(args.file, program=args.program) as compressed:
        compressed.check_records()
        totals, done = compressed.totals(), 0
        with progress("decoding") as show:
            wanted, threads = max(1, totals.images), args.threads or processors()
            for images in compressed.images(threads, lambda n: show(n / wanted)):
                done += len(images)
    if done != totals.images:
        raise UserError(f"{args.file} has {done} images, but says {totals.images}.")
    seconds = time.perf_counter() - began
    speed = f" in {seconds:.1f} s, {totals.levels / seconds / 1000:,.0f} KB/s by the model"
    print(f"{args.file} is whole: {count(done, 'image')}{speed if totals.levels else ''}.")
