"""Score images one by one, to find anomalies.

Writes a CSV with the bits/dim of each image and, on demand, corrected anomaly scores, because any
model gives simple images few bits. In all of them, higher is more anomalous; --combined is the one
to rely on. A class-conditional model is scored by log p(x) = log sum_c p(c) p(x | c), with equal
p(c). A picture that cannot be read is named and skipped, and the exit status is then 1.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import (
    CHARTS,
    MODEL,
    PICTURES,
    Parser,
    add_common,
    add_images,
    image_options,
    positive,
    refuse_among_images,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from nextpixel.cli.picture_files import Reading
    from nextpixel.cli.pictures import Pictures
    from nextpixel.evaluation.thresholds import Threshold
    from nextpixel.models.base.autoregressive import AutoregressiveModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel score runs/mine new-pictures --combined --sheet strangest.png",
    "nextpixel score runs/mine --threshold fit --quantile 0.99 --save limit.json",
    "nextpixel score runs/mine new-pictures --threshold limit.json",
    "nextpixel score mnist mnist --against fashion-mnist --limit 1000",
]

QUANTILE = 0.99
SHOWN = 24  # images on the sheet
FEW = 200  # ordinary images; fewer are worth a warning


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    add_images(parser, None, limit="score", classes=False)
    parser.add_argument(
        "--combined",
        action="store_true",
        help="also score several features of an image together, compared with ordinary images",
    )
    parser.add_argument(
        "--ordinary",
        metavar="IMAGES",
        help="ordinary images for --combined and --threshold fit: 500 or more that the model was "
        "not trained on (default: validation images of its data)",
    )
    parser.add_argument(
        "--threshold",
        metavar="FILE",
        help="fit: choose a threshold of the combined score from ordinary images, and save it; or "
        "a saved one, to tell which images are anomalous",
    )
    parser.add_argument(
        "--quantile",
        type=float,
        metavar="X",
        help=f"share of ordinary images below --threshold fit (default: {QUANTILE})",
    )
    parser.add_output(
        "--save",
        (".json",),
        "where --threshold fit is saved (default: threshold.json beside the table, or a free "
        "name like it)",
    )
    parser.add_argument(
        "--complexity",
        action="store_true",
        help="also score bits/dim minus those of a lossless file (Serra et al., 2020)",
    )
    parser.add_argument(
        "--background",
        metavar="MODEL",
        help="also score bits/dim minus those by MODEL, which was trained with --train.mutate "
        "(Ren et al., 2019)",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--against", metavar="IMAGES", help="anomalous images, to compute an AUROC")
    kinds.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="lines IMAGE,0 or IMAGE,1 (anomalous), to compute an AUROC",
    )
    parser.add_output(
        "--out", (".csv",), "the table to write (default: scores.csv, or a free name like it)"
    )
    parser.add_output(
        "--sheet",
        PICTURES,
        f"a picture of the {SHOWN} most anomalous images (default: most-anomalous.png beside "
        "the table, or a free name like it)",
    )
    parser.add_output("--plot", CHARTS, "also draw histograms of the scores")
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first picture that cannot be read"
    )
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Scores the images, writes the table, and returns the exit status."""
    from nextpixel.cli.loading import load_model
    from nextpixel.cli.picture_files import Reading
    from nextpixel.evaluation import anomaly
    from nextpixel.utils.devices import set_up
    from nextpixel.utils.files import unused
    from nextpixel.viz import charts

    check_options(args)
    device = set_up(args.device, args.threads)
    model = load_model(args.model, device, trust=args.trust)
    background = None
    if args.background is not None:
        background = load_model(args.background, device, conditioned=True, trust=args.trust)
    reading = Reading(strict=args.strict)
    parts = load_parts(args, model, reading)
    columns = anomaly.image_columns([(part.unsplit, part.what) for part in parts])
    if args.labels is not None:
        columns["anomaly"] = anomaly.read_labels(args.labels, columns["image"])
    threshold = load_threshold(args, model, reading)
    warn(reading, model)
    scores = score_parts(args, model, background, parts, threshold)
    if args.threshold is not None and threshold is not None:
        columns["anomalous"] = [
            "yes" if score > threshold.value else "no" for score in scores["combined_score"]
        ]
    out = args.out or unused(Path("scores.csv"))
    anomaly.write_csv(out, {**columns, **scores})
    written = [out]
    if args.threshold == "fit" and threshold is not None:
        written.append(args.save or unused(out.with_name("threshold.json")))
        threshold.save(written[-1])
    scores = {name: scores[name] for name in anomaly.SCORES if name in scores}
    if sheet := write_sheet(args, model, parts, scores, columns["image"], out):
        written.append(sheet)
    if args.plot is not None:
        charts.score_histograms(scores, anomaly.groups(columns), args.plot)
        written.append(args.plot)
    print(f"Anomaly scores by {args.model}; higher is more anomalous:")
    report(scores, columns, written, math.log2(model.levels), threshold)
    return 1 if reading.skipped else 0


