"""Sample new images."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextpixel.cli.options import (
    CLASSES,
    MODEL_OR_BUNDLE,
    PICTURES,
    Parser,
    add_class,
    add_common,
    add_guidance,
    add_noise,
    positive,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    import torch
    from numpy.typing import ArrayLike
    from PIL.Image import Image
    from torch import Tensor

    from nextpixel.cli.contexts import Classes, HasClasses
    from nextpixel.cli.programs import ProgramModel
    from nextpixel.latents.generator import LatentGenerator
    from nextpixel.models.base.autoregressive import AutoregressiveModel
    from nextpixel.models.base.image_model import ImageModel
    from nextpixel.models.base.latent import LatentModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel sample mnist --out grid.png",
    "nextpixel sample mnist -n 20 --class 3 --gif three.gif",
    "nextpixel sample mnist --interpolate --class 3,8 --columns 9",
    "nextpixel sample runs/mine -n 4 --size 64 96",
]

PER_CLASS = 8  # default number of images of each class
MOST = 160  # but of all classes together
WITHOUT_CLASSES = 64
INTERPOLATED = 11  # pictures from one class to another


@dataclass
class Sheet:
    """A plan of the images to sample and of the grid that shows them.

    Attributes:
        n: Number of images.
        c: Their context.
        numbers: Their numbers, which decide their noise; None for 0 to n - 1.
        layout: Options of `viz.images.grid`.
    """

    n: int
    c: Classes | None
    numbers: list[int] | None = None
    layout: dict[str, Any] = field(default_factory=dict)


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="MODEL", help=f"{MODEL_OR_BUNDLE}; or a .program")
    parser.add_argument(
        "-n",
        type=positive,
        help=f"sample N images (default: {PER_CLASS} of each class, up to {MOST}; "
        f"{WITHOUT_CLASSES} of one class, or without classes); rows of --interpolate",
    )
    add_class(parser, f"ids or names: {CLASSES} (default: all in turn)")
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help="interpolate between the two classes of --class, with the same noise in a row",
    )
    parser.add_argument(
        "--columns",
        type=positive,
        help="columns of the grid (default: a class in each row; "
        f"with --interpolate {INTERPOLATED})",
    )
    add_noise(parser)
    add_guidance(parser)
    parser.add_argument(
        "--size",
        nargs=2,
        type=positive,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images, if not that of those the model learned from; such images are textures",
    )
    add_outputs(parser)
    parser.add_argument("--batch-size", type=positive, default=256, help="images at a time")
    parser.add_argument(
        "--sampler",
        choices=["auto", "engine", "cached", "full", "fixed-point"],
        default="auto",
        help="all give the same picture (default: auto, the fastest)",
    )
    parser.add_argument(
        "--pixels",
        choices=["mean", "draw"],
        help="of a VQ-VAE with its prior: show the mean of the pixels given the codes, or draw "
        "them (default: mean)",
    )
    add_common(parser)


def add_outputs(parser: Parser) -> None:
    """Adds the options for what to write."""
    parser.add_output("--out", PICTURES, "the picture to write, a grid", default="samples.png")
    parser.add_output(
        "--npz", (".npz",), "also write the integers, as arrays x and, with classes, y"
    )
    parser.add_output(
        "--gif", (".gif",), "also write an animation of the pixels as they are sampled"
    )
    parser.add_argument(
        "--all-at-once",
        action="store_true",
        help="also show, on the left, what goes wrong if all pixels are sampled in one pass",
    )


def run(args: argparse.Namespace) -> None:
    """Samples the images and writes them."""
    if args.interpolate and args.all_at_once:
        raise UserError("--interpolate and --all-at-once exclude each other: leave one out.")
    if args.all_at_once and args.guidance != 1:
        raise UserError("--all-at-once samples without --guidance: leave one out.")
    if args.gif is not None and args.sampler == "fixed-point":
        raise UserError(
            "--gif shows one pixel after another, and --sampler fixed-point has no such order: "
            "leave one out."
        )
    program = find_program(args)
    if program is not None:
        sample_by_program(args, program)
    else:
        sample_by_model(args)


def find_program(args: argparse.Namespace) -> ProgramModel | None:
    """Loads the program to sample by; returns None if there is none, or it cannot do what is asked.

    Raises:
        UserError: It is a damaged file, or an option does not fit it.
    """
    from nextpixel.cli.contexts import check_guidance, refuse_guidance
    from nextpixel.cli.programs import is_program, kept_program, load_program

    if is_program(args.model):
        refuse_for_program(args)
        model = load_program(args.model)
        if args.guidance != 1 and model.program.description.get("guidance") is False:
            refuse_guidance(args.model)
        return model
    program = kept_program(args.model) if is_plain(args) else None
    if program is not None:
        check_guidance(args.model, args.guidance)
    return program


def sample_by_model(args: argparse.Namespace) -> None:
    """Samples with PyTorch, from a model of any kind."""
    from nextpixel.cli.loading import load_bundle
    from nextpixel.utils.devices import set_up

    device = set_up(args.device, args.threads)
    generator = load_bundle(args.model, device, trust=args.trust)
    if generator is None:
        sample_pixels(args, device)
    else:
        sample_codes(args, generator)


def is_plain(args: argparse.Namespace) -> bool:
    """Checks whether a program does all that the options ask for, where "auto" takes the engine."""
    from nextpixel.utils.devices import is_surely_cpu

    others = args.gif is not None or args.all_at_once or args.interpolate or args.pixels is not None
    others = others or args.size is not None
    return (
        not others
        and args.sampler in ("auto", "engine")
        and os.environ.get("NEXTPIXEL_ENGINE") != "0"
        and is_surely_cpu(args.device)
    )


def refuse_for_program(args: argparse.Namespace) -> None:
    """Raises a UserError for options that a program's file cannot obey."""
    refuse(
        args,
        "models in folders",
        f"{args.model} is a program",
        guidance=False,
        sampler=args.sampler != "engine",
    )
    if args.device not in ("auto", "cpu"):
        raise UserError(f"Programs run on the CPU: leave --device {args.device} out.")
    refuse_pixels(args)


