"""`nextpixel complete`: the rest of half-hidden images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.errors import UserError
from nextpixel.options import (
    PICTURES,
    Parser,
    add_hidden,
    images_to_complete,
    known_pixels,
    load_model,
    output,
    positive,
    progress,
    seed,
)

if TYPE_CHECKING:
    from nextpixel.particles import Completed

__all__ = ["complete"]

COLLAPSED = 2  # an effective sample size below this


def complete(argv: list[str]) -> None:
    """Complete half-hidden images."""
    parser = Parser("complete", complete)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        help="picture files, cut and resized if need be; else test images",
    )
    parser.add_argument("--data", help="take test images from here; the model's data by default")
    parser.add_argument("-n", type=positive, default=8, help="how many test images (default: 8)")
    add_hidden(parser, "default: top")
    parser.add_argument("--class", dest="classes", metavar="C", help="class of the picture files")
    parser.add_argument("--draws", type=positive, default=4, help="completions of each image")
    parser.add_argument(
        "--particles",
        type=positive,
        default=1,
        help="draw so many together for each completion, and take later known pixels into account",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="the same seed draws the same completions"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        default=Path("completions.png"),
        help="default: completions.png",
    )
    parser.add_common(data=True)
    args = parser.parse_args(argv)
    if args.particles > 1 and args.temperature != 1:
        raise UserError(
            "Particles are weighed by the model's own probabilities: leave --temperature out."
        )

    import torch

    from nextpixel import plots, sampling
    from nextpixel.particles import complete_with_particles

    model = load_model(args)
    x, c = images_to_complete(args, model)
    known = known_pixels(args, model.shape)
    bits = sampling.hidden_bits(model, x, known, c)
    columns = {
        "original": plots.to_uint8(x, model.levels),
        "given": plots.hide(x, known, model.levels),
    }
    completed = None
    again = torch.arange(len(x)).repeat(args.draws)
    given = (model, x[again], known, None if c is None else c[again])
    with progress("completing") as show:
        if args.particles > 1:
            completed = complete_with_particles(
                *given, particles=args.particles, seed=args.seed, progress=show
            )
            drawn = completed.x
        else:
            drawn = sampling.complete(
                *given, seed=args.seed, temperature=args.temperature, progress=show
            )
    for number, one_each in enumerate(torch.split(drawn, len(x)), 1):
        columns[f"completion {number}"] = plots.to_uint8(one_each, model.levels)
    columns["bits a pixel"] = plots.heat_map(bits.sum(1).masked_fill(known, torch.nan))
    plots.save_image(plots.side_by_side(columns, 256), args.out)
    each = bits.flatten(1).sum(1)
    count = int((~known).sum()) * model.shape[0]
    print(f"The {count} hidden pixels of each image take, given the true pixels before them:")
    for number, value in enumerate(each.tolist()):
        print(f"  image {number}: {value:8.1f} bits, {value / count:.4f} a pixel")
    print(f"  mean:    {each.mean():8.1f} bits, {each.mean() / count:.4f} a pixel")
    if completed is None:
        print(
            "Pixels are drawn in raster order: each is told only of those in the rows above it and "
            "to its left. Known pixels that come later are kept, but nothing is drawn to fit them "
            "(--particles 64 takes them into account)."
        )
    else:
        tell_particles(completed, args.particles, args.draws)
    print(f"Side by side: {args.out}")


def tell_particles(completed: Completed, particles: int, draws: int) -> None:
    """Prints how the particles of each image fared, in the worst of its draws."""
    least = completed.least_effective.view(draws, -1).amin(0).tolist()
    evidence = completed.log_evidence.view(draws, -1).logsumexp(0) - math.log(draws)
    print(
        "Pixels are drawn in raster order; the known ones that come later weigh the particles. "
        f"The effective sample size at its smallest, of {particles} particles, and the estimated "
        "log-probability of all known pixels:"
    )
    for number, (size, nats) in enumerate(zip(least, evidence.tolist(), strict=True)):
        print(f"  image {number}: {size:8.1f}, {nats:.2f} nats")
    collapsed = sum(size < COLLAPSED for size in least)
    if collapsed:
        print(
            f"Warning: for {collapsed} of {len(least)} images the particles collapsed (below "
            f"{COLLAPSED}): what was drawn before a known row goes back to one particle, and may "
            "fit it badly. Take more --particles, or hide less above known pixels."
        )
