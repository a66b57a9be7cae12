"""Draws images: the only generation loop, and completion, films and fixed points on top of it.

The loop needs two methods of a model: `start(batch, c)` and `step(x, site, cache)`. Each image has
noise of its own, decided by the seed and the image's number, so an image does not depend on the
batch it is drawn in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, Unpack, get_args

import numpy as np
import torch
from torch import Tensor, nn

from nextpixel.context import Context
from nextpixel.distributions import Distribution, guided
from nextpixel.engine import begin_replay, fingerprint, resume_replay, store_replay
from nextpixel.errors import UserError
from nextpixel.nn import Cache, Site
from nextpixel.noise import Stream

__all__ = [
    "CommonOptions",
    "CompleteOptions",
    "Drawing",
    "DrawingOptions",
    "Generator",
    "SampleOptions",
    "Sampler",
    "Step",
    "all_at_once",
    "check_integers",
    "check_mask",
    "complete",
    "evaluation_mode",
    "film",
    "fixed_point",
    "hidden_bits",
    "kept_pixels",
    "repeat_draws",
    "sample",
    "site_noise",
    "sites",
    "trace",
]


class Switchable(Protocol):
    """A network with a training mode."""

    training: bool

    def train(self, mode: bool = True) -> object:
        """Switches dropout on or off."""


class Generator(Switchable, Protocol):
    """A model that the loop can draw from."""

    shape: tuple[int, int, int]
    levels: int

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    def context(self, c: object, batch: int) -> Context | None:
        """Turns the context that a user gave into one row for each image."""

    def __call__(self, x: Tensor, c: object = None) -> Distribution:
        """Computes the distributions of all sites of whole images."""

    def start(self, batch: int, c: object = None) -> Cache:
        """Begins a batch."""

    def step(self, x: Tensor, site: Site, cache: Cache) -> Distribution:
        """Computes the distribution at a site from the pixels before it."""


# Ways to draw; all give the same images.
#   "auto": the fastest of the following for the model and the device.
#   "cached": pixel by pixel, with a cache of what earlier pixels contribute.
#   "replayed": as "cached", but the steps are captured once and replayed by a C program (see
#       `nextpixel.engine`); needs a C compiler. "auto" takes it for nextpixel's own models. It may
#       also work for your layers: compare its images with those of "cached" before you rely on it.
#   "full": pixel by pixel, with a full forward pass for each. Slow; the reference for the others.
#   "fixed-point": guesses all pixels at once and repeats until nothing changes, see `fixed_point`.
#       "auto" takes it for a model that has no cached path.
Sampler = Literal["auto", "cached", "replayed", "full", "fixed-point"]


@dataclass(frozen=True, eq=False)
class Drawing:
    """Holds the options that all drawing functions share.

    Attributes:
        seed: Decides an image's noise, together with its number.
        temperature: Divides the logits, see `Distribution.sample`.
        guidance: Scales the step from the null context to the given one, in log-probability: 1
            draws from the model, more exaggerates what the context asks for, 0 ignores it. Other
            values than 1 change the distribution and double the time.
        x: Pixels to keep, integers, `(n, C, H, W)` or one image for all.
        mask: True where x is kept, booleans, broadcastable to `(n, C, H, W)`.
        numbers: The number of each image; 0 to n - 1 if None. Images with the same number have the
            same noise, and differ only by their contexts.
        sampler: One of `Sampler`.

    Raises:
        UserError: A number is out of range, or there is no such sampler.

    References:
        Ho, Salimans: Classifier-Free Diffusion Guidance, 2022 (https://arxiv.org/abs/2207.12598),
        for guidance; here it is exact, level by level.
    """

    seed: int = 0
    temperature: float = 1.0
    guidance: float = 1.0
    x: Tensor | None = None
    mask: Tensor | None = None
    numbers: Sequence[int] | None = None
    sampler: Sampler = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise UserError(f"The temperature must be above 0, not {self.temperature}.")
        if not 0 <= self.guidance < math.inf:
            raise UserError(f"guidance must be at least 0, not {self.guidance}.")
        if self.sampler not in get_args(Sampler):
            samplers = ", ".join(get_args(Sampler))
            raise UserError(f"There is no sampler {self.sampler!r}: {samplers}.")

    @property
    def copies(self) -> int:
        """Times that each image is computed: guidance needs the null context, too."""
        return 1 if self.guidance == 1 else 2

    def begin(self, model: Generator, n: int, c: object) -> tuple[Context | None, Tensor, Any]:
        """Makes the context, the noise and the known pixels of a batch of n images.

        Returns:
            The context (with guidance, followed by n null contexts), the noise `(n, C, H, W)`, and
            `(x, mask)` or None.
        """
        context = model.context(c, n)
        if self.copies == 2:
            if context is None:
                raise UserError("guidance needs a context, and this model is unconditional.")
            context = context.cat(context.null())
        noise = site_noise(model.shape, self.seed, self.numbers_of(n))
        return context, noise.to(model.device), kept_pixels(model, self.x, self.mask, n)

    def numbers_of(self, n: int) -> Sequence[int]:
        """Returns the numbers of n images."""
        numbers = range(n) if self.numbers is None else self.numbers
        if len(numbers) != n:
            raise UserError(f"{n} images need {n} numbers, not {len(numbers)}.")
        return numbers


class CommonOptions(TypedDict, total=False):
    """The options of `ImageModel.sample` that every model takes.

    See `Drawing` and `sample` for what they mean.
    """

    seed: int
    temperature: float
    numbers: Sequence[int] | None
    batch_size: int
    progress: Callable[[float], None] | None


class CompleteOptions(CommonOptions, total=False):
    """The options of `complete`."""

    guidance: float
    sampler: Sampler
    passes: Callable[[int], object] | None


class SampleOptions(CompleteOptions, total=False):
    """The options of `sample`."""

    x: Tensor | None
    mask: Tensor | None


class DrawingOptions(TypedDict, total=False):
    """The options of `trace`, `film` and `fixed_point`: the attributes of `Drawing`."""

    seed: int
    temperature: float
    guidance: float
    x: Tensor | None
    mask: Tensor | None
    numbers: Sequence[int] | None
    sampler: Sampler


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


@contextmanager
def evaluation_mode(model: Switchable) -> Iterator[None]:
    """Makes a network compute exactly and repeatably while the context lasts.

    Dropout is off, autocast is off on the CPU and on GPUs, and convolutions on a GPU use no TF32.
    Afterwards everything is as it was before.

    Args:
        model: The model.
    """
    training = model.training
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # of torch
    tf32 = on_gpu and torch.backends.cudnn.allow_tf32
    # Not by torch.autocast(enabled=False): this runs at every site, and must take no time.
    devices = ("cpu", "cuda") if on_gpu else ("cpu",)
    autocast = [device for device in devices if torch.is_autocast_enabled(device)]
    if training:
        model.train(False)
    if tf32:
        torch.backends.cudnn.allow_tf32 = False
    for device in autocast:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in autocast:
            torch.set_autocast_enabled(device, True)
        if tf32:
            torch.backends.cudnn.allow_tf32 = True
        if training:
            model.train()


def sites(shape: tuple[int, int, int]) -> Iterator[Site]:
    """Yields the sites of an image `(C, H, W)` in the order of generation."""
    channels, height, width = shape
    for row, col, channel in itertools.product(range(height), range(width), range(channels)):
        yield Site(row, col, channel)


def site_noise(shape: tuple[int, int, int], seed: int, images: Sequence[int]) -> Tensor:
    """Draws a uniform number for each site of each image.

    Args:
        shape: `(C, H, W)` of one image.
        seed: Not negative.
        images: The numbers of the images, not negative.

    Returns:
        Noise in `[0, 1)`, `(len(images), C, H, W)`, float64, on the CPU. The noise of image k
        depends only on `(seed, k)`.

    Raises:
        UserError: The seed or a number is out of range.
    """
    if not 0 <= seed < 2**63 or min(images, default=0) < 0:
        raise UserError(
            f"A seed lies between 0 and 2^63 and images have numbers from 0, not {seed}."
        )
    noise = [Stream.PIXELS.generator(seed, image).random(shape) for image in images]
    return torch.from_numpy(np.stack(noise))


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
    kept, but do not influence the pixels drawn before them: for that, see `nextpixel.particles`.

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
def hidden_bits(model: Generator, x: Tensor, mask: Tensor, c: object = None) -> Tensor:
    """Computes the bits of the hidden pixels, each given the true pixels before it.

    Args:
        model: The model.
        x: The true images, integers `(N, C, H, W)`.
        mask: True at known pixels, broadcastable to `(N, C, H, W)`.
        c: The context: one for all images, or one for each.

    Returns:
        `-log2 p(pixel | pixels before it)` at hidden pixels and 0 at known ones, `(N, C, H, W)`,
        on the CPU. Their sum is the length of an ideal code for the hidden pixels.

    Raises:
        UserError: An argument does not fit the model.
    """
    check_integers(x)
    check_mask(mask)
    context = model.context(c, len(x))
    bits = []
    with evaluation_mode(model):
        for part in _batches(len(x)):
            images = x[part].to(model.device)
            distribution = model(images, None if context is None else context[part])
            bits.append(distribution.log_prob(images).cpu() / -math.log(2))
    return torch.cat(bits).masked_fill(mask.cpu(), 0)


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


def kept_pixels(
    model: Generator, x: Tensor | None, mask: Tensor | None, batch: int
) -> tuple[Tensor, Tensor] | None:
    """Checks the known pixels and their mask and expands them to the batch.

    Returns:
        Both `(batch, C, H, W)`, on the model's device; None if neither is given.

    Raises:
        UserError: They do not fit the model, or one of them is missing.
    """
    if x is None and mask is None:
        return None
    if x is None or mask is None:
        raise UserError("Known pixels, x, and their mask go together: give both or none.")
    shape = (batch, *model.shape)
    x, mask = torch.as_tensor(x), torch.as_tensor(mask)
    check_integers(x)
    check_mask(mask)
    try:
        x, mask = x.long().expand(shape), mask.expand(shape)
    except RuntimeError:
        raise UserError(
            f"Known pixels and their mask must fit {shape}, "
            f"not {tuple(x.shape)} and {tuple(mask.shape)}."
        ) from None
    wrong = mask & ((x < 0) | (x >= model.levels))
    if bool(wrong.any()):
        raise UserError(f"Known pixels must lie between 0 and {model.levels - 1}.")
    return x.to(model.device), mask.to(model.device)


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


def check_integers(x: Tensor) -> None:
    """Checks that pixels are integers.

    Raises:
        UserError: They are floats or booleans.
    """
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise UserError(f"Pixels, x, are integers, not {x.dtype}.")


def check_mask(mask: Tensor) -> None:
    """Checks that a mask is made of booleans: true at known pixels.

    Raises:
        UserError: It is not.
    """
    if mask.dtype != torch.bool:
        raise UserError(f"A mask is made of booleans, true at known pixels, not of {mask.dtype}.")
