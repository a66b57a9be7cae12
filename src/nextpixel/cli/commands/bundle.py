"""Put a VQ-VAE and the prior over its codes into one folder, to draw from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_trust
from nextpixel.errors import UserError

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
        help="the run folder of its prior; of a VQVAE2 those of two, the top's first",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Checks that the models belong together, and writes the folder."""
    import yaml

    from nextpixel.latents.generator import PARTS, LatentGenerator, check_priors
    from nextpixel.models.base.autoregressive import autoregressive
    from nextpixel.models.base.codebook import CodebookModel
    from nextpixel.models.base.image_model import load
    from nextpixel.saving import TRAINING, training_record
    from nextpixel.utils.files import replace_file

    model = load(args.model, trust=args.trust)
    if not isinstance(model, CodebookModel):
        raise UserError(
            f"{args.model} is of the kind {type(model).__name__}: name the VQVAE first, then the "
            "prior over its codes."
        )
    priors = [autoregressive(load(prior, trust=args.trust), prior) for prior in args.priors]
    check_priors(model, priors)
    generator = LatentGenerator(model, *priors)
    for part, name in zip(PARTS, (args.model, *args.priors), strict=False):
        record = yaml.safe_dump(training_record(name), sort_keys=False)
        replace_file(args.out / part / TRAINING, record.encode())
    generator.save(args.out)  # last, so that nothing is missing where it is whole
    report(args.out)


def report(out: Path) -> None:
    """Says where the folder is."""
    print(f"Bundled into {out}: try nextpixel sample {out}")
