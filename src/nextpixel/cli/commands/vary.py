"""Draw new images of the same kind as given ones (after train --features)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_common, add_draws, add_images, image_options, positive
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel vary runs/mine my-picture.png --draws 7",
    "nextpixel vary runs/mine one.png two.png --interpolate --columns 9",
]

COLUMNS = 8  # pictures on the way from one image to the next


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", help="a run folder of a model trained with --features")
    add_images(parser)
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help="go from each image to the next: --draws rows, with the same noise in a row",
    )
    parser.add_argument(
        "--columns", type=positive, help=f"pictures in a row of --interpolate (default: {COLUMNS})"
    )
    add_draws(parser, "variations", "variations.png")
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Draws the variations, and writes them beside the images."""
    from typing import cast

    import torch

    from nextpixel.cli.loading import load_model, load_model_images
    from nextpixel.context import Context
    from nextpixel.tasks import variations
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import images as plots

    if args.columns is not None and not args.interpolate:
        raise UserError("--columns is for --interpolate: leave it out, or give both.")
    device = set_up(args.device, args.threads)
    model = load_model(args.model, device, conditioned=True, trust=args.trust)
    features = variations.get_features(model)
    pictures = load_model_images(model, args.model, args.classes, **image_options(args))
    x, given = pictures.inputs(model, pictures.numbers(args.n, args.shown))
    context = cast(Context, given.context)
    how = {"seed": args.seed, "temperature": args.temperature}
    if args.interpolate:
        steps = args.columns or COLUMNS
        with progress("drawing") as show:
            drawn = variations.interpolate(
                model, context, draws=args.draws, steps=steps, progress=show, **how
            )
        picture = variations.draw_interpolations(x, drawn, model.levels)
    else:
        with progress("drawing") as show:
            drawn = variations.vary(model, context, draws=args.draws, progress=show, **how)
        picture = variations.side_by_side({"original": x, "variation": drawn}, model.levels)
    with torch.inference_mode():
        bits = model.bits_per_dim(x.to(model.device), context)
    plots.save_image(picture, args.out)
    report(features.layer, bits.tolist(), args.out)


def report(layer: str, bits: Sequence[float], out: Path) -> None:
    """Prints what the images cost, given their features, and where the picture is."""
    print(f"The images take, given their {layer}:")
    for number, value in enumerate(bits):
        print(f"  image {number}: {value:.4f} bits/dim")
    print(f"Side by side: {out}")
