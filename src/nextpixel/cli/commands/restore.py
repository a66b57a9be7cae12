"""Restore degraded images, several times each.

A model trained with --task is told all of the degraded image, and restorations are drawn from what
it then holds possible. Images of a data set are degraded and restored, and compared with the
originals.
"""

from __future__ import annotations

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
    output,
    positive,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

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
    parser.add_argument("model", help=MODEL)
    add_images(parser, limit="restore and score")
    parser.add_argument(
        "--degrade", action="store_true", help="the pictures given are clean: degrade them first"
    )
    add_hidden(parser, "only to inpaint; by default the holes of clean images are random")
    add_draws(parser, "restorations", "restored.png")
    parser.add_argument("--batch-size", type=positive, default=256, help="images at a time")
    parser.add_argument(
        "--npz", type=output(".npz"), help="also write all draws as integers, as array x"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Draws the restorations, and writes some of them beside the images."""
    import numpy as np

    from nextpixel.cli.loading import load_model
    from nextpixel.data.sampler import evenly_spaced
    from nextpixel.tasks import restoration
    from nextpixel.utils.devices import set_up
    from nextpixel.utils.files import atomic_write
    from nextpixel.viz import images as plots

    device = set_up(args.device, args.threads)
    model = load_model(args.model, device, conditioned=True, trust=args.trust)
    if model.role != "restore":
        raise UserError(f"{args.model} was not trained with --task: it cannot restore images.")
    task = cast("Task", model.conditioner)
    x, classes, degraded = images_to_restore(args, model, task)
    with progress("restoring") as show:
        draws = restoration.restore(
            model,
            degraded,
            draws=args.draws,
            classes=classes,
            seed=args.seed,
            temperature=args.temperature,
            batch_size=args.batch_size,
            progress=show,
        )
    some = evenly_spaced(len(degraded), args.n or (None if args.limit is None else args.shown))
    original = None if x is None else x[some]
    picture = restoration.show(task, degraded[some], draws[:, some], model.levels, original)
    plots.save_image(picture, args.out)
    written = [args.out]
    if args.npz is not None:
        with atomic_write(args.npz) as file:
            np.savez_compressed(file, x=draws.numpy(), levels=model.levels)
        written.append(args.npz)
    print(f"{args.model} ({', '.join(map(str, task.settings().values()))}), {len(degraded)} images")
    if x is not None:
        score = restoration.score(model, x, degraded, classes)
        report(score, restoration.qualities(task, degraded, draws, model.levels, x), degraded)
    print(f"Written: {', '.join(map(str, written))}")


def report(score: Score, qualities: dict[str, Quality], degraded: Degraded) -> None:
    """Prints how good the restorations are, where the originals are known."""
    print(table(score, qualities))
    if degraded.mask is not None:
        hidden = (~degraded.mask).float().mean().item()
        print(f"Of the pixels {hidden:.1%} are hidden; bits/dim count them over all pixels.")


def images_to_restore(
    args: argparse.Namespace, model: AutoregressiveModel, task: Task
) -> tuple[Tensor | None, Tensor | None, Degraded]:
    """Reads or makes degraded images.

    Returns:
        The clean images if they are known, the classes if the model takes them, and the images to
        restore.
    """
    import torch

    from nextpixel.cli.loading import known_pixels, load_images, names_data
    from nextpixel.viz import images as plots

    holes = any(hidden_options(args).values())
    if holes and task.name != "inpaint":
        raise UserError(
            f"{args.model} does not fill in holes ({task.name}): name no hidden pixels."
        )
    known = known_pixels(model.shape, **hidden_options(args)) if holes else None
    of_data = names_data(args.images, args.split)
    clean = of_data or args.degrade
    if of_data and args.degrade:
        raise UserError(
            "Images of a data set are degraded anyway: leave --degrade out, or give picture files."
        )
    shape, levels = model.shape, model.levels
    if not clean:
        levels = 256
        if task.name != "inpaint":  # where a picture with holes is as large as the whole one
            shape = task.context_shape(shape)
        elif known is None:
            raise UserError("Say which pixels are hidden: --mask, --box, --hide or --keep.")
    pictures = load_images(args.model, shape, levels, **image_options(args))
    numbers = pictures.numbers(args.limit or args.n, args.shown)
    if clean:
        pictures.images.refuse_padding("A score of restorations")
        pictures = pictures.fit(model, args.model, args.classes)
    else:
        pictures = pictures.classified(model, args.classes)
    batch, ids = pictures.images.batch(numbers)
    pixels = torch.from_numpy(batch)
    classes = pictures.mix
    if model.classes is not None and ids is not None:
        classes = torch.from_numpy(ids)
    if not clean:
        return None, classes, task.from_pictures(pixels, model.shape, model.levels, known)
    if known is None:
        return pixels, classes, task.degrade(pixels, model.levels, numbers.tolist())
    given = plots.to_uint8(pixels, model.levels)
    return pixels, classes, task.from_pictures(given, model.shape, model.levels, known)


def table(score: Score, qualities: dict[str, Quality]) -> str:
    """Writes the exact score and how near the restorations come to the originals."""
    width = max(map(len, qualities))
    lines = [f"p(clean | degraded): {score}", "", f"{'':{width}}  PSNR/dB   SSIM"]
    lines += [f"{name:{width}}  {q.psnr:7.2f} {q.ssim:6.3f}" for name, q in qualities.items()]
    return "\n".join(lines)
