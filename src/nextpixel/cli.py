"""The command line: one function a command, over the same functions as from Python.

Nothing heavy is imported before a command is known, so `nextpixel --help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nextpixel.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from nextpixel.data import Dataset
    from nextpixel.model import AutoregressiveModel

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit status: 2 after a mistake of the user's."""
    argv = sys.argv[1:] if argv is None else argv
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train,
        "eval": evaluate,
        "sample": sample,
        "complete": complete,
        "models": models,
        "data": data,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(commands))
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("nextpixel"))
        return 0
    name, *rest = argv
    try:
        if name not in commands:
            raise UserError(f"There is no command {name}: the commands are {', '.join(commands)}.")
        commands[name](rest)
    except UserError as error:
        print(f"nextpixel: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # what we print is read no further, as by head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"nextpixel: {explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nextpixel: interrupted.", file=sys.stderr)
        return 130
    return 0


def overview(commands: dict[str, Callable[[list[str]], None]]) -> str:
    """Writes the help of the whole program from the commands' first lines."""
    lines = [
        f"  {name:10}{(command.__doc__ or '').splitlines()[0]}"
        for name, command in commands.items()
    ]
    return "\n".join(
        [
            "usage: nextpixel COMMAND ...",
            "",
            "Exact-likelihood pixel models: train, score, sample and complete images.",
            "",
            *lines,
            "",
            "nextpixel COMMAND --help explains a command; nextpixel --version prints the version.",
        ]
    )


def explain(error: OSError) -> str:
    """Says in a sentence what the system refused."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"The disk is full{where}: make room and try again; what was saved before is intact."
    return f"{error.strerror or error}{where}."


# --- the commands ---------------------------------------------------------------------------------


def train(argv: list[str]) -> None:
    """Train a model on images: yours, or a data set known by name."""
    import jsonargparse

    parser = train_parser()
    settings = parser.parse_args(argv)
    if settings.resume is None and settings.out is None:
        raise UserError("Name a folder for the run with --out, or one to go on with by --resume.")
    if settings.resume is not None:
        saved = Path(settings.resume) / "config.yaml"
        if not saved.is_file():
            raise UserError(f"There is no run in {settings.resume}: it has no config.yaml.")
        settings = parser.parse_args(["--config", str(saved), *argv])
    if settings.model is None:
        raise UserError("Say which model to train, for example --model GatedPixelCNN.")
    import torch

    from nextpixel.data import load
    from nextpixel.model import find_class
    from nextpixel.training import fit

    set_threads(settings.threads)
    dataset = load(
        settings.data,
        levels=settings.levels,
        data_dir=settings.data_dir,
        size=settings.size,
        channels=settings.channels,
    )
    torch.manual_seed(settings.train.seed)
    model = find_class(settings.model.class_path.removeprefix("nextpixel.models."))(
        shape=dataset.shape,
        levels=dataset.levels,
        classes=dataset.classes if settings.conditional else None,
        **jsonargparse.namespace_to_dict(settings.model.init_args),
    )
    out = Path(settings.resume or settings.out)
    try:
        fit(
            model,
            dataset,
            out=out,
            resume=settings.resume is not None,
            device=settings.device,
            **vars(settings.train),
        )
    except KeyboardInterrupt:
        print(f"Stopped and saved. Go on with: nextpixel train --resume {out}", file=sys.stderr)
        raise
    print(f"The trained model is in {out}: try nextpixel eval {out}, nextpixel sample {out}")


def train_parser() -> Any:
    """Makes the parser of `nextpixel train`; models' options come from their signatures."""
    import jsonargparse

    import nextpixel.models  # noqa: F401  (their bare names are known once they are imported)
    from nextpixel.model import AutoregressiveModel
    from nextpixel.training import TrainArgs

    parser = jsonargparse.ArgumentParser(
        prog="nextpixel train",
        description="Train a model by maximum likelihood; every step can be resumed exactly.",
    )
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--out", type=str | None, help="the run folder")
    parser.add_argument("--resume", type=str | None, help="a run folder to go on with, exactly")
    parser.add_argument("--data", type=str, default="mnist", help="a name, or a path to your own")
    parser.add_argument("--levels", type=int | None, help="requantise pixels to so many levels")
    parser.add_argument("--size", type=int | None, help="side that a folder's images are cut to")
    parser.add_argument("--channels", type=int | None, help="1 for grey, 3 for colour")
    parser.add_argument("--conditional", type=bool, default=True, help="on the classes, if any")
    parser.add_argument("--data_dir", type=str | None, help="where to look for data first")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int | None, help="processor threads to use")
    parser.add_subclass_arguments(
        AutoregressiveModel,
        "model",
        skip={"shape", "levels", "classes"},
        required=False,
        help="GatedPixelCNN, PixelCNN, or the dotted path of your own",
    )
    parser.add_class_arguments(TrainArgs, "train")
    return parser


def evaluate(argv: list[str]) -> None:
    """Score a data set: test bits/dim and nats, with their standard errors."""
    parser = Parser("eval", evaluate)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("--data", help="a name or a path; the model's own data by default")
    parser.add_argument("--split", choices=["train", "valid", "test"], default="test")
    parser.add_argument("--limit", type=positive, help="score only the first so many images")
    parser.add_argument("--batch-size", type=positive, default=100)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a sentence")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from dataclasses import asdict

    from nextpixel.evaluate import evaluate as score_images

    model = load_model(args)
    dataset = load_data(args, model)
    with progress("scoring") as show:
        score = score_images(
            model,
            getattr(dataset, args.split),
            limit=args.limit,
            batch_size=args.batch_size,
            progress=show,
        )
    given = "given the class" if model.classes else "unconditional"
    if args.json:
        what = {"model": args.model, "data": dataset.name, "split": args.split, "given": given}
        print(json.dumps(what | asdict(score)))
    else:
        print(f"{args.model} on {dataset.name} ({args.split}, {given}): {score}")


def sample(argv: list[str]) -> None:
    """Draw new images."""
    parser = Parser("sample", sample)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("-n", type=positive, default=64, help="how many (default: 64)")
    parser.add_argument(
        "--class",
        dest="classes",
        metavar="C",
        help="a class (3), several in turn (3,5,8) or a mix (3=0.7,8=0.3); all in turn by default",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same images")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="a grid, .png")
    parser.add_argument("--npz", type=Path, help="also write the integers, as array x (and y)")
    parser.add_argument("--gif", type=Path, help="also write an animation of the picture growing")
    parser.add_argument("--columns", type=positive, help="columns of the grid")
    parser.add_argument(
        "--all-at-once",
        action="store_true",
        help="show the wrong way, all pixels drawn in one pass, beside the right one",
    )
    parser.add_argument("--batch-size", type=positive, default=256)
    parser.add_common()
    args = parser.parse_args(argv)

    import numpy as np

    from nextpixel import plots, sampling
    from nextpixel.plots import atomic_write

    model = load_model(args)
    c, labels = parse_classes(args.classes, model.classes, args.n)
    frames: list[Tensor] = []
    done: list[int] = []
    options = {"seed": args.seed, "temperature": args.temperature}
    with progress("drawing") as show:
        if args.gif is not None:
            frames, done = sampling.film(model, args.n, c, **options, progress=show)
            x = frames[-1]
        else:
            x = model.sample(args.n, c, **options, batch_size=args.batch_size, progress=show)
    columns = args.columns or (model.classes if labels is not None and not args.classes else None)
    picture = plots.grid(x, model.levels, columns=columns)
    if args.all_at_once:
        wrong = plots.grid(
            sampling.all_at_once(model, args.n, c, **options), model.levels, columns=columns
        )
        picture = plots.beside({"all at once: wrong": wrong, "pixel by pixel: right": picture})
    plots.save_image(picture, args.out)
    written = [args.out]
    if args.gif is not None:
        film = plots.growing(frames, done, model.levels, columns=columns)
        plots.save_gif(film, args.gif)
        written.append(args.gif)
    if args.npz is not None:
        pixels = x.numpy().astype(np.uint8 if model.levels <= 256 else np.int64)
        with atomic_write(args.npz) as file:
            if labels is None:
                np.savez_compressed(file, x=pixels, levels=model.levels)
            else:
                np.savez_compressed(file, x=pixels, y=labels, levels=model.levels)
        written.append(args.npz)
    print(f"Drew {args.n} images: {', '.join(map(str, written))}")


def complete(argv: list[str]) -> None:
    """Complete half-hidden images."""
    parser = Parser("complete", complete)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("images", nargs="*", type=Path, help="picture files; else test images")
    parser.add_argument("--data", help="take test images from here; the model's data by default")
    parser.add_argument("-n", type=positive, default=8, help="how many test images (default: 8)")
    hidden = parser.add_mutually_exclusive_group()
    halves = ["top", "bottom", "left", "right"]
    hidden.add_argument("--keep", choices=halves, help="keep this half (default: top)")
    hidden.add_argument("--hide", choices=halves, help="hide this half")
    hidden.add_argument("--box", metavar="ROW,COL,HEIGHT,WIDTH", help="hide a box")
    hidden.add_argument("--mask", type=Path, help="hide where this picture is white")
    parser.add_argument("--class", dest="classes", metavar="C", help="class of the picture files")
    parser.add_argument("--draws", type=positive, default=4, help="completions of each image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("completions.png"))
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    import torch

    from nextpixel import plots, sampling

    model = load_model(args)
    x, c = images_to_complete(args, model)
    known = known_pixels(args, model.shape)
    bits = sampling.hidden_bits(model, x, known, c)
    columns = {
        "original": plots.to_uint8(x, model.levels),
        "given": plots.hide(x, known, model.levels),
    }
    with progress("completing") as show:
        for draw in range(args.draws):
            show(draw / args.draws)
            completed = sampling.complete(
                model,
                x,
                known,
                c,
                seed=args.seed,
                temperature=args.temperature,
                first=draw * len(x),
            )
            columns[f"completion {draw + 1}"] = plots.to_uint8(completed, model.levels)
    columns["bits a pixel"] = plots.heat_map(bits.sum(1).masked_fill(known, torch.nan))
    plots.save_image(plots.side_by_side(columns, 256), args.out)
    each = bits.flatten(1).sum(1)
    count = int((~known).sum()) * model.shape[0]
    print(f"The {count} hidden pixels of each image take, given the true pixels before them:")
    for number, value in enumerate(each.tolist()):
        print(f"  image {number}: {value:8.1f} bits, {value / count:.4f} a pixel")
    print(f"  mean:    {each.mean():8.1f} bits, {each.mean() / count:.4f} a pixel")
    print(
        "Pixels are drawn in raster order: each one is told of the known pixels above it and to its "
        "left. Known pixels that come later are kept as they are, but nothing before them is drawn "
        "to fit them."
    )
    print(f"Side by side: {args.out}")


def models(argv: list[str]) -> None:
    """List the models, or explain one."""
    parser = Parser("models", models)
    parser.add_argument("model", nargs="?", help="a kind of model, one that comes along, or a run")
    parser.add_argument("--shape", default="1,28,28", metavar="C,H,W", help="for a kind of model")
    parser.add_argument("--levels", type=positive, default=256, help="for a kind of model")
    parser.add_argument("--classes", type=positive, help="for a kind of model")
    args = parser.parse_args(argv)

    from nextpixel import describe

    if args.model is None:
        print(describe.overview())
    else:
        channels, height, width = parse_numbers(args.shape, 3, "--shape")
        shape = (channels, height, width)
        print(describe.explain(args.model, shape, args.levels, args.classes))


def data(argv: list[str]) -> None:
    """List the data sets, or show one."""
    parser = Parser("data", data)
    parser.add_argument("name", nargs="?", help="a name, or a path to your own images")
    parser.add_argument("--levels", type=positive, help="requantise pixels to so many levels")
    parser.add_argument("--size", type=positive, help="side that a folder's images are cut to")
    parser.add_argument("--channels", type=int, choices=[1, 3], help="1 for grey, 3 for colour")
    parser.add_argument("--data-dir", type=Path, help="where to look first")
    parser.add_argument("--out", type=Path, help="where to write the grid (default: NAME.png)")
    args = parser.parse_args(argv)

    from nextpixel.data import known, load

    if args.name is None:
        for entry in known(args.data_dir):
            print(f"{entry.name:16} {entry.description}")
            where = (
                f"in {entry.present}" if entry.present else f"not here: {', '.join(entry.files)}"
            )
            print(f"{'':16} {where}")
        print("Your own: a path to .npz, .npy, IDX files or a folder of PNG, JPEG or WebP images.")
        return
    dataset = load(
        args.name,
        levels=args.levels,
        data_dir=args.data_dir,
        size=args.size,
        channels=args.channels,
    )
    show_data(dataset, args.out or Path(f"{Path(args.name).stem}.png"))


# --- what the commands share ----------------------------------------------------------------------


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


def positive(text: str) -> int:
    """Reads a whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def parse_numbers(text: str, count: int, option: str) -> tuple[int, ...]:
    """Reads whole numbers with commas between them."""
    parts = text.split(",")
    if len(parts) != count or not all(part.strip().isdigit() for part in parts):
        raise UserError(
            f"{option} takes {count} whole numbers like {','.join('1' * count)}, not {text}."
        )
    return tuple(map(int, parts))


def parse_classes(
    text: str | None, classes: int | None, n: int
) -> tuple[Tensor | None, np.ndarray | None]:
    """Reads --class: the context for n images, and their class ids where each has just one."""
    import torch

    if classes is None:
        if text is not None:
            raise UserError("This model is unconditional: leave --class out.")
        return None, None
    try:
        if text is not None and "=" in text:
            weights = torch.zeros(classes)
            for part in text.split(","):
                name, _, weight = part.partition("=")
                weights[int(name)] = float(weight)
            return weights, None
        ids = list(range(classes)) if text is None else [int(part) for part in text.split(",")]
    except (ValueError, IndexError):
        raise UserError(
            f"--class takes ids from 0 to {classes - 1}, as 3 or 3,5,8 or a mix 3=0.7,8=0.3, "
            f"not {text}."
        ) from None
    c = torch.tensor([ids[i % len(ids)] for i in range(n)])
    return c, c.numpy()


def load_model(args: argparse.Namespace) -> AutoregressiveModel:
    """Loads the model named on the command line, onto its device."""
    import torch

    from nextpixel.model import load

    set_threads(args.threads)
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"Unknown device {name}: give auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device here: use --device cpu.")
    return load(args.model, device=device)


def load_data(args: argparse.Namespace, model: AutoregressiveModel) -> Dataset:
    """Loads the data named on the command line, or those the model was trained on."""
    from nextpixel.data import load
    from nextpixel.model import trained_on
    from nextpixel.training import check_data

    name = args.data or trained_on(args.model)
    if name is None:
        raise UserError(f"It is not known which data {args.model} was trained on: give --data.")
    dataset = load(name, levels=model.levels, data_dir=args.data_dir)
    check_data(model, dataset)
    return dataset


def images_to_complete(
    args: argparse.Namespace, model: AutoregressiveModel
) -> tuple[Tensor, Tensor | None]:
    """Reads the images to complete and their context: picture files, or test images."""
    import numpy as np
    import torch

    from nextpixel.data import requantise
    from nextpixel.data.own import read_picture

    if args.images:
        channels, height, width = model.shape
        pictures = [read_picture(path, None, channels) for path in args.images]
        if height == width:  # others are cut to a square and resized
            pictures = [
                picture if picture.shape == model.shape else read_picture(path, height, channels)
                for path, picture in zip(args.images, pictures, strict=True)
            ]
        for path, picture in zip(args.images, pictures, strict=True):
            if picture.shape != model.shape:
                raise UserError(
                    f"{path} is {picture.shape[2]} x {picture.shape[1]} pixels, but the model's "
                    f"images are {width} x {height}: resize it first."
                )
        if model.classes and args.classes is None:
            raise UserError("This model needs the class of the picture: give --class.")
        x = torch.from_numpy(requantise(np.stack(pictures), 256, model.levels))
        return x, parse_classes(args.classes, model.classes, len(x))[0]
    if args.classes is not None:
        raise UserError("Test images have their classes already: leave --class out.")
    test = load_data(args, model).test
    pixels, y = test.batch(np.arange(min(args.n, len(test))))
    c = torch.from_numpy(y) if model.classes and y is not None else None
    return torch.from_numpy(pixels), c


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
        known = torch.from_numpy(picture) < 128
    else:
        known = half_mask(args.keep or "top", height, width)
    if known.all():
        raise UserError("Nothing is hidden: hide some pixels.")
    return known


def show_data(dataset: Dataset, out: Path) -> None:
    """Prints what a data set holds and writes a grid of its training images."""
    import numpy as np

    from nextpixel import plots

    channels, height, width = dataset.shape
    print(f"{dataset.name}: {dataset.source}")
    print(f"  images of {channels} x {height} x {width}, {dataset.levels} levels")
    for name in ("train", "valid", "test"):
        images = getattr(dataset, name)
        # A redrawn split holds intensities, whose mean is that of the bits.
        top = 255 if images.redraw else dataset.levels - 1
        mean = images.x.mean() / top
        print(f"  {name:6} {len(images):7,} images, mean {mean:.6f} of the highest level")
    if dataset.class_names and dataset.train.y is not None:
        counts = np.bincount(dataset.train.y, minlength=len(dataset.class_names))
        pairs = zip(dataset.class_names, counts, strict=True)
        print("  classes in train:", ", ".join(f"{name} {count}" for name, count in pairs))
    x, _ = dataset.train.batch(np.arange(min(100, len(dataset.train))))
    plots.save_image(plots.grid(x, dataset.levels), out)
    print(f"  the first of them: {out}")


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
