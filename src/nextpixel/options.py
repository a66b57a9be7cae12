"""What the commands share: reading options, and the model, data and pictures that they name.

Nothing heavy is imported before it is needed, so that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nextpixel.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from nextpixel.autoregressive import AutoregressiveModel
    from nextpixel.data import Dataset
    from nextpixel.data.own import Unsplit
    from nextpixel.latent import LatentModel
    from nextpixel.latent_generator import LatentGenerator
    from nextpixel.model import Conditioning, ImageModel

__all__ = [
    "PICTURES",
    "Parser",
    "add_draws",
    "add_hidden",
    "add_images",
    "check_guidance",
    "class_names",
    "find_device",
    "images_to_complete",
    "images_to_score",
    "images_to_vary",
    "in_turn",
    "known_pixels",
    "load_any_model",
    "load_bundle",
    "load_data",
    "load_model",
    "load_model_or_latent",
    "output",
    "parse_classes",
    "parse_numbers",
    "positive",
    "progress",
    "read_pictures",
    "seed",
    "set_threads",
]


PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".bmp")  # what can be written


class Parser(argparse.ArgumentParser):
    """A parser of one command, whose mistakes are user errors like all others."""

    def __init__(self, name: str, command: Callable[[list[str]], None]) -> None:
        super().__init__(prog=f"nextpixel {name}", description=command.__doc__)

    def error(self, message: str) -> NoReturn:
        """Refuses the arguments."""
        raise UserError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")

    def add_common(self, *, data: bool = False) -> None:
        """Adds the options that tell where to compute, and where data are."""
        if data:
            self.add_argument("--data-dir", type=Path, help="where to look for data first")
        self.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        self.add_argument("--threads", type=positive, help="processor threads to use")
        self.add_trust()

    def add_trust(self) -> None:
        """Adds the option that lets a saved model's own code run."""
        self.add_argument(
            "--trust",
            action="store_true",
            help="load models of classes that are not nextpixel's: this runs their code",
        )


def positive(text: str) -> int:
    """Reads a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seed(text: str) -> int:
    """Reads the seed of the noise, which is kept in 63 bits."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def output(*suffixes: str) -> Callable[[str], Path]:
    """Makes the reader of a file to write: one that cannot be is refused before the work is done.

    Args:
        suffixes: Those that the file may have.
    """

    def read(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text} must end in {', '.join(suffixes)}")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            where = path if path.is_dir() else folder
            reason = "may not be written into" if folder.is_dir() else "is no folder"
            reason = "is a folder itself" if path.is_dir() else reason
            raise argparse.ArgumentTypeError(f"cannot write {text}, because {where} {reason}")
        return path

    return read


def parse_numbers(text: str, count: int, option: str) -> tuple[int, ...]:
    """Reads whole numbers with commas between them."""
    parts = text.split(",")
    if len(parts) != count or not all(part.strip().isdecimal() for part in parts):
        raise UserError(
            f"{option} takes {count} whole numbers like {','.join('1' * count)}, not {text}."
        )
    return tuple(map(int, parts))


def parse_classes(text: str | None, classes: int | None) -> Tensor | None:
    """Reads --class: class ids that images take in turn, `(K,)`, or a mix of all, `(classes,)`."""
    import torch

    if classes is None:
        if text is not None:
            raise UserError("This model is unconditional: leave --class out.")
        return None
    try:
        if text is not None and "=" in text:
            weights = torch.zeros(classes)
            for part in text.split(","):
                name, _, weight = part.partition("=")
                if int(name) < 0 or not math.isfinite(float(weight)):
                    raise ValueError(part)
                weights[int(name)] = float(weight)
            return weights
        return torch.tensor(range(classes) if text is None else list(map(int, text.split(","))))
    except (ValueError, IndexError):
        raise UserError(
            f"--class takes ids from 0 to {classes - 1}, as 3 or 3,5,8 or a mix 3=0.7,8=0.3, "
            f"not {text}."
        ) from None


def in_turn(c: Tensor | None, n: int) -> Tensor | None:
    """Gives n images the classes in turn, `(n,)`; a mix, or no class, is one for all."""
    import torch

    return c if c is None or c.is_floating_point() else c[torch.arange(n) % len(c)]


def class_names(model: ImageModel) -> Sequence[str]:
    """Names a model's classes as its data did; by their ids where these are not known."""
    return model.data_record.class_names or [str(i) for i in range(model.classes or 0)]


def load_any_model(args: argparse.Namespace) -> ImageModel:
    """Loads the model named on the command line, of whatever kind, onto its device."""
    from nextpixel.model import load

    return load(args.model, device=find_device(args), trust=args.trust)


def load_bundle(args: argparse.Namespace) -> LatentGenerator | None:
    """Loads the VQ-VAE and the prior of the folder named on the command line, if it holds them."""
    from nextpixel.latent_generator import LatentGenerator, holds_bundle

    if not holds_bundle(args.model):
        return None
    return LatentGenerator.load(args.model, device=find_device(args), trust=args.trust)


