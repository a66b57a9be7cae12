"""The command line: one function a command, over the same functions as from Python.

Nothing heavy is imported before a command is known, so `nextpixel --help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import re
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

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".bmp")


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit status: 2 after a mistake of the user's."""
    try:
        run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"nextpixel: {str(error).rstrip('.')}.", file=sys.stderr)
        return 2
    except BrokenPipeError:  # what we print is read no further, as by head
        abandon_output()
        return 0
    except OSError as error:
        print(f"nextpixel: {explain(error)}", file=sys.stderr)
        abandon_output()
        return 2
    except MemoryError:
        print("nextpixel: There is not enough memory: ask for fewer images.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nextpixel: interrupted.", file=sys.stderr)
        return 130
    return 0


def run(argv: list[str]) -> None:
    """Runs the command that the first argument names."""
    # For the user's own models; last, so that no file here hides a module of somebody else's.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
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
    elif argv[0] == "--version":
        from importlib.metadata import version

        print(version("nextpixel"))
    elif argv[0] in commands:
        commands[argv[0]](argv[1:])
    else:
        raise UserError(
            f"There is no command {argv[0]}: the commands are {', '.join(commands)}; see "
            "nextpixel --help."
        )


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
    what = error.filename or "a file"
    if error.errno == errno.ENOSPC:
        return f"Cannot write {what}, the disk is full: make room; what was saved before is intact."
    return f"Cannot use {what}: {error.strerror or error}."


def abandon_output() -> None:
    """Drops what cannot be printed, or Python would try once more at its end and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- the commands ---------------------------------------------------------------------------------


def train(argv: list[str]) -> None:
    """Train a model on images: yours, or a data set known by name."""
    settings = train_settings(argv)

    import torch

    from nextpixel.data import load
    from nextpixel.training import TrainArgs, fit

    options = vars(settings.train)
    TrainArgs(**options)  # refuses what is out of range before anything is read
    set_threads(settings.threads)
    dataset = load(
        settings.data,
        levels=settings.levels,
        data_dir=settings.data_dir,
        size=settings.size,
        channels=settings.channels,
    )
    torch.manual_seed(options["seed"])
    model = make_model(settings, dataset)
    kept = {"data", "data_dir", "size", "channels", "device", "threads"}  # to go on with later
    out = Path(settings.resume or settings.out)
    try:
        fit(
            model,
            dataset,
            out=out,
            resume=settings.resume is not None,
            device=settings.device,
            settings={k: v for k, v in vars(settings).items() if k in kept and v is not None},
            **options,
        )
    except KeyboardInterrupt:
        if (out / "state.pt").exists():
            print(f"Stopped. Go on with: nextpixel train --resume {out}", file=sys.stderr)
        raise
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several of us
        print(f"The trained model is in {out}: try nextpixel eval {out}, nextpixel sample {out}")


def train_settings(argv: list[str]) -> Any:
    """Reads the options of `nextpixel train`: those of a resumed run, a YAML file, the arguments.

    Raises:
        UserError: An option is unknown or has a wrong value, or one is missing.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--resume")
    try:
        resumed = first.parse_known_args(argv)[0].resume
        if resumed is not None:
            saved = Path(resumed) / "config.yaml"
            if not saved.is_file():
                raise UserError(f"There is no run in {resumed}: it has no config.yaml.")
            argv = ["--config", str(saved), *argv]
        settings = train_parser().parse_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(refusal(str(error))) from None
    except UnicodeDecodeError:
        raise UserError("The file given as --config is not text: give a YAML file.") from None
    if (settings.resume is None) == (settings.out is None):
        raise UserError("Name a folder for the run with --out, or one to go on with by --resume.")
    if settings.model is None:
        raise UserError("Say which model to train, for example --model GatedPixelCNN.")
    return settings


