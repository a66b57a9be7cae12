"""The options that commands share, and how they are read.

Nothing slow is imported, so that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from nextpixel.errors import UserError, did_you_mean
from nextpixel.utils.files import unused

__all__ = [
    "CHARTS",
    "CLASSES",
    "DATA",
    "LIKELIER",
    "MODEL",
    "MODEL_OR_BUNDLE",
    "PICTURES",
    "SAME_SEED",
    "SPLITS",
    "Parser",
    "add_class",
    "add_common",
    "add_data",
    "add_data_dir",
    "add_draws",
    "add_guidance",
    "add_hidden",
    "add_images",
    "add_interpolation",
    "add_noise",
    "add_trust",
    "data_options",
    "hidden_options",
    "image_options",
    "interpolation_columns",
    "parse_numbers",
    "positive",
    "refuse_among_images",
    "seed",
]

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".bmp")  # formats of a still picture
CHARTS = (".png", ".svg")
CLASSES = "3; 3,5,8 in turn; or a mix, 3=0.7,8=0.3"
SPLITS = ("train", "valid", "test")
MODEL = "the name of a pretrained model, or a run folder"
MODEL_OR_BUNDLE = "the name of a pretrained model, a run folder, or a folder written by bundle"
DATA = "a data set: a name, a path to your own, wavs:FOLDER or codes:RUN"
SAME_SEED = "the same seed draws the same"
LIKELIER = "below 1 for likelier"
INTERPOLATED = 8  # pictures from one image to the next


class Help(argparse.HelpFormatter):
    """Formats help: a short usage line, the default of each option, and examples as written."""

    def add_usage(
        self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None
    ) -> None:
        """Adds the usage line, which names only what must be given and the positional arguments."""
        named = [action for action in actions if action.required or not action.option_strings]
        self._prog += " [OPTIONS]"
        super().add_usage(usage, named, [], prefix)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kinds: dict[object, str] = {positive: "N", seed: "N", float: "X"}
        return kinds.get(action.type) or super()._get_default_metavar_for_optional(action)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        default = action.default
        plain = default is None or default is False or default in ([], argparse.SUPPRESS)
        numbered = "; numbered if that exists" if isinstance(default, Path) else ""
        return text if plain or "(default" in text else f"{text} (default: %(default)s{numbered})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if part.startswith("  ") else super(Help, self)._fill_text(part, width, indent)
            for part in text.split("\n\n")
        )


class Parser(argparse.ArgumentParser):
    """The parser of one command; it raises `UserError` on a mistake."""

    def __init__(self, name: str, description: str, examples: Sequence[str]) -> None:
        """Creates the parser.

        Args:
            name: The command.
            description: Its help; `nextpixel --help` shows the first line.
            examples: Command lines to end the help with.
        """
        lines = "\n".join(f"  {example}" for example in examples)
        super().__init__(
            prog=f"nextpixel {name}",
            description=description,
            epilog=f"examples:\n\n{lines}",
            formatter_class=Help,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises the message as a user error."""
        raise UserError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")

    def read(self, argv: list[str]) -> argparse.Namespace:
        """Reads the arguments; after an unknown option, names the one that is likely meant."""
        # First, because a misspelt option is more likely than a forgotten argument.
        options = argv[: argv.index("--")] if "--" in argv else argv
        for option in options:
            if option.startswith("--") and " " not in option:
                self._check_option(option.partition("=")[0])
        args, rest = self.parse_known_intermixed_args(argv)  # images may come after options
        if rest:
            self.error(f"unrecognized argument {rest[0]}")
        default = self.get_default("out")
        if isinstance(default, Path) and args.out is default:
            args.out = unused(default)
            refuse_among_images(args.out, args)
        return args

    def add_output(
        self,
        option: str,
        suffixes: Sequence[str],
        text: str,
        *,
        default: str | None = None,
        required: bool = False,
        short: str | None = None,
    ) -> None:
        """Adds an option that names a file to write, of one of these formats."""
        path = None if default is None else Path(default)
        kind = output(*suffixes)
        names = [option] if short is None else [short, option]
        self.add_argument(
            *names, type=kind, metavar="FILE", default=path, required=required, help=text
        )

    def _check_option(self, option: str) -> None:
        known = self._option_string_actions
        if option not in known:
            self.error(f"there is no option {option}{did_you_mean(option, known)}")


