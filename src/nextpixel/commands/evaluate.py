"""`nextpixel eval`: the score of a data set."""

from __future__ import annotations

import json
import math

from nextpixel.options import Parser, load_data, load_model, positive, progress

__all__ = ["evaluate"]


def evaluate(argv: list[str]) -> None:
    """Score a data set: test bits/dim and nats, with their standard errors."""
    parser = Parser("eval", evaluate)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("--data", help="a name or a path; the model's own data by default")
    parser.add_argument("--split", choices=["train", "valid", "test"], default="test")
    parser.add_argument("--limit", type=positive, help="score only so many images, spread evenly")
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a sentence")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from dataclasses import asdict

    from nextpixel.evaluate import evaluate as score_images

    model = load_model(args, varies=True)
    dataset = load_data(args, model)
    with progress("scoring") as show:
        score = score_images(
            model,
            getattr(dataset, args.split),
            limit=args.limit,
            batch_size=args.batch_size,
            progress=show,
        )
    parts = ["the class"] if model.classes else []
    parts += [f"its {model.features.layer}"] if model.features else []
    given = f"given {' and '.join(parts)}" if parts else "unconditional"
    if args.json:
        what = {"model": args.model, "data": dataset.name, "split": args.split, "given": given}
        # The error of a single image's score is not a number, and JSON has no word for that.
        numbers = {k: v if math.isfinite(v) else None for k, v in asdict(score).items()}
        print(json.dumps(what | numbers))
    else:
        print(f"{args.model} on {dataset.name} ({args.split}, {given}): {score}")