def refusal(message: str) -> str:
    """Makes a sentence of the many lines in which jsonargparse says what is wrong.

    Raises:
        UserError: The name of a model is wrong.
    """
    keys = re.findall(r'Parser key "([^"]+)"', message)
    named = re.search(r"(?:class_path'?:? '|Given value: )(?!NestedArg)([\w.]+)", message)
    model = named[1].removeprefix("nextpixel.") if named and keys[:1] == ["model"] else None
    option = re.search(r"Option '(.+)' is not accepted$", message, re.MULTILINE)
    kind = re.search(
        r"Expected an? (?:<class '(int|float|bool|str)'>|typing.Literal(\[.*?\]))", message
    )
    value = re.search(r"(?:Got value: |val='|Given value: )(.*?)(?:'\)|$)", message, re.MULTILINE)
    if option:
        sentence = f"Option '{option[1]}' is not accepted" + (f" by {model}" if model else "")
    elif kind and value:
        words = {"int": "a whole number", "float": "a number", "bool": "true or false"}
        what = f"one of {kind[2]}" if kind[2] else words.get(kind[1], "a text")
        sentence = f"--{'.'.join(keys)} takes {what}, not {value[1]}"
    elif keys == ["model"] and model is None:
        sentence = "Say which model to train before its options, for example --model GatedPixelCNN"
    else:
        if model is not None:
            from nextpixel.model import find_class

            find_class(model)  # says it better, where the name is wrong
        sentence = essence(message)
    return f"{sentence[:1].upper()}{sentence[1:]}; see nextpixel train --help."


def essence(message: str) -> str:
    """Keeps of an error's lines those that say what is wrong."""
    text = re.sub(r'Parser key "[^"]+":|"<unicode string>", ', "", message)
    noise = ("Expected a path", "Does not validate", "Subtypes:", "Errors:", "Given value")
    lines = [line.strip(" -") for line in text.splitlines()]
    return " ".join(line for line in lines if not line.startswith((*noise, "Expected a <class")))


def make_model(settings: Any, dataset: Dataset) -> AutoregressiveModel:
    """Makes the model to train, for the shape, the levels and the classes of the data."""
    from nextpixel.model import find_class

    cls = find_class(settings.model.class_path)
    options = settings.model.get("init_args")  # not there where a model has none
    try:
        return cls(
            shape=dataset.shape,
            levels=dataset.levels,
            classes=dataset.classes if settings.conditional else None,
            **(options.as_dict() if options else {}),
        )
    except (TypeError, RuntimeError) as error:
        raise UserError(f"{cls.__name__} cannot be made like this: {error}") from None


