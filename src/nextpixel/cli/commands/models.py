"""List the models, or explain one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_trust, parse_numbers, positive
from nextpixel.errors import UserError

if TYPE_CHECKING:
    import argparse

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel models",
    "nextpixel models mnist",
    "nextpixel models PixelCNNPP --shape 3,32,32",
]

SHAPE, LEVELS = "1,28,28", 256  # of a kind of model, by default


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a kind of model, the name of a pretrained model, or a run folder (default: list all)",
    )
    parser.add_argument(
        "--shape",
        metavar="C,H,W",
        help=f"shape of the images, for a kind of model (default: {SHAPE})",
    )
    parser.add_argument(
        "--levels",
        type=positive,
        help=f"levels of a pixel, for a kind of model (default: {LEVELS})",
    )
    parser.add_argument(
        "--classes", type=positive, help="number of classes, for a kind of model (default: none)"
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Lists the models, or describes one."""
    from nextpixel.cli import describe
    from nextpixel.models import __all__ as kinds

    sizes = (args.shape, args.levels, args.classes)
    of_kind = args.model is not None and describe.is_kind(args.model)
    if not of_kind and any(size is not None for size in sizes):
        raise UserError(
            "--shape, --levels and --classes are for a kind of model, as PixelCNN: name one, or "
            "leave them out."
        )
    if args.model is None:
        report(describe.overview())
        return
    if not of_kind:
        from nextpixel.cli.loading import check_name

        check_name(args.model, kinds)
    channels, height, width = parse_numbers(args.shape or SHAPE, 3, "--shape")
    shape = (channels, height, width)
    levels = args.levels or LEVELS
    report(describe.explain(args.model, shape, levels, args.classes, trust=args.trust))


def report(text: str) -> None:
    """Prints a description."""
    print(text)
