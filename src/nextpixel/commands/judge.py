"""`nextpixel judge`: whether samples are any good."""

from __future__ import annotations

import json

from nextpixel.errors import UserError
from nextpixel.options import (
    PICTURES,
    Parser,
    load_bundle,
    load_for,
    load_model,
    output,
    positive,
    progress,
    seed,
)

__all__ = ["judge"]


def judge(argv: list[str]) -> None:
    """Judge samples by a classifier of real images, and by their nearest training images.

    Prints a row for each set of images: its accuracy under the classifier, its classifier Frechet
    distance to the test images, its median distance to the nearest training image, and which part
    of it is closer to one than all but the nearest 1 % of the test images. Of sounds it is judged
    what can be heard, after Griffin-Lim.
    """
    parser = Parser("judge", judge)
    parser.add_argument(
        "model", help="a folder that bundle wrote, a model that comes along, or a run folder"
    )
    parser.add_argument("--data", required=True, help="the images that it learned, with classes")
    parser.add_argument(
        "--classifier", help="the judge, as nextpixel classifier saves it (default: judge-DATA)"
    )
    parser.add_argument(
        "-n", type=positive, default=100, help="samples of each class (default: 100)"
    )
    parser.add_argument("--limit", type=positive, help="judge only so many test images")
    parser.add_argument("--seed", type=seed, default=0, help="the same seed draws the same images")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument(
        "--pictures",
        type=output(*PICTURES),
        help="also draw the samples nearest to training images, each beside its neighbour",
    )
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from nextpixel import plots
    from nextpixel.classifier import load_classifier
    from nextpixel.judging import draw_neighbours, judge_samples
    from nextpixel.latent_generator import LatentGenerator
    from nextpixel.saving import judges

    name = args.classifier or f"judge-{args.data}"
    if args.classifier is None and name not in judges():
        raise UserError(
            f"No judge of {args.data} comes along: train one by nextpixel classifier --data "
            f"{args.data} --out JUDGE, and give --classifier JUDGE."
        )
    generator = load_bundle(args) or load_model(args)
    images = generator.decoder if isinstance(generator, LatentGenerator) else generator
    data = load_for(images, args.data, args.data_dir)
    judgement = judge_samples(
        generator,
        data,
        load_classifier(name, device=images.device),
        each=args.n,
        limit=args.limit,
        seed=args.seed,
        progress=progress,
    )
    if args.pictures is not None:
        plots.save_image(draw_neighbours(judgement, data), args.pictures)
    if args.json:
        which = {"model": args.model, "data": data.name, "judge": name, "seed": args.seed}
        print(json.dumps(which | judgement.settings()))
        return
    print(f"{args.model}, judged by {name} on {data.name}:")
    print(judgement.table())
    print(
        f"Frechet: classifier Frechet distance to the test images, {judgement.each} of each class "
        "on both sides\n(fewer give larger ones). Nearest: median distance to the nearest training "
        "image, in levels. Close: the\npart that is nearer to one than all but the nearest 1 % of "
        "the test images."
    )
    if args.pictures is not None:
        print(f"The samples nearest to training images: {args.pictures}")
