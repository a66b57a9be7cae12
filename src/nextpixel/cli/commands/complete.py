"""Complete images of which a part is hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse

    import torch
    from torch import Tensor

    from nextpixel.cli.pictures import Pictures
    from nextpixel.context import Context
    from nextpixel.latents.generator import LatentGenerator
    from nextpixel.models.base.autoregressive import AutoregressiveModel
    from nextpixel.sampling.particles import Completed
    from nextpixel.viz.images import Pixels

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel complete mnist --keep top",
    "nextpixel complete mnist seven.png --class 7 --hide left --draws 8",
    "nextpixel complete mnist --box 10,0,4,28 --particles 64",
    "nextpixel complete vq-mnist --codes 14",
]

COLLAPSED = 2  # an effective sample size below this


@dataclass
class Hidden:
    """Images to complete: their pixels, or their codes by a VQ-VAE.

    Attributes:
        site: "pixel" or "code".
        model: The model that samples them.
        x: The pixels or codes, `(N, C, h, w)`.
        known: Which of them are kept, `(h, w)`.
        free: Which of them cost no bits, because they are known or padding, `(N, 1, h, w)`.
        c: The model's context.
        order: The order in which the model takes them, see `nextpixel.orders`; all maps but the
            columns are turned to it.
        columns: Columns of the picture before the completions.
        show: Makes pictures, `(N, C, H, W)`, from pixels or codes that are turned back.
    """

    site: str
    model: AutoregressiveModel
    x: Tensor
    known: Tensor
    free: Tensor
    c: Context | None
    columns: dict[str, Pixels]
    show: Callable[[Tensor], Pixels]
    order: int = 0


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_OR_BUNDLE)
    add_images(parser)
    hidden = add_hidden(parser, "default: top")
    hidden.add_argument(
        "--codes",
        type=positive,
        metavar="K",
        help="of a bundle: keep the first K codes, which gives many images in one style",
    )
    add_draws(parser, "completions", "completions.png")
    parser.add_argument(
        "--particles",
        type=positive,
        default=1,
        help="sample N together for each completion, so that it fits later known pixels too",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Completes the images and draws the completions beside them."""
    from nextpixel.cli.loading import load_bundle
    from nextpixel.evaluation import likelihood
    from nextpixel.utils.devices import set_up
    from nextpixel.viz import images as plots

    if args.particles > 1 and args.temperature != 1:
        raise UserError(
            "Particles are weighted by the model's own probabilities: leave --temperature out."
        )
    device = set_up(args.device, args.threads)
    generator = load_bundle(args.model, device, trust=args.trust)
    hidden = hidden_pixels(args, device) if generator is None else hidden_codes(args, generator)
    bits = likelihood.hidden_bits(hidden.model, hidden.x, hidden.free, hidden.c)
    drawn, completed = complete(args, hidden)
    spectrogram = (hidden.model if generator is None else generator).data_record.spectrogram
    columns = {
        name: plots.for_display(x, spectrogram) for name, x in columns_of(hidden, drawn, bits)
    }
    plots.save_image(plots.side_by_side(columns, 256), args.out)
    report(hidden, bits, completed, args)


def report(
    hidden: Hidden, bits: Tensor, completed: Completed | None, args: argparse.Namespace
) -> None:
    """Prints the bits of the hidden sites, how the particles fared, and the file."""
    from nextpixel.orders import in_words, left_over

    report_bits(hidden, bits)
    order = in_words(hidden.order) if hidden.order else "in raster order"
    sampled = f"{hidden.site.capitalize()}s are sampled {order}"
    if completed is None and not left_over(hidden.known):
        print(f"{sampled}, after all known ones.")
    elif completed is None:
        print(
            f"{sampled}, and given only those before them. Known {hidden.site}s that come later "
            "are kept, but completions need not fit them (--particles 64 takes them into account)."
        )
    else:
        report_particles(completed, args.particles, args.draws, hidden.site, sampled)
    print(f"Written: {args.out}")


