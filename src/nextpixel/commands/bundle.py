"""`nextpixel bundle`: a VQ-VAE and the priors over its codes, in one folder."""

from __future__ import annotations

from pathlib import Path

from nextpixel.errors import UserError
from nextpixel.options import Parser

__all__ = ["bundle"]


def bundle(argv: list[str]) -> None:
    """Put a VQ-VAE and the prior over its codes into one folder, to draw from."""
    parser = Parser("bundle", bundle)
    parser.add_argument("model", metavar="VQVAE", help="the run folder of the VQ-VAE")
    parser.add_argument(
        "priors",
        metavar="PRIOR",
        nargs="+",
        help="the run folder of its prior; of a VQVAE2 those of two, the top's first",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_trust()
    args = parser.parse_args(argv)

    import yaml

    from nextpixel.autoregressive import autoregressive
    from nextpixel.files import replace_file
    from nextpixel.latent import CodebookModel
    from nextpixel.latent_generator import PARTS, LatentGenerator, check_priors
    from nextpixel.model import load
    from nextpixel.saving import TRAINING, training_record

    model = load(args.model, trust=args.trust)
    if not isinstance(model, CodebookModel):
        raise UserError(
            f"{args.model} is of the kind {type(model).__name__}: name the VQVAE first, then the "
            "prior over its codes."
        )
    priors = [autoregressive(load(prior, trust=args.trust), prior) for prior in args.priors]
    check_priors(model, priors)
    generator = LatentGenerator(model, *priors)
    for part, run in zip(PARTS, (args.model, *args.priors), strict=False):
        record = yaml.safe_dump(training_record(run), sort_keys=False)
        replace_file(args.out / part / TRAINING, record.encode())
    generator.save(args.out)  # last, so that nothing is missing where it is whole
    print(f"Bundled into {args.out}: try nextpixel sample {args.out}")
