"""`nextpixel eval`: the score of a data set, and how well its classes are told apart."""

from __future__ import annotations

import json
import math

from nextpixel.errors import UserError
from nextpixel.options import Parser, load_any_model, load_data, output, positive, progress

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
    parser.add_argument(
        "--classify",
        action="store_true",
        help="also how often the likeliest class of an image is the true one (a pass for each)",
    )
    parser.add_argument(
        "--confusion",
        type=output(".png", ".svg"),
        metavar="PICTURE",
        help="with --classify, also draw which class was taken for which",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a sentence")
    parser.add_common(data=True)
    args = parser.parse_args(argv)
    if args.confusion is not None and not args.classify:
        parser.error("--confusion draws what --classify finds: give both")

    from dataclasses import asdict

    from torch import Tensor

    from nextpixel import plots
    from nextpixel.autoregressive import AutoregressiveModel, autoregressive
    from nextpixel.evaluate import classify
    from nextpixel.evaluate import evaluate as score_images
    from nextpixel.models import VAE

    model = load_any_model(args)
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
    images = getattr(dataset, args.split)
    how = {"limit": args.limit, "batch_size": args.batch_size}
    classified = None
    if args.classify:  # first, because it may be refused
        with progress("classifying") as show:
            classified = classify(autoregressive(model, args.model), images, **how, progress=show)
    with progress("scoring") as show:
        score = score_images(model, images, **how, progress=show, score=bound)
    if args.confusion is not None and classified is not None:
        names = dataset.class_names or tuple(map(str, range(len(classified.confusion))))
        plots.confusion(classified.confusion, names, args.confusion)
    told = ["the class"] if model.classes else []
    if model.task is not None:
        told.append(f"a degraded image ({', '.join(map(str, model.task.settings().values()))})")
    if model.features is not None:
        told.append(f"its {model.features.layer}")
    given = f"given {' and '.join(told)}" if told else "unconditional"
    if args.json:
        which = {"model": args.model, "data": dataset.name, "split": args.split, "given": given}
        which["score"] = what
        # The error of a single image's score is not a number, and JSON has no word for that.
        numbers = asdict(score) | ({} if classified is None else asdict(classified))
        confusion = numbers.pop("confusion", None)
        numbers = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        numbers |= {} if confusion is None else {"confusion": confusion.tolist()}
        print(json.dumps(which | numbers))
    else:
        said = given if isinstance(model, AutoregressiveModel) else what
        print(f"{args.model} on {dataset.name} ({args.split}, {said}): {score}")
        if classified is not None:
            print(f"It {classified}")
