"""Score a data set in bits/dim and nats, with their standard errors."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from nextpixel.cli.options import (
    CHARTS,
    DATA,
    MODEL_OR_BUNDLE,
    SPLITS,
    Parser,
    add_common,
    add_data_dir,
    positive,
)
from nextpixel.errors import UserError
from nextpixel.utils.files import user_path
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

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
    from nextpixel.models.base.image_model import Conditioning, ImageModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel eval mnist",
    "nextpixel eval runs/mine --data mnist --split valid --limit 1000 --json",
    "nextpixel eval mnist --classify --limit 500 --plot confusion.png",
    "nextpixel eval runs/mine --whole my-photographs",
]

BATCH = 100
SPLIT = "test"
OF_DATA_SETS = {  # options that --whole does not have, and their defaults
    **dict.fromkeys(("data", "data_dir", "limit", "importance", "top", "plot")),
    **dict.fromkeys(("all_orders", "classify"), False),
    "batch_size": BATCH,
    "split": SPLIT,
}


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_OR_BUNDLE)
    group = parser.add_argument_group("images")
    group.add_argument("--data", help=f"{DATA} (default: the data that the model was trained on)")
    group.add_argument(
        "--split",
        choices=[*SPLITS, "all"],
        default=SPLIT,
        help="split of the data set, or all its images",
    )
    add_data_dir(group)
    group.add_argument("--limit", type=positive, help="score at most N images, spread evenly")
    group.add_argument(
        "--whole",
        nargs="+",
        metavar="PICTURES",
        help="instead, score picture files and those of folders, each at its own size: by a "
        "network of convolutions without classes",
    )
    parser.add_argument(
        "--importance",
        type=positive,
        metavar="K",
        help="of a VAE: the importance-weighted bound with K codes for each image, not the ELBO",
    )
    parser.add_argument(
        "--all-orders",
        action="store_true",
        help="of a model with several orders of the pixels: score by the mixture of them, which "
        "takes a pass for each",
    )
    parser.add_argument(
        "--top",
        metavar="PRIOR",
        help="of a prior over bottom codes: the prior over the top codes, to add up the bits of "
        "codes and pixels",
    )
    parser.add_argument("--batch-size", type=positive, default=BATCH, help="images at a time")
    parser.add_argument(
        "--classify",
        action="store_true",
        help="also classify each image by its likeliest class (one pass for each class)",
    )
    parser.add_output("--plot", CHARTS, "also draw the confusion matrix of --classify")
    parser.add_argument("--json", action="store_true", help="print JSON instead of sentences")
    add_common(parser)


@dataclass
class Evaluation:
    """The results of a command.

    Attributes:
        which: The names of model, data, split, conditioning and kind of score.
        score: The score.
        classified: The result of --classify.
        diagnosis: What the model itself reports, see `evaluation.likelihood.diagnose`.
        codes: Of a prior over codes, see `evaluate_codes`.
        scale: What simple ways to write the images down need, see `evaluation.scale`; empty where
            the score is not comparable.
        out_of: How many images the user's own data hold in all splits; None for other data.
    """

    which: dict[str, str]
    score: Score
    classified: Classification | None
    diagnosis: dict[str, float]
    codes: dict[str, Any]
    scale: dict[str, float]
    out_of: int | None


def run(args: argparse.Namespace) -> None:
    """Scores the data set."""
    from nextpixel.cli.loading import load_any_model, load_model_data
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import charts

    if args.plot is not None and not args.classify:
        raise UserError("--plot draws the confusion matrix of --classify: give both.")
    if args.whole:
        evaluate_whole(args)
        return
    name = args.model
    expand_bundle(args)
    device = set_up(args.device, args.threads)
    model = load_any_model(args.model, device, trust=args.trust)
    dataset = load_model_data(model, args.model, args.data, args.data_dir, trust=args.trust)
    found = evaluate(args, model, dataset)
    found.which["model"] = name
    if name != args.model:
        found.which["data"] = f"codes:{name}"
    if args.plot is not None and found.classified is not None:
        names = dataset.class_names or tuple(map(str, range(len(found.classified.confusion))))
        charts.confusion_matrix(found.classified.confusion, names, args.plot)
    if args.json:
        print_json(found)
    else:
        report(found, found.which["given" if model.is_likelihood else "score"])


def evaluate_whole(args: argparse.Namespace) -> None:
    """Scores pictures at their own sizes, and prints the scores.

    Raises:
        UserError: An option is for data sets only, or see `score_whole`.
    """
    from nextpixel.cli.loading import load_any_model
    from nextpixel.codec.sources import files_of, list_files, say_left_out
    from nextpixel.evaluation.whole import bits_per_dim, score_whole
    from nextpixel.utils.devices import set_up

    for name, default in OF_DATA_SETS.items():
        if getattr(args, name) != default:
            option = name.replace("_", "-")
            raise UserError(
                f"--{option} is for data sets, and --whole for pictures: leave one out."
            )
    model = load_any_model(args.model, set_up(args.device, args.threads), trust=args.trust)
    folders, left_out = list_files([user_path(name) for name in args.whole])
    paths = [folder / name for folder, name in files_of(folders)]
    if not paths:
        raise UserError(f"There are no pictures in {', '.join(args.whole)}.")
    with progress("scoring") as show:
        found = score_whole(model, args.model, paths, show)
    if args.json:
        pictures = {str(one.path): bits_per_dim([one]) for one in found}
        numbers = {"bits_per_dim": bits_per_dim(found), "pictures": pictures}
        print(json.dumps({"model": args.model, **numbers, "left_out": left_out}))
        return
    for one in found:
        _, height, width = one.shape
        print(f"{one.path}: {width} x {height}, {bits_per_dim([one]):.4f} bits/dim")
    whole = count(len(found), "whole picture")
    print(f"{args.model} on {whole}: {bits_per_dim(found):.4f} bits/dim")
    if left_out:
        print(say_left_out(left_out))


def evaluate(args: argparse.Namespace, model: ImageModel, dataset: Dataset) -> Evaluation:
    """Computes all that the options ask for."""
    from nextpixel.evaluation import likelihood
    from nextpixel.evaluation.scale import bits_on_scale, has_scale
    from nextpixel.models.base.autoregressive import autoregressive

    kind, bound = kind_of_score(args, model)
    images = images_to_score(args, dataset)
    options = {"limit": args.limit, "batch_size": args.batch_size}
    classified, parts = None, None
    if model.data_record.codes_of is not None:  # first, because it may raise a UserError
        parts = load_parts(args, dataset, model.device)
    if args.classify:  # likewise
        classifier = autoregressive(model, args.model)
        with progress("classifying") as show:
            classified = likelihood.classify(classifier, images, **options, progress=show)
    with progress("scoring") as show:
        score = likelihood.evaluate(model, images, **options, progress=show, score=bound)
    codes: dict[str, Any] = {}
    if parts is not None:
        with progress("scoring") as show:
            codes = evaluate_codes(args, score, dataset, parts, show)
    which = {
        "model": args.model,
        "data": dataset.name,
        "split": args.split,
        "given": conditioning_in_words(model)
        + (f", {model.orders} orders together" if args.all_orders else ""),
        "score": kind,
    }
    diagnosis = likelihood.diagnose(model, images.subset(args.limit))
    scale = {}
    if has_scale(model):
        scale = bits_on_scale(images.subset(args.limit), dataset.train)
    total = sum(len(getattr(dataset, split)) for split in SPLITS) if dataset.own else None
    return Evaluation(which, score, classified, diagnosis, codes, scale, total)


def kind_of_score(
    args: argparse.Namespace, model: ImageModel
) -> tuple[str, Callable[[ImageModel, Tensor, Conditioning], Tensor] | None]:
    """Returns the kind of score in words, and a function if it is not the model's own score."""
    if args.all_orders:
        if args.importance is not None or model.orders == 1:
            raise UserError(
                f"--all-orders is for a model of several orders of the pixels, and {args.model} "
                "has one: leave it out."
            )
        return model.scores, mixture_of_orders
    if args.importance is None:
        return model.scores, None
    if not model.has_importance_bound:
        raise UserError(
            f"--importance is for a VAE, and {args.model} ({type(model).__name__}) is none: leave "
            "it out."
        )
    kind = f"importance-weighted bound on log p(x), {args.importance} codes per image"
    return kind, lambda network, x, _: cast("VAE", network).importance_bound(x, args.importance)


