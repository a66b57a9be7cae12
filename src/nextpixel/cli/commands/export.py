"""Export a model as a program, one file that samples and scores without PyTorch."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from nextpixel.cli.options import MODEL, Parser, add_trust
from nextpixel.errors import UserError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from nextpixel.engine import Program

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel export mnist-gated --program digits.program",
    "nextpixel sample digits.program --class 3 -n 4",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_output(
        "--program",
        (".program",),
        "the program to write, a .program; it also holds the weights",
        required=True,
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Compiles the model and writes the program."""
    from nextpixel.cli.loading import load_model
    from nextpixel.engine import Program
    from nextpixel.model_folders import training_record
    from nextpixel.models.base.autoregressive import CausalNetwork

    model = load_model(args.model, conditioned=True, trust=args.trust)
    if not isinstance(model, CausalNetwork):
        raise UserError(
            f"{args.model} ({type(model).__name__}) cannot be compiled: it has no cached path, "
            "which a CausalNetwork has."
        )
    record = training_record(args.model)
    guidance = not record or bool(record.get("train", {}).get("drop_context"))
    model.save_program(args.program, guidance=guidance)
    report(args.program, Program.load(args.program))


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