def find_device(args: argparse.Namespace) -> torch.device:
    """Finds the device to compute on, and sets the number of threads."""
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", args.device):
        raise UserError(f"Unknown device {args.device}: give auto, cpu, cuda or cuda:N.")
    set_threads(args.threads)
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"There is no device {name} here: use --device cpu.")
    return device


def load_model(args: argparse.Namespace, *, conditioned: bool = False) -> AutoregressiveModel:
    """Loads the autoregressive model named on the command line.

    Args:
        args: The command line.
        conditioned: Whether it may be conditioned on more than a class: a degraded image, or
            features.

    Raises:
        UserError: The model is another one than the command takes.
    """
    return autoregressive_model(load_any_model(args), args, conditioned=conditioned)


def load_model_or_latent(args: argparse.Namespace) -> AutoregressiveModel | LatentModel:
    """Loads the model named on the command line: an autoregressive one, or one with a code.

    Raises:
        UserError: The model is another one, or it is conditioned on more than a class.
    """
    from nextpixel.latent import LatentModel

    model = load_any_model(args)
    return model if isinstance(model, LatentModel) else autoregressive_model(model, args)


def autoregressive_model(
    model: ImageModel, args: argparse.Namespace, *, conditioned: bool = False
) -> AutoregressiveModel:
    """Makes sure that the loaded model is one that the command takes, see `load_model`."""
    from nextpixel.autoregressive import autoregressive

    found = autoregressive(model, args.model)
    if found.conditioner is not None and not conditioned:
        raise UserError(
            f"{args.model} is conditioned on {found.conditioner.in_words()}: "
            f"{found.conditioner.advice}."
        )
    return found


def check_guidance(args: argparse.Namespace) -> None:
    """Refuses --guidance for a model that is known not to have learned the null context."""
    from nextpixel.saving import training_record

    record = training_record(args.model)
    if args.guidance != 1 and record and not record.get("train", {}).get("drop_context"):
        raise UserError(
            f"{args.model} was trained without train.drop_context and knows no null context, which "
            "--guidance goes away from: leave it at 1, or train a model with it."
        )


def load_data(args: argparse.Namespace, model: ImageModel) -> Dataset:
    """Loads the data named on the command line, or those the model was trained on."""
    from nextpixel.saving import training_record

    name, data_dir = args.data, args.data_dir
    if name is None:
        record = training_record(args.model)
        name, data_dir = record.get("data"), data_dir or record.get("data_dir")
    if name is None:
        raise UserError(f"It is not known which data {args.model} was trained on: give --data.")
    dataset = load_for(model, name, data_dir)
    model.check_dataset(dataset)
    return dataset


def load_for(model: ImageModel, name: str, data_dir: str | Path | None) -> Dataset:
    """Loads data in the levels of a model's images, and a folder's pictures in their size."""
    from nextpixel.codes import load_data

    size, channels = (None, None) if is_known(name) else own_options(model, Path(name))
    return load_data(name, levels=model.levels, data_dir=data_dir, size=size, channels=channels)


def is_known(name: str) -> bool:
    """Tells whether a data set is known by this name."""
    from nextpixel.data import known

    return name in {entry.name for entry in known()}


def own_options(model: ImageModel, path: Path) -> tuple[int | None, int | None]:
    """Returns the size and channels that bring a folder's pictures into a model's shape."""
    if not path.is_dir():
        return None, None
    channels, height, width = model.shape
    holds_arrays = any(path.glob("*-ubyte*"))  # IDX files, which have their size
    return height if height == width and not holds_arrays else None, channels


def images_to_score(
    args: argparse.Namespace, model: AutoregressiveModel, name: str
) -> tuple[Unsplit, str]:
    """Loads images with their names, and says which they are: a split, or all of the user's own."""
    from nextpixel.data.images import spread
    from nextpixel.data.own import Unsplit, load_unsplit, picture_names

    path = Path(name).expanduser()
    if args.split is None and not is_known(name) and path.exists():
        size, channels = own_options(model, path)
        found = load_unsplit(path, size=size, channels=channels, levels=model.levels)
        what = path.name or str(path)
    else:
        split = args.split or "test"
        dataset = load_for(model, name, args.data_dir)
        images = getattr(dataset, split)
        names = None if is_known(name) else picture_names(path, split)
        numbers = [str(i) for i in range(len(images))]
        found = Unsplit(images, names or numbers, dataset.class_names)
        what = f"{dataset.name} ({split})"
    kept = spread(len(found.images), args.limit)
    names = [found.names[i] for i in kept]
    return Unsplit(found.images.spread(args.limit), names, found.class_names), what


def read_pictures(paths: Sequence[Path], shape: tuple[int, int, int]) -> np.ndarray:
    """Reads picture files as bytes `(N, C, H, W)` of this shape; where it is square, cut to it."""
    import numpy as np

    from nextpixel.data.own import read_picture

    for path in paths:
        if not path.is_file():
            raise UserError(f"There is no picture {path}: give the path of a file.")
    channels, height, width = shape
    pictures = [read_picture(path, None, channels) for path in paths]
    if height == width:  # others are cut to a square and resized
        pictures = [
            picture if picture.shape == shape else read_picture(path, height, channels)
            for path, picture in zip(paths, pictures, strict=True)
        ]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != shape:
            raise UserError(
                f"{path} is {picture.shape[2]} x {picture.shape[1]} pixels, but the model's "
                f"images are {width} x {height}: resize it first."
            )
    return np.stack(pictures)