def mixture_of_orders(network: ImageModel, x: Tensor, conditioning: Conditioning) -> Tensor:
    """Scores images by the mixture of all orders."""
    network = cast("AutoregressiveModel", network)
    nats = network.log_prob_in_orders(x, conditioning.context, conditioning.mask)
    return nats.logsumexp(1) - math.log(network.orders)


def images_to_score(args: argparse.Namespace, dataset: Dataset) -> Images:
    """Returns the split, after checking the options against it."""
    if args.top is not None and dataset.coarse_codes is None:
        raise UserError(
            f"--top is for a prior over bottom codes (codes:RUN#bottom), and {args.model} is none: "
            "leave it out."
        )
    images: Images = getattr(dataset, args.split)
    if args.importance is not None:
        images.refuse_padding("The importance-weighted bound")
    return images


def print_json(found: Evaluation) -> None:
    """Prints the results as one JSON object."""
    numbers = asdict(found.score)
    confusion = None
    if found.classified is not None:
        numbers |= asdict(found.classified)
        confusion = numbers.pop("confusion")
    # The standard error of a single image is not a number, for which JSON has no word.
    numbers = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    if confusion is not None:
        numbers["confusion"] = confusion.tolist()
    others: dict[str, Any] = {"scale": found.scale} if found.scale else {}
    if found.out_of is not None:
        others["out_of"] = found.out_of
    print(json.dumps(found.which | numbers | found.diagnosis | found.codes | others))


