"""Score images one by one, to find the odd ones.

Writes a CSV with the bits/dim of each image and, on demand, two corrected scores, because what is
simple is cheap under any model. In all three, larger is odder. A class-conditional model is scored
by log p(x) = log sum_c p(c) p(x | c), each class with the same p(c).
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

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel score mnist-gated my-pictures --complexity --plot scores.png",
    "nextpixel score mnist-gated mnist --against fashion-mnist --limit 1000",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", help=MODEL)
    add_images(parser, None, limit="score", classes=False)
    parser.add_argument(
        "--complexity",
        action="store_true",
        help="also score without the bits of a lossless file (Serra et al., 2020)",
    )
    parser.add_argument(
        "--background",
        metavar="MODEL",
        help="also score without the bits by this one, of --train.mutate (Ren et al., 2019)",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--against", metavar="IMAGES", help="images that count as odd: gives an AUROC"
    )
    kinds.add_argument(
        "--labels", type=Path, metavar="CSV", help="lines IMAGE,0 or IMAGE,1 (odd): gives an AUROC"
    )
    parser.add_argument(
        "--out", type=output(".csv"), default=Path("scores.csv"), help="the table to write"
    )
    parser.add_argument("--plot", type=output(*CHARTS), help="also draw histograms")
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Scores the images, and writes the table."""
    import numpy as np

    from nextpixel.cli.loading import load_any_model, load_images, load_model
    from nextpixel.evaluation import anomaly
    from nextpixel.models.base.autoregressive import autoregressive
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import charts

    if args.labels is not None and args.limit is not None:
        raise UserError("With --labels all images are scored: leave --limit out.")
    device = set_up(args.device, args.threads)
    model = load_model(args.model, device, trust=args.trust)
    background = None
    if args.background is not None:
        background = autoregressive(
            load_any_model(args.background, device, trust=args.trust), args.background
        )
    options = image_options(args)
    sources = [options]
    if args.against is not None:
        sources.append(options | {"images": [args.against], "data": None})
    found = [
        load_images(args.model, model.shape, model.levels, **source).subset(args.limit)
        for source in sources
    ]
    columns = anomaly.image_columns([(each.unsplit, each.what) for each in found])
    if args.labels is not None:
        columns["anomaly"] = anomaly.read_labels(args.labels, columns["image"])
    parts = []
    for each in found:
        with progress(f"scoring {each.what}") as show:
            parts.append(
                anomaly.score_images(
                    model,
                    each.images,
                    complexity=args.complexity,
                    background=background,
                    batch_size=args.batch_size,
                    progress=show,
                )
            )
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    anomaly.write_csv(args.out, {**columns, **scores})
    judged = {name: scores[name] for name in anomaly.SCORES if name in scores}
    written = [args.out]
    if args.plot is not None:
        charts.score_histograms(judged, anomaly.groups(columns), args.plot)
        written.append(args.plot)
    print(f"Bits/dim by {args.model}; the larger, the odder:")
    report(judged, columns, written)


def report(
    judged: Mapping[str, NDArray[Any]],
    columns: Mapping[str, Sequence[Any]],
    written: Sequence[Path],
) -> None:
    """Prints the table and the oddest images, and says which files were written."""
    from nextpixel.evaluation import anomaly

    groups = anomaly.groups(columns)
    print(anomaly.table(judged, groups))
    if len(groups) == 1:
        print(anomaly.most_anomalous(judged, columns["image"]))
    print(f"Written: {', '.join(map(str, written))}")
