"""Checks an autoregressive model in seconds: causality, normalisation, cache, gradients, field.

The checks work on copies in float64, with random weights as well as the model's own: a layer that
starts at zero hides a leak, and a mask that was only multiplied into the weights once is gone after
the first training step.

Example:
    >>> leak = find_leak(model)
    >>> leak is None or leak.in_words(model.shape[0])
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nextpixel.context import Context
from nextpixel.distributions import Distribution
from nextpixel.errors import UserError
from nextpixel.evaluation.receptive_field import random_images
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.nn import Site
from nextpixel.sampling import sites
from nextpixel.utils.inference import evaluation_mode

__all__ = [
    "Finding",
    "Leak",
    "check_cache",
    "check_causal",
    "check_gradients",
    "check_sum",
    "chunks",
    "exact_copy",
    "find_leak",
    "name_site",
    "order_of",
    "parameters_of",
    "random_context",
    "random_steps",
    "randomize",
    "refuse_leak",
]

CHUNK = 16  # images in a pass, at most
VALUES = 1 << 22  # probabilities in a pass, about
FEW = 64  # sites that are all tried
SECONDS = 1.5  # that the search for a leak before training may take, about
SMALLER = {"width": 16, "blocks": 2, "head": 16}  # hyperparameters of tiny models


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
        name: The check.
        passed: Whether the model has passed; None where it could not be checked, or where models
            may differ.
        reason: Why, in a line.
    """

    name: str
    passed: bool | None
    reason: str


class Leak(NamedTuple):
    """A site whose distribution depends on itself or on a later one.

    Attributes:
        target: The site.
        source: What it depends on; None if it depends on another image of the batch.
        training: Whether this happens in training mode only.
    """

    target: Site
    source: Site | None
    training: bool

    def in_words(self, channels: int) -> str:
        """Describes the leak of a model of images with this many channels."""
        when = "in training mode, " if self.training else ""
        target = name_site(self.target, channels)
        if self.source is None:
            return f"{when}{target} sees other images of the batch, as batch normalisation does"
        if self.source == self.target:
            return f"{when}{target} sees itself"
        return f"{when}{target} sees {name_site(self.source, channels)}, which comes later"


def name_site(site: Site, channels: int) -> str:
    """Names a site, counted from 0."""
    name = f"row {site.row}, column {site.col}"
    return name if channels == 1 else f"{name}, channel {site.channel}"


# --- copies of a model ----------------------------------------------------------------------------


def exact_copy(model: AutoregressiveModel) -> AutoregressiveModel:
    """Copies a model to the CPU, in float64 if it can compute in that."""
    exact = deepcopy(model).cpu().double().eval()
    x = random_images(exact, 1, 0)
    try:
        parameters_of(exact, x, random_context(exact, 1))
    except RuntimeError:  # it makes tensors of float32 itself
        return deepcopy(model).cpu().eval()
    return exact


def randomize(model: AutoregressiveModel, seed: int = 0) -> AutoregressiveModel:
    """Replaces the trainable weights by random ones that keep activations near 1; returns it."""
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("conditioner."):
            fan_in = parameter[0].numel() if parameter.ndim else 1
            std = 1 / math.sqrt(max(1, fan_in))
            torch.nn.init.normal_(parameter, std=std, generator=random)
    return model


def smaller(model: AutoregressiveModel, shape: tuple[int, int, int], levels: int) -> Any:
    """Makes a model of the same class for other images, with random weights in float64.

    Returns:
        The model; None if the class makes none of this shape.
    """
    arguments = model.hyperparameters | {"shape": shape, "levels": levels}
    fewer = {
        name: min(most, arguments[name])
        for name, most in SMALLER.items()
        if isinstance(arguments.get(name), int)
    }
    for changes in (fewer, {}):
        try:
            made = exact_copy(type(model)(**arguments | changes))
        except Exception:  # a class of the user's own may fail in any way
            continue
        return randomize(made)
    return None


