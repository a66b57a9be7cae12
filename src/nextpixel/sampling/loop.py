"""The generation loop, `trace`, and sampling, completion and films on top of it.

The loop needs two methods of a model: `start(batch, c)` and `step(x, site, cache)`. Each image has
its own noise, decided by the seed and the image's number, so an image does not depend on the batch
that it is sampled in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol, TypeAlias, Unpack, cast

import torch
from torch import Tensor

from nextpixel.context import Context, ContextLike
from nextpixel.data.pictures import ImagesLike, to_model_images
from nextpixel.distributions import Distribution, guided
from nextpixel.engine import Program
from nextpixel.engine.compile import Compilable
from nextpixel.errors import UserError
from nextpixel.nn import Site
from nextpixel.orders import best_order, turn, turn_back
from nextpixel.sampling.config import (
    CompleteOptions,
    IncrementalModel,
    MaskLike,
    SamplingConfig,
    TraceOptions,
    as_mask,
    check_count,
    check_mask,
    check_temperature,
    known_pixels,
    site_noise,
)
from nextpixel.sampling.programs import images_of, program_of
from nextpixel.utils.inference import evaluation_copy, evaluation_mode

__all__ = [
    "Step",
    "all_at_once",
    "batch_slices",
    "complete",
    "film",
    "fixed_point",
    "progress_of_part",
    "repeat_draws",
    "sample",
    "sites",
    "trace",
]


Known: TypeAlias = tuple[Tensor, Tensor] | None  # known pixels and their mask


class Reorderable(Protocol):
    """The images of a generation: `nextpixel.nn.Cache`, or a `nextpixel.engine.Session`."""

    def select(self, images: Tensor) -> None:
        """Reorders the batch between two steps."""


@dataclass
class Step:
    """A step of generation, as `trace` yields it.

    Attributes:
        site: The site that was just sampled.
        x: The images so far, `(B, C, H, W)`, int64; at sites that are not sampled yet the known
            pixels, else zero. It is the same tensor at every step: copy it to keep it.
        cache: The state of the images. If you reorder the batch with `cache.select(images)`,
            reorder x, too. With guidance this is impossible: each image is computed twice.
    """

    site: Site
    x: Tensor
    cache: Reorderable
    find_distribution: Callable[[], Distribution]

    @cached_property
    def distribution(self) -> Distribution:
        """The distribution that the site was sampled from."""
        return self.find_distribution()


def sites(shape: tuple[int, int, int]) -> Iterator[Site]:
    """Yields the sites of an image `(C, H, W)` in the order of generation."""
    channels, height, width = shape
    for row, col, channel in itertools.product(range(height), range(width), range(channels)):
        yield Site(row, col, channel)


def trace(
    model: IncrementalModel, n: int, c: ContextLike = None, **how: Unpack[TraceOptions]
) -> Iterator[Step]:
    """Samples a batch pixel by pixel, channel by channel, one step at a time.

    Args:
        model: The model to sample from.
        n: Number of images, sampled together.
        c: The context: one for all images, or one for each.
        how: The attributes of `SamplingConfig`.

    Returns:
        A lazy iterator over a `Step` for every site, in raster order.

    Raises:
        UserError: An argument does not fit the model, or the sampler is "fixed-point", which
            samples in no order.
    """
    config = SamplingConfig(**how)
    if config.sampler == "fixed-point":
        raise UserError(
            "The sampler 'fixed-point' draws all pixels at once, so there are no steps to follow: "
            "leave the sampler at 'auto'."
        )
    return _steps(model, n, c, config)


def _steps(
    model: IncrementalModel, n: int, c: ContextLike, config: SamplingConfig
) -> Iterator[Step]:
    """Samples a batch and yields every step, see `trace`."""
    check_count(n)
    with torch.inference_mode():
        context, noise, known = config.begin(model, n, c)
    program = program_of(model, config.sampler)
    if program is None:
        return _computed_steps(evaluation_copy(model), context, noise, known, config)
    return _engine_steps(evaluation_copy(model), program, context, noise, known, config)


def _computed_steps(
    model: IncrementalModel,
    context: Context | None,
    noise: Tensor,
    known: Known,
    config: SamplingConfig,
) -> Iterator[Step]:
    """Takes the steps in PyTorch."""
    with torch.inference_mode(), evaluation_mode(model):
        x = torch.stack([_with_known(noise, known)] * config.copies)
        computed, pictures = x.flatten(0, 1), x[0]
        cache = model.start(len(computed), context)
    for site, uniform in zip(sites(model.shape), _by_site(noise), strict=True):
        at_site = (..., site.channel, site.row, site.col)
        with torch.inference_mode(), evaluation_mode(model):
            if config.sampler == "full":
                distribution = model(computed, cache.context).at(*site)
            else:
                distribution = model.step(computed, site, cache)
            if config.copies == 2:
                distribution = guided(distribution, config.guidance)
            value = distribution.sample(uniform, config.temperature)
            if known is not None:
                pixels, mask = known
                value = torch.where(mask[at_site], pixels[at_site], value)
            x[at_site] = value
        yield Step(site, pictures, cache, partial(_same, distribution))


def _same(distribution: Distribution) -> Distribution:
    return distribution


def _engine_steps(
    model: IncrementalModel,
    program: Program,
    context: Context | None,
    noise: Tensor,
    known: Known,
    config: SamplingConfig,
) -> Iterator[Step]:
    """Takes the steps in the engine."""
    x = _with_known(noise, known)
    images = images_of(model, x, context, noise, None if known is None else known[1])
    session = program.begin(images, config.temperature, config.guidance)
    network = cast(Compilable, model)

    def distribution(site: Site, parameters: Tensor, pixel: Tensor) -> Distribution:
        with torch.inference_mode(), evaluation_mode(model):
            of_pixel = network.distribution(parameters, pixel)
            found = of_pixel[:, site.channel if network.groups == 1 else 0]
            return guided(found, config.guidance) if config.copies == 2 else found

    for number, site in enumerate(sites(model.shape)):
        session.run(number, number + 1)
        parameters = torch.from_numpy(session.parameters(number))
        pixel = x[:, :, site.row, site.col].repeat(config.copies, 1)
        yield Step(site, x, session, partial(distribution, site, parameters, pixel))


def _with_known(noise: Tensor, known: Known) -> Tensor:
    """Makes the images to begin with: the known pixels, and zeros."""
    if known is None:
        return torch.zeros_like(noise, dtype=torch.int64)
    return torch.where(known[1], known[0], 0).contiguous()


def _by_site(x: Tensor) -> Sequence[Tensor]:
    """Splits a map `(B, C, H, W)` into its sites, in the order of generation."""
    return x.movedim(1, -1).flatten(1).unbind(1)


def sample(
    model: IncrementalModel,
    n: int,
    c: ContextLike = None,
    *,
    batch_size: int = 256,
    passes: Callable[[int], object] | None = None,
    progress: Callable[[float], None] | None = None,
    **how: Unpack[TraceOptions],
) -> Tensor:
    """Samples n images, in batches.

    Args:
        model: The model to sample from.
        n: Number of images.
        c: The context: one for all images, or one for each.
        batch_size: Images sampled together; it does not change the images.
        passes: Called with the number of forward passes of each batch that `fixed_point` samples.
        progress: Called with the fraction done, between 0 and 1.
        how: The attributes of `SamplingConfig`.

    Returns:
        Integers in `[0, levels)`, `(n, C, H, W)`, int64, on the CPU.

    Raises:
        UserError: An argument is out of range or does not fit the model.
    """
    config = SamplingConfig(**how)
    check_count(min(n, batch_size))
    context, known = model.context(c, n), known_pixels(model, config.x, config.mask, n)
    program = program_of(model, config.sampler)
    if program is None and config.sampler == "auto":
        cache = model.start(1, None if context is None else context[:1])
        config = replace(config, sampler="cached" if cache.layers else "fixed-point")
    pictures, numbers = [], config.numbers_of(n)
    for part in batch_slices(n, batch_size):
        show = progress_of_part(progress, part, n)
        of_part = replace(config, numbers=numbers[part])
        if known is not None:
            of_part = replace(of_part, x=known[0][part], mask=known[1][part])
        arguments = (model, part.stop - part.start, None if context is None else context[part])
        if config.sampler == "fixed-point":
            x, count = fixed_point(*arguments, progress=show, **vars(of_part))
            pictures.append(x)
            if passes is not None:
                passes(count)
            continue
        if program is None:
            for done, step in enumerate(_steps(*arguments, of_part), 1):
                show(done / math.prod(model.shape))
                x = step.x
            pictures.append(x.cpu())
            continue
        with torch.inference_mode():
            of_context, noise, of_known = of_part.begin(*arguments)
        x = _with_known(noise, of_known)
        program.run(
            images_of(model, x, of_context, noise, None if of_known is None else of_known[1]),
            temperature=config.temperature,
            guidance=config.guidance,
            threads=torch.get_num_threads(),
            show=show,
        )
        pictures.append(x)
    return torch.cat(pictures)


@torch.inference_mode()
def fixed_point(
    model: IncrementalModel,
    n: int,
    c: ContextLike = None,
    *,
    progress: Callable[[float], None] | None = None,
    **how: Unpack[TraceOptions],
) -> tuple[Tensor, int]:
    """Samples a batch by guessing all pixels at once, again and again until nothing changes.

    Each guess is computed from the previous one, by a full pass. The noise is fixed, so a pixel is
    a function of those before it, and the image is the fixed point. Every pass settles at least one
    more pixel, and many at a time where pixels depend little on each other, as in binary or smooth
    images.

    Args:
        model: The model to sample from.
        n: Number of images, sampled together.
        c: The context: one for all images, or one for each.
        progress: Called with the fraction of the sites that have settled in all images.
        how: The attributes of `SamplingConfig`; its sampler does not matter.

    Returns:
        The images, as `sample` returns them, and the number of passes.

    Raises:
        UserError: An argument does not fit the model, or the model is not causal.

    References:
        Song, Meng, Liao, Ermon: Accelerating Feedforward Computation via Parallel Nonlinear
        Equation Solving, 2021 (https://arxiv.org/abs/2002.03629), the Jacobi iteration.
    """
    config = SamplingConfig(**how)
    check_count(n)
    context, noise, known = config.begin(model, n, c)
    x = torch.zeros(n, *model.shape, dtype=torch.int64, device=model.device)
    moving = torch.arange(n, device=model.device)  # the images that may still change
    count = 0
    while len(moving):
        if count > math.prod(model.shape):
            raise UserError(
                "The pixels do not settle: the model computes something random, or the "
                "distribution of a pixel depends on later pixels."
            )
        count += 1
        computed = torch.cat([moving + copy * n for copy in range(config.copies)])
        with evaluation_mode(model) as network:
            distribution = network(x[computed % n], None if context is None else context[computed])
        # Row by row: the probabilities of all levels at all sites take much memory.
        rows = []
        for row in range(model.shape[1]):
            of_row = distribution[:, :, row]
            of_row = guided(of_row, config.guidance) if config.copies == 2 else of_row
            rows.append(of_row.sample(noise[moving, :, row], config.temperature))
        guess = torch.stack(rows, 2)
        if known is not None:
            guess = torch.where(known[1][moving], known[0][moving], guess)
        changed = (guess != x[moving]).movedim(1, -1).flatten(1)
        x[moving] = guess
        moving = moving[changed.any(1)]
        if progress is not None:
            settled = int(changed.any(0).int().argmax()) if len(moving) else changed.shape[1]
            progress(settled / changed.shape[1])
    return x.cpu(), count


def film(
    model: IncrementalModel,
    n: int,
    c: ContextLike = None,
    *,
    moments: int = 100,
    progress: Callable[[float], None] | None = None,
    **how: Unpack[TraceOptions],
) -> tuple[list[Tensor], list[int]]:
    """Samples n images together and keeps snapshots of them on the way.

    Args:
        model: The model to sample from.
        n: Number of images.
        c: The context: one for all images, or one for each.
        moments: Largest number of snapshots, the finished images included.
        progress: Called with the fraction done, between 0 and 1.
        how: The attributes of `SamplingConfig`, see `trace`.

    Returns:
        The snapshots, `(n, C, H, W)` each, on the CPU, and the number of finished pixels at each.
        The last snapshot is what `sample` returns.

    Raises:
        UserError: As for `trace`, or no snapshot is asked for.
    """
    total, channels = math.prod(model.shape), model.shape[0]
    if moments < 1:
        raise UserError(f"Keep at least one moment, not {moments}.")
    every = math.ceil(total / moments)
    pictures, pixels_done = [], []
    for done, step in enumerate(trace(model, n, c, **how), 1):
        if (total - done) % every == 0:
            pictures.append(step.x.cpu().clone())
            pixels_done.append(done // channels)
        if progress is not None:
            progress(done / total)
    return pictures, pixels_done


def complete(
    model: IncrementalModel,
    x: ImagesLike,
    mask: MaskLike,
    c: ContextLike = None,
    **how: Unpack[CompleteOptions],
) -> Tensor:
    """Completes images: keeps x where the mask is true and samples the rest.

    A pixel is sampled given the pixels before it in raster order; a model with several orders takes
    the one that has the fewest known pixels after hidden ones, see `nextpixel.orders.best_order`.
    Known pixels that come later are kept, but do not influence the pixels before them: for that,
    see `complete_with_particles`.

    Args:
        model: The model to sample from.
        x: The images, integers `(N, C, H, W)`, or pictures, see `nextpixel.to_images`; the values
            at hidden pixels do not matter.
        mask: True at known pixels, broadcastable to `(N, C, H, W)`.
        c: The context: one for all images, or one for each.
        how: The other arguments of `sample`; other `numbers` give other completions.

    Returns:
        Integers in `[0, levels)`, `(N, C, H, W)`, int64, on the CPU.

    Raises:
        UserError: An argument is out of range or does not fit the model.
    """
    x = to_model_images(x, model.shape, model.levels)
    orders = getattr(model, "orders", 1)  # a user's own model may have none
    if orders == 1:
        return sample(model, len(x), c, x=x, mask=mask, **how)
    known = as_mask(mask)
    check_mask(known, x.shape)
    known = known.expand(x.shape)
    order = best_order(known, orders)
    context = cast(Context, model.context(c, len(x))).in_order(order, orders)
    turned = sample(model, len(x), context, x=turn(x, order), mask=turn(known, order), **how)
    return turn_back(turned, order).contiguous()


@torch.inference_mode()
def all_at_once(
    model: IncrementalModel,
    n: int,
    c: ContextLike = None,
    *,
    seed: int = 0,
    temperature: float = 1.0,
) -> Tensor:
    """Samples all pixels in one parallel pass over an empty image: the wrong way.

    The pixels do not depend on each other, so they do not fit together. Meant for comparison with
    `sample`, which uses the same noise.

    Args:
        model: The model to sample from.
        n: Number of images.
        c: The context: one for all images, or one for each.
        seed: Together with an image's number decides its noise.
        temperature: See `Distribution.pmf`.

    Returns:
        Integers in `[0, levels)`, `(n, C, H, W)`, int64, on the CPU.

    Raises:
        UserError: The temperature is not above 0, or there is nothing to sample.
    """
    check_count(n)
    check_temperature(temperature)
    empty = torch.zeros(n, *model.shape, dtype=torch.int64, device=model.device)
    context = model.context(c, n)
    pictures = []
    with evaluation_mode(model) as network:
        # Two at a time: the probabilities of all levels at all sites take much memory.
        for part in batch_slices(n, 2):
            noise = site_noise(model.shape, seed, range(n)[part]).to(model.device)
            distribution = network(empty[part], None if context is None else context[part])
            pictures.append(distribution.sample(noise, temperature).cpu())
    return torch.cat(pictures)


def batch_slices(n: int, size: int = 64) -> Iterator[slice]:
    """Yields the slices that split n images into batches of at most `size`."""
    return (slice(begin, min(begin + size, n)) for begin in range(0, n, size))


def progress_of_part(
    progress: Callable[[float], None] | None, part: slice, n: int
) -> Callable[[float], None]:
    """Makes the progress callback of one batch out of that of all n images."""

    def show(done: float) -> None:
        if progress is not None:
            progress((part.start + (part.stop - part.start) * done) / n)

    return show


def repeat_draws(draw: Callable[[Tensor], Tensor], count: int, draws: int) -> Tensor:
    """Draws several images for each context, all in one call.

    Args:
        draw: Samples an image for each context in a list of their indices, `(draws * count,)`.
        count: Number of contexts.
        draws: Images for each.

    Returns:
        `(draws, count, C, H, W)`.
    """
    return torch.unflatten(draw(torch.arange(count).repeat(draws)), 0, (draws, count))
