"""Complete half-hidden images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import (
    MODEL_OR_BUNDLE,
    Parser,
    add_common,
    add_draws,
    add_hidden,
    add_images,
    hidden_options,
    image_options,
    positive,
)
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse

    import torch
    from torch import Tensor

    from nextpixel.context import Context
    from nextpixel.latents.generator import LatentGenerator
    from nextpixel.models.base.autoregressive import AutoregressiveModel
    from nextpixel.sampling.particles import Completed
    from nextpixel.viz.images import Pixels

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel complete mnist-gated --keep top",
    "nextpixel complete mnist-gated seven.png --class 7 --hide left --draws 8",
    "nextpixel complete mnist-gated --box 10,0,4,28 --particles 64",
    "nextpixel complete vq-mnist --codes 14",
]

COLLAPSED = 2  # an effective sample size below this


@dataclass
class Hidden:
    """What is completed: pixels, or the codes of a VQ-VAE.

    Attributes:
        site: "pixel" or "code".
        model: Draws them.
        x: What it draws, of each image, `(N, C, h, w)`.
        known: Which of them are kept, `(h, w)`.
        free: Which carry no bits, as they are known or padding, `(N, 1, h, w)`.
        c: The model's context.
        columns: What the picture shows before the completions.
        show: Makes pictures of what was drawn, `(N, C, H, W)`.
    """

    site: str
    model: AutoregressiveModel
    x: Tensor
    known: Tensor
    free: Tensor
    c: Context | None
    columns: dict[str, Pixels]
    show: Callable[[Tensor], Pixels]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", help=MODEL_OR_BUNDLE)
    add_images(parser)
    which = add_hidden(parser, "default: top")
    which.add_argument(
        "--codes",
        type=positive,
        metavar="K",
        help="of a bundle, keep the first K codes: one image gives many in its style",
    )
    add_draws(parser, "completions", "completions.png")
    parser.add_argument(
        "--particles",
        type=positive,
        default=1,
        help="draw so many together for each completion, and take later known pixels into account",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Draws the completions, and writes them beside the images."""
    from nextpixel.cli.loading import load_bundle
    from nextpixel.evaluation import likelihood
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import images as plots

    if args.particles > 1 and args.temperature != 1:
        raise UserError(
            "Particles are weighed by the model's own probabilities: leave --temperature out."
        )
    device = set_up(args.device, args.threads)
    generator = load_bundle(args.model, device, trust=args.trust)
    hidden = hidden_pixels(args, device) if generator is None else hidden_codes(args, generator)
    bits = likelihood.hidden_bits(hidden.model, hidden.x, hidden.free, hidden.c)
    drawn, completed = draw(args, hidden)
    spectrogram = (hidden.model if generator is None else generator).data_record.spectrogram
    columns = {
        name: plots.for_display(x, spectrogram) for name, x in side_by_side(hidden, drawn, bits)
    }
    plots.save_image(plots.side_by_side(columns, 256), args.out)
    report(hidden, bits, completed, args.particles, args.draws, args.out)


def report(
    hidden: Hidden,
    bits: Tensor,
    completed: Completed | None,
    particles: int,
    draws: int,
    out: Path,
) -> None:
    """Prints what the hidden sites cost, how the particles fared, and where the picture is."""
    tell_bits(hidden, bits)
    if completed is None:
        print(
            f"{hidden.site.capitalize()}s are drawn in raster order: each is told only of those in "
            f"the rows above it and to its left. Known {hidden.site}s that come later are kept, "
            "but nothing is drawn to fit them (--particles 64 takes them into account)."
        )
    else:
        tell_particles(completed, particles, draws, hidden.site)
    print(f"Side by side: {out}")


def draw(args: argparse.Namespace, hidden: Hidden) -> tuple[Tensor, Completed | None]:
    """Completes each image as often as asked: all of them once, all once more, and so on.

    Returns:
        What was drawn, `(draws * N, C, h, w)`, and how the particles fared if there were any.
    """
    import torch

    from nextpixel import sampling
    from nextpixel.sampling.particles import complete_with_particles

    again = torch.arange(len(hidden.x)).repeat(args.draws)
    c = None if hidden.c is None else hidden.c[again]
    given = (hidden.model, hidden.x[again], hidden.known, c)
    with progress("completing") as show:
        if args.particles == 1:
            how = {"seed": args.seed, "temperature": args.temperature}
            return sampling.complete(*given, **how, progress=show), None
        completed = complete_with_particles(
            *given, particles=args.particles, seed=args.seed, progress=show
        )
        return completed.x, completed


def side_by_side(hidden: Hidden, drawn: Tensor, bits: Tensor) -> Iterator[tuple[str, Pixels]]:
    """Yields the columns of the picture, with their names."""
    import torch

    from nextpixel.viz import images as plots

    yield from hidden.columns.items()
    for number, one_each in enumerate(torch.split(drawn, len(hidden.x)), 1):
        yield f"completion {number}", hidden.show(one_each)
    of_sites = bits.sum(1).masked_fill(hidden.free[:, 0], torch.nan)
    size = hidden.columns["original"].shape[2:]
    yield f"bits a {hidden.site}", plots.heat_map(enlarged(of_sites, size))


