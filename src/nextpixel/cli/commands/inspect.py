"""Draw masks and receptive fields, and the bits of an image by pixels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import MODEL, Parser, add_common, add_images, image_options, seed
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse

    from nextpixel.cli.inspection import Inspection

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel inspect --out kinds",
    "nextpixel inspect GatedPixelCNN",
    "nextpixel inspect mnist --index 0",
    "nextpixel inspect mnist seven.png --class 7",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=f"a kind of model, {MODEL} (default: all kinds)"
    )
    add_images(parser, None)
    parser.add_argument("--index", type=seed, help="number of the image (default: 0)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of random weights and images")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("inspection"),
        metavar="FOLDER",
        help="the folder to write",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Draws one kind of model, all kinds, or a trained model."""
    from nextpixel.cli import inspection
    from nextpixel.evaluation import receptive_field
    from nextpixel.utils.devices import set_threads

    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out} is a file: give --out a folder.")
    if args.model is not None and args.model not in receptive_field.KINDS:
        inspect_trained(args)
        return
    ignored = (args.index, args.classes, args.data, args.data_dir, args.split)
    if args.images or any(given is not None for given in ignored):
        raise UserError(
            "A kind of model is drawn with random weights and without images: leave IMAGES, "
            "--index, --class, --data, --data-dir and --split out, or name a trained model."
        )
    if args.device not in ("auto", "cpu"):
        raise UserError("A kind of model is drawn on the processor: leave --device out.")
    set_threads(args.threads or 1)  # more do not pay for networks as small as these
    with progress("inspecting") as show:
        if args.model is None:
            written = inspection.draw_kinds(args.out, seed=args.seed, progress=show)
        else:
            written = inspection.draw_kind(args.model, args.out, seed=args.seed, progress=show)
    print(f"Written: {', '.join(map(str, written))}")


def inspect_trained(args: argparse.Namespace) -> None:
    """Draws the effective receptive field of a trained model and the bits of an image."""
    import numpy as np

    from nextpixel.cli import inspection
    from nextpixel.cli.loading import check_name, load_model
    from nextpixel.cli.pictures import load_model_images
    from nextpixel.data.sampler import evenly_spaced
    from nextpixel.evaluation import receptive_field
    from nextpixel.model_folders import find
    from nextpixel.utils.devices import set_up

    check_name(args.model, receptive_field.KINDS)
    try:
        find(args.model)
    except UserError as error:
        raise UserError(
            f"{error} Kinds of models are {', '.join(receptive_field.KINDS)}."
        ) from None
    device = set_up(args.device, args.threads)
    model = load_model(args.model, device, conditioned=True, trust=args.trust).double()
    pictures = load_model_images(model, args.model, args.classes, **image_options(args))
    pictures.images.refuse_padding("A map of an image's bits")
    index = args.index or 0
    if index >= len(pictures):
        raise UserError(
            f"There are {len(pictures)} images in {pictures.what}: --index goes from 0 to "
            f"{len(pictures) - 1}."
        )
    x, given = pictures.inputs(model, np.array([index]))
    c, averaged, what = given.context, None, pictures.names[index]
    if pictures.dataset is not None:
        several, conditioning = pictures.inputs(
            model, evenly_spaced(len(pictures), receptive_field.AVERAGED)
        )
        averaged = several, conditioning.context
        what = f"{args.split or 'test'} image {index}"
    if c is not None and c.classes is not None and c.classes[0].max() == 1:  # not a mix
        what += f", class {c.classes[0].argmax()}"
    with progress("inspecting") as show:
        found = inspection.draw_model(
            model, x, c, args.out, averaged=averaged, what=what, seed=args.seed, progress=show
        )
    report(found, what, math.prod(model.shape))


def report(found: Inspection, what: str, dims: int) -> None:
    """Prints the bits of an image, where they are, and the files."""
    from nextpixel.cli import inspection

    total = found.surprise.sum().item()
    print(
        f"{what}: {total:.1f} bits, {total / dims:.4f} bits/dim, "
        f"{total * math.log(2):.1f} nats; the entropies add up to {found.entropy.sum():.1f} bits"
    )
    print(inspection.summary(found))
    print(f"Written: {', '.join(map(str, found.files))}")
