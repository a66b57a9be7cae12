"""Compare models on the same data at an equal budget, in one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_common, add_data, data_options, positive

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from nextpixel.comparison.measure import Result

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel compare PixelCNN GatedPixelCNN --data mnist --levels 4 --steps 300 --out runs/two",
    "nextpixel compare runs/mine other=mnist-four-levels --data mnist --levels 4 --out runs/both",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a recipe (YAML) or a kind of model, which is trained first; or a trained model; "
        "NAME=MODEL gives it a name in the table",
    )
    add_data(parser)
    parser.add_argument("--steps", type=positive, help="train each model for N steps")
    parser.add_argument("--seconds", type=positive, help="train each model for N seconds instead")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the folder to write"
    )
    parser.add_argument("--limit", type=positive, help="score at most N images, spread evenly")
    parser.add_argument(
        "--batch-size", type=positive, default=16, help="images at a time, when sampling is timed"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Trains the untrained models, and measures all of them."""
    import shlex

    from nextpixel.cli.contenders import read_contender
    from nextpixel.comparison.contenders import Budget
    from nextpixel.comparison.run import compare_models
    from nextpixel.latents.codes import load_data
    from nextpixel.utils.devices import set_threads

    budget = Budget(args.steps, args.seconds)
    set_threads(args.threads)
    options = data_options(args)
    dataset = load_data(args.data, **options)
    del options["levels"]  # the models have them
    settings = {"data": args.data, **options, "device": args.device, "threads": args.threads}
    try:
        results = compare_models(
            [read_contender(text, args.out) for text in args.models],
            dataset,
            out=args.out,
            budget=budget,
            limit=args.limit,
            batch_size=args.batch_size,
            device=args.device,
            settings={
                k: str(v) if isinstance(v, Path) else v
                for k, v in settings.items()
                if v is not None
            },
            command=shlex.join(["nextpixel", "compare", *args.argv]),
            trust=args.trust,
        )
    except KeyboardInterrupt:
        print("Stopped. Give the same command again to continue.", file=sys.stderr)
        raise
    report(results, args.out)


def report(results: Sequence[Result], out: Path) -> None:
    """Prints the table and the files."""
    from nextpixel.comparison.page import table

    print(table(results))
    print(f"Written: {out / 'compare.md'}, with compare.json, compare.png, completions.png")
