"""Export models as a program, which runs without PyTorch, or as a page that runs in a browser."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import MODEL, Parser, add_trust
from nextpixel.errors import UserError

if TYPE_CHECKING:
    import argparse

    from nextpixel.engine import Program

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel export mnist --program digits.program",
    "nextpixel sample digits.program --class 3 -n 4",
    "nextpixel export mnist --web digits.html",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help=MODEL)
    parser.add_output(
        "--program",
        (".program",),
        "the program to write, a .program; it also holds the weights",
    )
    parser.add_argument(
        "--web",
        type=Path,
        metavar="FILE|FOLDER",
        help="the page to write: one .html file that holds all, or a folder",
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Writes a program or a page."""
    if (args.program is None) == (args.web is None):
        raise UserError("Say what to write: --program FILE or --web FILE.html.")
    if args.web is not None:
        write_web(args.models, args.web, args.trust)
    elif len(args.models) > 1:
        raise UserError("--program is for one model; --web takes several.")
    else:
        write_program(args.models[0], args.program, args.trust)


def write_web(models: list[str], out: Path, trust: bool) -> None:
    """Writes a page, and says where."""
    from nextpixel.utils.progress import progress
    from nextpixel.web import write_folder, write_page

    is_file = out.suffix.lower() in (".html", ".htm")
    if is_file and out.is_dir():
        raise UserError(f"{out} is a folder.")
    if not is_file and out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder, or a file that ends in .html.")
    if is_file:
        write_page(models, out, trust=trust)
    else:
        with progress("sampling sounds") as show:
            write_folder(models, out, trust=trust, show=show)
    page = out if is_file else out / "index.html"
    print(f"Wrote {page}: open it in a browser. It needs no network and no server.")


def write_program(name: str, out: Path, trust: bool) -> None:
    """Compiles a model and writes the program."""
    from nextpixel.cli.loading import load_model
    from nextpixel.engine import Program
    from nextpixel.model_folders import training_record
    from nextpixel.models.base.autoregressive import CausalNetwork

    model = load_model(name, conditioned=True, trust=trust)
    if not isinstance(model, CausalNetwork):
        raise UserError(
            f"{name} ({type(model).__name__}) cannot be compiled: it has no cached path, which a "
            "CausalNetwork has."
        )
    record = training_record(name)
    guidance = not record or bool(record.get("train", {}).get("drop_context"))
    model.save_program(out, guidance=guidance)
    report(out, Program.load(out))


def report(path: Path, program: Program) -> None:
    """Prints what was written, what context it needs, and how to use it."""
    channels, height, width = program.shape
    size = path.stat().st_size / 1e6
    print(
        f"Wrote {path}, {size:.1f} MB: images of {channels} x {height} x {width} with "
        f"{program.levels} levels, {needs(program)}"
    )
    if "map" in program.inputs:
        print("PyTorch computes these features: sample from the model itself.")
    elif "vector" in program.inputs:
        print(f"From Python, without PyTorch: nextpixel.engine.Program.load({str(path)!r})")
    else:
        print(
            f"Try nextpixel sample {shlex.quote(str(path))}; from Python, without PyTorch: "
            f"nextpixel.engine.Program.load({str(path)!r})"
        )


def needs(program: Program) -> str:
    """Says what context a program needs."""
    words = {
        "classes": "given one of {} classes",
        "vector": "given a vector of {} numbers",
        "map": "given {} features of an image",
    }
    given = [words[name].format(n) for name, n in program.inputs.items() if name in words]
    return " and ".join(given) or "without a context"
