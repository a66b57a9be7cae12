"""Compress pictures by a small model that is trained on these very pictures.

The model goes into the file, and its bytes are counted: of three sizes the one is chosen that makes
the whole file smallest. Where no model is worth its bytes, the pictures are kept as lossless WebP
or as their own files, and that is said.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.commands.compress import default_name, report
from nextpixel.cli.options import Parser, minutes, positive
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse

__all__ = ["EXAMPLES", "arguments", "run"]

EXAMPLES = [
    "nextpixel archive my-pictures -o my-pictures.npxz --minutes 10",
    "nextpixel info my-pictures.npxz",
    "nextpixel decompress my-pictures.npxz -o restored",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="picture files and folders; or one file of arrays",
    )
    parser.add_output(
        "--out", (".npxz",), "the file to write (default: named after the images)", short="-o"
    )
    parser.add_argument(
        "--minutes",
        type=minutes,
        metavar="M",
        default=10.0,
        help="training time, in all; rounding the weights and compressing come after it",
    )
    parser.add_argument("--threads", type=positive, help="number of processor threads")


def run(args: argparse.Namespace) -> None:
    """Trains a model, and compresses the images."""
    from nextpixel.codec.archive import archive
    from nextpixel.codec.sources import source_of
    from nextpixel.utils.devices import set_up

    set_up("cpu", args.threads)
    out: Path = args.out or default_name(args.images[0])
    source = source_of(args.images)
    began = time.perf_counter()
    with progress("compressing") as show:
        done = archive(
            source,
            out,
            minutes=args.minutes,
            threads=args.threads,
            say=lambda line: print(line, flush=True),
            show=lambda n: show(n / max(1, source.count)),
        )
    report(out, done.totals, source, time.perf_counter() - began)
    if done.trial is None:
        return
    saved = 1 - done.totals.bytes / done.classical
    model_bytes = done.trial.rounding.model_bytes
    print(
        f"{model_bytes:,} of the bytes are the model. The file is {saved:.1%} smaller "
        f"than lossless files, WebP or their own ({done.classical:,} bytes)."
    )