def images_to_complete(
    args: argparse.Namespace, model: ImageModel, prior: ImageModel | None = None
) -> tuple[Tensor, Conditioning]:
    """Reads the images to complete (or else), and what is given: picture files, or test images.

    What is given are their context and which pixels are padding.

    Args:
        args: The command line.
        model: What the images are for.
        prior: What the context is for, if it is another model.
    """
    import torch

    from nextpixel.data.images import requantise, spread
    from nextpixel.model import Conditioning

    of_context = model if prior is None else prior
    if args.images:
        if args.data is not None:
            raise UserError("Give picture files or images of a data set: leave --data out.")
        pictures = read_pictures(args.images, model.shape)
        if of_context.classes and args.classes is None:
            raise UserError("This model needs the class of the picture: give --class.")
        x = torch.from_numpy(requantise(pictures, 256, model.levels))
        classes = in_turn(parse_classes(args.classes, of_context.classes), len(x))
        return x, Conditioning(of_context.context(classes, len(x)))
    if args.classes is not None:
        raise UserError("Test images have their classes already: leave --class out.")
    test = load_data(args, model).test
    return of_context.inputs(test, spread(len(test), args.n))


def add_images(parser: Parser, what: str = "picture files, cut and resized if need be") -> None:
    """Adds the options that say which images to begin with."""
    parser.add_argument("images", nargs="*", type=Path, help=f"{what}; else test images")
    parser.add_argument("--data", help="take test images from here; the model's data by default")
    parser.add_argument("-n", type=positive, default=8, help="how many test images (default: 8)")


def add_draws(parser: Parser, what: str, out: str, draws: int = 4) -> None:
    """Adds the options that say what to draw for each image, and the file to show it in."""
    parser.add_argument(
        "--draws", type=positive, default=draws, help=f"{what} of each image (default: {draws})"
    )
    parser.add_argument("--seed", type=seed, default=0, help="the same seed draws the same images")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument("--out", type=output(*PICTURES), default=Path(out), help=f"default: {out}")


def add_hidden(parser: Parser, keep: str) -> argparse._MutuallyExclusiveGroup:
    """Adds the options that say which pixels are hidden; `keep` says what happens without them.

    Returns:
        The group of these options, of which one at most is given.
    """
    hidden = parser.add_mutually_exclusive_group()
    halves = ["top", "bottom", "left", "right"]
    hidden.add_argument("--keep", choices=halves, help=f"keep this half ({keep})")
    hidden.add_argument("--hide", choices=halves, help="hide this half")
    hidden.add_argument("--box", metavar="ROW,COL,HEIGHT,WIDTH", help="hide a box")
    hidden.add_argument("--mask", type=Path, help="hide where this picture is white")
    return hidden


def images_to_vary(args: argparse.Namespace, model: ImageModel) -> tuple[Tensor, Conditioning]:
    """Reads images and what a model is told of them: picture files, or test images."""
    import torch

    from nextpixel.data.images import requantise, spread

    if not args.images:
        test = load_data(args, model).test
        return model.inputs(test, spread(len(test), args.n))
    if args.data is not None:
        raise UserError("Give picture files or images of a data set: leave --data out.")
    if model.classes:
        raise UserError("This model needs the classes of the images: give --data that have them.")
    pictures = read_pictures(args.images, model.shape)
    x = torch.from_numpy(requantise(pictures, 256, model.levels))
    return x, model.conditioning(x, None, range(len(x)))


def known_pixels(args: argparse.Namespace, shape: tuple[int, int, int]) -> Tensor:
    """Makes the mask of the known pixels, `(H, W)`, that the command line asks for."""
    import torch

    from nextpixel.data.own import read_picture
    from nextpixel.masks import box_mask, half_mask

    _, height, width = shape
    if args.hide:
        known = ~half_mask(args.hide, height, width)
    elif args.box:
        row, col, box_height, box_width = parse_numbers(args.box, 4, "--box")
        known = ~box_mask(row, col, box_height, box_width, (height, width))
    elif args.mask:
        picture = read_picture(args.mask, None, 1)[0]
        if picture.shape != (height, width):
            raise UserError(
                f"The mask {args.mask} is {picture.shape[1]} x {picture.shape[0]} pixels, but the "
                f"model's images are {width} x {height}."
            )
        known = torch.from_numpy(picture < 128)
    else:
        known = half_mask(args.keep or "top", height, width)
    if known.all():
        raise UserError("Nothing is hidden: hide some pixels.")
    return known


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """Shows a bar on a terminal; yields what to call with the fraction done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda done: bar.update(task, completed=done)


def set_threads(threads: int | None) -> None:
    """Sets the number of processor threads that torch uses."""
    if threads is not None:
        import torch

        if threads < 1:
            raise UserError(f"--threads must be at least 1, not {threads}.")
        torch.set_num_threads(threads)