def sample_by_program(args: argparse.Namespace, model: ProgramModel) -> None:
    """Samples without PyTorch."""
    sheet = plan_classes(args, model)
    with progress("sampling") as show:
        x = model.sample(
            sheet.n,
            sheet.c,
            seed=args.seed,
            temperature=args.temperature,
            guidance=args.guidance,
            batch_size=args.batch_size,
            threads=args.threads,
            progress=show,
        )
    write(args, sheet, x, model.levels, picture_of(x, model, sheet))


def sample_pixels(args: argparse.Namespace, device: torch.device) -> None:
    """Samples from an autoregressive model, or from one with a latent code."""
    from nextpixel import sampling
    from nextpixel.cli.contexts import check_guidance
    from nextpixel.cli.loading import load_model_or_latent
    from nextpixel.cli.programs import keep_program
    from nextpixel.models.base.latent import LatentModel
    from nextpixel.viz import images as plots

    refuse_pixels(args)
    model = load_model_or_latent(args.model, device, trust=args.trust)
    options: dict[str, Any] = {"seed": args.seed, "temperature": args.temperature}
    ordered = {"guidance": args.guidance, "sampler": args.sampler}
    if isinstance(model, LatentModel):
        refuse(args, "models without a code", f"{args.model} ({type(model).__name__}) has one")
        ordered = {}
    elif args.size is not None:
        if model.data_record.codes_of is not None:
            raise UserError(f"{args.model} is a model of codes, of one size: leave --size out.")
        model = model.resized((model.shape[0], *args.size))
    check_guidance(args.model, args.guidance)
    sheet = plan_interpolation(args, model) if args.interpolate else plan_classes(args, model)
    if is_plain(args):
        keep_program(args.model, model)
    x, moments = sample(model, sheet, args, options | ordered)
    picture = picture_of(x, model, sheet)
    if args.all_at_once and not isinstance(model, LatentModel):
        at_once = sampling.all_at_once(model, sheet.n, sheet.c, **options)
        wrong = picture_of(at_once, model, sheet)
        picture = plots.captioned_row(
            {"all at once: wrong": wrong, "pixel by pixel: right": picture}
        )
    film = plots.sampling_frames(
        *moments, model.levels, model.data_record.spectrogram, **sheet.layout
    )
    write(args, sheet, x, model.levels, picture, film)


def sample(
    model: AutoregressiveModel | LatentModel,
    sheet: Sheet,
    args: argparse.Namespace,
    options: dict[str, Any],
) -> tuple[Tensor, tuple[list[Tensor], list[int]]]:
    """Samples the images of a sheet.

    Returns:
        The images, and for an animation the moments on the way, as from `sampling.film`.
    """
    from nextpixel import sampling
    from nextpixel.models.base.latent import LatentModel

    options = {**options, "numbers": sheet.numbers}
    passes: list[int] = []
    with progress("sampling") as show:
        if args.gif is not None and not isinstance(model, LatentModel):
            moments = sampling.film(model, sheet.n, sheet.c, **options, progress=show)
            return moments[0][-1], moments
        if "sampler" in options:
            options["passes"] = passes.append
        x = model.sample(sheet.n, sheet.c, **options, batch_size=args.batch_size, progress=show)
    if passes:
        sites = math.prod(model.shape)
        enough = count(max(passes), "pass was", "passes were")
        print(f"{enough} enough; one for each site would be {sites}")
    return x, ([], [])


def sample_codes(args: argparse.Namespace, generator: LatentGenerator) -> None:
    """Samples codes from a prior, and writes the images that they stand for."""
    refuse(args, "models of pixels", f"{args.model} samples codes", sampler=False)
    sheet = plan_classes(args, generator.prior)
    with progress("sampling") as show:
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


