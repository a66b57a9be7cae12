"""Reconstruct images from their latent codes, or interpolate between codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import (
    CHARTS,
    LIKELIER,
    PICTURES,
    SAME_SEED,
    Parser,
    add_common,
    add_images,
    add_interpolation,
    image_options,
    interpolation_columns,
    positive,
    seed,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse

    from nextpixel.cli.pictures import Pictures
    from nextpixel.models.base.latent import LatentModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel reconstruct runs/vae -n 10 --draws 2",
    "nextpixel reconstruct runs/vae one.png two.png --interpolate --columns 9",
    "nextpixel reconstruct runs/vae-with-two-numbers --plot codes.png",
]

DRAWS = 4


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="MODEL", help="run folder of a model with codes, as a VAE")
    add_images(parser)
    # None by default, so that --interpolate can refuse them.
    parser.add_argument(
        "--draws", type=positive, help=f"reconstructions of each image (default: {DRAWS})"
    )
    parser.add_argument("--seed", type=seed, default=0, help=f"{SAME_SEED} images")
    parser.add_argument("--temperature", type=float, help=f"{LIKELIER} images (default: 1.0)")
    add_interpolation(
        parser, "from the first image to the second, from the third to the fourth, and so on"
    )
    parser.add_output("--out", PICTURES, "the picture to write", default="reconstructions.png")
    parser.add_output(
        "--plot",
        CHARTS,
        "also draw a scatter plot of the codes of all images, if a code has 2 numbers",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Draws reconstructions or interpolations, and where the codes lie."""
    from nextpixel.cli.loading import load_any_model
    from nextpixel.cli.pictures import load_model_images
    from nextpixel.tasks import reconstruction
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import images as plots

    columns = interpolation_columns(args)
    for option, value in (("--draws", args.draws), ("--temperature", args.temperature)):
        if args.interpolate and value is not None:
            raise UserError(f"{option} cannot be given with --interpolate: leave it out.")
    device = set_up(args.device, args.threads)
    model = reconstruction.latent_model(
        load_any_model(args.model, device, trust=args.trust), args.model
    )
    if args.plot is not None:
        check_plot(model, args.model)
    images = load_model_images(model, args.model, args.classes, **image_options(args))
    x, given = images.inputs(model, images.numbers(args.n, args.shown))
    if args.interpolate:
        picture = reconstruction.draw_interpolations(model, x, columns, args.seed)
    else:
        with progress("sampling") as show:
            picture = reconstruction.draw_reconstructions(
                model,
                x,
                args.draws or DRAWS,
                padding=given.mask,
                seed=args.seed,
                temperature=1.0 if args.temperature is None else args.temperature,
                progress=show,
            )
    plots.save_image(picture, args.out)
    report(model, args.out)
    if args.plot is not None:
        plot_codes(model, images, args.plot)


def report(model: LatentModel, out: Path) -> None:
    """Prints the size of a code, and the file."""
    print(f"{model.latent} {model.code} per image: {out}")


def check_plot(model: LatentModel, name: str) -> None:
    """Raises a UserError if the codes of a model are not points of a plane."""
    from nextpixel.tasks.reconstruction import check_continuous_code

    check_continuous_code(model)
    if model.latent != 2:
        raise UserError(
            f"--plot draws codes of 2 numbers, and those of {name} have {model.latent}: "
            "train a model with --model.latent 2."
        )


def plot_codes(model: LatentModel, images: Pictures, out: Path) -> None:
    """Draws where the codes of all images lie."""
    from nextpixel.tasks.reconstruction import embed_all
    from nextpixel.viz import charts

    codes = embed_all(model, images.images)
    charts.scatter(codes, images.images.y, images.class_names, out)
    print(f"The codes of {count(len(codes), 'image')} of {images.what}: {out}")
