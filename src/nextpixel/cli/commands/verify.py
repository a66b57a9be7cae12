"""Decode a compressed file, and compare all checksums."""

from __future__ import annotations

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

    with Compressed(args.file, program=args.program) as compressed:
        totals, done = compressed.totals(), 0
        with progress("decoding") as show:
            wanted, threads = max(1, totals.images), args.threads or processors()
            for images in compressed.images(threads, lambda n: show(n / wanted)):
                done += len(images)
    if done != totals.images:
        raise UserError(f"{args.file} has {done} images, but says {totals.images}.")
    print(f"{args.file} is whole: {count(done, 'image')}.")
