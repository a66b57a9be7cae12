"""Evaluate sample quality by a classifier, and by the nearest training images.

Prints a row for each set of images: the accuracy of the classifier on it, its classifier Frechet
distance to the test images, its median distance to the nearest training image, and the share of it
that is closer to one than 99 % of the test images are. Sounds are evaluated after Griffin-Lim, as
they are heard.
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
    add_guidance,
    add_noise,
    positive,
)
from nextpixel.errors import UserError, did_you_mean
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from nextpixel.evaluation.sample_quality import SampleQuality

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel evaluate-samples vq-mnist --data mnist --per-class 50",
    "nextpixel evaluate-samples mnist --data mnist --guidance 2",
    "nextpixel evaluate-samples runs/mine --data my.npz --classifier runs/classifier --json",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_OR_BUNDLE)
    group = parser.add_argument_group("images")
    group.add_argument(
        "--data", required=True, help="the data set that the model was trained on, with classes"
    )
    add_data_dir(group)
    group.add_argument(
        "--limit", type=positive, help="compare with at most N test images, spread evenly"
    )
    parser.add_argument(
        "--classifier",
        metavar="MODEL",
        help="a classifier of real images, from nextpixel classifier (default: judge-DATA)",
    )
    parser.add_argument("--per-class", type=positive, default=100, help="samples of each class")
    add_noise(parser)
    add_guidance(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_output(
        "--plot",
        PICTURES,
        "also draw the samples that are nearest to training images, beside these",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Samples images and evaluates them."""
    from nextpixel.cli.contexts import check_guidance
    from nextpixel.cli.loading import load_bundle, load_for, load_model
    from nextpixel.conditioning.classifier import load_classifier
    from nextpixel.evaluation.sample_quality import draw_neighbours, evaluate_samples
    from nextpixel.latents.generator import LatentGenerator
    from nextpixel.model_folders import judges
    from nextpixel.models.base.autoregressive import AutoregressiveModel
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import images as plots

    name = args.classifier or f"judge-{args.data}"
    if args.classifier is None and name not in judges():
        guess = did_you_mean(args.data, [judge.removeprefix("judge-") for judge in judges()])
        raise UserError(
            f"There is no pretrained classifier for {args.data}{guess}: train one by nextpixel "
            f"classifier --data {args.data} --out CLASSIFIER, and give --classifier CLASSIFIER."
        )
    device = set_up(args.device, args.threads)
    generator = load_bundle(args.model, device, trust=args.trust) or load_model(
        args.model, device, trust=args.trust
    )
    if isinstance(generator, AutoregressiveModel):
        check_guidance(args.model, args.guidance)
    images = generator.decoder if isinstance(generator, LatentGenerator) else generator
    data = load_for(args.data, images.shape, images.levels, args.data_dir, trust=args.trust)
    quality = evaluate_samples(
        generator,
        data,
        load_classifier(name, device=images.device),
        per_class=args.per_class,
        limit=args.limit,
        seed=args.seed,
        temperature=args.temperature,
        guidance=args.guidance,
        progress=progress,
    )
    if args.plot is not None:
        plots.save_image(draw_neighbours(quality, data), args.plot)
    which = {"model": args.model, "data": data.name, "judge": name}
    which |= {k: getattr(args, k) for k in ("seed", "temperature", "guidance")}
    if args.json:
        print(json.dumps(which | quality.settings()))
        return
    how = [f"{k} {which[k]:g}" for k in ("temperature", "guidance") if which[k] != 1]
    print(f"{', '.join([args.model, *how])}, evaluated by {name} on {data.name}:")
    report(quality, args.plot)


def report(quality: SampleQuality, plot: Path | None) -> None:
    """Prints the table, the meaning of its columns, and the file."""
    print(quality.table())
    print(
        "Frechet: classifier Frechet distance to the test images, "
        f"{quality.frechet_per_class} of each class on both sides\n"
        "(fewer images give larger distances). Nearest: median distance to the "
        "nearest training image, in levels.\nClose: share that is nearer to one than 99 % of the "
        "test images are."
    )
    if plot is not None:
        print(f"The samples nearest to training images: {plot}")
