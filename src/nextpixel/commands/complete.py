"""`nextpixel complete`: the rest of half-hidden images."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nextpixel.errors import UserError
from nextpixel.options import (
    Parser,
    add_draws,
    add_hidden,
    add_images,
    images_to_complete,
    known_pixels,
    load_bundle,
    load_model,
    positive,
    progress,
)

if TYPE_CHECKING:
    from torch import Tensor

    from nextpixel.autoregressive import AutoregressiveModel
    from nextpixel.context import Context
    from nextpixel.latent_generator import LatentGenerator
    from nextpixel.particles import Completed
    from nextpixel.plots import Pixels

__all__ = ["complete"]

COLLAPSED = 2  # an effective sample size below this


@dataclass
class Hidden:
    """What is completed: pixels, or the codes of a VQ-VAE.

    Attributes:
        site: "pixel" or "code".
        model: Draws them.
        x: What it draws, of each image, `(N, C, h, w)`.
        mask: Which of them are kept, `(h, w)`.
        free: Which carry no bits, as they are known or padding, `(N, 1, h, w)`.
        c: The model's context.
        columns: What the picture shows before the completions.
        show: Makes pictures of what was drawn, `(N, C, H, W)`.
    """

    site: str
    model: AutoregressiveModel
    x: Tensor
    mask: Tensor
    free: Tensor
    c: Context | None
    columns: dict[str, Pixels]
    show: Callable[[Tensor], Pixels]


def complete(argv: list[str]) -> None:
    """Complete half-hidden images."""
    args = arguments(argv)

    from nextpixel import plots, sampling

    generator = load_bundle(args)
    hidden = hidden_pixels(args) if generator is None else hidden_codes(args, generator)
    bits = sampling.hidden_bits(hidden.model, hidden.x, hidden.free, hidden.c)
    drawn, completed = draw(args, hidden)
    spectrogram = (hidden.model if generator is None else generator).data_record.spectrogram
    columns = {name: plots.seen(x, spectrogram) for name, x in side_by_side(hidden, drawn, bits)}
    plots.save_image(plots.side_by_side(columns, 256), args.out)
    tell_bits(hidden, bits)
    if completed is None:
        print(
            f"{hidden.site.capitalize()}s are drawn in raster order: each is told only of those in "
            f"the rows above it and to its left. Known {hidden.site}s that come later are kept, "
            "but nothing is drawn to fit them (--particles 64 takes them into account)."
        )
    else:
        tell_particles(completed, args.particles, args.draws, hidden.site)
    print(f"Side by side: {args.out}")


def arguments(argv: list[str]) -> argparse.Namespace:
    """Reads the options."""
    parser = Parser("complete", complete)
    parser.add_argument(
        "model", help="a model that comes with nextpixel, a run folder, or one that bundle wrote"
    )
    add_images(parser)
    which = add_hidden(parser, "default: top")
    which.add_argument(
        "--codes",
        type=positive,
        metavar="K",
        help="of a bundle, keep the first K codes: one image gives many in its style",
    )
    parser.add_argument("--class", dest="classes", metavar="C", help="class of the picture files")
    add_draws(parser, "completions", "completions.png")
    parser.add_argument(
        "--particles",
        type=positive,
        default=1,
        help="draw so many together for each completion, and take later known pixels into account",
    )
    parser.add_common(data=True)
    args = parser.parse_args(argv)
    if args.particles > 1 and args.temperature != 1:
        raise UserError(
            "Particles are weighed by the model's own probabilities: leave --temperature out."
        )
    return args


def draw(args: argparse.Namespace, hidden: Hidden) -> tuple[Tensor, Completed | None]:
    """Completes each image as often as asked: all of them once, all once more, and so on.

    Returns:
        What was drawn, `(draws * N, C, h, w)`, and how the particles fared if there were any.
    """
    import torch

    from nextpixel import sampling
    from nextpixel.particles import complete_with_particles

    again = torch.arange(len(hidden.x)).repeat(args.draws)
    c = None if hidden.c is None else hidden.c[again]
    given = (hidden.model, hidden.x[again], hidden.mask, c)
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

    from nextpixel import plots

    yield from hidden.columns.items()
    for number, one_each in enumerate(torch.split(drawn, len(hidden.x)), 1):
        yield f"completion {number}", hidden.show(one_each)
    of_sites = bits.sum(1).masked_fill(hidden.free[:, 0], torch.nan)
    size = hidden.columns["original"].shape[2:]
    yield f"bits a {hidden.site}", plots.heat_map(enlarged(of_sites, size))


def hidden_pixels(args: argparse.Namespace) -> Hidden:
    """Reads images of which pixels are hidden, and the model that draws these."""
    from nextpixel import plots

    model = load_model(args)
    if args.codes is not None:
        raise UserError(
            f"--codes is for a folder that nextpixel bundle wrote, and {args.model} draws pixels: "
            "leave it out."
        )
    x, given = images_to_complete(args, model)
    known = known_pixels(args, model.shape)
    columns = {
        "original": plots.to_uint8(x, model.levels),
        "given": plots.hide(x, known, model.levels),
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
    """Reads images of which codes are hidden: those whose pixels are not all known."""
    from nextpixel import plots
    from nextpixel.latent_generator import find_bundle
    from nextpixel.masks import cell_mask

    decoder, prior = generator.decoder, generator.prior
    generator.check_one_grid()
    args.model = str(find_bundle(args.model) / "decoder")  # whose data are the images
    x, given = images_to_complete(args, decoder, prior)
    _, height, width = prior.shape
    if args.codes is None:
        kept = cell_mask(known_pixels(args, decoder.shape), (height, width))
    else:
        kept = first_codes(args.codes, (height, width))
    rows = None if given.mask is None else (~given.mask[:, 0, :, 0]).sum(1).cpu().numpy()
    codes = generator.codes(x, rows)

    def show(drawn: Tensor) -> Pixels:
        return plots.to_uint8(generator.show(drawn, "mean"), decoder.levels)

    columns = {
        "original": plots.to_uint8(x, decoder.levels),
        "given": plots.hide(x, enlarged(kept, x.shape[2:]), decoder.levels),
        "reconstruction": show(codes),
    }
    ended = (codes == generator.end).any(3, keepdim=True) if generator.end else codes < 0
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
