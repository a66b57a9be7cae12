"""Score images one by one, to find anomalies.

Writes a CSV with the bits/dim of each image and, on demand, two corrected anomaly scores, because
any model gives simple images few bits. In all three, higher is more anomalous. A class-conditional
model is scored by log p(x) = log sum_c p(c) p(x | c), with equal p(c).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import (
    CHARTS,
    MODEL,
    Parser,
    add_common,
    add_images,
    image_options,
    output,
    positive,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from nextpixel.cli.pictures import Pictures
    from nextpixel.models.base.autoregressive import AutoregressiveModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel score mnist-gated my-pictures --complexity --plot scores.png",
    "nextpixel score mnist-gated mnist --against fashion-mnist --limit 1000",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    add_images(parser, None, limit="score", classes=False)
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
    parser.add_argument(
        "--out",
        type=output(".csv"),
        default=Path("scores.csv"),
        metavar="FILE",
        help="the table to write",
    )
    parser.add_argument(
        "--plot", type=output(*CHARTS), metavar="FILE", help="also draw histograms of the scores"
    )
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Scores the images, and writes the table."""
    from nextpixel.cli.loading import load_model
    from nextpixel.evaluation import anomaly
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import charts

    if args.labels is not None and args.limit is not None:
        raise UserError("With --labels all images are scored: leave --limit out.")
    device = set_up(args.device, args.threads)
    model = load_model(args.model, device, trust=args.trust)
    background = None
    if args.background is not None:
        background = load_model(args.background, device, conditioned=True, trust=args.trust)
    parts = load_parts(args, model)
    columns = anomaly.image_columns([(part.unsplit, part.what) for part in parts])
    if args.labels is not None:
        columns["anomaly"] = anomaly.read_labels(args.labels, columns["image"])
    scores = score_parts(args, model, background, parts)
    anomaly.write_csv(args.out, {**columns, **scores})
    scores = {name: scores[name] for name in anomaly.SCORES if name in scores}
    written = [args.out]
    if args.plot is not None:
        charts.score_histograms(scores, anomaly.groups(columns), args.plot)
        written.append(args.plot)
    print(f"Anomaly scores by {args.model}; higher is more anomalous:")
    report(scores, columns, written)


def load_parts(args: argparse.Namespace, model: AutoregressiveModel) -> list[Pictures]:
    """Loads the images, and those of --against."""
    from nextpixel.cli.pictures import load_images

    options = image_options(args)
    sources = [options]
    if args.against is not None:
        sources.append(options | {"images": [args.against], "data": None})
    return [
        load_images(args.model, model.shape, model.levels, **source).subset(args.limit)
        for source in sources
    ]


def score_parts(
    args: argparse.Namespace,
    model: AutoregressiveModel,
    background: AutoregressiveModel | None,
    parts: Sequence[Pictures],
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
                    batch_size=args.batch_size,
                    progress=show,
                )
            )
    return {name: np.concatenate([scores[name] for scores in found]) for name in found[0]}


def report(
    scores: Mapping[str, NDArray[Any]],
    columns: Mapping[str, Sequence[Any]],
    written: Sequence[Path],
) -> None:
    """Prints a summary of the scores, the most anomalous images, and the files."""
    from nextpixel.evaluation import anomaly

    groups = anomaly.groups(columns)
    print(anomaly.table(scores, groups))
    if len(groups) == 1:
        print(anomaly.most_anomalous(scores, columns["image"]))
    print(f"Written: {', '.join(map(str, written))}")