def report(found: Evaluation, condition: str) -> None:
    """Prints the results in sentences.

    Args:
        found: The results.
        condition: What the score is conditioned on, or the kind of score.
    """
    from nextpixel.evaluation.likelihood import DIAGNOSIS_IMAGES
    from nextpixel.evaluation.scale import SCALE_IMAGES, scale_in_words

    which, score = found.which, found.score
    print(f"{which['model']} on {which['data']} ({which['split']}, {condition}): {score}")
    if found.out_of is not None and found.out_of > score.images:
        every = "" if which["split"] == "all" else "; --split all scores all of them"
        print(
            f"Scored {score.images:,} of {count(found.out_of, 'image')} of {which['data']}{every}"
        )
    if found.scale:
        measured = min(score.images, SCALE_IMAGES)
        print(scale_in_words(score.bits_per_dim, found.scale, measured))
    if found.classified is not None:
        print(f"It {found.classified}")
    if found.diagnosis:
        words = (f"{name.replace('_', ' ')} {x:.4g}" for name, x in found.diagnosis.items())
        print(f"Of up to {DIAGNOSIS_IMAGES} of these images: {', '.join(words)}")
    if found.codes:
        print(codes_in_words(found.codes))


def conditioning_in_words(model: ImageModel) -> str:
    """Returns what a model is conditioned on."""
    parts = ["the class"] if model.classes else []
    if model.conditioner is not None:
        parts.append(model.conditioner.in_words())
    return f"given {' and '.join(parts)}" if parts else "unconditional"


def expand_bundle(args: argparse.Namespace) -> None:
    """Replaces a bundle by its prior (of two the bottom's, and --top) and the codes as --data."""
    from nextpixel.latents.generator import holds_bundle, read_record

    if not holds_bundle(args.model):
        return
    decoder, prior, *bottom = read_record(args.model)
    args.model, grid = str(prior), ""
    if bottom:
        args.model, args.top, grid = str(bottom[0]), args.top or str(prior), "#bottom"
    args.data = args.data or f"codes:{decoder}{grid}"