def complete(args: argparse.Namespace, hidden: Hidden) -> tuple[Tensor, Completed | None]:
    """Completes each image --draws times.

    Returns:
        The completions, `(draws * N, C, h, w)`, the first of all images before the second; and how
        the particles fared if there were any.
    """
    import torch

    from nextpixel import sampling
    from nextpixel.sampling.particles import complete_with_particles

    repeated = torch.arange(len(hidden.x)).repeat(args.draws)
    c = None if hidden.c is None else hidden.c[repeated]
    task = (hidden.model, hidden.x[repeated], hidden.known, c)
    with progress("completing") as show:
        if args.particles == 1:
            model, x, known, c = task
            x = sampling.sample(
                model,
                len(x),
                c,
                x=x,
                mask=known,
                seed=args.seed,
                temperature=args.temperature,
                progress=show,
            )
            return x, None
        completed = complete_with_particles(
            *task, particles=args.particles, seed=args.seed, progress=show
        )
        return completed.x, completed


def columns_of(hidden: Hidden, drawn: Tensor, bits: Tensor) -> Iterator[tuple[str, Pixels]]:
    """Yields the columns of the picture, with their captions."""
    import torch

    from nextpixel.orders import turn_back
    from nextpixel.viz import images as plots

    yield from hidden.columns.items()
    for number, one_each in enumerate(torch.split(drawn, len(hidden.x)), 1):
        yield f"completion {number}", hidden.show(turn_back(one_each, hidden.order))
    site_bits = bits.sum(1).masked_fill(hidden.free[:, 0], torch.nan)
    site_bits = turn_back(site_bits, hidden.order)
    size = hidden.columns["original"].shape[2:]
    yield f"bits per {hidden.site}", plots.heat_map(enlarge(site_bits, size))


