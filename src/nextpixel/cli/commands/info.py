"""Say what is in a compressed file, without decoding it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse

__all__ = ["EXAMPLES", "arguments", "run"]

EXAMPLES = ["nextpixel info my-pictures.npxz", "nextpixel info my-pictures.npxz --json"]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("file", metavar="FILE", help="a .npxz of nextpixel compress")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Prints what is in the file."""
    import json

    from nextpixel.codec.decompress import Compressed
    from nextpixel.codec.programs import PROGRAM

    with Compressed(args.file) as compressed:
        head, totals = compressed.head, compressed.totals()
        program = sum(r.size for r in compressed.reader.records if r.kind == PROGRAM)
        chunks = len(compressed.chunks)
    bits = 8 * totals.code / totals.levels if totals.levels else None
    if args.json:
        found = {**vars(totals), **head, "bytes": totals.bytes, "raw_bytes": head["bytes"]}
        found |= {"coded_levels": totals.levels, "chunks": chunks, "program_bytes": program}
        print(json.dumps({**found, "bits_per_dim": bits}, indent=2))
        return
    print(
        f"{args.file}: {count(totals.images, 'image')}, {totals.bytes:,} bytes, "
        f"{totals.bytes / max(1, head['bytes']):.1%} of what they were ({head['bytes']:,} bytes)"
    )
    if head["program"] is None:
        print("  model   none: all are kept as files")
    else:
        channels, height, width = head["shape"]
        where = f"in the file, {program:,} bytes" if program else "not in the file"
        print(
            f"  model   {head['model']!r}, {channels} x {height} x {width}, {head['levels']} "
            f"levels; program {head['program'][:12]}, {where}"
        )
    if bits is not None:
        print(
            f"  coded   {count(totals.images - totals.kept, 'image')}, {totals.levels:,} levels in "
            f"{totals.code:,} bytes: {bits:.4f} bits/dim"
        )
    if totals.kept:
        print(f"  kept    {count(totals.kept, 'image')} as files, {totals.files:,} bytes")
    print(f"  chunks  {chunks}, each decodes by itself")
