"""Score a data set: test bits/dim and nats, with their standard errors."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, cast

from nextpixel.cli.options import (
    CHARTS,
    MODEL_OR_BUNDLE,
    SPLITS,
    Parser,
    add_common,
    add_data_dir,
    output,
    positive,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from nextpixel.data import Dataset, Images
    from nextpixel.evaluation.likelihood import Classification, Score
    from nextpixel.models import VAE
    from nextpixel.models.base.autoregressive import AutoregressiveModel
    from nextpixel.models.base.codebook import CodebookModel
    from nextpixel.models.base.image_model import ImageModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel eval mnist-gated",
    "nextpixel eval runs/mine --data mnist --split valid --limit 1000 --json",
    "nextpixel eval mnist-gated --classify --limit 500 --plot confusion.png",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", help=MODEL_OR_BUNDLE)
    group = parser.add_argument_group("images")
    group.add_argument(
        "--data",
        help="a data set: a name, a path, wavs:FOLDER or codes:RUN (default: the model's own)",
    )
    group.add_argument("--split", choices=SPLITS, default="test", help="of the data set")
    add_data_dir(group)
    group.add_argument("--limit", type=positive, help="score at most so many images, spread evenly")
    parser.add_argument(
        "--importance",
        type=positive,
        metavar="K",
        help="of a VAE: the importance-weighted bound of K codes an image, not the ELBO",
    )
    parser.add_argument(
        "--top",
        metavar="PRIOR",
        help="of a prior over bottom codes: the top's, to add up what codes and pixels take",
    )
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
    parser.add_argument(
        "--classify",
        action="store_true",
        help="also how often the likeliest class of an image is the true one (a pass for each)",
    )
    parser.add_argument(
        "--plot",
        type=output(*CHARTS),
        metavar="PICTURE",
        help="with --classify, also draw which class was taken for which",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a sentence")
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Scores the data set."""
    from nextpixel.cli.loading import load_any_model, load_model_data
    from nextpixel.evaluation.likelihood import classify, diagnose
    from nextpixel.evaluation.likelihood import evaluate as score_images
    from nextpixel.models.base.autoregressive import autoregressive
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import charts

    if args.plot is not None and not args.classify:
        raise UserError("--plot draws what --classify finds: give both.")
    name = args.model
    name_parts(args)
    device = set_up(args.device, args.threads)
    model = load_any_model(args.model, device, trust=args.trust)
    what, bound = what_is_scored(args, model)
    dataset = load_model_data(model, args.model, args.data, args.data_dir)
    images = images_to_score(args, dataset)
    how = {"limit": args.limit, "batch_size": args.batch_size}
    classified = None
    if args.classify:  # first, because it may be refused
        with progress("classifying") as show:
            classified = classify(autoregressive(model, args.model), images, **how, progress=show)
    with progress("scoring") as show:
        score = score_images(model, images, **how, progress=show, score=bound)
    if args.plot is not None and classified is not None:
        names = dataset.class_names or tuple(map(str, range(len(classified.confusion))))
        charts.confusion(classified.confusion, names, args.plot)
    of_codes: dict[str, Any] = {}
    if model.data_record.codes_of is not None:
        with progress("scoring") as show:
            of_codes = about_codes(score, dataset, model.device, args, show)
    which = {
        "model": name,
        "data": dataset.name if name == args.model else f"codes:{name}",  # of a bundle its own
        "split": args.split,
        "given": what_is_given(model),
        "score": what,
    }
    diagnosis = diagnose(model, images.spread(args.limit))
    if args.json:
        print_json(which, score, classified, diagnosis, of_codes)
        return
    said = which["given"] if model.is_likelihood else what
    report(which, said, score, classified, diagnosis, of_codes)


def what_is_scored(
    args: argparse.Namespace, model: ImageModel
) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    """Says what the score is, and how to compute it where it is not the model's own."""
    if args.importance is None:
        return model.scores, None
    if not model.has_importance_bound:
        raise UserError(
            f"--importance bounds log p(x) under a VAE, which {args.model} "
            f"({type(model).__name__}) is not: leave it out."
        )
    what = f"importance-weighted bound on log p(x), {args.importance} codes an image"
    return what, lambda x: cast("VAE", model).importance_bound(x, args.importance)


def images_to_score(args: argparse.Namespace, dataset: Dataset) -> Images:
    """Picks the split, and refuses what cannot be asked of it."""
    if args.top is not None and dataset.coarse_codes is None:
        raise UserError(
            f"--top goes with a prior over bottom codes (codes:RUN#bottom), which {args.model} is "
            "not: leave it out."
        )
    images: Images = getattr(dataset, args.split)
    if args.importance is not None:
        images.refuse_padding("The importance-weighted bound")
    return images


def print_json(
    which: dict[str, str],
    score: Score,
    classified: Classification | None,
    diagnosis: dict[str, float],
    of_codes: dict[str, Any],
) -> None:
    """Prints all that was found as one JSON object."""
    from dataclasses import asdict

    numbers = asdict(score) | ({} if classified is None else asdict(classified))
    confusion = numbers.pop("confusion", None)
    # The error of a single image's score is not a number, and JSON has no word for that.
    numbers = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    numbers |= {} if confusion is None else {"confusion": confusion.tolist()}
    print(json.dumps(which | numbers | diagnosis | of_codes))