# --- kinds of values ------------------------------------------------------------------------------


def positive(text: str) -> int:
    """Reads a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def minutes(text: str) -> float:
    """Reads a time in minutes, above 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")
    return value


def seed(text: str) -> int:
    """Reads a seed, which has 63 bits."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def output(*suffixes: str) -> Callable[[str], Path]:
    """Returns a reader for the path of an output file that refuses one that cannot be written.

    So a mistake is found before the work is done, not after it.

    Args:
        suffixes: The suffixes that the file may have.
    """

    def read(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in suffixes:
            film = "; --gif of nextpixel sample writes a film" * (path.suffix.lower() == ".gif")
            raise argparse.ArgumentTypeError(f"{text} must end in {', '.join(suffixes)}{film}")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        reason = None
        if path.is_dir():
            reason = f"{path} is a folder"
        elif not folder.is_dir():
            reason = f"{folder} is no folder"
        elif not os.access(folder, os.W_OK):
            reason = f"the folder {folder} is write-protected"
        if reason is not None:
            raise argparse.ArgumentTypeError(
                f"cannot write {text}, because {reason}: name another file"
            )
        return path

    return read


def refuse_among_images(out: Path, args: argparse.Namespace) -> None:
    """Refuses to write a file that was not named into a folder of images that a command reads.

    These are the images of `add_images` and of other options, and those the model was trained on.

    Raises:
        UserError: It is inside one.
    """
    from nextpixel.data.catalogue import refuse_inside  # these take time to import
    from nextpixel.model_folders import training_record

    given = vars(args)
    names = [*(given.get("images") or []), *map(given.get, ("data", "against", "ordinary"))]
    if given.get("model") is not None:
        with suppress(UserError):  # there is no such model, or its record is damaged
            names.append(training_record(given["model"]).get("data"))
    for name in names:
        if name is not None:
            refuse_inside(out, name)


def parse_numbers(text: str, count: int, option: str) -> tuple[int, ...]:
    """Reads `count` whole numbers separated by commas."""
    parts = text.split(",")
    if len(parts) != count or not all(part.strip().isdecimal() for part in parts):
        raise UserError(
            f"{option} takes {count} whole numbers like {','.join('1' * count)}, not {text}."
        )
    return tuple(map(int, parts))


# --- options that several commands have -----------------------------------------------------------


def add_common(parser: Parser) -> None:
    """Adds --device, --threads and --trust."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    group.add_argument("--threads", type=positive, help="number of processor threads")
    add_trust(group)


def add_trust(group: argparse._ActionsContainer) -> None:
    """Adds --trust."""
    group.add_argument(
        "--trust",
        action="store_true",
        help="also load models of other classes than nextpixel's, which runs their code",
    )


def add_data_dir(group: argparse._ActionsContainer) -> None:
    """Adds --data-dir."""
    group.add_argument(
        "--data-dir", type=Path, metavar="FOLDER", help="folder to search for data sets first"
    )


def add_data(parser: Parser, *, positional: bool = False) -> None:
    """Adds the options that name a data set and say how to read it.

    Args:
        parser: The command's parser.
        positional: Whether the data set is an argument that may be left out, not required --data.
    """
    group = parser.add_argument_group("data")
    if positional:
        parser.add_argument(
            "data", nargs="?", metavar="DATA", help=f"{DATA} (default: list the known names)"
        )
    else:
        group.add_argument("--data", required=True, help=DATA)
    group.add_argument("--levels", type=positive, help="requantise pixels to N levels")
    group.add_argument("--resize", type=positive, help="crop and resize a folder's images to N x N")
    group.add_argument("--channels", type=int, choices=[1, 3], help="1 for grey, 3 for colour")
    add_data_dir(group)


