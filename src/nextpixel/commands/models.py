"""`nextpixel models`: the models in words."""

from __future__ import annotations

from nextpixel.options import Parser, parse_numbers, positive

__all__ = ["models"]


def models(argv: list[str]) -> None:
    """List the models, or explain one."""
    parser = Parser("models", models)
    parser.add_argument("model", nargs="?", help="a kind of model, one that comes along, or a run")
    parser.add_argument("--shape", default="1,28,28", metavar="C,H,W", help="for a kind of model")
    parser.add_argument("--levels", type=positive, default=256, help="for a kind of model")
    parser.add_argument("--classes", type=positive, help="for a kind of model")
    parser.add_trust()
    args = parser.parse_args(argv)

    from nextpixel import describe

    if args.model is None:
        print(describe.overview())
    else:
        channels, height, width = parse_numbers(args.shape, 3, "--shape")
        shape = (channels, height, width)
        print(describe.explain(args.model, shape, args.levels, args.classes, trust=args.trust))
