"""The command line: finds the command, and turns what goes wrong into a sentence and a status."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from nextpixel.cli.options import Parser
from nextpixel.errors import UserError, did_you_mean

__all__ = ["main"]

# The commands as the help shows them. Each is a module of `nextpixel.cli.commands`.
GROUPS = {
    "Start": ["models", "data", "train"],
    "Draw": ["sample", "complete", "restore", "vary", "reconstruct", "synthesize"],
    "Evaluate": ["eval", "score", "evaluate-samples", "compare"],
    "Understand": ["inspect", "invert"],
    "Advanced": ["classifier", "bundle"],
}
COMMANDS = [name for names in GROUPS.values() for name in names]
MODULES = {"eval": "evaluate"}  # where the name of the command is another one

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
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
    elif name == "--version":
        from importlib.metadata import version

        print(version("nextpixel"))
    elif name in COMMANDS:
        module = command(name)
        module.run(module.arguments(rest) if name == "train" else read(name, module, rest))
    else:
        raise UserError(
            f"There is no command {name}{did_you_mean(name, COMMANDS)}: the commands are "
            f"{', '.join(COMMANDS)}; see nextpixel --help."
        )


def command(name: str) -> ModuleType:
    """Imports the module of a command."""
    return import_module(f"nextpixel.cli.commands.{MODULES.get(name, name).replace('-', '_')}")


def read(name: str, module: ModuleType, argv: list[str]) -> argparse.Namespace:
    """Reads a command's arguments; as `argv` they come along as they are."""
    parser = Parser(name, module.__doc__ or "", module.EXAMPLES)
    module.arguments(parser)
    args = parser.read(argv)
    args.argv = argv
    return args


def overview() -> str:
    """Writes the help of the whole program from the first lines of the commands' help."""
    lines = [
        "usage: nextpixel COMMAND ...",
        "",
        "Exact-likelihood pixel models: train, score, sample and complete images.",
    ]
    for group, names in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:17}{(command(name).__doc__ or '').splitlines()[0]}" for name in names]
    return "\n".join(
        [
            *lines,
            "",
            "A first picture: nextpixel sample mnist-gated",
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
