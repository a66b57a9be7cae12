"""`nextpixel invert`: what each layer of a classifier keeps of an image."""

from __future__ import annotations

import math
from pathlib import Path

from nextpixel.options import (
    Parser,
    add_draws,
    images_to_vary,
    load_data,
    load_model,
    positive,
    progress,
)

__all__ = ["invert"]


def invert(argv: list[str]) -> None:
    """Draw images from each layer of a classifier: what it keeps, in pictures and in bits.

    Give several models, each trained with --features of the same classifier and another --layer;
    one that is told nothing, or just the class (trained without --features), may be among them.
    """
    parser = Parser("invert", invert)
    parser.add_argument("model", help="a run folder of a model trained with --features")
    parser.add_argument("others", nargs="*", help="run folders of other layers' models")
    parser.add_argument(
        "--images", nargs="+", type=Path, help="picture files; else test images", metavar="FILE"
    )
    parser.add_argument("--data", help="take test images from here; the model's data by default")
    parser.add_argument("-n", type=positive, default=6, help="how many to show (default: 6)")
    parser.add_argument("--limit", type=positive, help="count the bits of so many images only")
    add_draws(parser, "from each layer, images", "inversion.png", draws=2)
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from typing import cast

    import numpy as np

    from nextpixel import plots, variations
    from nextpixel.context import Context
    from nextpixel.data import Images

    first = load_model(args, conditioned=True)
    models = [first]
    for name in args.others:
        args_of = type(args)(**{**vars(args), "model": name})
        models.append(load_model(args_of, conditioned=True))
    models = variations.same_classifier(models)
    if args.images:
        x, _ = images_to_vary(args, first)
        images = Images(x.numpy().astype(np.uint8), None, first.levels)
    else:
        images = load_data(args, first).test
    columns = {}
    print(f"{'told':12} {'numbers':>8}   {'bits/dim':17} {'bits an image':>14}")
    for model in models:
        with progress("counting bits") as show:
            kept = variations.Kept.by(model, images, limit=args.limit, progress=show)
        bits = kept.score.nats / math.log(2)
        error = kept.score.bits_per_dim_error
        print(
            f"{kept.layer:12} {kept.numbers:8}   {kept.score.bits_per_dim:.4f} ± {error:.4f}   "
            f"{bits:14.1f}"
        )
        x, given = images_to_vary(args, model)
        if model.role != "vary":
            continue
        with progress("drawing") as show:
            columns[kept.layer] = variations.vary(
                model,
                cast(Context, given.context),
                draws=args.draws,
                seed=args.seed,
                temperature=args.temperature,
                progress=show,
            )
    plots.save_image(variations.side_by_side({"original": x, **columns}, first.levels), args.out)
    print(f"Means of {kept.score.images:,} images. Side by side: {args.out}")