def random_context(model: AutoregressiveModel, batch: int, seed: int = 0) -> Context | None:
    """Makes random contexts of what the model takes."""
    spec, random = model.context_spec, torch.Generator().manual_seed(seed)
    parts: dict[str, Any] = {}
    if spec.classes is not None:
        parts["classes"] = torch.randint(spec.classes, (batch,), generator=random)
    if spec.vector is not None:
        parts["vector"] = torch.randn(batch, spec.vector, generator=random)
    if spec.image is not None:
        parts["image"] = torch.randn(batch, *spec.image, generator=random)
    return model.context(parts or None, batch)


@torch.no_grad()
def parameters_of(model: AutoregressiveModel, x: Tensor, c: Context | None) -> Tensor:
    """Computes the parameters of all distributions, `(B, sites, P)`, sites in their order.

    What is random in the model, such as dropout, is the same in every call.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        distribution: Distribution = model(x, c)
    if not isinstance(distribution, Distribution):
        raise UserError(
            f"forward of {type(model).__name__} returns a {type(distribution).__name__}: return a "
            "distribution, such as nextpixel.Categorical."
        )
    found = [t for t in vars(distribution).values() if isinstance(t, Tensor)]
    found = [t for t in found if t.shape[:4] == x.shape and t.is_floating_point()]
    maps = [t.reshape(*x.shape, -1) for t in found] or [distribution.pmf()]
    return torch.cat(maps, -1).movedim(1, 3).flatten(1, 3)


def order_of(shape: tuple[int, int, int]) -> Tensor:
    """Returns the number of each site in the order of generation, `(C, H, W)`."""
    channels, height, width = shape
    order = torch.arange(math.prod(shape)).view(height, width, channels).movedim(2, 0)
    return order.contiguous()  # images take their strides from it, and rounding depends on them


def site_of(number: int, shape: tuple[int, int, int]) -> Site:
    """Returns the site with a number in the order of generation."""
    pixel, channel = divmod(number, shape[0])
    return Site(*divmod(pixel, shape[2]), channel)


# --- causality ------------------------------------------------------------------------------------


def find_leak(
    model: AutoregressiveModel, *, seconds: float | None = None, seed: int = 0
) -> Leak | None:
    """Looks for a site whose distribution depends on itself or on a later site.

    All sites from some site on are changed: the parameters of the distributions up to that site
    must stay the same, up to rounding. Images of up to 64 sites are tried at each site, larger ones
    at a few rows and columns. The model is checked with random weights, also in training mode, and
    with its own.

    Args:
        model: The model; it is copied.
        seconds: The time after which no further changes are tried; None for no limit.
        seed: Seed of the images, the contexts and the weights.
    """
    begin = time.monotonic()
    own = exact_copy(model)
    random = randomize(deepcopy(own), seed)
    for network, training in ((random, False), (random, True), (own, False)):
        network.train(training)
        for cuts in chunks(cuts_of(model.shape, seed), model):
            leak = leak_at(network, cuts, seed, training)
            if leak is not None:
                return leak
            if seconds is not None and time.monotonic() - begin > seconds:
                return None
    return None


def cuts_of(shape: tuple[int, int, int], seed: int) -> list[int]:
    """Chooses the sites from which on images are changed."""
    total, (channels, height, width) = math.prod(shape), shape
    if total <= FEW:
        return list(range(total))
    middle = height // 2 * width
    pixels = (middle + width // 2, 0, middle, middle + width - 1, height * width - 1)
    several = [pixel * channels + channel for pixel in pixels for channel in range(channels)]
    random = torch.Generator().manual_seed(seed)
    return [*several, *torch.randint(total, (CHUNK,), generator=random).tolist()]


def chunks(numbers: list[int], model: AutoregressiveModel) -> Iterator[list[int]]:
    """Splits numbers into parts, an image for each, that take little memory."""
    each = math.prod(model.shape) * model.levels
    size = max(2, min(CHUNK, VALUES // each))
    return (numbers[i : i + size] for i in range(0, len(numbers), size))


def leak_at(model: AutoregressiveModel, cuts: list[int], seed: int, training: bool) -> Leak | None:
    """Changes an image for each cut, from that site on, and looks for what must not change."""
    order, total = order_of(model.shape), math.prod(model.shape)
    x, c = random_images(model, len(cuts), seed), random_context(model, len(cuts), seed)
    other = (x + random_steps(model, len(cuts), seed)) % model.levels
    begin = torch.tensor(cuts)[:, None, None, None]
    before = parameters_of(model, x, c)
    if undefined(before):
        return None  # these random weights say nothing
    changed = torch.where(order >= begin, other, x)
    differs = distinct(parameters_of(model, changed, c), before)
    wrong = differs & (torch.arange(total) <= torch.tensor(cuts)[:, None])
    if not bool(wrong.any()):
        return None
    image, target = (int(i) for i in wrong.nonzero()[0])

    def seen(first: int) -> bool:
        """Whether the target changes with the sites of this image from `first` on."""
        part = x.clone()
        part[image] = torch.where(order >= first, other[image], x[image])
        after = parameters_of(model, part, c)
        return bool(distinct(after[image, target], before[image, target]))

    source = None
    if seen(cuts[image]):
        low, high = cuts[image], total  # it changes from `low` on, and not from `high` on
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if seen(middle) else (low, middle)
        source = site_of(low, model.shape)
    return Leak(site_of(target, model.shape), source, training)


def distinct(after: Tensor, before: Tensor) -> Tensor:
    """Compares parameters, `(..., P)` -> booleans `(...)`; rounding is no difference."""
    error = 1e-12 if before.dtype == torch.float64 else 1e-5
    moved = (after - before).abs() > error * (1 + before.abs())
    return (moved | (after.isfinite() != before.isfinite())).any(-1)


def undefined(parameters: Tensor) -> bool:
    """Checks whether parameters are NaN or +inf; -inf is the logit of an impossible level."""
    return bool((parameters.isnan() | parameters.isposinf()).any())


def random_steps(model: AutoregressiveModel, n: int, seed: int) -> Tensor:
    """Draws what is added to levels, modulo their number, to change each, `(n, C, H, W)`."""
    random = torch.Generator().manual_seed(seed + 1)
    return torch.randint(1, model.levels, (n, *model.shape), generator=random)


def refuse_leak(model: AutoregressiveModel) -> None:
    """Checks a model of the user's own before it is trained, in a second or two.

    Raises:
        UserError: It is not causal.
    """
    name = type(model).__name__
    try:
        leak = find_leak(model, seconds=SECONDS)
    except (RuntimeError, TypeError) as error:  # its copy, or its copy on the CPU
        reason = " ".join(str(error).split()).rstrip(".")
        warnings.warn(
            f"{name} is trained without a check that it is causal, as its copy fails: {reason}.",
            stacklevel=2,
        )
        return
    if leak is not None:
        raise UserError(
            f"{name} is not causal, {leak.in_words(model.shape[0])}, so its scores and samples "
            f"would be wrong: hide it, and run nextpixel check {type(model).__module__}.{name} to "
            "see more."
        )


def check_causal(model: AutoregressiveModel, leak: Leak | None) -> Finding:
    """Reports what `find_leak` found."""
    channels, height, width = model.shape
    if leak is not None:
        return Finding("causal", False, leak.in_words(channels))
    own = exact_copy(model)
    if undefined(parameters_of(own, random_images(own, 2, 0), random_context(own, 2))):
        return Finding("causal", False, "its distributions have NaN or infinite parameters")
    size = f"{height} x {width}" + (f" x {channels}" if channels > 1 else "")
    return Finding("causal", True, f"at {size}, no site sees itself or a later one")


# --- the other checks -----------------------------------------------------------------------------


@torch.no_grad()
def check_sum(model: AutoregressiveModel) -> Finding:
    """Checks that the probabilities of all images of a tiny size sum to 1."""
    name, channels = "sums to 1", model.shape[0]
    for height, width in ((2, 3), (1, 2), (2, 2), (1, 1), (4, 4)):
        dims = channels * height * width
        levels = 2 if model.levels == 2 or 3**dims > 1 << 12 else 3
        if levels**dims > 1 << 16:
            continue
        tiny = smaller(model, (channels, height, width), levels)
        if tiny is None:
            continue
        values = itertools.product(range(levels), repeat=dims)
        x = torch.tensor(list(values)).view(-1, channels, height, width)
        context = random_context(tiny, 1)
        total = 0.0
        try:
            for part in torch.split(x, 1024):
                c = None if context is None else context[[0] * len(part)]
                total += float(tiny.log_prob(part, c).double().exp().sum())
        except RuntimeError:  # this size is too small for it
            continue
        error = 1e-6 if tiny.dtype == torch.float64 else 1e-3
        return Finding(
            name,
            abs(total - 1) < error,
            f"the {len(x):,} images of {height} x {width} pixels and {levels} levels: {total:.9f}",
        )
    return Finding(name, None, "the class makes no model of tiny images")


@torch.inference_mode()
def check_cache(model: AutoregressiveModel) -> Finding:
    """Checks that steps with a cache give the same distributions as a full pass."""
    name = "cached"
    if not model.has_cached_path:
        return Finding(name, None, "it has no cached path: samples are drawn by full passes")
    channels, height, width = model.shape
    tried = [(6, 7), (8, 8), (height, width)]
    made = (smaller(model, (channels, *size), model.levels) for size in tried)
    network = next((each for each in made if each is not None), None)
    if network is None:
        return Finding(name, None, "the class makes no second model")
    x, c = random_images(network, 2, 0), random_context(network, 2)
    worst, first = 0.0, None
    error = 1e-9 if network.dtype == torch.float64 else 1e-4
    with evaluation_mode(network):
        full, cache, drawn = network(x, c), network.start(2, c), torch.zeros_like(x)
        for site in sites(network.shape):
            at = (..., site.channel, site.row, site.col)
            step = network.step(drawn, site, cache).pmf()
            distance = float((step - full.at(*site).pmf()).abs().max())
            worst = max(worst, distance)
            if first is None and not distance < error:
                first = site
            drawn[at] = x[at]
    reason = f"steps differ from full passes by {worst:.1g} at most"
    if first is not None:
        size = f"{network.shape[1]} x {network.shape[2]}"
        reason += f"; at {size} the first that does is {name_site(first, channels)}"
    return Finding(name, first is None, reason)


def check_gradients(model: AutoregressiveModel) -> Finding:
    """Checks that the gradient of the score reaches every trainable weight."""
    network = randomize(deepcopy(model).cpu().eval())
    weights = {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and not name.startswith("conditioner.")
    }
    missed, wild = set(weights), set[str]()
    for seed in range(3):  # in one of them, a ReLU may be inactive everywhere
        x, c = random_images(network, 2, seed), random_context(network, 2, seed)
        network.zero_grad()
        network.log_prob(x, c).sum().backward()  # type: ignore[no-untyped-call]  # of torch
        gradients = {name: grad for name in missed if (grad := weights[name].grad) is not None}
        undone = {name for name, grad in gradients.items() if not bool(grad.isfinite().all())}
        missed -= {name for name, grad in gradients.items() if bool(grad.any())} - undone
        wild |= undone
        if not missed:
            return Finding("gradients", True, f"they reach all {len(weights)} weight tensors")
    first = ", ".join(sorted(missed)[:3])
    more = f" and {len(missed) - 3} more" if len(missed) > 3 else ""
    if wild & missed:
        return Finding("gradients", False, f"NaN or infinite at {first}{more}")
    return Finding("gradients", False, f"none reaches {first}{more}: is it used?")