def refuse_pixels(args: argparse.Namespace) -> None:
    """Raises a UserError for --pixels."""
    if args.pixels is not None:
        raise UserError(
            f"--pixels is for a VQ-VAE with its prior, and {args.model} is none: leave it out."
        )


def refuse(
    args: argparse.Namespace,
    kind: str,
    reason: str,
    *,
    guidance: bool = True,
    sampler: bool = True,
) -> None:
    """Raises a UserError for options that only a model of another kind has.

    Args:
        args: The command's arguments.
        kind: The kind of model that has them, in the plural.
        reason: Why this model has not.
        guidance: Whether --guidance is one of them.
        sampler: Whether --sampler is one of them.
    """
    given = {
        "--guidance": guidance and args.guidance != 1,
        "--gif": args.gif is not None,
        "--size": args.size is not None,
        "--all-at-once": args.all_at_once,
        "--interpolate": args.interpolate,
        "--sampler": sampler and args.sampler != "auto",
    }
    for option, is_given in given.items():
        if is_given:
            raise UserError(f"{option} is for {kind}, and {reason}: leave it out.")


def picture_of(x: ArrayLike, model: HasClasses, sheet: Sheet) -> Image:
    """Lays images out as a sheet says."""
    from nextpixel.viz import images as plots

    return plots.grid(
        plots.for_display(x, model.data_record.spectrogram), model.levels, **sheet.layout
    )


def write(
    args: argparse.Namespace,
    sheet: Sheet,
    x: ArrayLike,
    levels: int,
    picture: Image,
    film: Iterable[Image] = (),
) -> None:
    """Writes the files that the options name."""
    from nextpixel.viz import images as plots

    plots.save_image(picture, args.out)
    if args.gif is not None:
        plots.save_gif(film, args.gif)
    if args.npz is not None:
        write_npz(args.npz, x, sheet, levels)
    report(sheet, [path for path in (args.out, args.gif, args.npz) if path is not None])


def report(sheet: Sheet, written: Sequence[Path]) -> None:
    """Prints how many images were sampled, and the files."""
    print(f"Sampled {count(sheet.n, 'image')}: {', '.join(map(str, written))}")


def write_npz(path: Path, x: ArrayLike, sheet: Sheet, levels: int) -> None:
    """Writes images as integers, with their classes if each has one."""
    import numpy as np

    from nextpixel.utils.files import atomic_write

    pixels = np.asarray(x).astype(np.uint8 if levels <= 256 else np.int64)
    with atomic_write(path) as file:
        if sheet.c is None or sheet.c.dtype.kind == "f":
            np.savez_compressed(file, x=pixels, levels=levels)
        else:
            np.savez_compressed(file, x=pixels, y=sheet.c, levels=levels)


def plan_classes(args: argparse.Namespace, model: HasClasses) -> Sheet:
    """Plans images of the classes in turn, with a class in each row; or of one class, mix or none.

    Image k has the same class, and the same noise, whatever the layout: `places` makes the rows.
    """
    from nextpixel.cli.contexts import choose_classes, class_names, in_turn, is_mix

    c = choose_classes(args.classes, model)
    if c is None or is_mix(c) or len(c) == 1:
        n = args.n or WITHOUT_CLASSES
        return Sheet(n, in_turn(c, n), layout={"columns": args.columns})
    n = args.n or min(PER_CLASS * len(c), MOST)
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


def plan_interpolation(args: argparse.Namespace, model: ImageModel) -> Sheet:
    """Plans rows from one class to another through mixes of both, with the same noise in a row."""
    import torch

    from nextpixel.cli.contexts import class_names

    first, last = interpolated_classes(args, model)
    rows, columns = args.n or PER_CLASS, args.columns or INTERPOLATED
    if columns < 2:
        raise UserError("--interpolate takes at least 2 columns, one for each class.")
    start, end = torch.eye(model.classes or 0)[[first, last]]
    shares = torch.linspace(0, 1, columns)
    mixes = torch.stack([torch.lerp(start, end, share) for share in shares])
    names = class_names(model)
    between = [f"{100 * share:.0f} %" for share in shares[1:-1].tolist()]
    labels = [names[first], *between, names[last]]
    numbers = [row for row in range(rows) for _ in range(columns)]
    layout = {"columns": columns, "column_labels": labels}
    return Sheet(rows * columns, mixes.repeat(rows, 1).numpy(), numbers, layout)


def interpolated_classes(args: argparse.Namespace, model: ImageModel) -> list[int]:
    """Returns the two class ids to interpolate between."""
    from nextpixel.cli.contexts import choose_classes, is_mix

    if model.classes is None:
        raise UserError("This model is unconditional: leave --interpolate out.")
    c = None if args.classes is None else choose_classes(args.classes, model)
    if c is None or is_mix(c) or len(c) != 2:
        raise UserError("--interpolate takes two classes: name them, as --class 3,8.")
    ids: list[int] = c.tolist()
    return ids
