"""Train a classifier, to condition models on its layers or to evaluate samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_common, add_data, data_options, positive, seed
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from nextpixel.conditioning.classifier import Classifier
    from nextpixel.data import Dataset

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel classifier --data mnist --out runs/classifier",
    "nextpixel classifier --data my.npz --levels 4 --steps 1000 --out runs/classifier",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    add_data(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the folder to write"
    )
    parser.add_argument("--steps", type=positive, default=2000, help="training steps")
    parser.add_argument("--batch-size", type=positive, default=64, help="images in a training step")
    parser.add_argument("--lr", type=float, default=2e-3, help="initial learning rate")
    parser.add_argument(
        "--width", type=positive, default=32, help="channels of the first layer, conv1"
    )
    parser.add_argument("--embedding", type=positive, default=64, help="length of the embedding")
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="seed of the first weights and of the order of the images",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Trains the classifier and saves it."""
    import torch

    from nextpixel.conditioning.classifier import Classifier, fit_classifier
    from nextpixel.latents.codes import load_data
    from nextpixel.utils.devices import set_up

    device = set_up(args.device, args.threads)
    if not 0 < args.lr < math.inf:
        raise UserError(f"--lr is {args.lr}: give a number above 0.")
    data = load_data(args.data, **data_options(args))
    if data.classes is None:
        raise UserError(f"{data.name} has no classes: give data that have some.")
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
    report(model, data, losses, args.out)


def report(model: Classifier, data: Dataset, losses: Sequence[float], out: Path) -> None:
    """Prints the loss, the test accuracy and the layers."""
    accuracy, images = model.accuracy(data.test), len(data.test)
    error = math.sqrt(accuracy * (1 - accuracy) / images)
    last = losses[-100:]
    steps = count(len(last), "step")
    print(f"Loss over the last {steps}: {sum(last) / len(last):.4f} nats per image")
    print(f"Test accuracy: {accuracy:.2%} ± {error:.2%} of {count(images, 'image')} of {data.name}")
    shapes = ", ".join(f"{name} {'x'.join(map(str, s))}" for name, s in model.shapes.items())
    print(f"Its layers: {shapes}")
    print(
        f"The classifier is in {out}: try nextpixel train --model GatedPixelCNN "
        f"--data {data.name} --features {out} --layer embedding --out RUN"
    )
