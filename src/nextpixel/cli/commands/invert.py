"""Sample images given each layer of a classifier, to show what the layer preserves.

Give several models, each trained with --features of the same classifier and another --layer. A
model trained without --features may be among them, for comparison.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_common, add_draws, add_images, image_options
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse

    from nextpixel.tasks.variations import LayerScore

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel invert runs/conv1 runs/conv2 runs/embedding -n 6 --draws 2 --limit 1000",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "model", metavar="MODEL", help="run folder of a model trained with --features"
    )
    parser.add_argument(
        "others",
        nargs="*",
        default=[],  # without it, a forgotten MODEL is reported along with OTHER
        metavar="OTHER",
        help="run folders of models of other layers",
    )
    add_images(parser, 6, positional=False, limit="score")
    add_draws(parser, "images from each layer", "inversion.png", draws=2)
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Samples from each model, and scores the images."""
    from typing import cast

    from nextpixel.cli.loading import load_model
    from nextpixel.cli.pictures import load_images
    from nextpixel.context import Context
    from nextpixel.tasks import variations
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import images as plots

    device = set_up(args.device, args.threads)
    loaded = [
        load_model(name, device, conditioned=True, trust=args.trust)
        for name in (args.model, *args.others)
    ]
    models = variations.order_by_layer(loaded)
    if args.classes is not None and not any(model.classes for model in models):
        raise UserError("None of these models has classes: leave --class out.")
    pictures = load_images(args.model, models[0].shape, models[0].levels, **image_options(args))
    numbers = pictures.numbers(args.n, args.shown)
    columns = {}
    print(f"{'given':12} {'numbers':>8}   {'bits/dim':17} {'bits per image':>14}")
    for model in models:
        fitting = pictures.fit(model, args.model, args.classes if model.classes else None)
        with progress("scoring") as show:
            kept = variations.LayerScore.of(model, fitting.images, limit=args.limit, progress=show)
        report(kept)
        x, given = fitting.inputs(model, numbers)
        if model.role != "vary":
            continue
        with progress("sampling") as show:
            columns[kept.layer] = variations.vary(
                model,
                cast(Context, given.context),
                draws=args.draws,
                seed=args.seed,
                temperature=args.temperature,
                progress=show,
            )
    picture = variations.side_by_side({"original": x, **columns}, models[0].levels)
    plots.save_image(picture, args.out)
    print(f"Means of {count(kept.score.images, 'image')}. Written: {args.out}")


def report(kept: LayerScore) -> None:
    """Prints a row of the table: the score given one layer."""
    bits = kept.score.nats / math.log(2)
    error = kept.score.bits_per_dim_error
    print(
        f"{kept.layer:12} {kept.numbers:8}   {kept.score.bits_per_dim:.4f} ± {error:.4f}   "
        f"{bits:14.1f}"
    )
