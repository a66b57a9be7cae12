"""`nextpixel restore`: degraded images, restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from nextpixel.errors import UserError
from nextpixel.options import (
    Parser,
    add_draws,
    add_hidden,
    add_images,
    in_turn,
    known_pixels,
    load_data,
    load_model,
    output,
    parse_classes,
    positive,
    progress,
    read_pictures,
)

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from nextpixel.autoregressive import AutoregressiveModel
    from nextpixel.evaluate import Score
    from nextpixel.restoration import Degraded, Quality, Task

__all__ = ["restore"]

SHOWN = 8  # images in the picture


def restore(argv: list[str]) -> None:
    """Restore degraded images, several times each.

    A model trained with --task is told all of the degraded image, and restorations are drawn from
    what it then holds possible. Without picture files, test images are degraded and restored, and
    compared with the originals.
    """
    parser = Parser("restore", restore)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    add_images(parser, "degraded picture files")
    parser.add_argument(
        "--degrade", action="store_true", help="the picture files are clean: degrade them first"
    )
    add_hidden(parser, "only to inpaint; by default a test image's holes are random")
    parser.add_argument("--class", dest="classes", metavar="C", help="class of the picture files")
    add_draws(parser, "restorations", "restored.png")
    parser.add_argument("--batch-size", type=positive, default=256, help="images drawn together")
    parser.add_argument(
        "--npz", type=output(".npz"), help="also write all draws as integers, as array x"
    )
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    import numpy as np

    from nextpixel import plots
    from nextpixel import restore as restoring
    from nextpixel.files import atomic_write

    model = load_model(args, conditioned=True)
    if model.role != "restore":
        raise UserError(f"{args.model} was not trained with --task: it cannot restore images.")
    task = cast("Task", model.conditioner)
    x, classes, degraded = images_to_restore(args, model, task)
    with progress("restoring") as show:
        draws = restoring.restore(
            model,
            degraded,
            draws=args.draws,
            classes=classes,
            seed=args.seed,
            temperature=args.temperature,
            batch_size=args.batch_size,
            progress=show,
        )
    some = slice(SHOWN)
    original = None if x is None else x[some]
    picture = restoring.show(task, degraded[some], draws[:, some], model.levels, original)
    plots.save_image(picture, args.out)
    written = [args.out]
    if args.npz is not None:
        with atomic_write(args.npz) as file:
            np.savez_compressed(file, x=draws.numpy(), levels=model.levels)
        written.append(args.npz)
    print(f"{args.model} ({', '.join(map(str, task.settings().values()))}), {len(degraded)} images")
    if x is not None:
        score = restoring.score(model, x, degraded, classes)
        print(table(score, restoring.qualities(task, degraded, draws, model.levels, x)))
        if degraded.mask is not None:
            hidden = (~degraded.mask).float().mean().item()
            print(f"Of the pixels {hidden:.1%} are hidden; bits/dim count them over all pixels.")
    print(f"Written: {', '.join(map(str, written))}")


def images_to_restore(
    args: argparse.Namespace, model: AutoregressiveModel, task: Task
) -> tuple[Tensor | None, Tensor | None, Degraded]:
    """Reads or makes degraded images.

    Returns:
        The clean images if they are known, the classes if the model takes them, and the images to
        restore.
    """
    import torch

    from nextpixel import plots
    from nextpixel.data.images import requantise, spread

    holes = any((args.keep, args.hide, args.box, args.mask))
    if holes and task.name != "inpaint":
        raise UserError(
            f"{args.model} does not fill in holes ({task.name}): name no hidden pixels."
        )
    known = known_pixels(args, model.shape) if holes else None
    if args.images:
        if args.data is not None:
            raise UserError("Restore picture files or images of a data set: leave --data out.")
        if model.classes and args.classes is None:
            raise UserError("This model needs the class of the picture: give --class.")
        classes = in_turn(parse_classes(args.classes, model.classes), len(args.images))
        numbers = list(range(len(args.images)))
        if not args.degrade:
            channels, height, width = task.context_shape(model.shape)
            if task.name == "inpaint":
                channels -= 1
                if known is None:
                    raise UserError("Say which pixels are hidden: --mask, --box, --hide or --keep.")
            pictures = read_pictures(args.images, (channels, height, width))
            return None, classes, task.from_pictures(pictures, model.shape, model.levels, known)
        x = torch.from_numpy(requantise(read_pictures(args.images, model.shape), 256, model.levels))
    else:
        if args.classes is not None or args.degrade:
            raise UserError(
                "Test images have their classes already, and are degraded: leave --class and "
                "--degrade out, or give picture files."
            )
        test = load_data(args, model).test
        test.refuse_padding("A score of restorations")
        chosen = spread(len(test), args.n)
        pixels, ids = test.batch(chosen)
        x, numbers = torch.from_numpy(pixels), chosen.tolist()
        classes = None if model.classes is None or ids is None else torch.from_numpy(ids)
    if known is None:
        return x, classes, task.degrade(x, model.levels, numbers)
    pictures = plots.to_uint8(x, model.levels)
    return x, classes, task.from_pictures(pictures, model.shape, model.levels, known)


def table(score: Score, qualities: dict[str, Quality]) -> str:
    """Writes the exact score and how near the restorations come to the originals."""
    width = max(map(len, qualities))
    lines = [f"p(clean | degraded): {score}", "", f"{'':{width}}  PSNR/dB   SSIM"]
    lines += [f"{name:{width}}  {q.psnr:7.2f} {q.ssim:6.3f}" for name, q in qualities.items()]
    return "\n".join(lines)