def check_options(args: argparse.Namespace) -> None:
    """Refuses options that would be ignored, and files that would be written among the images."""
    from nextpixel.evaluation.typicality import check_quantile

    if None in (args.out, args.sheet) or (args.threshold == "fit" and args.save is None):
        refuse_among_images(args.out or Path("scores.csv"), args)
    if args.labels is not None and args.limit is not None:
        raise UserError("With --labels all images are scored: leave --limit out.")
    for option in ("quantile", "save"):
        if getattr(args, option) is not None and args.threshold != "fit":
            raise UserError(f"--{option} goes with --threshold fit: give both.")
    if args.quantile is not None:
        check_quantile(args.quantile)
    if args.ordinary is not None and args.threshold not in (None, "fit"):
        raise UserError(f"{args.threshold} holds ordinary images already: leave --ordinary out.")


def load_parts(
    args: argparse.Namespace, model: AutoregressiveModel, reading: Reading
) -> list[Pictures]:
    """Loads the images, and those of --against."""
    from nextpixel.cli.picture_files import load_readable

    options = image_options(args)
    sources = [options]
    if args.against is not None:
        sources.append(options | {"images": [args.against], "data": None})
    return [
        load_readable(args.model, model.shape, model.levels, reading=reading, **source).subset(
            args.limit
        )
        for source in sources
    ]


def load_threshold(
    args: argparse.Namespace, model: AutoregressiveModel, reading: Reading
) -> Threshold | None:
    """Reads the threshold of --threshold, or fits one to ordinary images; None without need."""
    from nextpixel.cli.picture_files import load_readable
    from nextpixel.cli.pictures import is_dataset
    from nextpixel.evaluation import anomaly
    from nextpixel.evaluation.thresholds import Threshold, model_digest
    from nextpixel.model_folders import training_record

    digest = model_digest(args.model)
    if args.threshold not in (None, "fit"):
        return Threshold.load(Path(args.threshold), digest)
    if not args.combined and args.ordinary is None and args.threshold is None:
        return None
    if args.ordinary is None and "data" not in training_record(args.model):
        raise UserError(
            f"It is not known which data {args.model} was trained on: name ordinary images with "
            "--ordinary."
        )
    images = [] if args.ordinary is None else [args.ordinary]
    pictures = load_readable(
        args.model,
        model.shape,
        model.levels,
        images,
        reading,
        split="valid" if is_dataset(images, None) else None,
        data_dir=args.data_dir,
        trust=args.trust,
    )
    with progress("comparing ordinary images") as show:
        ordinary = anomaly.fit_ordinary(
            model, pictures.images, batch_size=args.batch_size, progress=show
        )
    if len(pictures) < FEW:
        print(
            f"Only {count(len(pictures), 'ordinary image')}: the combined score is rough, and 500 "
            "or more are better (--ordinary)."
        )
    quantile = QUANTILE if args.quantile is None else args.quantile
    return Threshold.fit(ordinary, quantile, pictures.what, digest)