@dataclass
class Parts:
    """What else it takes to describe the images of a prior's codes.

    Attributes:
        decoder: The VQ-VAE.
        pictures: Its images.
        top: The prior over the top codes, for --top.
    """

    decoder: CodebookModel
    pictures: Dataset
    top: AutoregressiveModel | None


def load_parts(args: argparse.Namespace, dataset: Dataset, device: torch.device) -> Parts:
    """Loads the VQ-VAE of a data set of codes, its images and the prior of --top."""
    from nextpixel.cli.loading import load_model
    from nextpixel.latents.codes import load_source, parse_name
    from nextpixel.latents.generator import check_prior

    decoder, pictures = load_source(parse_name(dataset.name)[0], args.data_dir, trust=args.trust)
    top = None
    if args.top is not None:
        top = load_model(args.top, device, conditioned=True, trust=args.trust)
        check_prior(decoder, top, next(iter(decoder.sizes)))
    return Parts(decoder.to(device), pictures, top)


def evaluate_codes(
    args: argparse.Namespace,
    score: Score,
    dataset: Dataset,
    parts: Parts,
    show: Callable[[float], None],
) -> dict[str, Any]:
    """Compares a prior with simpler ones, and computes the description length of the images.

    Returns:
        Bits for a code, also under the simpler priors; for an image's codes; for its pixels given
        the codes; and all together in bits/dim of the image. If the bottom codes are scored and
        --top is not given, only the bits of the codes.
    """
    from nextpixel.evaluation.likelihood import evaluate as score_images
    from nextpixel.latents.codes import baselines

    codes = getattr(dataset, args.split).subset(args.limit)
    found: dict[str, Any] = {
        "bits_per_code": score.bits_per_dim,
        "baselines": baselines(dataset.train, codes),
        "codes_bits_per_image": score.nats / math.log(2),
    }
    bits = [found["codes_bits_per_image"]]
    options: dict[str, Any] = {"batch_size": args.batch_size, "progress": show}
    if len(parts.decoder.sizes) > 1:
        if parts.top is None:
            return found
        bits.append(score_images(parts.top, codes.coarse_codes, **options).nats / math.log(2))
        found["top_codes_bits_per_image"] = bits[-1]
    images = getattr(parts.pictures, args.split).subset(args.limit)
    bits.append(score_images(parts.decoder, images, **options).nats / math.log(2))
    found["residual_bits_per_image"] = bits[-1]
    found["description_length_bits_per_dim"] = sum(bits) / float(images.sites().mean())
    return found


def codes_in_words(codes: dict[str, Any]) -> str:
    """Returns the results of `evaluate_codes` in sentences."""
    others = ", ".join(f"{name} {bits:.4f}" for name, bits in codes["baselines"].items())
    bits = codes["codes_bits_per_image"]
    prior = (
        f"That is {codes['bits_per_code']:.4f} bits per code (fitted to the training codes "
        f"without a network: {others}), {bits:.2f} bits per image.\n"
    )
    if "description_length_bits_per_dim" not in codes:
        return (
            f"{prior}The bits of the top codes are not included: nextpixel eval BOTTOM_PRIOR --top "
            "TOP_PRIOR adds up those of both grids and of the pixels."
        )
    parts = f"{bits:.2f} bits for its codes"
    if "top_codes_bits_per_image" in codes:
        top = codes["top_codes_bits_per_image"]
        parts = f"{top:.2f} bits for its top codes, {bits:.2f} for its bottom codes given these,"
    return (
        f"{prior}Description length of an image: {parts} and "
        f"{codes['residual_bits_per_image']:.2f} for its pixels given the codes, together "
        f"{codes['description_length_bits_per_dim']:.4f} bits/dim. This is an upper bound on "
        "-log p(x): it counts one choice of codes, and p(x) is a sum over all of them."
    )
