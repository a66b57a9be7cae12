"""`nextpixel reconstruct`: images from their codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.errors import UserError
from nextpixel.options import (
    PICTURES,
    Parser,
    add_images,
    images_to_complete,
    load_any_model,
    load_data,
    output,
    positive,
    progress,
    seed,
)

if TYPE_CHECKING:
    import argparse

    from nextpixel.latent import LatentModel

__all__ = ["reconstruct"]


def reconstruct(argv: list[str]) -> None:
    """Reconstruct images from their codes, or walk from one code to another."""
    parser = Parser("reconstruct", reconstruct)
    parser.add_argument("model", help="a run folder of a model with codes, as a VAE")
    add_images(parser)
    parser.add_argument("--draws", type=positive, help="reconstructions of each (default: 4)")
    parser.add_argument("--seed", type=seed, default=0, help="the same seed draws the same images")
    parser.add_argument("--temperature", type=float, help="below 1: likelier pixels")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--interpolate",
        type=positive,
        metavar="STEPS",
        help="from each image's code to the next one's, in so many pictures, two images a row",
    )
    which.add_argument(
        "--scatter",
        type=output(".png", ".svg"),
        help="draw where the test images' codes lie, if they have 2 numbers",
    )
    parser.add_argument("--out", type=output(*PICTURES), help="default: reconstructions.png")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from nextpixel import plots
    from nextpixel import reconstruct as pictures

    if args.interpolate or args.scatter is not None:
        refuse_draws(args)
    model = pictures.latent(load_any_model(args), args.model)
    if args.scatter is not None:
        scatter(args, model)
        return
    args.classes = None
    x, given = images_to_complete(args, model)
    if args.interpolate:
        picture = pictures.draw_interpolations(model, x, args.interpolate, args.seed)
    else:
        with progress("drawing") as show:
            picture = pictures.draw_reconstructions(
                model,
                x,
                args.draws or 4,
                padding=given.mask,
                seed=args.seed,
                temperature=1.0 if args.temperature is None else args.temperature,
                progress=show,
            )
    out = args.out or Path("reconstructions.png")
    plots.save_image(picture, out)
    print(f"{model.latent} {model.code} an image: {out}")


def refuse_draws(args: argparse.Namespace) -> None:
    """Refuses the options that --interpolate and --scatter have no use for."""
    asked = {"--draws": args.draws is not None, "--temperature": args.temperature is not None}
    which = "--interpolate"
    if args.scatter is not None:
        which = "--scatter"
        asked |= {"picture files": bool(args.images), "--out": args.out is not None}
    for name, given in asked.items():
        if given:
            raise UserError(f"{name} cannot be given with {which}: leave it out.")


def scatter(args: argparse.Namespace, model: LatentModel) -> None:
    """Draws where the codes of the test images lie."""
    from nextpixel import plots
    from nextpixel.reconstruct import embed_all, refuse_codebook

    refuse_codebook(model)
    if model.latent != 2:
        raise UserError(
            f"--scatter draws codes of 2 numbers, and those of {args.model} have {model.latent}: "
            "train a model with --model.latent 2."
        )
    dataset = load_data(args, model)
    codes = embed_all(model, dataset.test)
    plots.scatter(codes, dataset.test.y, dataset.class_names, args.scatter)
    print(f"The codes of {len(codes):,} test images of {dataset.name}: {args.scatter}")
