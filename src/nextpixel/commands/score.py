"""`nextpixel score`: the scores of single images."""

from __future__ import annotations

from pathlib import Path

from nextpixel.errors import UserError
from nextpixel.options import Parser, images_to_score, load_model, output, positive, progress

__all__ = ["score"]


def score(argv: list[str]) -> None:
    """Score images one by one, to find the odd ones.

    Writes a CSV with the bits/dim of each image and, on demand, two corrected scores, because what
    is simple is cheap under any model. In all three, larger is odder. A class-conditional model is
    scored by log p(x) = log sum_c p(c) p(x | c), each class with the same p(c).
    """
    parser = Parser("score", score)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("data", help="a folder of images, a data set's name or a path to your own")
    parser.add_argument(
        "--split",
        choices=["train", "valid", "test"],
        help="score this split (default: test of a named data set, all of your own images)",
    )
    parser.add_argument("--limit", type=positive, help="score only so many images, spread evenly")
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
    kinds.add_argument("--against", metavar="DATA", help="images that count as odd: gives an AUROC")
    kinds.add_argument(
        "--labels", type=Path, metavar="CSV", help="lines IMAGE,0 or IMAGE,1 (odd): gives an AUROC"
    )
    parser.add_argument(
        "--out", type=output(".csv"), default=Path("scores.csv"), help="default: scores.csv"
    )
    parser.add_argument("--plot", type=output(".png", ".svg"), help="also draw histograms")
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
    parser.add_common(data=True)
    args = parser.parse_args(argv)
    if args.labels is not None and args.limit is not None:
        raise UserError("With --labels all images are scored: leave --limit out.")

    import numpy as np

    from nextpixel import oddities, plots
    from nextpixel.autoregressive import autoregressive
    from nextpixel.model import load

    model = load_model(args)
    background = None
    if args.background is not None:
        loaded = load(args.background, device=model.device, trust=args.trust)
        background = autoregressive(loaded, args.background)
    found = [images_to_score(args, model, args.data)]
    if args.against is not None:
        found.append(images_to_score(args, model, args.against))
    columns = oddities.named(found)
    if args.labels is not None:
        columns["odd"] = oddities.read_labels(args.labels, columns["image"])
    parts = []
    for images, what in ((each.images, what) for each, what in found):
        with progress(f"scoring {what}") as show:
            parts.append(
                oddities.score_images(
                    model,
                    images,
                    complexity=args.complexity,
                    background=background,
                    batch_size=args.batch_size,
                    progress=show,
                )
            )
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    oddities.write_csv(args.out, {**columns, **scores})
    written = [args.out]
    judged = {name: scores[name] for name in oddities.SCORES if name in scores}
    groups = oddities.groups(columns)
    print(f"Bits/dim by {args.model}; the larger, the odder:")
    print(oddities.table(judged, groups))
    if len(groups) == 1:
        print(oddities.oddest(judged, columns["image"]))
    if args.plot is not None:
        plots.histograms(judged, groups, args.plot)
        written.append(args.plot)
    print(f"Written: {', '.join(map(str, written))}")
