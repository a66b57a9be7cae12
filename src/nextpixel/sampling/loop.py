"""Draws images: the only generation loop, and completion, films and fixed points on top of it.

The loop needs two methods of a model: `start(batch, c)` and `step(x, site, cache)`. Each image has
noise of its own, decided by the seed and the image's number, so an image does not depend on the
batch it is drawn in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from nextpixel.distributions import Distribution, guided
from nextpixel.engine import begin_replay, fingerprint, resume_replay, store_replay
from nextpixel.errors import UserError
from nextpixel.nn import Cache, Site
from nextpixel.sampling.drawing import (
    CompleteOptions,
    Drawing,
    DrawingOptions,
    Generator,
    kept_pixels,
    site_noise,
)
from nextpixel.utils.inference import evaluation_mode

__all__ = [
    "Step",
    "all_at_once",
    "complete",
    "film",
    "fixed_point",
    "repeat_draws",
    "sample",
    "sites",
    "trace",
]


class Step(NamedTuple):
    """One step of generation, as `trace` yields it.

    Attributes:
        site: The site that was just drawn.
        x: The images so far, `(B, C, H, W)`, int64; zero where nothing is drawn yet. It is the same
            tensor at every step: copy it to keep it.
        distribution: The distribution that the site was drawn from; the next step may change it.
        cache: The model's state. If you reorder the batch with `Cache.select`, reorder x, too. With
            guidance this is impossible: each image is computed twice.
    """

    site: Site
    x: Tensor
    distribution: Distribution
    cache: Cache


def sites(shape: tuple[int, int, int]) -> Iterator[Site]:
    """Yields the sites of an image `(C, H, W)` in the order of generation."""
    channels, height, width = shape
    for row, col, channel in itertools.product(range(height), range(width), range(channels)):
        yield Site(row, col, channel)


def trace(
    model: Generator, n: int, c: object = None, **how: Unpack[DrawingOptions]
) -> Iterator[Step]:
    """Draws a batch pixel by pixel, channel by channel, one step at a time.

    Args:
        model: The model to draw from.
        n: Number of images, drawn together.
        c: The context: one for all images, or one for each.
        how: The attributes of `Drawing`.

    Returns:
        An iterator over a `Step` for every site, in raster order. It draws as it is asked.

    Raises:
        UserError: An argument does not fit the model, or the sampler is "fixed-point", which draws
            in no order.
    """
    drawing = Drawing(**how)
    if drawing.sampler == "fixed-point":
        raise UserError(
            "The sampler 'fixed-point' draws all pixels at once, so there are no steps to follow: "
            "leave the sampler at 'auto'."
        )
    return _steps(model, n, c, drawing)


def _steps(
    model: Generator, n: int, c: object, drawing: Drawing, again: bool = False
) -> Iterator[Step]:
    """Draws a batch and yields every step, see `trace`.

    Args:
        model: The model.
        n: Number of images.
        c: The context.
        drawing: The options.
        again: Whether the memory of the steps may be reused by the next drawing after this one has
            ended.
    """
    _check_count(n)
    before: tuple[Any, ...] | None = None
    with torch.inference_mode(), evaluation_mode(model):
        context, noise, kept = drawing.begin(model, n, c)
        x = torch.zeros(drawing.copies, n, *model.shape, dtype=torch.int64, device=model.device)
        computed, pictures = x.flatten(0, 1), x[0]
        cache = model.start(len(computed), context)
        if drawing.sampler == "replayed" or (drawing.sampler == "auto" and cache.replay_safe):
            if again and isinstance(model, nn.Module):
                before = fingerprint(model)
                cache = resume_replay(model, cache, before)
            cache.replay = cache.replay or begin_replay(cache, len(computed), model.shape[1:])
    for site, noise_here in zip(sites(model.shape), _of_sites(noise), strict=True):
        at_site = (..., site.channel, site.row, site.col)
        with torch.inference_mode(), evaluation_mode(model):
            if drawing.sampler == "full":
                distribution = model(computed, cache.context).at(*site)
            else:
                distribution = model.step(computed, site, cache)
            if drawing.copies == 2:
                distribution = guided(distribution, drawing.guidance)
            value = distribution.sample(noise_here, drawing.temperature)
            if kept is not None:
                given, mask = kept
                value = torch.where(mask[at_site], given[at_site], value)
            x[at_site] = value
        yield Step(site, pictures, distribution, cache)
    if before is not None and isinstance(model, nn.Module):
        store_replay(model, cache, before)


def _of_sites(x: Tensor) -> Sequence[Tensor]:
    """Splits a map `(B, C, H, W)` into its sites, in the order of generation."""
    return x.movedim(1, -1).flatten(1).unbind(1)


def sample(
    model: Generator,
    n: int,
    c: object = None,
    *,
    batch_size: int = 256,
    passes: Callable[[int], object] | None = None,
    progress: Callable[[float], None] | None = None,
    **how: Unpack[DrawingOptions],
) -> Tensor:
    """Draws n images, in batches.

    Args:
        model: The model to draw from.
        n: Number of images.
        c: The context: one for all images, or one for each.
        batch_size: Images drawn together; it does not change the images.
        passes: Called with the number of forward passes of each batch that `fixed_point` draws.
        progress: Called with the fraction done, between 0 and 1.
        how: The attributes of `Drawing`.

    Returns:
        Integers in `[0, levels)`, `(n, C, H, W)`, int64, on the CPU.

    Raises:
        UserError: An argument is out of range or does not fit the model.
    """
    drawing = Drawing(**how)
    _check_count(min(n, batch_size))
    context, kept = model.context(c, n), kept_pixels(model, drawing.x, drawing.mask, n)
    if drawing.sampler == "auto":
        with evaluation_mode(model):
            cache = model.start(1, None if context is None else context[:1])
        drawing = drawing if cache.layers else replace(drawing, sampler="fixed-point")
    pictures, numbers = [], drawing.numbers_of(n)
    for begin in range(0, n, batch_size):
        part = slice(begin, min(begin + batch_size, n))

        def show(done: float, begin: int = begin, size: int = part.stop - begin) -> None:
            if progress is not None:
                progress((begin + size * done) / n)

        here = replace(drawing, numbers=numbers[part])
        if kept is not None:
            here = replace(here, x=kept[0][part], mask=kept[1][part])
        arguments = (model, part.stop - begin, None if context is None else context[part])
        if here.sampler == "fixed-point":
            x, count = fixed_point(*arguments, progress=show, **vars(here))
            pictures.append(x)
            if passes is not None:
                passes(count)
            continue
        for done, step in enumerate(_steps(*arguments, here, again=True), 1):
            show(done / math.prod(model.shape))
            x = step.x
        pictures.append(x.cpu())
    return torch.cat(pictures)


@torch.inference_mode()
def fixed_point(
    model: Generator,
    n: int,
    c: object = None,
    *,
    progress: Callable[[float], None] | None = None,
    **how: Unpack[DrawingOptions],
) -> tuple[Tensor, int]:
    """Draws a batch by guessing all pixels at once, again and again until nothing changes.

    Each guess is computed from the one before, by a full pass. As the noise is fixed, a pixel is a
    function of those before it, and the image is the fixed point. Every pass settles at least one
    more pixel, and many at a time where pixels depend little on each other, as in binary or smooth
    images.

    Args:
        model: The model to draw from.
        n: Number of images, drawn together.
        c: The context: one for all images, or one for each.
        progress: Called with the fraction of the sites that have settled in all images.
        how: The attributes of `Drawing`; its sampler does not matter.

    Returns:
        The images, as `sample` returns them, and the number of passes.

    Raises:
        UserError: An argument does not fit the model, or the model is not causal.

    References:
        Song, Meng, Liao, Ermon: Accelerating Feedforward Computation via Parallel Nonlinear
        Equation Solving, 2021 (https://arxiv.org/abs/2002.03629), the Jacobi iteration.
    """
    drawing = Drawing(**how)
    _check_count(n)
    context, noise, kept = drawing.begin(model, n, c)
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
        computed = torch.cat([moving + copy * n for copy in range(drawing.copies)])
        with evaluation_mode(model):
            distribution = model(x[computed % n], None if context is None else context[computed])
        # Row by row: the probabilities of all levels at all sites take much memory.
        rows = []
        for row in range(model.shape[1]):
            of_row = distribution[:, :, row]
            of_row = guided(of_row, drawing.guidance) if drawing.copies == 2 else of_row
            rows.append(of_row.sample(noise[moving, :, row], drawing.temperature))
        guess = torch.stack(rows, 2)
        if kept is not None:
            guess = torch.where(kept[1][moving], kept[0][moving], guess)
        changed = (guess != x[moving]).movedim(1, -1).flatten(1)
        x[moving] = guess
        moving = moving[changed.any(1)]
        if progress is not None:
            settled = int(changed.any(0).int().argmax()) if len(moving) else changed.shape[1]
            progress(settled / changed.shape[1])
    return x.cpu(), count


def film(
    model: Generator,
    n: int,
    c: object = None,
    *,
    moments: int = 100,
    progress: Callable[[float], None] | None = None,
    **how: Unpack[DrawingOptions],
) -> tuple[list[Tensor], list[int]]:
    """Draws n images together and keeps snapshots of them on the way.

    Args:
        model: The model to draw from.
        n: Number of images.
        c: The context: one for all images, or one for each.
        moments: Largest number of snapshots, the finished images included.
        progress: Called with the fraction done, between 0 and 1.
        how: The attributes of `Drawing`, see `trace`.

    Returns:
        The snapshots, `(n, C, H, W)` each, on the CPU, and the number of finished pixels at each.
        The last snapshot is what `sample` returns.

    Raises:
        UserError: As for `trace`, or no snapshot is asked for.
    """
    steps_in_all, channels = math.prod(model.shape), model.shape[0]
    if moments < 1:
        raise UserError(f"Keep at least one moment, not {moments}.")
    every = math.ceil(steps_in_all / moments)
    pictures, pixels_done = [], []
    for done, step in enumerate(trace(model, n, c, **how), 1):
        if (steps_in_all - done) % every == 0:
            pictures.append(step.x.cpu().clone())
            pixels_done.append(done // channels)
        if progress is not None:
            progress(done / steps_in_all)
    return pictures, pixels_done


def complete(
    model: Generator,
    x: Tensor,
    mask: Tensor,
    c: object = None,
    **how: Unpack[CompleteOptions],
) -> Tensor:
    """Keeps x where the mask is true and draws the rest.

    A pixel is drawn given the pixels before it in raster order. Known pixels that come later are
    kept, but do not influence the pixels drawn before them: for that, see
    `nextpixel.sampling.particles`.

    Args:
        model: The model to draw from.
        x: The images, integers `(N, C, H, W)`; the values at hidden pixels do not matter.
        mask: True at known pixels, broadcastable to `(N, C, H, W)`.
        c: The context: one for all images, or one for each.
        how: The other arguments of `sample`; other `numbers` give other completions.

    Returns:
        Integers in `[0, levels)`, `(N, C, H, W)`, int64, on the CPU.

    Raises:
        UserError: An argument is out of range or does not fit the model.
    """
    return sample(model, len(x), c, x=x, mask=mask, **how)


@torch.inference_mode()
def all_at_once(
    model: Generator, n: int, c: object = None, *, seed: int = 0, temperature: float = 1.0
) -> Tensor:
    """Draws all pixels in one parallel pass over an empty image: the wrong way.

    The pixels do not know each other, so they do not fit together. Meant for comparison with
    `sample`, which uses the same noise.

    Returns:
        Integers in `[0, levels)`, `(n, C, H, W)`, int64, on the CPU.
    """
    _check_count(n)
    nothing = torch.zeros(n, *model.shape, dtype=torch.int64, device=model.device)
    context = model.context(c, n)
    pictures = []
    with evaluation_mode(model):
        for part in _batches(n, 2):  # the probabilities of all levels at all sites take much memory
            noise = site_noise(model.shape, seed, range(n)[part]).to(model.device)
            distribution = model(nothing[part], None if context is None else context[part])
            pictures.append(distribution.sample(noise, temperature).cpu())
    return torch.cat(pictures)


def _check_count(n: int) -> None:
    if n < 1:
        raise UserError(f"Draw at least one image at a time, not {n}.")


def _batches(n: int, size: int = 64) -> Iterator[slice]:
    """Yields the batches of n images for passes over whole maps."""
    return (slice(begin, min(begin + size, n)) for begin in range(0, n, size))


def repeat_draws(draw: Callable[[Tensor], Tensor], count: int, draws: int) -> Tensor:
    """Draws several images for each of a number of contexts, all in one call.

    Args:
        draw: Draws an image for each of these numbers of contexts, `(draws * count,)`.
        count: Number of contexts.
        draws: Images for each.

    Returns:
        `(draws, count, C, H, W)`.
    """
    return torch.unflatten(draw(torch.arange(count).repeat(draws)), 0, (draws, count))
