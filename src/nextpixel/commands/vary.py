"""`nextpixel vary`: new images of the same kind as given ones."""

from __future__ import annotations

from nextpixel.options import (
    Parser,
    add_draws,
    add_images,
    images_to_vary,
    load_model,
    positive,
    progress,
)

__all__ = ["vary"]


def vary(argv: list[str]) -> None:
    """Draw new images of the same kind as given ones (after train --features)."""
    parser = Parser("vary", vary)
    parser.add_argument("model", help="a run folder of a model trained with --features")
    add_images(parser)
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help="go from each image to the next: --draws rows, each with the same noise all along",
    )
    parser.add_argument("--steps", type=positive, default=8, help="images on the way (default: 8)")
    add_draws(parser, "variations", "variations.png")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from typing import cast

    import torch

    from nextpixel import plots, variations
    from nextpixel.context import Context

    model = load_model(args, conditioned=True)
    features = variations.features_of(model)
    x, given = images_to_vary(args, model)
    context = cast(Context, given.context)
    how = {"seed": args.seed, "temperature": args.temperature}
    if args.interpolate:
        with progress("drawing") as show:
            drawn = variations.interpolate(
                model, context, draws=args.draws, steps=args.steps, progress=show, **how
            )
        picture = variations.ways(x, drawn, model.levels)
    else:
        with progress("drawing") as show:
            drawn = variations.vary(model, context, draws=args.draws, progress=show, **how)
        picture = variations.side_by_side({"original": x, "variation": drawn}, model.levels)
    with torch.inference_mode():
        bits = model.bits_per_dim(x.to(model.device), context)
    plots.save_image(picture, args.out)
    print(f"The images take, given their {features.layer}:")
    for number, value in enumerate(bits.tolist()):
        print(f"  image {number}: {value:.4f} bits/dim")
    print(f"Side by side: {args.out}")
