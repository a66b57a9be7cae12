"""`nextpixel complete`: the rest of half-hidden images."""

from __future__ import annotations

from pathlib import Path

from nextpixel.options import (
    PICTURES,
    Parser,
    add_hidden,
    images_to_complete,
    known_pixels,
    load_model,
    output,
    positive,
    progress,
    seed,
)

__all__ = ["complete"]


def complete(argv: list[str]) -> None:
    """Complete half-hidden images."""
    parser = Parser("complete", complete)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        help="picture files, cut and resized if need be; else test images",
    )
    parser.add_argument("--data", help="take test images from here; the model's data by default")
    parser.add_argument("-n", type=positive, default=8, help="how many test images (default: 8)")
    add_hidden(parser, "default: top")
    parser.add_argument("--class", dest="classes", metavar="C", help="class of the picture files")
    parser.add_argument("--draws", type=positive, default=4, help="completions of each image")
    parser.add_argument(
        "--seed", type=seed, default=0, help="the same seed draws the same completions"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        default=Path("completions.png"),
        help="default: completions.png",
    )
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    import torch

    from nextpixel import plots, sampling

    model = load_model(args)
    x, c = images_to_complete(args, model)
    known = known_pixels(args, model.shape)
    bits = sampling.hidden_bits(model, x, known, c)
    columns = {
        "original": plots.to_uint8(x, model.levels),
        "given": plots.hide(x, known, model.levels),
    }
    with progress("completing") as show:
        drawn = sampling.complete(
            model,
            x.repeat(args.draws, 1, 1, 1),
            known,
            c if c is None else c[torch.arange(len(x)).repeat(args.draws)],
            seed=args.seed,
            temperature=args.temperature,
            progress=show,
        )
    for number, completed in enumerate(torch.split(drawn, len(x)), 1):
        columns[f"completion {number}"] = plots.to_uint8(completed, model.levels)
    columns["bits a pixel"] = plots.heat_map(bits.sum(1).masked_fill(known, torch.nan))
    plots.save_image(plots.side_by_side(columns, 256), args.out)
    each = bits.flatten(1).sum(1)
    count = int((~known).sum()) * model.shape[0]
    print(f"The {count} hidden pixels of each image take, given the true pixels before them:")
    for number, value in enumerate(each.tolist()):
        print(f"  image {number}: {value:8.1f} bits, {value / count:.4f} a pixel")
    print(f"  mean:    {each.mean():8.1f} bits, {each.mean() / count:.4f} a pixel")
    print(
        "Pixels are drawn in raster order: each is told only of those in the rows above it and to "
        "its left. Known pixels that come later are kept, but nothing is drawn to fit them."
    )
    print(f"Side by side: {args.out}")
