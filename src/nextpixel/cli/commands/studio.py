"""Build a page in which the pretrained models run, and open it.

The models draw, complete, score and compress pictures in the browser, on this machine: nothing is
uploaded, and the page needs no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_trust

if TYPE_CHECKING:
    import argparse

__all__ = ["EXAMPLES", "arguments", "run"]

EXAMPLES = ["nextpixel studio", "nextpixel studio runs/mine --no-open"]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="models for the page (default: all pretrained ones that can run in it)",
    )
    parser.add_argument(
        "--out", type=Path, help="the folder to write (default: a new one named studio)"
    )
    parser.add_argument("--no-open", action="store_true", help="do not open a browser")
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Writes the page and opens it."""
    import webbrowser

    from nextpixel.utils.files import unused
    from nextpixel.utils.progress import progress
    from nextpixel.web import models_for_pages, write_folder

    out = args.out or unused(Path("studio"))
    with progress("sampling sounds") as show:
        write_folder(args.models or models_for_pages(), out, trust=args.trust, show=show)
    page = (out / "index.html").resolve()
    print(f"Wrote {page}: open it in a browser.")
    if not args.no_open and not webbrowser.open(page.as_uri()):
        print("No browser was found here.")
