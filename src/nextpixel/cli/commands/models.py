"""List the models, or explain one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_trust, parse_numbers, positive

if TYPE_CHECKING:
    import argparse

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel models",
    "nextpixel models mnist-gated",
    "nextpixel models PixelCNNPP --shape 3,32,32",
]


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
        default="1,28,28",
        metavar="C,H,W",
        help="shape of the images, for a kind of model",
    )
    parser.add_argument(
        "--levels", type=positive, default=256, help="levels of a pixel, for a kind of model"
    )
    parser.add_argument(
        "--classes", type=positive, help="number of classes, for a kind of model (default: none)"
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Lists the models, or describes one."""
    from nextpixel.cli import describe
    from nextpixel.models import __all__ as kinds

    if args.model is None:
        report(describe.overview())
        return
    if args.model not in kinds:
        from nextpixel.cli.loading import check_name

        check_name(args.model, kinds)
    channels, height, width = parse_numbers(args.shape, 3, "--shape")
    shape = (channels, height, width)
    report(describe.explain(args.model, shape, args.levels, args.classes, trust=args.trust))


def report(text: str) -> None:
    """Prints a description."""
    print(text)
