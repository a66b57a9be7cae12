"""`nextpixel vary`: new images of the same kind as given ones."""

from __future__ import annotations

from pathlib import Path

from nextpixel.options import (
    PICTURES,
    Parser,
    images_to_vary,
    load_model,
    output,
    positive,
    progress,
    seed,
)

__all__ = ["vary"]


def vary(argv: list[str]) -> None:
    """Draw new images of the same kind as given ones (after train --features)."""
    parser = Parser("vary", vary)
    parser.add_argument("model", help="a run folder of a model trained with --features")
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        help="picture files, cut and resized if need be; else test images",
    )
    parser.add_argument("--data", help="take test images from here; the model's data by default")
    parser.add_argument("-n", type=positive, default=8, help="how many test images (default: 8)")
    parser.add_argument("--draws", type=positive, default=4, help="variations of each, or rows (4)")
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help="go from each image to the next: --draws rows, each with the same noise all along",
    )
    parser.add_argument("--steps", type=positive, default=8, help="images on the way (default: 8)")
    parser.add_argument("--seed", type=seed, default=0, help="the same seed draws the same images")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        default=Path("variations.png"),
        help="default: variations.png",
    )
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from typing import cast

    import torch

    from nextpixel import plots, variations
    from nextpixel.context import Context

    model = load_model(args, told=True)
    features = variations.features_of(model)
    x, given = images_to_vary(args, model)
    told = cast(Context, given.context)
    how = {"seed": args.seed, "temperature": args.temperature}
    if args.interpolate:
        with progress("drawing") as show:
            drawn = variations.interpolate(
                model, told, draws=args.draws, steps=args.steps, progress=show, **how
            )
        picture = variations.ways(x, drawn, model.levels)
    else:
        with progress("drawing") as show:
            drawn = variations.vary(model, told, draws=args.draws, progress=show, **how)
        picture = variations.side_by_side({"original": x, "variation": drawn}, model.levels)
    with torch.inference_mode():
        bits = model.bits_per_dim(x.to(model.device), told)
    plots.save_image(picture, args.out)
    print(f"The images take, given their {features.layer}:")
    for number, value in enumerate(bits.tolist()):
        print(f"  image {number}: {value:.4f} bits/dim")
    print(f"Side by side: {args.out}")