def data_options(args: argparse.Namespace) -> dict[str, Any]:
    """Gathers the options of `add_data`, without the data set, for `latents.codes.load_data`."""
    names = ("levels", "data_dir", "resize", "channels", "trust")
    return {name: getattr(args, name) for name in names}


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
        n: Default of -n for the images of a folder or a data set; None: no -n.
        positional: Whether the images follow the model, or are given by --images.
        limit: Verb and object of --limit, as "score"; None: no --limit.
        classes: Whether there is --class, for images without classes.
    """
    group = parser.add_argument_group("images")
    (parser if positional else group).add_argument(
        "images" if positional else "--images",
        nargs="*" if positional else "+",
        metavar="IMAGES",
        default=[],
        help="picture files, folders or files of arrays; or one data set (default: the data that "
        "the model was trained on)",
    )
    group.add_argument("--data", help=DATA)
    group.add_argument(
        "--split",
        choices=SPLITS,
        help="split of a data set (default: test; all of a folder or file given as IMAGES)",
    )
    add_data_dir(group)
    if n is not None:
        group.add_argument(
            "-n",
            type=positive,
            help=f"show N images, spread evenly (default: {n}, or all files given)",
        )
    if limit is not None:
        group.add_argument(
            "--limit", type=positive, help=f"{limit} at most N images, spread evenly"
        )
    if classes:
        add_class(group, f"class of pictures that have none, by id or name: {CLASSES}")
    parser.set_defaults(shown=n)


def add_class(group: argparse._ActionsContainer, text: str) -> None:
    """Adds --class, see `cli.contexts.parse_classes`."""
    group.add_argument("--class", dest="classes", metavar="C", help=text)


def image_options(args: argparse.Namespace) -> dict[str, Any]:
    """Gathers the options of `add_images` for `cli.loading.load_images`."""
    names = ("images", "data", "data_dir", "split", "trust")
    return {name: getattr(args, name) for name in names}


def add_draws(parser: Parser, what: str, out: str, draws: int = 4) -> None:
    """Adds --draws, --seed, --temperature and --out.

    Args:
        parser: The command's parser.
        what: What is drawn for each image, in the plural.
        out: Default of --out.
        draws: Default of --draws.
    """
    parser.add_argument("--draws", type=positive, default=draws, help=f"{what} of each image")
    add_noise(parser)
    parser.add_output("--out", PICTURES, "the picture to write", default=out)


def add_noise(parser: Parser, what: str = "images") -> None:
    """Adds --seed and --temperature."""
    parser.add_argument("--seed", type=seed, default=0, help=f"{SAME_SEED} {what}")
    parser.add_argument("--temperature", type=float, default=1.0, help=f"{LIKELIER} {what}")


def add_guidance(parser: Parser) -> None:
    """Adds --guidance."""
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="above 1 to exaggerate the class, of a model trained with train.drop_context",
    )


def add_interpolation(parser: Parser, path: str) -> None:
    """Adds --interpolate and --columns; `path` says from what to what an interpolation goes."""
    parser.add_argument("--interpolate", action="store_true", help=f"interpolate {path}")
    parser.add_argument(
        "--columns",
        type=positive,
        help=f"pictures in a row of --interpolate (default: {INTERPOLATED})",
    )


def interpolation_columns(args: argparse.Namespace) -> int:
    """Returns the number of pictures in a row, from the options of `add_interpolation`.

    Raises:
        UserError: --columns is given without --interpolate.
    """
    if args.columns is not None and not args.interpolate:
        raise UserError("--columns is for --interpolate: leave it out, or give both.")
    return args.columns or INTERPOLATED


def add_hidden(parser: Parser, keep: str) -> argparse._MutuallyExclusiveGroup:
    """Adds the options that say which pixels are hidden.

    Args:
        parser: The command's parser.
        keep: The default, in words.

    Returns:
        The group of these options, which exclude each other.
    """
    hidden = parser.add_argument_group("hidden pixels").add_mutually_exclusive_group()
    halves = ["top", "bottom", "left", "right"]
    hidden.add_argument("--keep", choices=halves, help=f"keep this half ({keep})")
    hidden.add_argument("--hide", choices=halves, help="hide this half")
    hidden.add_argument("--box", metavar="ROW,COL,HEIGHT,WIDTH", help="hide a box")
    hidden.add_argument("--mask", type=Path, metavar="FILE", help="hide where a picture is white")
    return hidden


def hidden_options(args: argparse.Namespace) -> dict[str, Any]:
    """Gathers the options of `add_hidden` for `cli.loading.known_pixels`."""
    return {name: getattr(args, name) for name in ("keep", "hide", "box", "mask")}