def hidden_pixels(args: argparse.Namespace, device: torch.device) -> Hidden:
    """Loads images of which pixels are hidden, and the model that draws these."""
    from nextpixel.cli.loading import known_pixels, load_model, load_model_images
    from nextpixel.viz import images as plots

    model = load_model(args.model, device, trust=args.trust)
    if args.codes is not None:
        raise UserError(
            f"--codes is for a folder that nextpixel bundle wrote, and {args.model} draws pixels: "
            "leave it out."
        )
    pictures = load_model_images(model, args.model, args.classes, **image_options(args))
    x, given = pictures.inputs(model, pictures.numbers(args.n, args.shown))
    known = known_pixels(model.shape, **hidden_options(args))
    columns = {
        "original": plots.to_uint8(x, model.levels),
        "given": plots.tint_unknown(x, known, model.levels),
    }
    free = known.expand(len(x), 1, *known.shape)
    if given.mask is not None:
        free = free | given.mask.cpu()
    return Hidden(
        "pixel",
        model,
        x,
        known,
        free,
        given.context,
        columns,
        lambda drawn: plots.to_uint8(drawn, model.levels),
    )


def hidden_codes(args: argparse.Namespace, generator: LatentGenerator) -> Hidden:
    """Loads images of which codes are hidden: those whose pixels are not all known."""
    from nextpixel.cli.loading import known_pixels, load_images
    from nextpixel.conditioning.regions import cell_mask
    from nextpixel.latents.generator import find_bundle
    from nextpixel.viz import images as plots

    decoder, prior = generator.decoder, generator.prior
    generator.check_one_grid()
    name = str(find_bundle(args.model) / "decoder")  # whose data are the images
    pictures = (
        load_images(name, decoder.shape, decoder.levels, **image_options(args))
        .fit(decoder, name)
        .classified(prior, args.classes)
    )
    x, given = pictures.inputs(prior, pictures.numbers(args.n, args.shown))
    _, height, width = prior.shape
    if args.codes is None:
        kept = cell_mask(known_pixels(decoder.shape, **hidden_options(args)), (height, width))
    else:
        kept = first_codes(args.codes, (height, width))
    rows = None if given.mask is None else (~given.mask[:, 0, :, 0]).sum(1).cpu().numpy()
    codes = generator.codes(x, rows)

    def show(drawn: Tensor) -> Pixels:
        return plots.to_uint8(generator.decode(drawn), decoder.levels)

    columns = {
        "original": plots.to_uint8(x, decoder.levels),
        "given": plots.tint_unknown(x, enlarged(kept, x.shape[2:]), decoder.levels),
        "reconstruction": show(codes),
    }
    ended = (codes == generator.end_code).any(3, keepdim=True) if generator.end_code else codes < 0
    padding = ended.cumsum(2) > 1  # after the row that says that the image has ended
    return Hidden("code", prior, codes, kept, kept | padding, given.context, columns, show)


def first_codes(count: int, size: tuple[int, int]) -> Tensor:
    """Makes the mask of the first codes in raster order, `(h, w)`."""
    import torch

    every = math.prod(size)
    if count >= every:
        raise UserError(
            f"An image has {every} codes, so --codes {count} leaves none to draw: give at most "
            f"{every - 1}."
        )
    return (torch.arange(every) < count).view(size)


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """Repeats each site of maps `(*, h, w)` so that they are as large as pictures of this size."""
    height, width = (side // sites for side, sites in zip(size, x.shape[-2:], strict=True))
    return x.repeat_interleave(height, -2).repeat_interleave(width, -1)


def tell_bits(hidden: Hidden, bits: Tensor) -> None:
    """Prints how many bits the hidden sites of each image take."""
    counts = (~hidden.free).flatten(1).sum(1) * hidden.x.shape[1]
    alike = bool((counts == counts[0]).all())  # not so of sounds, which end
    each = bits.flatten(1).sum(1)
    print(
        f"The {f'{counts[0]} ' if alike else ''}hidden {hidden.site}s of each image take, given "
        f"the true {hidden.site}s before them:"
    )
    for number, (value, count) in enumerate(zip(each.tolist(), counts.tolist(), strict=True)):
        of = "" if alike else f", of which there are {count}"
        print(
            f"  image {number}: {value:8.1f} bits, {value / max(count, 1):.4f} a {hidden.site}{of}"
        )
    mean = each.sum() / counts.sum().clamp_min(1)
    print(f"  mean:    {each.mean():8.1f} bits, {mean:.4f} a {hidden.site}")


def tell_particles(completed: Completed, particles: int, draws: int, site: str) -> None:
    """Prints how the particles of each image fared, in the worst of its draws."""
    least = completed.least_effective.view(draws, -1).amin(0).tolist()
    evidence = completed.log_evidence.view(draws, -1).logsumexp(0) - math.log(draws)
    print(
        f"{site.capitalize()}s are drawn in raster order; the known ones that come later weigh the "
        f"particles. The effective sample size at its smallest, of {particles} particles, and the "
        f"estimated log-probability of all known {site}s:"
    )
    for number, (size, nats) in enumerate(zip(least, evidence.tolist(), strict=True)):
        print(f"  image {number}: {size:8.1f}, {nats:.2f} nats")
    collapsed = sum(size < COLLAPSED for size in least)
    if collapsed:
        print(
            f"Warning: for {collapsed} of {len(least)} images the particles collapsed (below "
            f"{COLLAPSED}): what was drawn before a known row goes back to one particle, and may "
            "fit it badly. Take more --particles, or hide less above known pixels."
        )
