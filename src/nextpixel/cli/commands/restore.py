"""Restore degraded images, several times each.

A model trained with --task is conditioned on the whole degraded image, and restorations are samples
given that image. Images of a data set are degraded first, and the restorations are compared with
the originals.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nextpixel.cli.options import (
    MODEL,
    Parser,
    add_common,
    add_draws,
    add_hidden,
    add_images,
    hidden_options,
    image_options,
    positive,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from nextpixel.cli.pictures import Pictures
    from nextpixel.conditioning.degradation import Degraded, Task
    from nextpixel.evaluation.image_quality import Quality
    from nextpixel.evaluation.likelihood import Score
    from nextpixel.models.base.autoregressive import AutoregressiveModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel restore mnist-inpaint --hide left -n 6",
    "nextpixel restore mnist-super-resolution --limit 200 --draws 8",
    "nextpixel restore mnist-super-resolution small.png --out large.png",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    add_images(parser, limit="restore and score")
    parser.add_argument(
        "--degrade", action="store_true", help="IMAGES are clean: degrade them first"
    )
    add_hidden(parser, "only to inpaint; default for clean images: random holes")
    add_draws(parser, "restorations", "restored.png")
    parser.add_argument("--batch-size", type=positive, default=256, help="images at a time")
    parser.add_output(
        "--npz",
        (".npz",),
        "also write all restorations as integers, as array x (draws, images, C, H, W)",
    )
    add_common(parser)


@dataclass
class Restorable:
    """The images to restore.

    Attributes:
        degraded: The degraded images.
        clean: The originals, integers `(N, C, H, W)`, where they are known.
        classes: Their classes, where the model takes them.
    """

    degraded: Degraded
    clean: Tensor | None
    classes: Tensor | None


def run(args: argparse.Namespace) -> None:
    """Restores the images and draws some restorations beside them."""
    from nextpixel.cli.loading import load_model
    from nextpixel.data.sampler import evenly_spaced
    from nextpixel.tasks import restoration
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import images as plots

    device = set_up(args.device, args.threads)
    model = load_model(args.model, device, conditioned=True, trust=args.trust)
    if model.role != "restore":
        raise UserError(
            f"{args.model} was not trained with --task, so it cannot restore images: name a model "
            "that was, as mnist-inpaint, or train one, for example by "
            f"{training_command(args.model, 'inpaint')}."
        )
    task = cast("Task", model.conditioner)
    images = images_to_restore(args, model, task)
    degraded = images.degraded
    with progress("restoring") as show:
        draws = restoration.restore(
            model,
            degraded,
            draws=args.draws,
            classes=images.classes,
            seed=args.seed,
            temperature=args.temperature,
            batch_size=args.batch_size,
            progress=show,
        )
    shown = evenly_spaced(len(degraded), args.n or (None if args.limit is None else args.shown))
    originals = None if images.clean is None else images.clean[shown]
    picture = restoration.show(task, degraded[shown], draws[:, shown], model.levels, originals)
    plots.save_image(picture, args.out)
    written = [args.out]
    if args.npz is not None:
        write_npz(args.npz, draws, model.levels)
        written.append(args.npz)
    settings = ", ".join(map(str, task.settings().values()))
    print(f"{args.model} ({settings}), {count(len(degraded), 'image')}")
    if len(draws) > restoration.SHOWN:
        print(f"The picture shows {restoration.SHOWN} of the {len(draws)} draws of each image.")
    if images.clean is not None:
        score = restoration.score(model, images.clean, degraded, images.classes)
        qualities = restoration.qualities(task, degraded, draws, model.levels, images.clean)
        report(score, qualities, degraded)
    print(f"Written: {', '.join(map(str, written))}")


def training_command(name: str, task: str) -> str:
    """Returns a command that trains a model for a task, on the data of the model of this name."""
    from nextpixel.model_folders import training_record

    data = training_record(name).get("data", "FOLDER")
    return (
        f"nextpixel train --model GatedPixelCNN --data {shlex.quote(data)} --task {task} "
        f"--out runs/{task}"
    )


def write_npz(path: Path, draws: Tensor, levels: int) -> None:
    """Writes restorations as integers."""
    import numpy as np

    from nextpixel.utils.files import atomic_write

    with atomic_write(path) as file:
        np.savez_compressed(file, x=draws.numpy(), levels=levels)


def report(score: Score, qualities: dict[str, Quality], degraded: Degraded) -> None:
    """Prints how good the restorations of known originals are."""
    print(table(score, qualities))
    if degraded.mask is not None:
        hidden = (~degraded.mask).float().mean().item()
        print(f"Of the pixels {hidden:.1%} are hidden; bits/dim are bits over all pixels.")


def images_to_restore(
    args: argparse.Namespace, model: AutoregressiveModel, task: Task
) -> Restorable:
    """Loads clean images and degrades them, or loads degraded images."""
    from nextpixel.cli.pictures import is_dataset, known_pixels

    any_hidden = any(hidden_options(args).values())
    if any_hidden and task.name != "inpaint":
        raise UserError(
            f"{args.model} does not fill in holes (its task is {task.name}): leave --keep, --hide, "
            "--box and --mask out, or train a model that does, by "
            f"{training_command(args.model, 'inpaint')}."
        )
    known = known_pixels(model.shape, **hidden_options(args)) if any_hidden else None
    of_dataset = is_dataset(args.images, args.split)
    if of_dataset and args.degrade:
        raise UserError(
            "Images of a data set are degraded anyway: leave --degrade out, or give picture files."
        )
    if of_dataset or args.degrade:
        return degrade_clean(args, model, task, known)
    return load_degraded(args, model, task, known)


def degrade_clean(
    args: argparse.Namespace, model: AutoregressiveModel, task: Task, known: Tensor | None
) -> Restorable:
    """Loads clean images and degrades them; a mask of known pixels replaces random holes."""
    from nextpixel.cli.pictures import load_images
    from nextpixel.viz import images as plots

    pictures = load_images(args.model, model.shape, model.levels, **image_options(args))
    numbers = pictures.numbers(args.limit or args.n, args.shown)
    pictures.images.refuse_padding("A score of restorations")
    x, classes = batch_of(pictures.fit(model, args.model, args.classes), model, numbers)
    if known is None:
        degraded = task.degrade(x, model.levels, numbers.tolist())
    else:
        bytes_of_x = plots.to_uint8(x, model.levels)
        degraded = task.from_pictures(bytes_of_x, model.shape, model.levels, known)
    return Restorable(degraded, x, classes)


def load_degraded(
    args: argparse.Namespace, model: AutoregressiveModel, task: Task, known: Tensor | None
) -> Restorable:
    """Loads degraded images."""
    from nextpixel.cli.pictures import load_images

    shape = model.shape
    if task.name != "inpaint":  # a picture with holes is as large as the whole one
        shape = task.context_shape(shape)
    elif known is None:
        raise UserError("Say which pixels are hidden, by --mask, --box, --hide or --keep.")
    pictures = load_images(args.model, shape, 256, **image_options(args))
    numbers = pictures.numbers(args.limit or args.n, args.shown)
    x, classes = batch_of(pictures.classified(model, args.classes), model, numbers)
    return Restorable(task.from_pictures(x, model.shape, model.levels, known), None, classes)


def batch_of(
    pictures: Pictures, model: AutoregressiveModel, numbers: NDArray[np.int64]
) -> tuple[Tensor, Tensor | None]:
    """Returns images and, if the model takes them, their classes."""
    import torch

    x, ids = pictures.images.batch(numbers)
    classes = pictures.mix if model.classes is None or ids is None else ids
    return torch.from_numpy(x), None if classes is None else torch.from_numpy(classes)


def table(score: Score, qualities: dict[str, Quality]) -> str:
    """Returns a table of the score, and of the distances to the originals."""
    width = max(map(len, qualities))
    lines = [f"p(clean | degraded): {score}", "", f"{'':{width}}  PSNR/dB   SSIM"]
    lines += [f"{name:{width}}  {q.psnr:7.2f} {q.ssim:6.3f}" for name, q in qualities.items()]
    return "\n".join(lines)