def hidden_pixels(args: argparse.Namespace, device: torch.device) -> Hidden:
    """Loads a model, and images of which it completes the pixels."""
    from nextpixel.cli.loading import load_model
    from nextpixel.cli.pictures import known_pixels, load_model_images
    from nextpixel.orders import best_order, turn
    from nextpixel.viz import images as plots

    model = load_model(args.model, device, trust=args.trust)
    if args.codes is not None:
        raise UserError(
            f"--codes is for a VQ-VAE with its prior, and {args.model} models pixels: leave it out."
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
    order, c = best_order(known, model.orders), given.context
    if c is not None and model.orders > 1:
        c = c.in_order(order, model.orders)
    x, known, free = (turn(maps, order).contiguous() for maps in (x, known, free))

    def show(drawn: Tensor) -> Pixels:
        return plots.to_uint8(drawn, model.levels)

    return Hidden("pixel", model, x, known, free, c, columns, show, order)


def hidden_codes(args: argparse.Namespace, generator: LatentGenerator) -> Hidden:
    """Loads images of which a prior completes the codes: those whose pixels are not all known."""
    from nextpixel.viz import images as plots

    decoder, prior = generator.decoder, generator.prior
    generator.check_one_grid()
    pictures = load_decoder_images(args, generator)
    x, given = pictures.inputs(prior, pictures.numbers(args.n, args.shown))
    known = known_codes(args, generator)
    rows = None if given.mask is None else (~given.mask[:, 0, :, 0]).sum(1).cpu().numpy()
    codes = generator.codes(x, rows)

    def show(drawn: Tensor) -> Pixels:
        return plots.to_uint8(generator.decode(drawn), decoder.levels)

    columns = {
        "original": plots.to_uint8(x, decoder.levels),
        "given": plots.tint_unknown(x, enlarge(known, x.shape[2:]), decoder.levels),
        "reconstruction": show(codes),
    }
    ended = (codes == generator.end_code).any(3, keepdim=True) if generator.end_code else codes < 0
    padding = ended.cumsum(2) > 1  # after the row of end codes
    return Hidden("code", prior, codes, known, known | padding, given.context, columns, show)


def load_decoder_images(args: argparse.Namespace, generator: LatentGenerator) -> Pictures:
    """Loads images for a VQ-VAE, with their classes for its prior."""
    from nextpixel.cli.pictures import load_images
    from nextpixel.latents.generator import find_bundle

    decoder = generator.decoder
    name = str(find_bundle(args.model) / "decoder")  # the default images are the decoder's data
    pictures = load_images(name, decoder.shape, decoder.levels, **image_options(args))
    return pictures.fit(decoder, name).classified(generator.prior, args.classes)


def known_codes(args: argparse.Namespace, generator: LatentGenerator) -> Tensor:
    """Makes the mask of the known codes, `(h, w)`, from --codes or from the known pixels."""
    from nextpixel.cli.pictures import known_pixels
    from nextpixel.conditioning.regions import cell_mask

    _, height, width = generator.prior.shape
    if args.codes is not None:
        return first_codes(args.codes, (height, width))
    known = known_pixels(generator.decoder.shape, **hidden_options(args))
    return cell_mask(known, (height, width))


def first_codes(count: int, size: tuple[int, int]) -> Tensor:
    """Makes the mask of the first codes in raster order, `(h, w)`."""
    import torch

    total = math.prod(size)
    if count >= total:
        raise UserError(
            f"An image has {total} codes, so --codes {count} leaves none to sample: give at most "
            f"{total - 1}."
        )
    return (torch.arange(total) < count).view(size)


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Repeats the sites of maps `(*, h, w)` up to the size of a picture, `(*, H, W)`."""
    height, width = (side // sites for side, sites in zip(size, x.shape[-2:], strict=True))
    return x.repeat_interleave(height, -2).repeat_interleave(width, -1)


def report_bits(hidden: Hidden, bits: Tensor) -> None:
    """Prints the bits of the hidden sites of each image."""
    counts = (~hidden.free).flatten(1).sum(1)  # of pixels, not of their channels
    equal = bool((counts == counts[0]).all())  # not for sounds of different lengths
    totals = bits.flatten(1).sum(1)
    one = equal and counts[0] == 1
    noun = f"hidden {hidden.site}"
    verb, before = ("takes", "it") if one else ("take", "them")
    print(
        f"The {count(int(counts[0]), noun) if equal else f'{noun}s'} of each image {verb}, given "
        f"the true {hidden.site}s before {before}:"
    )
    for number, (total, sites) in enumerate(zip(totals.tolist(), counts.tolist(), strict=True)):
        of = "" if equal else f", {count(sites, hidden.site)}"
        print(
            f"  image {number}: {total:8.1f} bits, {total / max(sites, 1):.4f} a {hidden.site}{of}"
        )
    mean = totals.sum() / counts.sum().clamp_min(1)
    print(f"  mean:    {totals.mean():8.1f} bits, {mean:.4f} a {hidden.site}")


def report_particles(
    completed: Completed, particles: int, draws: int, site: str, sampled: str
) -> None:
    """Prints how the particles of each image fared, in the worst of its draws."""
    least = completed.least_effective.view(draws, -1).amin(0).tolist()
    evidence = completed.log_evidence.view(draws, -1).logsumexp(0) - math.log(draws)
    print(
        f"{sampled}; known ones that come later weight the particles. The smallest effective "
        f"sample size, of {particles} particles, and the estimated log-probability of all known "
        f"{site}s:"
    )
    for number, (size, nats) in enumerate(zip(least, evidence.tolist(), strict=True)):
        print(f"  image {number}: {size:8.1f}, {nats:.2f} nats")
    collapsed = sum(size < COLLAPSED for size in least)
    if collapsed:
        print(
            f"Warning: for {collapsed} of {len(least)} images the particles collapsed (effective "
            f"sample size below {COLLAPSED}), so what was sampled above a known row comes from one "
            "particle and may fit that row badly. Take more --particles, or hide less above known "
            f"{site}s."
        )
