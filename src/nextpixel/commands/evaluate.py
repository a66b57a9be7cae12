"""`nextpixel eval`: the score of a data set."""

from __future__ import annotations

import json
import math

from nextpixel.errors import UserError
from nextpixel.options import Parser, load_data, load_model_or_latent, positive, progress

__all__ = ["evaluate"]


def evaluate(argv: list[str]) -> None:
    """Score a data set: test bits/dim and nats, with their standard errors."""
    parser = Parser("eval", evaluate)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("--data", help="a name or a path; the model's own data by default")
    parser.add_argument("--split", choices=["train", "valid", "test"], default="test")
    parser.add_argument("--limit", type=positive, help="score only so many images, spread evenly")
    parser.add_argument(
        "--importance",
        type=positive,
        metavar="K",
        help="of a VAE: the importance-weighted bound of K codes an image, not the ELBO",
    )
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a sentence")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from dataclasses import asdict

    from torch import Tensor

    from nextpixel.evaluate import evaluate as score_images
    from nextpixel.latent import LatentModel
    from nextpixel.models import VAE

    model = load_model_or_latent(args)
    what, bound = model.scores, None
    if args.importance is not None:
        if not isinstance(model, VAE):
            raise UserError(
                f"--importance bounds log p(x) under a VAE, which {args.model} "
                f"({type(model).__name__}) is not: leave it out."
            )
        what = f"importance-weighted bound on log p(x), {args.importance} codes an image"

        def bound(x: Tensor) -> Tensor:
            return model.importance_bound(x, args.importance)

    dataset = load_data(args, model)
    with progress("scoring") as show:
        score = score_images(
            model,
            getattr(dataset, args.split),
            limit=args.limit,
            batch_size=args.batch_size,
            progress=show,
            score=bound,
        )
    given = "given the class" if model.classes else "unconditional"
    if args.json:
        which = {"model": args.model, "data": dataset.name, "split": args.split, "given": given}
        which["score"] = what
        # The error of a single image's score is not a number, and JSON has no word for that.
        numbers = {k: v if math.isfinite(v) else None for k, v in asdict(score).items()}
        print(json.dumps(which | numbers))
    else:
        said = what if isinstance(model, LatentModel) else given
        print(f"{args.model} on {dataset.name} ({args.split}, {said}): {score}")
