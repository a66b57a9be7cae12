"""Evaluate samples by a classifier, and by their nearest training images.

Prints a row for each set of images: its accuracy under the classifier, its classifier Frechet
distance to the test images, its median distance to the nearest training image, and which part of it
is closer to one than all but the nearest 1 % of the test images. Of sounds it is judged what can be
heard, after Griffin-Lim.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nextpixel.cli.options import (
    MODEL_OR_BUNDLE,
    PICTURES,
    Parser,
    add_common,
    add_data_dir,
    output,
    positive,
    seed,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from nextpixel.evaluation.sample_quality import SampleQuality

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel evaluate-samples vq-mnist --data mnist --per-class 50",
    "nextpixel evaluate-samples runs/mine --data my.npz --classifier runs/classifier --json",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", help=MODEL_OR_BUNDLE)
    group = parser.add_argument_group("images")
    group.add_argument("--data", required=True, help="the images that it learned, with classes")
    add_data_dir(group)
    group.add_argument(
        "--limit", type=positive, help="compare with at most so many test images, spread evenly"
    )
    parser.add_argument(
        "--classifier", help="the judge, as nextpixel classifier saves it (default: judge-DATA)"
    )
    parser.add_argument("--per-class", type=positive, default=100, help="samples of each class")
    parser.add_argument("--seed", type=seed, default=0, help="the same seed draws the same images")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument(
        "--plot",
        type=output(*PICTURES),
        help="also draw the samples nearest to training images, each beside its neighbour",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Draws samples and evaluates them."""
    from nextpixel.cli.loading import load_bundle, load_for, load_model
    from nextpixel.conditioning.classifier import load_classifier
    from nextpixel.evaluation.sample_quality import draw_neighbours, evaluate_samples
    from nextpixel.latents.generator import LatentGenerator
    from nextpixel.saving import judges
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import images as pictures

    name = args.classifier or f"judge-{args.data}"
    if args.classifier is None and name not in judges():
        raise UserError(
            f"No judge of {args.data} comes along: train one by nextpixel classifier --data "
            f"{args.data} --out JUDGE, and give --classifier JUDGE."
        )
    device = set_up(args.device, args.threads)
    generator = load_bundle(args.model, device, trust=args.trust) or load_model(
        args.model, device, trust=args.trust
    )
    images = generator.decoder if isinstance(generator, LatentGenerator) else generator
    data = load_for(args.data, images.shape, images.levels, args.data_dir)
    quality = evaluate_samples(
        generator,
        data,
        load_classifier(name, device=images.device),
        per_class=args.per_class,
        limit=args.limit,
        seed=args.seed,
        progress=progress,
    )
    if args.plot is not None:
        pictures.save_image(draw_neighbours(quality, data), args.plot)
    if args.json:
        which = {"model": args.model, "data": data.name, "judge": name, "seed": args.seed}
        print(json.dumps(which | quality.settings()))
        return
    print(f"{args.model}, judged by {name} on {data.name}:")
    report(quality, args.plot)


def report(quality: SampleQuality, plot: Path | None) -> None:
    """Prints the table, what its columns are, and where the picture is."""
    print(quality.table())
    print(
        "Frechet: classifier Frechet distance to the test images, "
        f"{quality.frechet_per_class} of each class\non both sides (fewer give a larger one). "
        "Nearest: median distance to the nearest training\nimage, in levels. Close: share of "
        "images nearer to one than all but the nearest 1 % of the test\nimages."
    )
    if plot is not None:
        print(f"The samples nearest to training images: {plot}")
