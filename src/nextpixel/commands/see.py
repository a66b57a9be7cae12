"""`nextpixel see`: what a model sees."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.errors import UserError
from nextpixel.options import (
    Parser,
    images_to_complete,
    load_data,
    load_model,
    progress,
    seed,
    set_threads,
)

if TYPE_CHECKING:
    import argparse

__all__ = ["see"]


def see(argv: list[str]) -> None:
    """Draw what a model sees: masks, receptive fields, surprise."""
    parser = Parser("see", see)
    parser.add_argument(
        "model",
        nargs="?",
        help="a kind of model, one that comes with nextpixel, or a run folder; else all kinds",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--image", type=Path, help="a picture for a trained model to look at")
    which.add_argument("--index", type=seed, help="number of a test image instead (default: 0)")
    parser.add_argument("--class", dest="classes", metavar="C", help="class of the picture")
    parser.add_argument("--data", help="take test images from here; the model's data by default")
    parser.add_argument("--seed", type=seed, default=0, help="of random weights and images")
    parser.add_argument("--out", type=Path, default=Path("seen"), help="a folder (default: seen)")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from nextpixel import see as seeing

    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out} is a file: give --out a folder.")
    if args.model is not None and args.model not in seeing.KINDS:
        see_trained(args)
        return
    if any(given is not None for given in (args.image, args.index, args.classes, args.data)):
        raise UserError(
            "A kind of model has random weights and looks at no images: leave --image, --index, "
            "--class and --data out, or give a trained model."
        )
    set_threads(args.threads or 1)  # such small networks make threads wait for each other
    with progress("looking") as show:
        if args.model is None:
            written = seeing.draw_kinds(args.out, seed=args.seed, progress=show)
        else:
            written = seeing.draw_kind(args.model, args.out, seed=args.seed, progress=show)
    print(f"Wrote {', '.join(map(str, written))}")


def see_trained(args: argparse.Namespace) -> None:
    """Draws what a trained model sees, and prints what an image costs it."""
    import numpy as np

    from nextpixel import see as seeing
    from nextpixel.data.images import spread
    from nextpixel.saving import find

    try:
        find(args.model)
    except UserError as error:
        raise UserError(f"{error} Kinds of models are {', '.join(seeing.KINDS)}.") from None
    model = load_model(args, conditioned=True).double()
    averaged = None
    if args.image is not None:
        args.images = [args.image]
        x, given = images_to_complete(args, model)
        c = given.context
        what = str(args.image.name)
    elif args.classes is not None:
        raise UserError("Test images have their classes already: leave --class out.")
    else:
        test, index = load_data(args, model).test, args.index or 0
        test.refuse_padding("Seeing where an image's bits are")
        if index >= len(test):
            raise UserError(
                f"There are {len(test)} test images: --index goes from 0 to {len(test) - 1}."
            )
        x, given = model.inputs(test, np.array([index]))
        c = given.context
        some, of_some = model.inputs(test, spread(len(test), seeing.AVERAGED))
        averaged = some, of_some.context
        what = f"test image {index}"
    if c is not None and c.classes is not None and c.classes[0].max() == 1:  # and no mix
        what += f", class {c.classes[0].argmax()}"
    with progress("looking") as show:
        seen = seeing.draw_model(
            model, x, c, args.out, averaged=averaged, what=what, seed=args.seed, progress=show
        )
    total = seen.surprise.sum().item()
    print(
        f"{what}: {total:.1f} bits, {total / math.prod(model.shape):.4f} bits/dim, "
        f"{total * math.log(2):.1f} nats; the entropies add up to {seen.entropy.sum():.1f} bits"
    )
    print(seeing.sums(seen))
    print(f"Wrote {', '.join(map(str, seen.files))}")
