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
from typing import TYPE_CHECKING, Any

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
    lines = [f"  {name:10}{(command.__doc__ or '').splitlines()[0]}" for name, command in commands.items()]
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


def sample(argv: list[str]) -> None:
    """Draw new images."""


def complete(argv: list[str]) -> None:
    """Complete half-hidden images."""


def models(argv: list[str]) -> None:
    """List the models, or explain one."""


def data(argv: list[str]) -> None:
    """List the data sets, or show one."""


def set_threads(threads: int | None) -> None:
    """Sets the number of processor threads that torch uses."""
    if threads is not None:
        import torch

        if threads < 1:
            raise UserError(f"--threads must be at least 1, not {threads}.")
        torch.set_num_threads(threads)
