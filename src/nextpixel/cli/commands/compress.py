"""Compress images without loss.

A model says how likely each value is, and likely values take few bits. The file decodes to the same
pixels on every machine, without PyTorch. Images that the model cannot take, or that a WebP or their
own file makes smaller, are kept as such a file. The pixels are kept, not the metadata of a picture.
All is decoded again and compared before it counts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import (
    SPLITS,
    Parser,
    add_data_dir,
    add_trust,
    positive,
)
from nextpixel.errors import UserError
from nextpixel.utils.files import user_path
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse

    from nextpixel.codec.compress import Totals
    from nextpixel.codec.models import Coding
    from nextpixel.codec.sources import Source

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel compress mnist mnist -o digits.npxz",
    "nextpixel compress runs/mine my-pictures -o my-pictures.npxz",
    "nextpixel decompress my-pictures.npxz -o restored",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="the name of a pretrained model, a run folder, or a .program of nextpixel export",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="picture files and folders; or one file of arrays, or one data set",
    )
    parser.add_output(
        "--out", (".npxz",), "the file to write (default: named after the images)", short="-o"
    )
    group = parser.add_argument_group("images")
    group.add_argument(
        "--split", choices=SPLITS, help="split of a data set (default: test; all of a file)"
    )
    group.add_argument("--limit", type=positive, help="compress at most N images, spread evenly")
    add_data_dir(group)
    group = parser.add_argument_group("file")
    program = group.add_mutually_exclusive_group()
    program.add_argument(
        "--embed",
        action="store_true",
        help="put the .program of a pretrained model into the file, too, so that it does not "
        "need the version of nextpixel that brings this model",
    )
    program.add_argument(
        "--leave-out",
        action="store_true",
        help="do not put the .program into the file: whoever decodes it must have it",
    )
    group.add_argument(
        "--all-orders",
        action="store_true",
        help="of a model with several orders of the pixels: code each image in the one that needs "
        "the fewest bits, by a pass for each order; which one it is takes 3 bits an image, or 2 of "
        "a model with four",
    )
    group.add_argument(
        "--no-verify", action="store_true", help="do not decode again what was encoded"
    )
    group.add_argument("--threads", type=positive, help="number of processor threads")
    add_trust(group)


def run(args: argparse.Namespace) -> None:
    """Compresses the images."""
    from nextpixel.codec.compress import compress

    if args.leave_out and not args.model.endswith(".program"):
        raise UserError(
            "--leave-out is for a .program, which you then keep: make one by nextpixel export."
        )
    coding, source = load(args)
    out = args.out or default_name(args.images[0])
    began = time.perf_counter()
    try:
        with progress("compressing") as show:
            totals = compress(
                coding,
                source,
                out,
                embed=args.embed or not (coding.shipped or args.leave_out),
                all_orders=args.all_orders,
                verify=not args.no_verify,
                threads=args.threads,
                show=lambda done: show(done / max(1, source.count)),
            )
    except KeyboardInterrupt:
        print("Stopped. The same command goes on where it was.", file=sys.stderr)
        raise
    report(out, totals, source, time.perf_counter() - began)
    if coding.network is not None and totals.code:
        print("The file holds the model's program, with rounded weights.")


def load(args: argparse.Namespace) -> tuple[Coding, Source]:
    """Finds the images, and the model's program for them.

    Raises:
        UserError: There are none, or none that fit the model.
    """
    from nextpixel.codec.models import coding_of
    from nextpixel.codec.sources import source_of, source_of_images

    if is_dataset(args):
        from nextpixel.cli.pictures import load_images

        coding = coding_of(args.model, trust=args.trust)
        program = coding.program
        images = load_images(
            args.model,
            program.shape,
            program.levels,
            args.images,
            data_dir=args.data_dir,
            split=args.split,
            trust=args.trust,
        ).images
        return coding, source_of_images(images.subset(args.limit))
    if args.limit is not None:
        raise UserError("--limit is for data sets: name the images that you want.")
    source = source_of(args.images)
    return coding_of(args.model, source.sizes(), trust=args.trust), source


def is_dataset(args: argparse.Namespace) -> bool:
    """Whether the images are a data set: a known name, or something with splits."""
    return args.split is not None or (
        len(args.images) == 1 and not user_path(args.images[0]).exists()
    )


def default_name(images: str) -> Path:
    """Names the file after the images; a free name."""
    from nextpixel.utils.files import unused

    return unused(Path(f"{user_path(images).resolve().stem or 'images'}.npxz"))


def report(out: Path, totals: Totals, source: Source, seconds: float) -> None:
    """Prints what was gained."""
    from nextpixel.codec.sources import ArraySource, FileSource, say_left_out

    what = "the array" if isinstance(source, ArraySource) else "their files"
    print(
        f"Wrote {out}: {count(totals.images, 'image')} in {totals.bytes:,} bytes, "
        f"{totals.bytes / max(1, source.bytes):.1%} of {what} ({source.bytes:,} bytes)."
    )
    if totals.resumed:
        done = count(totals.resumed, "image")
        print(f"{done} had been done before, by a run that was interrupted.")
    if totals.levels:
        speed = "" if totals.resumed else f", {totals.levels / seconds / 1000:,.0f} KB/s"
        print(
            f"The model took {count(totals.images - totals.kept, 'image')} at "
            f"{8 * totals.code / totals.levels:.3f} bits/dim{speed}."
        )
    if totals.kept:
        why = "" if totals.levels else ": the model takes none of them, or makes them larger"
        kept = count(totals.kept, "image")
        print(f"{kept} kept as lossless files, {totals.files:,} bytes{why}.")
    if isinstance(source, FileSource) and source.left_out:
        print(say_left_out(source.left_out))
