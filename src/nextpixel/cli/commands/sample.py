"""Draw new images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextpixel.cli.options import (
    MODEL_OR_BUNDLE,
    PICTURES,
    Parser,
    add_common,
    add_noise,
    in_turn,
    output,
    parse_classes,
    parse_numbers,
    positive,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    import torch
    from PIL.Image import Image
    from torch import Tensor

    from nextpixel.latents.generator import LatentGenerator
    from nextpixel.models.base.autoregressive import AutoregressiveModel
    from nextpixel.models.base.image_model import ImageModel
    from nextpixel.models.base.latent import LatentModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel sample mnist-gated --out grid.png",
    "nextpixel sample mnist-gated -n 20 --class 3 --gif three.gif",
    "nextpixel sample mnist-gated --interpolate 3,8 --columns 9",
]

EACH = 8  # images of each class, where -n does not say how many there are in all
MOST = 160  # but not more than that
STEPS = 11  # from one class to another


@dataclass
class Sheet:
    """What is drawn, and where it goes.

    Attributes:
        n: Number of images.
        c: Their context.
        numbers: Their numbers, which decide their noise; None for 0 to n - 1.
        layout: Options of `viz.images.grid`.
    """

    n: int
    c: Tensor | None
    numbers: list[int] | None = None
    layout: dict[str, Any] = field(default_factory=dict)


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", help=MODEL_OR_BUNDLE)
    parser.add_argument(
        "-n",
        type=positive,
        help=f"draw so many images (default: {EACH} of each class, up to {MOST}; 64 of one, or "
        "without any); rows of --interpolate",
    )
    parser.add_argument(
        "--class",
        dest="classes",
        metavar="C",
        help="a class (3), several in turn (3,5,8) or a mix (3=0.7,8=0.3); all in turn by default",
    )
    parser.add_argument(
        "--interpolate",
        metavar="A,B",
        help="go from class A to class B, with the same noise in a row",
    )
    add_noise(parser)
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="above 1: exaggerate what the class asks for (after training with drop_context)",
    )
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        default=Path("samples.png"),
        help="the picture to write, a grid",
    )
    parser.add_argument(
        "--npz", type=output(".npz"), help="also write the integers, as array x (and y)"
    )
    parser.add_argument(
        "--gif", type=output(".gif"), help="also write an animation of the picture growing"
    )
    parser.add_argument(
        "--columns",
        type=positive,
        help=f"columns of the grid (default: a class a row; pictures of --interpolate: {STEPS})",
    )
    parser.add_argument(
        "--all-at-once",
        action="store_true",
        help="show the wrong way, all pixels drawn in one pass, beside the right one",
    )
    parser.add_argument(
        "--pixels",
        choices=["mean", "draw"],
        help="of a VQ-VAE with its prior: what to make of codes (default: mean)",
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="images at a time")
    parser.add_argument(
        "--sampler",
        choices=["auto", "cached", "replayed", "full", "fixed-point"],
        default="auto",
        help="how to draw; the picture is the same (default: auto, the quickest)",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Draws the images."""
    from nextpixel.cli.loading import load_bundle
    from nextpixel.utils.devices import set_up

    if args.interpolate is not None and (args.classes is not None or args.all_at_once):
        raise UserError("--interpolate goes without --class and --all-at-once: leave them out.")
    if args.gif is not None and args.sampler == "fixed-point":
        raise UserError("--gif shows pixel after pixel, and a fixed point has no such order.")
    device = set_up(args.device, args.threads)
    generator = load_bundle(args.model, device, trust=args.trust)
    if generator is None:
        draw_pixels(args, device)
    else:
        draw_codes(args, generator)


def draw_pixels(args: argparse.Namespace, device: torch.device) -> None:
    """Draws images from a model of pixels, or from one with a code."""
    from nextpixel import sampling
    from nextpixel.cli.loading import check_guidance, load_model_or_latent
    from nextpixel.models.base.latent import LatentModel
    from nextpixel.viz import images as pictures

    if args.pixels is not None:
        raise UserError(f"--pixels is for a VQ-VAE with its prior, not {args.model}: leave it out.")
    model = load_model_or_latent(args.model, device, trust=args.trust)
    of_pixels: dict[str, Any] = {"guidance": args.guidance, "sampler": args.sampler}
    if isinstance(model, LatentModel):
        refuse(args, "models without a code", f"{args.model} ({type(model).__name__}) has one")
        of_pixels = {}
    check_guidance(args.model, args.guidance)
    sheet = class_a_row(args, model) if args.interpolate is None else mixes(args, model)
    how: dict[str, Any] = {"seed": args.seed, "temperature": args.temperature}
    x, moments = drawn(model, sheet, args, how | of_pixels)
    picture = picture_of(x, model, sheet)
    if args.all_at_once and not isinstance(model, LatentModel):
        at_once = sampling.all_at_once(model, sheet.n, sheet.c, **how)
        wrong = picture_of(at_once, model, sheet)
        picture = pictures.captioned_row(
            {"all at once: wrong": wrong, "pixel by pixel: right": picture}
        )
    film = pictures.sampling_frames(
        *moments, model.levels, model.data_record.spectrogram, **sheet.layout
    )
    write(args, sheet, x, model.levels, picture, film)