def report(
    which: dict[str, str],
    said: str,
    score: Score,
    classified: Classification | None,
    diagnosis: dict[str, float],
    of_codes: dict[str, Any],
) -> None:
    """Prints all that was found in sentences."""
    from nextpixel.evaluation.likelihood import DIAGNOSED

    print(f"{which['model']} on {which['data']} ({which['split']}, {said}): {score}")
    if classified is not None:
        print(f"It {classified}")
    if diagnosis:
        words = ", ".join(f"{name.replace('_', ' ')} {x:.4g}" for name, x in diagnosis.items())
        print(f"Of up to {DIAGNOSED} of these images: {words}")
    if of_codes:
        print(in_words(of_codes))


def what_is_given(model: ImageModel) -> str:
    """Describes what a model is conditioned on."""
    parts = ["the class"] if model.classes else []
    if model.conditioner is not None:
        parts.append(model.conditioner.in_words())
    return f"given {' and '.join(parts)}" if parts else "unconditional"


def name_parts(args: argparse.Namespace) -> None:
    """Names a bundle's prior and codes in its place; of two priors the bottom's, and --top."""
    from nextpixel.latents.generator import holds_bundle, read_record

    if not holds_bundle(args.model):
        return
    decoder, prior, *bottom = read_record(args.model)
    args.model, grid = str(prior), ""
    if bottom:
        args.model, args.top, grid = str(bottom[0]), args.top or str(prior), "#bottom"
    args.data = args.data or f"codes:{decoder}{grid}"


def about_codes(
    score: Score,
    dataset: Dataset,
    device: torch.device,
    args: argparse.Namespace,
    show: Callable[[float], None],
) -> dict[str, Any]:
    """Computes what a prior's score means: beside simpler priors, and for the images themselves.

    Returns:
        In bits: what a code takes, and under simpler priors; what an image's codes take, what its
        pixels take given them; and all together divided by the image's sites and channels. Where
        the image has codes of another grid, whose bits are not known, there is only the former.
    """
    from nextpixel.evaluation.likelihood import evaluate as score_images
    from nextpixel.latents.codes import baselines, run_of, source

    codes = getattr(dataset, args.split).spread(args.limit)
    found: dict[str, Any] = {
        "bits_per_code": score.bits_per_dim,
        "baselines": baselines(dataset.train, codes),
        "codes_bits_per_image": score.nats / math.log(2),
    }
    decoder, pictures = source(run_of(dataset.name)[0], args.data_dir)
    bits = [found["codes_bits_per_image"]]
    how: dict[str, Any] = {"batch_size": args.batch_size, "progress": show}
    if len(decoder.sizes) > 1:
        if args.top is None:
            return found
        top = load_top(args.top, decoder, device, args.trust)
        bits.append(score_images(top, codes.coarse_codes, **how).nats / math.log(2))
        found["top_codes_bits_per_image"] = bits[-1]
    images = getattr(pictures, args.split).spread(args.limit)
    bits.append(score_images(decoder.to(device), images, **how).nats / math.log(2))
    found["residual_bits_per_image"] = bits[-1]
    found["description_length_bits_per_dim"] = sum(bits) / float(images.sites().mean())
    return found


def load_top(
    name: str, decoder: CodebookModel, device: torch.device, trust: bool
) -> AutoregressiveModel:
    """Loads the prior over the top codes that goes with one over the bottom's."""
    from nextpixel.latents.generator import check_prior
    from nextpixel.models.base.autoregressive import autoregressive
    from nextpixel.models.base.image_model import load

    prior = autoregressive(load(name, device=device, trust=trust), name)
    check_prior(decoder, prior, next(iter(decoder.sizes)))
    return prior


def in_words(of_codes: dict[str, Any]) -> str:
    """Says what `about_codes` found."""
    others = ", ".join(f"{name} {bits:.4f}" for name, bits in of_codes["baselines"].items())
    bits = of_codes["codes_bits_per_image"]
    said = (
        f"That is {of_codes['bits_per_code']:.4f} bits a code (fitted to the training codes "
        f"without a network: {others}), {bits:.2f} bits an image.\n"
    )
    if "description_length_bits_per_dim" not in of_codes:
        return (
            f"{said}The image has codes of another grid, too, whose bits are not counted here: "
            "nextpixel eval BOTTOM_PRIOR --top TOP_PRIOR adds up both, and those of the pixels."
        )
    codes = f"{bits:.2f} bits for its codes"
    if "top_codes_bits_per_image" in of_codes:
        top = of_codes["top_codes_bits_per_image"]
        codes = f"{top:.2f} bits for its top codes, {bits:.2f} for the bottom's given these,"
    return (
        f"{said}Description length of the image: {codes} and "
        f"{of_codes['residual_bits_per_image']:.2f} for its pixels given them, together "
        f"{of_codes['description_length_bits_per_dim']:.4f} bits/dim. It counts the codes that the "
        "encoder chose where p(x) adds up all that can make the image: an upper bound on "
        "-log p(x), not p(x)."
    )
