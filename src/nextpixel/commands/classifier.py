"""`nextpixel classifier`: a small classifier, whose layers models can be told."""

from __future__ import annotations

import math
from pathlib import Path

from nextpixel.options import Parser, find_device, positive, progress, seed

__all__ = ["classifier"]


def classifier(argv: list[str]) -> None:
    """Train a small classifier, whose layers a model can be told (train --features)."""
    parser = Parser("classifier", classifier)
    parser.add_argument("--data", required=True, help="a name, or a path to your own, with classes")
    parser.add_argument("--out", type=Path, required=True, help="the folder to save it in")
    parser.add_argument("--levels", type=positive, help="requantise pixels to so many levels")
    parser.add_argument("--size", type=positive, help="side that a folder's images are cut to")
    parser.add_argument("--channels", type=positive, help="1 for grey, 3 for colour")
    parser.add_argument("--steps", type=positive, default=2000, help="default: 2000")
    parser.add_argument("--batch-size", type=positive, default=64, help="images a step (64)")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate at first (0.002)")
    parser.add_argument("--width", type=positive, default=32, help="channels of conv1 (32)")
    parser.add_argument("--embedding", type=positive, default=64, help="its numbers (64)")
    parser.add_argument("--seed", type=seed, default=0, help="of the weights and the order")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    import torch

    from nextpixel.classifier import Classifier, fit_classifier
    from nextpixel.codes import load_data
    from nextpixel.errors import UserError

    device = find_device(args)
    if not 0 < args.lr < math.inf:
        raise UserError(f"--lr must be above 0, not {args.lr}.")
    data = load_data(
        args.data,
        levels=args.levels,
        data_dir=args.data_dir,
        size=args.size,
        channels=args.channels,
    )
    if data.classes is None:
        raise UserError(f"{data.name} has no classes to tell apart: give data that have some.")
    torch.manual_seed(args.seed)
    model = Classifier(
        shape=data.shape,
        levels=data.levels,
        classes=data.classes,
        width=args.width,
        embedding=args.embedding,
    ).to(device)
    with progress("training") as show:
        losses = fit_classifier(
            model,
            data,
            out=args.out,
            steps=args.steps,
            batch_size=args.batch_size,
            lr=args.lr,
            seed=args.seed,
            progress=show,
        )
    accuracy, count = model.accuracy(data.test), len(data.test)
    error = math.sqrt(accuracy * (1 - accuracy) / count)
    last = losses[-100:]
    print(f"Loss over the last {len(last)} steps: {sum(last) / len(last):.4f} nats an image")
    print(f"Test accuracy: {accuracy:.2%} ± {error:.2%} of {count:,} images of {data.name}")
    shapes = ", ".join(f"{name} {'x'.join(map(str, s))}" for name, s in model.shapes.items())
    print(f"Its layers: {shapes}")
    print(f"The classifier is in {args.out}: try nextpixel train --features {args.out} --layer ...")
