"""Put a VQ-VAE and the prior over its codes into one folder, to sample from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_trust
from nextpixel.errors import UserError
from nextpixel.utils.reading import dump_yaml

if TYPE_CHECKING:
    import argparse

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel bundle runs/vq-vae runs/prior --out runs/both",
    "nextpixel sample runs/both",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="VQVAE", help="the run folder of the VQ-VAE")
    parser.add_argument(
        "priors",
        metavar="PRIOR",
        nargs="+",
        help="the run folder of its prior; for a VQVAE2 two, that of the top codes first",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the folder to write"
    )
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Checks that the models belong together, and writes the folder."""
    from nextpixel.cli.loading import load_any_model, load_model
    from nextpixel.latents.generator import PARTS, LatentGenerator, check_priors
    from nextpixel.model_folders import TRAINING, training_record
    from nextpixel.models.base.codebook import CodebookModel
    from nextpixel.utils.files import replace_file

    model = load_any_model(args.model, trust=args.trust)
    if not isinstance(model, CodebookModel):
        raise UserError(
            f"{args.model} is a {type(model).__name__}, not a VQ-VAE: name the VQ-VAE first, then "
            "the prior over its codes."
        )
    priors = [load_model(prior, conditioned=True, trust=args.trust) for prior in args.priors]
    check_priors(model, priors)
    generator = LatentGenerator(model, *priors)
    for part, name in zip(PARTS, (args.model, *args.priors), strict=False):
        replace_file(args.out / part / TRAINING, dump_yaml(training_record(name)))
    generator.save(args.out)  # last, so that an interrupted bundle is not taken for a whole one
    report(args.out)


def report(out: Path) -> None:
    """Prints the folder, and what to do next."""
    print(f"Bundled into {out}: try nextpixel sample {shlex.quote(str(out))}")
