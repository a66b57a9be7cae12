"""`nextpixel sample`: new images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextpixel.errors import UserError
from nextpixel.options import (
    PICTURES,
    Parser,
    load_model_or_latent,
    output,
    parse_classes,
    positive,
    progress,
    seed,
)

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from nextpixel.latent import LatentModel

__all__ = ["sample"]


def sample(argv: list[str]) -> None:
    """Draw new images."""
    parser = Parser("sample", sample)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("-n", type=positive, default=64, help="how many (default: 64)")
    parser.add_argument(
        "--class",
        dest="classes",
        metavar="C",
        help="a class (3), several in turn (3,5,8) or a mix (3=0.7,8=0.3); all in turn by default",
    )
    parser.add_argument("--seed", type=seed, default=0, help="the same seed draws the same images")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="above 1: exaggerate what the class asks for (after training with drop_context)",
    )
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        default=Path("samples.png"),
        help="a grid, default: samples.png",
    )
    parser.add_argument(
        "--npz", type=output(".npz"), help="also write the integers, as array x (and y)"
    )
    parser.add_argument(
        "--gif", type=output(".gif"), help="also write an animation of the picture growing"
    )
    parser.add_argument("--columns", type=positive, help="columns of the grid")
    parser.add_argument(
        "--all-at-once",
        action="store_true",
        help="show the wrong way, all pixels drawn in one pass, beside the right one",
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="images at a time")
    parser.add_argument(
        "--sampler",
        choices=["auto", "cached", "replayed", "full", "fixed-point"],
        default="auto",
        help="how to draw; the picture is the same (default: auto, the quickest)",
    )
    parser.add_common()
    args = parser.parse_args(argv)

    import numpy as np

    from nextpixel import plots, sampling
    from nextpixel.files import atomic_write
    from nextpixel.latent import LatentModel

    passes: list[int] = []
    model = load_model_or_latent(args)
    ways: dict[str, Any] = {}
    if isinstance(model, LatentModel):
        refuse_ways(args, model)
    else:
        ways = {"guidance": args.guidance, "sampler": args.sampler, "passes": passes.append}
    c, labels = parse_classes(args.classes, model.classes, args.n)
    frames: list[Tensor] = []
    done: list[int] = []
    options = {"seed": args.seed, "temperature": args.temperature}
    with progress("drawing") as show:
        if args.gif is not None and not isinstance(model, LatentModel):
            frames, done = sampling.film(
                model, args.n, c, **options, guidance=args.guidance, progress=show
            )
            x = frames[-1]
        else:
            x = model.sample(
                args.n,
                c,
                **options,
                batch_size=args.batch_size,
                progress=show,
                **ways,
            )
    if passes:
        sites = math.prod(model.shape)
        print(f"{max(passes)} passes were enough, where one for each site are {sites}")
    columns = args.columns or (model.classes if labels is not None and not args.classes else None)
    picture = plots.grid(x, model.levels, columns=columns)
    if args.all_at_once and not isinstance(model, LatentModel):
        wrong = plots.grid(
            sampling.all_at_once(model, args.n, c, **options), model.levels, columns=columns
        )
        picture = plots.beside({"all at once: wrong": wrong, "pixel by pixel: right": picture})
    plots.save_image(picture, args.out)
    written = [args.out]
    if args.gif is not None:
        film = plots.growing(frames, done, model.levels, columns=columns)
        plots.save_gif(film, args.gif)
        written.append(args.gif)
    if args.npz is not None:
        pixels = x.numpy().astype(np.uint8 if model.levels <= 256 else np.int64)
        with atomic_write(args.npz) as file:
            if labels is None:
                np.savez_compressed(file, x=pixels, levels=model.levels)
            else:
                np.savez_compressed(file, x=pixels, y=labels, levels=model.levels)
        written.append(args.npz)
    print(f"Drew {args.n} images: {', '.join(map(str, written))}")


def refuse_ways(args: argparse.Namespace, model: LatentModel) -> None:
    """Refuses the options that are about drawing pixel by pixel, or about a context."""
    asked = {
        "--guidance": args.guidance != 1,
        "--gif": args.gif is not None,
        "--all-at-once": args.all_at_once,
        "--sampler": args.sampler != "auto",
    }
    for option, given in asked.items():
        if given:
            raise UserError(
                f"{option} is for models without a code, and {args.model} "
                f"({type(model).__name__}) has one: leave it out."
            )