def train_parser() -> Any:
    """Makes the parser of `nextpixel train`; models' options come from their signatures."""
    import jsonargparse

    import nextpixel.models  # noqa: F401  (their bare names are known once they are imported)
    from nextpixel.model import AutoregressiveModel
    from nextpixel.training import TrainArgs

    parser = jsonargparse.ArgumentParser(
        prog="nextpixel train",
        description="Train a model by maximum likelihood; a stopped run can be resumed exactly.",
        epilog="The options of a kind of model: nextpixel train --model.help GatedPixelCNN",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--out", type=str | None, help="the run folder")
    parser.add_argument("--resume", type=str | None, help="a run folder to go on with, exactly")
    parser.add_argument("--data", type=str, default="mnist", help="a name, or a path to your own")
    parser.add_argument("--levels", type=int | None, help="requantise pixels to so many levels")
    parser.add_argument("--size", type=int | None, help="side that a folder's images are cut to")
    parser.add_argument("--channels", type=int | None, help="1 for grey, 3 for colour")
    parser.add_argument("--conditional", type=bool, default=True, help="on the classes, if any")
    parser.add_argument("--data-dir", type=str | None, help="where to look for data first")
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
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
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
        # The error of a single image's score is not a number, and JSON has no word for that.
        numbers = {k: v if math.isfinite(v) else None for k, v in asdict(score).items()}
        print(json.dumps(what | numbers))
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
    parser.add_argument("--seed", type=seed, default=0, help="the same seed draws the same images")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        default=Path("samples.png"),
        help="a grid, default: samples.png",
    )
    parser.add_argument(
        "--npz", type=output(".npz"), help="also write the integers, as array x (and y)"
    )
    parser.add_argument(
        "--gif", type=output(".gif"), help="also write an animation of the picture growing"
    )
    parser.add_argument("--columns", type=positive, help="columns of the grid")
    parser.add_argument(
        "--all-at-once",
        action="store_true",
        help="show the wrong way, all pixels drawn in one pass, beside the right one",
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="images at a time")
    parser.add_common()
    args = parser.parse_args(argv)

    import numpy as np

    from nextpixel import plots, sampling
    from nextpixel.files import atomic_write

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
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        help="picture files, cut and resized if need be; else test images",
    )
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
    parser.add_argument(
        "--seed", type=seed, default=0, help="the same seed draws the same completions"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        default=Path("completions.png"),
        help="default: completions.png",
    )
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
        drawn = sampling.complete(
            model,
            x.repeat(args.draws, 1, 1, 1),
            known,
            # A mix of classes is one for all images, and not one for each.
            c if c is None or c.is_floating_point() else c.repeat(args.draws),
            seed=args.seed,
            temperature=args.temperature,
            progress=show,
        )
    for number, completed in enumerate(torch.split(drawn, len(x)), 1):
        columns[f"completion {number}"] = plots.to_uint8(completed, model.levels)
    columns["bits a pixel"] = plots.heat_map(bits.sum(1).masked_fill(known, torch.nan))
    plots.save_image(plots.side_by_side(columns, 256), args.out)
    each = bits.flatten(1).sum(1)
    count = int((~known).sum()) * model.shape[0]
    print(f"The {count} hidden pixels of each image take, given the true pixels before them:")
    for number, value in enumerate(each.tolist()):
        print(f"  image {number}: {value:8.1f} bits, {value / count:.4f} a pixel")
    print(f"  mean:    {each.mean():8.1f} bits, {each.mean() / count:.4f} a pixel")
    print(
        "Pixels are drawn in raster order: each is told only of those in the rows above it and to "
        "its left. Known pixels that come later are kept, but nothing is drawn to fit them."
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
    parser.add_argument(
        "--out", type=output(*PICTURES), help="where to write the grid (default: NAME.png)"
    )
    args = parser.parse_args(argv)

    from nextpixel.data import known, load

    if args.name is None:
        for entry in known(args.data_dir):
            print(f"{entry.name:16} {entry.description}")
            where = (
                f"in {entry.present}"
                if entry.present
                else f"not here, downloaded when needed: {', '.join(entry.files)}"
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
    show_data(dataset, args.out or Path(f"{dataset.name}.png"))


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
                if int(name) < 0 or not math.isfinite(float(weight)):
                    raise ValueError(part)
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

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", args.device):
        raise UserError(f"Unknown device {args.device}: give auto, cpu, cuda or cuda:N.")
    set_threads(args.threads)
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"There is no device {name} here: use --device cpu.")
    return load(args.model, device=device)


def load_data(args: argparse.Namespace, model: AutoregressiveModel) -> Dataset:
    """Loads the data named on the command line, or those the model was trained on."""
    from nextpixel.data import known, load
    from nextpixel.model import trained_on
    from nextpixel.training import check_data

    name = args.data or trained_on(args.model)
    if name is None:
        raise UserError(f"It is not known which data {args.model} was trained on: give --data.")
    size = channels = None
    if name not in {entry.name for entry in known()} and Path(name).is_dir():
        channels, height, width = model.shape
        holds_arrays = any(Path(name).glob("*-ubyte*"))  # IDX files, which have their size
        size = height if height == width and not holds_arrays else None
    dataset = load(name, levels=model.levels, data_dir=args.data_dir, size=size, channels=channels)
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
        if args.data is not None:
            raise UserError("Complete picture files or images of a data set: leave --data out.")
        for path in args.images:
            if not path.is_file():
                raise UserError(f"There is no picture {path}: give the path of a file.")
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
        known = torch.from_numpy(picture < 128)
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
