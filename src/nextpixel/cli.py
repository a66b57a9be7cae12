"""The command line: finds the command, and turns what goes wrong into a sentence and a status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from nextpixel.commands.bundle import bundle
from nextpixel.commands.classifier import classifier
from nextpixel.commands.compare import compare
from nextpixel.commands.complete import complete
from nextpixel.commands.data import data
from nextpixel.commands.evaluate import evaluate
from nextpixel.commands.invert import invert
from nextpixel.commands.judge import judge
from nextpixel.commands.models import models
from nextpixel.commands.reconstruct import reconstruct
from nextpixel.commands.restore import restore
from nextpixel.commands.sample import sample
from nextpixel.commands.say import say
from nextpixel.commands.score import score
from nextpixel.commands.see import see
from nextpixel.commands.train import train
from nextpixel.commands.vary import vary
from nextpixel.errors import UserError

__all__ = ["main"]

# PyTorch's allocator for the processor raises a bare RuntimeError: its words on Linux and macOS,
# and on Windows.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)


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
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
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
        "score": score,
        "sample": sample,
        "complete": complete,
        "restore": restore,
        "reconstruct": reconstruct,
        "classifier": classifier,
        "vary": vary,
        "invert": invert,
        "bundle": bundle,
        "say": say,
        "judge": judge,
        "compare": compare,
        "see": see,
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
        f"  {name:12}{(command.__doc__ or '').splitlines()[0]}"
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


def is_out_of_memory(error: Exception) -> bool:
    """Tells whether memory ran out, of the processor or of a GPU."""
    torch = sys.modules.get("torch")  # not imported by commands that need no model
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    return any(text in str(error) for text in OUT_OF_MEMORY)


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
