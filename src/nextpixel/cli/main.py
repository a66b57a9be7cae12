"""The command line: runs a command, and reports errors as one sentence and an exit status."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from nextpixel.cli.options import Parser
from nextpixel.errors import Stopped, UserError, did_you_mean
from nextpixel.utils.files import user_path

__all__ = ["main"]

# The commands in the order of the help. Each is a module of `nextpixel.cli.commands`.
GROUPS = {
    "Start": ["start", "models", "data", "train"],
    "Draw": ["sample", "complete", "restore", "vary", "reconstruct", "synthesize"],
    "Evaluate": ["eval", "score", "evaluate-samples", "compare"],
    "Compress": ["compress", "archive", "decompress", "info", "verify"],
    "Understand": ["inspect", "check", "invert"],
    "Advanced": ["classifier", "bundle", "export", "studio"],
}
COMMANDS = [name for names in GROUPS.values() for name in names]
MODULES = {"eval": "evaluate"}  # `eval` is a function of Python's

# PyTorch's allocator for the processor raises a bare RuntimeError with this text: on Linux and
# macOS, and on Windows.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit status.

    That is 2 after a user error, 1 where part of the work could not be done (files were skipped) or
    a check has failed, and 128 + n after signal n.
    """
    print_anything()
    wait_asleep()
    warnings.filterwarnings("ignore", "Image size", module="PIL")  # twice as large is refused
    try:
        with short_warnings():
            status = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"nextpixel: {str(error).rstrip('.')}.", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print(
            "nextpixel: This needs PyTorch, which is not installed: install nextpixel with all "
            "that it needs, or sample by a program (nextpixel sample FILE.program).",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as head does
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
    except KeyboardInterrupt as error:
        print("nextpixel: interrupted.", file=sys.stderr)
        return 128 + (error.signal if isinstance(error, Stopped) else signal.SIGINT)
    return status


def run(argv: list[str]) -> int:
    """Runs the command that the first argument names, and returns its exit status."""
    try:
        # For models in the user's own files; last, so that no file here hides an installed module.
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
    except FileNotFoundError:
        raise UserError(
            "The current folder no longer exists: change to another one, as with cd."
        ) from None
    name, *rest = map(with_home, argv or ["--help"])
    if name in ("-h", "--help"):
        print(overview())
    elif name == "--version":
        from importlib.metadata import version

        print(version("nextpixel"))
    elif name in COMMANDS:
        module = command(name)
        status: int | None = module.run(
            module.arguments(rest) if name == "train" else read(name, module, rest)
        )
        return status or 0
    else:
        raise UserError(
            f"There is no command {name}{did_you_mean(name, COMMANDS)}; nextpixel --help lists "
            "them all."
        )
    return 0


def with_home(word: str) -> str:
    """Replaces ~ and ~name at the beginning of a word or of --option=word, as most shells do.

    Raises:
        UserError: There is no such user, or no home folder.
    """
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{user_path(value)}" if value.startswith("~") else word


def wait_asleep() -> None:
    """Makes PyTorch's threads that wait for each other fall asleep soon, unless the user chose.

    They repeat a test while they wait, by default 300,000 times, and so use up the time in which
    another program would let the other thread work: beside four busy programs two threads train 22
    times as fast with 3,000 (docs/speed.md). It is read by libgomp, which PyTorch for Linux brings
    along.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def print_anything() -> None:
    """Makes output replace what the terminal cannot show, and pass where it is closed.

    A name of a class or the sign ± must not end a command with an error after its work is done.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before Python started
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def short_warnings() -> Iterator[None]:
    """Prints nextpixel's warnings as it prints errors: the sentence, without a line of code."""
    original = warnings.formatwarning

    def format_warning(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if Path(filename).is_relative_to(Path(__file__).parents[1]):
            return f"nextpixel: {message}\n"
        return original(message, category, filename, lineno, line)

    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = original


def command(name: str) -> ModuleType:
    """Imports the module of a command."""
    return import_module(f"nextpixel.cli.commands.{MODULES.get(name, name).replace('-', '_')}")


def read(name: str, module: ModuleType, argv: list[str]) -> argparse.Namespace:
    """Reads a command's arguments; `argv` of the result holds them unread."""
    parser = Parser(name, module.__doc__ or "", module.EXAMPLES)
    module.arguments(parser)
    args = parser.read(argv)
    args.argv = argv
    return args


def overview() -> str:
    """Returns the help of nextpixel: the first line of each command's help, in groups."""
    lines = [
        "usage: nextpixel COMMAND ...",
        "",
        "Exact-likelihood pixel models: train them, score, sample, complete and restore images.",
    ]
    for group, names in GROUPS.items():
        lines += ["", f"{group}:"]
        lines += [f"  {name:17}{(command(name).__doc__ or '').splitlines()[0]}" for name in names]
    return "\n".join(
        [
            *lines,
            "",
            "A first picture: nextpixel sample mnist",
            "The version: nextpixel --version",
            "The help of a command, with examples: nextpixel COMMAND --help",
        ]
    )


def is_out_of_memory(error: Exception) -> bool:
    """Checks whether an error means that the processor or a GPU has run out of memory."""
    torch = sys.modules.get("torch")  # not imported by commands that need no model
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    return any(text in str(error) for text in OUT_OF_MEMORY)


def explain(error: OSError) -> str:
    """Returns an error of the operating system as a sentence."""
    file = error.filename or "a file"
    if error.errno == errno.ENOSPC:
        return f"Cannot write {file}, the disk is full: free some space. Saved files are intact."
    return f"Cannot use {file}: {error.strerror or error}."


def abandon_output() -> None:
    """Discards unprinted output, which Python would otherwise try to flush when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
