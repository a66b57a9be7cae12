"""Reconstruct images from their codes, or walk from one code to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import (
    CHARTS,
    PICTURES,
    Parser,
    add_common,
    add_images,
    image_options,
    output,
    positive,
    seed,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse

    from nextpixel.models.base.latent import LatentModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel reconstruct runs/vae -n 10 --draws 2",
    "nextpixel reconstruct runs/vae one.png two.png --interpolate --columns 9",
    "nextpixel reconstruct runs/vae-with-two-numbers --plot codes.png",
]

COLUMNS = 8  # pictures on the way from one code to another


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", help="a run folder of a model with codes, as a VAE")
    add_images(parser)
    parser.add_argument("--draws", type=positive, help="reconstructions of each (default: 4)")
    parser.add_argument("--seed", type=seed, default=0, help="the same seed draws the same images")
    parser.add_argument("--temperature", type=float, help="below 1: likelier images (default: 1.0)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--interpolate",
        action="store_true",
        help="go from one image to another: two images a row",
    )
    which.add_argument(
        "--plot",
        type=output(*CHARTS),
        help="only draw where the images' codes lie, if they have 2 numbers",
    )
    parser.add_argument(
        "--columns", type=positive, help=f"pictures in a row of --interpolate (default: {COLUMNS})"
    )
    parser.add_argument(
        "--out", type=output(*PICTURES), help="the picture to write (default: reconstructions.png)"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Draws the reconstructions, the way between codes, or where codes lie."""
    from nextpixel.cli.loading import load_any_model, load_model_images
    from nextpixel.tasks import reconstruction
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import images as pictures

    if args.columns is not None and not args.interpolate:
        raise UserError("--columns is for --interpolate: leave it out, or give both.")
    if args.interpolate or args.plot is not None:
        refuse_draws(args)
    device = set_up(args.device, args.threads)
    model = reconstruction.latent_model(
        load_any_model(args.model, device, trust=args.trust), args.model
    )
    if args.plot is not None:
        scatter(args, model)
        return
    found = load_model_images(model, args.model, args.classes, **image_options(args))
    x, given = found.inputs(model, found.numbers(args.n, args.shown))
    if args.interpolate:
        picture = reconstruction.draw_interpolations(model, x, args.columns or COLUMNS, args.seed)
    else:
        with progress("drawing") as show:
            picture = reconstruction.draw_reconstructions(
                model,
                x,
                args.draws or 4,
                padding=given.mask,
                seed=args.seed,
                temperature=1.0 if args.temperature is None else args.temperature,
                progress=show,
            )
    out = args.out or Path("reconstructions.png")
    pictures.save_image(picture, out)
    report(model, out)


def report(model: LatentModel, out: Path) -> None:
    """Says how large a code is, and where the picture is."""
    print(f"{model.latent} {model.code} an image: {out}")


def refuse_draws(args: argparse.Namespace) -> None:
    """Refuses the options that --interpolate and --plot have no use for."""
    asked = {"--draws": args.draws is not None, "--temperature": args.temperature is not None}
    which = "--interpolate"
    if args.plot is not None:
        which = "--plot"
        asked |= {"-n": args.n is not None, "--out": args.out is not None}
    for name, given in asked.items():
        if given:
            raise UserError(f"{name} cannot be given with {which}: leave it out.")


def scatter(args: argparse.Namespace, model: LatentModel) -> None:
    """Draws where the codes of all images lie."""
    from nextpixel.cli.loading import load_model_images
    from nextpixel.tasks.reconstruction import check_continuous_code, embed_all
    from nextpixel.viz import charts

    check_continuous_code(model)
    if model.latent != 2:
        raise UserError(
            f"--plot draws codes of 2 numbers, and those of {args.model} have {model.latent}: "
            "train a model with --model.latent 2."
        )
    found = load_model_images(model, args.model, args.classes, **image_options(args))
    codes = embed_all(model, found.images)
    charts.scatter(codes, found.images.y, found.class_names, args.plot)
    print(f"The codes of {len(codes):,} images of {found.what}: {args.plot}")