def warn(reading: Reading, model: AutoregressiveModel) -> None:
    """Names the pictures that were skipped, and says how many were changed."""
    for reason in reading.skipped:
        print(f"nextpixel: skipped: {reason}", file=sys.stderr)
    if changes := reading.changes(model.shape):
        print(changes)


def score_parts(
    args: argparse.Namespace,
    model: AutoregressiveModel,
    background: AutoregressiveModel | None,
    parts: Sequence[Pictures],
    threshold: Threshold | None,
) -> dict[str, NDArray[Any]]:
    """Computes the scores of all images, by the names of the scores."""
    import numpy as np

    from nextpixel.evaluation import anomaly

    found = []
    for part in parts:
        with progress(f"scoring {part.what}") as show:
            found.append(
                anomaly.score_images(
                    model,
                    part.images,
                    complexity=args.complexity,
                    background=background,
                    ordinary=None if threshold is None else threshold.ordinary,
                    batch_size=args.batch_size,
                    progress=show,
                )
            )
    return {name: np.concatenate([scores[name] for scores in found]) for name in found[0]}


def write_sheet(
    args: argparse.Namespace,
    model: AutoregressiveModel,
    parts: Sequence[Pictures],
    scores: Mapping[str, NDArray[Any]],
    names: Sequence[str],
    out: Path,
) -> Path | None:
    """Draws the most anomalous images; returns the file, or None for what is no picture."""
    import numpy as np

    from nextpixel.evaluation import anomaly
    from nextpixel.utils.files import unused
    from nextpixel.viz import images as plots
    from nextpixel.viz.contact_sheet import contact_sheet

    if model.data_record.codes_of is not None or model.shape[0] not in (1, 3):
        if args.sheet is not None:
            raise UserError(f"{args.model} models no pictures: leave --sheet out.")
        return None
    values = scores[anomaly.primary(scores)]
    largest = np.argsort(-values, kind="stable")[:SHOWN]
    shown = []
    for number in largest:
        for part in parts:
            if number < len(part):
                shown.append(part.images.batch(np.array([number]))[0][0])
                break
            number -= len(part)
    x = plots.for_display(np.stack(shown), model.data_record.spectrogram)
    captions = [f"{names[i]}\n{values[i]:.3f}" for i in largest]
    sheet: Path = args.sheet or unused(out.with_name("most-anomalous.png"))
    plots.save_image(contact_sheet(x, captions, model.levels), sheet)
    return sheet


def report(
    scores: Mapping[str, NDArray[Any]],
    columns: Mapping[str, Sequence[Any]],
    written: Sequence[Path],
    uniform: float,
    threshold: Threshold | None = None,
) -> None:
    """Prints a summary of the scores, the most anomalous images, and the files.

    Args:
        scores: As from `score_parts`.
        columns: Those that identify the images, and "anomalous", yes or no, where it is asked for.
        written: The files.
        uniform: Bits/dim of a uniform guess.
        threshold: The threshold, if there is one.
    """
    from nextpixel.evaluation import anomaly

    groups = anomaly.groups(columns)
    print(anomaly.table(scores, groups))
    if len(groups) == 1:
        print(anomaly.most_anomalous(scores, columns["image"]))
    bits = scores["bits_per_dim"]
    if worse := int((bits > uniform).sum()):
        print(
            f"Warning: {worse:,} of {count(len(bits), 'image')} cost more than the {uniform:.4g} "
            "bits/dim of a uniform guess: the model has learned nothing that helps there."
        )
    if "anomalous" in columns and threshold is not None:
        found = [
            name
            for name, answer in zip(columns["image"], columns["anomalous"], strict=True)
            if answer == "yes"
        ]
        listed = f": {', '.join(found[:10])}{', ...' * (len(found) > 10)}" if found else ""
        print(
            f"Anomalous: {len(found):,} of {count(len(bits), 'image')}, with a combined score "
            f"above {threshold.value:.4f}, which {1 - threshold.quantile:.2g} of "
            f"{threshold.what} exceed{listed}"
        )
    elif scores.keys() == {"bits_per_dim"}:
        print("Simple images cost few bits under any model: --combined is the safer score.")
    print(f"Written: {', '.join(map(str, written))}")