def drawn(
    model: AutoregressiveModel | LatentModel,
    sheet: Sheet,
    args: argparse.Namespace,
    how: dict[str, Any],
) -> tuple[Tensor, tuple[list[Tensor], list[int]]]:
    """Draws the images of a sheet; for a film also the moments on the way, as `sampling.film`."""
    from nextpixel import sampling
    from nextpixel.models.base.latent import LatentModel

    how = {**how, "numbers": sheet.numbers}
    passes: list[int] = []
    with progress("drawing") as show:
        if args.gif is not None and not isinstance(model, LatentModel):
            moments = sampling.film(model, sheet.n, sheet.c, **how, progress=show)
            return moments[0][-1], moments
        if "sampler" in how:
            how["passes"] = passes.append
        x = model.sample(sheet.n, sheet.c, **how, batch_size=args.batch_size, progress=show)
    if passes:
        sites = math.prod(model.shape)
        print(f"{max(passes)} passes were enough, where one for each site are {sites}")
    return x, ([], [])


def draw_codes(args: argparse.Namespace, generator: LatentGenerator) -> None:
    """Draws codes from a prior, and shows the images that they stand for."""
    refuse(args, "models of pixels", f"{args.model} draws codes", sampler=False)
    sheet = class_a_row(args, generator.prior)
    with progress("drawing") as show:
        x = generator.sample(
            sheet.n,
            sheet.c,
            pixels=args.pixels or "mean",
            seed=args.seed,
            temperature=args.temperature,
            sampler=args.sampler,
            batch_size=args.batch_size,
            progress=show,
        )
    write(args, sheet, x, generator.levels, picture_of(x, generator, sheet))


def refuse(args: argparse.Namespace, whose: str, but: str, sampler: bool = True) -> None:
    """Refuses the options that are about drawing pixel by pixel, or about a context."""
    asked = {
        "--guidance": args.guidance != 1,
        "--gif": args.gif is not None,
        "--all-at-once": args.all_at_once,
        "--interpolate": args.interpolate is not None,
        "--sampler": sampler and args.sampler != "auto",
    }
    for option, given in asked.items():
        if given:
            raise UserError(f"{option} is for {whose}, and {but}: leave it out.")


def picture_of(x: Tensor, model: ImageModel | LatentGenerator, sheet: Sheet) -> Image:
    """Lays images out as the sheet says."""
    from nextpixel.viz import images as pictures

    return pictures.grid(
        pictures.for_display(x, model.data_record.spectrogram), model.levels, **sheet.layout
    )


def write(
    args: argparse.Namespace,
    sheet: Sheet,
    x: Tensor,
    levels: int,
    picture: Image,
    film: Iterable[Image] = (),
) -> None:
    """Writes what was asked for, and says where."""
    from nextpixel.viz import images as pictures

    pictures.save_image(picture, args.out)
    if args.gif is not None:
        pictures.save_gif(film, args.gif)
    if args.npz is not None:
        write_npz(args.npz, x, sheet, levels)
    report(sheet, [path for path in (args.out, args.gif, args.npz) if path is not None])


def report(sheet: Sheet, written: Sequence[Path]) -> None:
    """Says how many images were drawn, and where they are."""
    print(f"Drew {sheet.n} images: {', '.join(map(str, written))}")


def write_npz(path: Path, x: Tensor, sheet: Sheet, levels: int) -> None:
    """Writes images as integers, with their classes if each has one."""
    import numpy as np

    from nextpixel.utils.files import atomic_write

    pixels = x.numpy().astype(np.uint8 if levels <= 256 else np.int64)
    with atomic_write(path) as file:
        if sheet.c is None or sheet.c.is_floating_point():
            np.savez_compressed(file, x=pixels, levels=levels)
        else:
            np.savez_compressed(file, x=pixels, y=sheet.c.numpy(), levels=levels)


def class_a_row(args: argparse.Namespace, model: ImageModel) -> Sheet:
    """Plans images of no class, of a mix, of one class, or of several in turn with a row for each.

    Image k is of the same class whatever the layout: places are what makes rows of classes.
    """
    from nextpixel.cli.loading import class_names

    c = parse_classes(args.classes, model.classes)
    if c is None or c.is_floating_point() or len(c) == 1:
        n = args.n or 64
        return Sheet(n, in_turn(c, n), layout={"columns": args.columns})
    model.context(c, len(c))  # refuses a class that there is not, before it is named
    n = args.n or min(EACH * len(c), MOST)
    ids = in_turn(c, n)
    if args.columns is not None or n < len(c):
        return Sheet(n, ids, layout={"columns": args.columns})
    columns = math.ceil(n / len(c))
    names = class_names(model)
    layout = {
        "columns": columns,
        "places": [k % len(c) * columns + k // len(c) for k in range(n)],
        "row_labels": [names[i] for i in c.tolist()],
    }
    return Sheet(n, ids, layout=layout)


def mixes(args: argparse.Namespace, model: ImageModel) -> Sheet:
    """Plans rows that go from one class to another, mix by mix, with the same noise in a row."""
    import torch

    from nextpixel.cli.loading import class_names

    if model.classes is None:
        raise UserError("This model is unconditional: leave --interpolate out.")
    ends = parse_numbers(args.interpolate, 2, "--interpolate")
    context = model.context(torch.tensor(ends), 2)
    assert context is not None
    assert context.classes is not None
    first, last = context.classes.cpu()
    rows, steps = args.n or EACH, args.columns or STEPS
    if steps < 2:
        raise UserError("--interpolate takes at least 2 columns, one for each class.")
    shares = torch.linspace(0, 1, steps)
    weights = torch.stack([torch.lerp(first, last, share) for share in shares])
    names = class_names(model)
    between = [f"{100 * share:.0f} %" for share in shares[1:-1].tolist()]
    labels = [names[ends[0]], *between, names[ends[1]]]
    numbers = [row for row in range(rows) for _ in range(steps)]
    layout = {"columns": steps, "column_labels": labels}
    return Sheet(rows * steps, weights.repeat(rows, 1), numbers, layout)
