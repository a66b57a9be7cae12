"""`nextpixel compare`: several models at an equal budget."""

from __future__ import annotations

import sys
from pathlib import Path

from nextpixel.options import Parser, positive, set_threads

__all__ = ["compare"]


def compare(argv: list[str]) -> None:
    """Compare models on the same data at an equal budget, in one table."""
    parser = Parser("compare", compare)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a recipe (YAML) or a kind of model, to be trained, or a trained model; or NAME=MODEL",
    )
    parser.add_argument("--data", required=True, help="a name, a path to your own, or codes:RUN")
    parser.add_argument("--steps", type=positive, help="train each model for so many steps")
    parser.add_argument("--seconds", type=positive, help="or for as many as take so long")
    parser.add_argument("--out", type=Path, required=True, help="the folder of all that is written")
    parser.add_argument("--limit", type=positive, help="score only so many, evenly spread images")
    parser.add_argument(
        "--batch-size", type=positive, default=16, help="images drawn together (default: 16)"
    )
    parser.add_argument("--levels", type=positive, help="requantise pixels to so many levels")
    parser.add_argument("--size", type=positive, help="side that a folder's images are cut to")
    parser.add_argument("--channels", type=int, choices=[1, 3], help="1 for grey, 3 for colour")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    import shlex

    from nextpixel.codes import load_data
    from nextpixel.compare import Budget, compare_models, table

    budget = Budget(args.steps, args.seconds)
    set_threads(args.threads)
    where = {"data_dir": args.data_dir, "size": args.size, "channels": args.channels}
    dataset = load_data(args.data, levels=args.levels, **where)
    kept = {"data": args.data, **where, "device": args.device, "threads": args.threads}
    try:
        results = compare_models(
            args.models,
            dataset,
            out=args.out,
            budget=budget,
            limit=args.limit,
            batch_size=args.batch_size,
            device=args.device,
            settings={
                k: str(v) if isinstance(v, Path) else v for k, v in kept.items() if v is not None
            },
            command=shlex.join(["nextpixel", "compare", *argv]),
        )
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        raise
    print(table(results))
    print(f"Written: {args.out / 'compare.md'}, with compare.json, compare.png, completions.png")
