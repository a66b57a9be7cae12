"""The options that commands share, and how they are read.

Nothing heavy is imported before it is needed, so that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nextpixel.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CHARTS",
    "MODEL",
    "MODEL_OR_BUNDLE",
    "PICTURES",
    "SPLITS",
    "Parser",
    "add_common",
    "add_data",
    "add_data_dir",
    "add_draws",
    "add_hidden",
    "add_images",
    "add_noise",
    "add_trust",
    "hidden_options",
    "image_options",
    "in_turn",
    "output",
    "parse_classes",
    "parse_numbers",
    "positive",
    "seed",
]

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".bmp")  # what can be written
CHARTS = (".png", ".svg")
SPLITS = ("train", "valid", "test")
MODEL = "a model that comes with nextpixel, or a run folder"
MODEL_OR_BUNDLE = "a model that comes with nextpixel, a run folder, or one that bundle wrote"


class Help(argparse.HelpFormatter):
    """Shows the default of each option that has one, and keeps examples as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        default = action.default
        plain = default is None or default is False or default in ([], argparse.SUPPRESS)
        return text if plain or "(default" in text else f"{text} (default: %(default)s)"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if part.startswith("  ") else super(Help, self)._fill_text(part, width, indent)
            for part in text.split("\n\n")
        )


class Parser(argparse.ArgumentParser):
    """A parser of one command, whose mistakes are user errors like all others."""

    def __init__(self, name: str, description: str, examples: Sequence[str]) -> None:
        """Makes the parser; the description's first line is what the overview shows, too."""
        lines = "\n".join(f"  {example}" for example in examples)
        super().__init__(
            prog=f"nextpixel {name}",
            description=description,
            epilog=f"examples:\n\n{lines}",
            formatter_class=Help,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Refuses the arguments."""
        raise UserError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")

    def read(self, argv: list[str]) -> argparse.Namespace:
        """Reads the arguments, and names the option that is likely meant by an unknown one."""
        args, rest = self.parse_known_intermixed_args(argv)  # images may come after options
        if rest:
            option = rest[0].partition("=")[0]
            guess = did_you_mean(option, self._option_string_actions)
            self.error(f"unrecognized argument {rest[0]}{guess}")
        return args


# --- kinds of values ------------------------------------------------------------------------------


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


# --- options that several commands have -----------------------------------------------------------


def add_common(parser: Parser) -> None:
    """Adds the options that say what to compute with."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--threads", type=positive, help="processor threads to use")
    add_trust(group)


def add_trust(group: argparse._ActionsContainer) -> None:
    """Adds the option that lets the code of saved models run."""
    group.add_argument(
        "--trust",
        action="store_true",
        help="load models whose class is not nextpixel's own: this runs their code",
    )


def add_data_dir(group: argparse._ActionsContainer) -> None:
    """Adds the option that says where the files of data sets are."""
    group.add_argument("--data-dir", type=Path, help="where to look for data first")


def add_data(parser: Parser, *, required: bool = True, positional: bool = False) -> None:
    """Adds the options that name a data set, and say how to read it where that can be chosen."""
    what = "a name, a path to your own, wavs:FOLDER or codes:RUN"
    group = parser.add_argument_group("data")
    if positional:
        parser.add_argument("data", nargs="?", help=f"{what}; default: list the known names")
    else:
        group.add_argument("--data", required=required, help=what)
    group.add_argument("--levels", type=positive, help="requantise pixels to so many levels")
    group.add_argument("--size", type=positive, help="side that a folder's images are cut to")
    group.add_argument("--channels", type=int, choices=[1, 3], help="1 for grey, 3 for colour")
    add_data_dir(group)


def add_images(
    parser: Parser,
    n: int | None = 8,
    *,
    positional: bool = True,
    limit: str | None = None,
    classes: bool = True,
) -> None:
    """Adds the options that say which images to work on, see `cli.loading.load_images`.

    Args:
        parser: The command's parser.
        n: How many images of a folder or a data set are shown unless -n says so; None: no -n.
        positional: Whether they are named right after the model, or by --images.
        limit: What --limit limits; None: no --limit.
        classes: Whether images without classes may be given some.
    """
    group = parser.add_argument_group("images")
    what = "picture files, folders or files of arrays; or one data set (default: the model's own)"
    (parser if positional else group).add_argument(
        "images" if positional else "--images",
        nargs="*" if positional else "+",
        metavar="IMAGES",
        default=[],
        help=what,
    )
    group.add_argument("--data", help="a data set: a name, a path, wavs:FOLDER or codes:RUN")
    group.add_argument(
        "--split",
        choices=SPLITS,
        help="of a data set (default: test; all of a folder or file given as IMAGES)",
    )
    add_data_dir(group)
    if n is not None:
        group.add_argument(
            "-n",
            type=positive,
            help=f"show so many images, spread evenly (default: {n}, or all files given)",
        )
    if limit is not None:
        group.add_argument(
            "--limit", type=positive, help=f"{limit} at most so many images, spread evenly"
        )
    if classes:
        group.add_argument(
            "--class",
            dest="classes",
            metavar="C",
            help="class of pictures that have none: 3; 3,5,8 in turn; or a mix, 3=0.7,8=0.3",
        )
    parser.set_defaults(shown=n)


def image_options(args: argparse.Namespace) -> dict[str, Any]:
    """Gathers what `add_images` read for `cli.loading.load_images`."""
    return {name: getattr(args, name) for name in ("images", "data", "data_dir", "split")}


def add_draws(parser: Parser, what: str, out: str, draws: int = 4) -> None:
    """Adds the options that say what to draw for each image, and the file to show it in."""
    parser.add_argument("--draws", type=positive, default=draws, help=f"{what} of each image")
    add_noise(parser)
    parser.add_argument(
        "--out", type=output(*PICTURES), default=Path(out), help="the picture to write"
    )


def add_noise(parser: Parser, what: str = "images") -> None:
    """Adds the options that decide the noise of what is drawn."""
    parser.add_argument("--seed", type=seed, default=0, help=f"the same seed draws the same {what}")
    parser.add_argument("--temperature", type=float, default=1.0, help=f"below 1: likelier {what}")


def add_hidden(parser: Parser, keep: str) -> argparse._MutuallyExclusiveGroup:
    """Adds the options that say which pixels are hidden; `keep` says what happens without them.

    Returns:
        The group of these options, of which one at most is given.
    """
    hidden = parser.add_argument_group("hidden pixels").add_mutually_exclusive_group()
    halves = ["top", "bottom", "left", "right"]
    hidden.add_argument("--keep", choices=halves, help=f"keep this half ({keep})")
    hidden.add_argument("--hide", choices=halves, help="hide this half")
    hidden.add_argument("--box", metavar="ROW,COL,HEIGHT,WIDTH", help="hide a box")
    hidden.add_argument("--mask", type=Path, help="hide where this picture is white")
    return hidden


def hidden_options(args: argparse.Namespace) -> dict[str, Any]:
    """Gathers what `add_hidden` read for `cli.loading.known_pixels`."""
    return {name: getattr(args, name) for name in ("keep", "hide", "box", "mask")}
