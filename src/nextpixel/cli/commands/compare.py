"""Compare models on the same data at an equal budget, in one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_common, add_data, positive

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
        help="a recipe (YAML) or a kind of model, to be trained, or a trained model; or NAME=MODEL",
    )
    add_data(parser)
    parser.add_argument("--steps", type=positive, help="train each model for so many steps")
    parser.add_argument("--seconds", type=positive, help="or for so many seconds")
    parser.add_argument("--out", type=Path, required=True, help="the folder of all that is written")
    parser.add_argument(
        "--limit", type=positive, help="score at most so many images, spread evenly"
    )
    parser.add_argument("--batch-size", type=positive, default=16, help="images at a time")
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Trains what is to be trained, and measures all models."""
    import shlex

    from nextpixel.cli.contenders import read_contender
    from nextpixel.comparison.contenders import Budget
    from nextpixel.comparison.run import compare_models
    from nextpixel.latents.codes import load_data
    from nextpixel.utils.devices import set_threads

    budget = Budget(args.steps, args.seconds)
    set_threads(args.threads)
    where = {"data_dir": args.data_dir, "size": args.size, "channels": args.channels}
    dataset = load_data(args.data, levels=args.levels, **where)
    kept = {"data": args.data, **where, "device": args.device, "threads": args.threads}
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
                k: str(v) if isinstance(v, Path) else v for k, v in kept.items() if v is not None
            },
            command=shlex.join(["nextpixel", "compare", *args.argv]),
            trust=args.trust,
        )
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        raise
    report(results, args.out)


def report(results: Sequence[Result], out: Path) -> None:
    """Prints the table, and says which files were written."""
    from nextpixel.comparison.page import table

    print(table(results))
    print(f"Written: {out / 'compare.md'}, with compare.json, compare.png, completions.png")
