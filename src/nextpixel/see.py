"""What a pixel model sees, measured: by the gradients of the network itself, in float64.

The Jacobian is taken with respect to what `CausalNetwork.encode` returns, the only place where
integers become floats. A site's receptive field is where the gradient of its parameters is not
exactly zero, so nothing here is drawn from a formula.

Example:
    >>> network = random_network("PixelCNN", (1, 9, 9), blocks=2)
    >>> seen = receptive_field(network, Site(6, 4))  # (9, 9) booleans
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from nextpixel import figures, plots, sampling
from nextpixel.autoregressive import AutoregressiveModel, CausalNetwork
from nextpixel.distributions import Distribution
from nextpixel.errors import UserError
from nextpixel.masks import MaskType
from nextpixel.model import find_class
from nextpixel.nn import MaskedConv2d, Site

__all__ = [
    "KINDS",
    "Growth",
    "Seen",
    "blind_spot",
    "centre_channels",
    "draw_kind",
    "draw_kinds",
    "draw_model",
    "effective_field",
    "entropy",
    "growth",
    "kernel_field",
    "pixels_before",
    "random_network",
    "receptive_field",
    "sums",
    "surprise",
]

Progress = Callable[[float], None]

LEVELS = 4
SIZE = 21  # side of the images that random networks are made for
SITE = Site(15, 10)  # most of the image lies before it, and there is room on both sides
KERNEL = 5
INPUTS = 8  # random images a field is the union over
AVERAGED = 16  # images that an effective field is the mean over
NETWORKS = 3  # random networks, likewise
NEAR, FAR = 3, 6  # distances in pixels to sum the gradient up to
CHEAP = 0.01  # bits

# Sizes at which a Jacobian takes a second or less; width enough that some ReLU is always awake.
SMALL: dict[str, dict[str, Any]] = {
    "PixelCNN": {"width": 16, "head": 16},
    "GatedPixelCNN": {"width": 16, "kernel_size": 3},
    "RowLSTM": {"width": 12, "head": 16},
    "DiagonalBiLSTM": {"width": 12, "head": 16},
    "PixelCNNPP": {"width": 12, "components": 3},
    "PixelSNAIL": {"width": 12, "layers": 1, "key": 4, "components": 3},
}

# The depths to look at. The last of each is so deep that more would show nothing new at this SIZE:
# what it does not see, no depth sees.
STEPS: dict[str, list[dict[str, int]]] = {
    "PixelCNN": [{"blocks": n} for n in (1, 2, 3, 5, 8, 12)],
    "GatedPixelCNN": [{"blocks": n} for n in (1, 2, 3, 5, 8, 12)],
    "RowLSTM": [{"blocks": n} for n in (1, 2, 4, 7)],
    "DiagonalBiLSTM": [{"blocks": n} for n in (1, 2, 4)],
    "PixelCNNPP": [
        {"stages": 1, "blocks": 1},
        {"stages": 1, "blocks": 2},
        {"stages": 2, "blocks": 1},
        {"stages": 3, "blocks": 1},
        {"stages": 3, "blocks": 2},
    ],
    "PixelSNAIL": [{"blocks": 1}, {"blocks": 2}],
}
KINDS = list(STEPS)


# --- networks with random weights -----------------------------------------------------------------


def random_network(
    kind: str, shape: tuple[int, int, int], *, seed: int = 0, **arguments: Any
) -> CausalNetwork:
    """Makes a small network with random weights, in float64.

    Args:
        kind: One of `KINDS`.
        shape: `(C, H, W)` of its images.
        seed: Of the weights.
        arguments: Of the model's `__init__`, before those of `SMALL`.
    """
    network = find_class(kind)(shape=shape, levels=LEVELS, **{**SMALL[kind], **arguments})
    network = cast(CausalNetwork, network).double().eval()
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        # A model may start with layers near zero; here everything has to show.
        std = 1 / math.sqrt(max(1, parameter[0].numel()))
        torch.nn.init.normal_(parameter, std=std, generator=random)
    return network


def random_images(model: AutoregressiveModel, n: int, seed: int) -> Tensor:
    """Draws images of uniform noise, integers `(n, C, H, W)`."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(model.levels, (n, *model.shape), generator=random).to(model.device)


# --- fields, from Jacobians -----------------------------------------------------------------------


@contextmanager
def watched(model: CausalNetwork, x: Tensor) -> Iterator[Tensor]:
    """Lets gradients with respect to the pixels be taken, while it lasts.

    Yields:
        What `model.encode(x)` returns meanwhile, a leaf of the graph, `(B, in_channels, H, W)`.
    """
    encoded = model.encode(x).detach().requires_grad_()
    model.encode = lambda x: encoded  # type: ignore[method-assign]
    try:
        yield encoded
    finally:
        del model.encode


def receptive_field(
    model: CausalNetwork, site: Site, x: Tensor | None = None, c: object = None, *, seed: int = 0
) -> Tensor:
    """Finds what a site's distribution depends on.

    Args:
        model: The network; in float64 its zeros are exact.
        site: The site.
        x: Images to look at, integers `(B, C, H, W)`, on any device; a few random ones by default.
        c: Their context.
        seed: Of the random numbers.

    Returns:
        Booleans `(C, H, W)`: true where, for some image, the gradient of a random sum of all the
        site's parameters is not exactly zero.
    """
    x = random_images(model, INPUTS, seed) if x is None else x.to(model.device)
    with watched(model, x) as encoded:
        parameters = parameters_at(model(x, c), site)
        random = torch.Generator().manual_seed(seed)
        weights = torch.randn(parameters.shape, generator=random, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((parameters * weights.to(parameters)).sum(), encoded)
    # An embedded channel is fed as several numbers, one after the other.
    by_channel = torch.unflatten((gradient != 0).any(0), 0, (model.shape[0], -1))
    return by_channel.any(1).cpu()


def parameters_at(distribution: Distribution, site: Site) -> Tensor:
    """Gathers all numbers that make up a site's distribution, `(B, P)`."""
    tensors = [t for t in vars(distribution.at(*site)).values() if isinstance(t, Tensor)]
    return torch.cat([t.reshape(len(t), -1) for t in tensors], 1)


def pixels_before(site: Site, height: int, width: int) -> Tensor:
    """Finds the pixels before a site in raster order, booleans `(H, W)`."""
    return (torch.arange(height * width) < site.row * width + site.col).view(height, width)


class Growth(NamedTuple):
    """How the receptive field of `SITE` grows with a network's depth.

    Attributes:
        fields: The network's arguments in words -> what is seen, booleans `(H, W)`.
        blind: What comes before `SITE` and is not even seen by the deepest network, `(H, W)`.
    """

    fields: dict[str, Tensor]
    blind: Tensor


def growth(kind: str, *, seed: int = 0, progress: Progress | None = None) -> Growth:
    """Measures the receptive fields of networks of growing depth.

    Args:
        kind: One of `KINDS`.
        seed: Of the random weights and images.
        progress: Called with the fraction done, between 0 and 1.
    """
    fields = {}
    for done, arguments in enumerate(STEPS[kind], 1):
        name = ", ".join(f"{key}={value}" for key, value in arguments.items())
        fields[name] = _union(kind, seed, arguments)
        if progress is not None:
            progress(done / len(STEPS[kind]))
    return Growth(fields, blind_spot(fields[name], SITE))


def _union(kind: str, seed: int, arguments: dict[str, int]) -> Tensor:
    """Unites the fields of a few random networks: a path may be shut in one of them."""
    seen = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    for number in range(NETWORKS):
        network = random_network(kind, (1, SIZE, SIZE), seed=seed + number, **arguments)
        seen |= receptive_field(network, SITE, seed=seed + number)[0]
    return seen


def blind_spot(seen: Tensor, site: Site) -> Tensor:
    """Finds what comes before a site and is not seen, booleans `(H, W)` like `seen`."""
    return pixels_before(site, *seen.shape) & ~seen


def kernel_field(mask_type: MaskType, kernel_size: int = KERNEL, *, groups: int = 3) -> Tensor:
    """Finds what a masked convolution of colour pictures sees.

    Args:
        mask_type: "A" or "B".
        kernel_size: Height and width, odd.
        groups: Channel groups: 3 keeps R, G and B apart, 1 takes a pixel as a whole.

    Returns:
        Booleans `(3, 3, k, k)`: output channel, input channel, row, column.
    """
    middle = kernel_size // 2
    conv = MaskedConv2d(mask_type, 3, 3, kernel_size, groups=groups).double()
    x = torch.ones(1, 3, kernel_size, kernel_size, dtype=torch.float64, requires_grad=True)
    outputs = conv(x)[0, :, middle, middle]
    gradients = [torch.autograd.grad(y, x, retain_graph=True)[0][0] for y in outputs]
    return torch.stack(gradients) != 0


def centre_channels(kind: str, *, seed: int = 0) -> Tensor:
    """Finds which channels of its own pixel each channel's distribution depends on.

    Args:
        kind: One of `KINDS`.
        seed: Of the random weights and images.

    Returns:
        Booleans `(3, 3)`: the channel whose distribution it is, the channel that it sees.
    """
    row, col = 3, 2
    seen = torch.zeros(3, 3, dtype=torch.bool)
    for number in range(NETWORKS):
        network = random_network(kind, (3, 5, 5), seed=seed + number, blocks=1)
        for channel in range(3):
            field = receptive_field(network, Site(row, col, channel), seed=seed + number)
            seen[channel] |= field[:, row, col]
    return seen


def effective_field(
    model: CausalNetwork,
    x: Tensor,
    c: object = None,
    *,
    row: int,
    col: int,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Tensor:
    """Measures how much each pixel moves the log-probability of one pixel.

    Args:
        model: The network.
        x: The images to average over, integers `(N, C, H, W)`.
        c: Their context.
        row: Row of the pixel whose log-probability it is, all channels together.
        col: Its column.
        batch_size: Images looked at together; it does not change the result.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The mean over the images of `|d log p(pixel) / d input|`, summed over the numbers that a
        pixel is fed as, `(H, W)`, in nats per unit of input.

    References:
        Luo, Li, Urtasun, Zemel: Understanding the Effective Receptive Field in Deep Convolutional
        Neural Networks, 2016 (https://arxiv.org/abs/1701.04128), for the idea; it takes the
        gradient of a feature, and we of the log-probability.
    """
    context = model.context(c, len(x))
    total = torch.zeros(model.shape[1:], dtype=torch.float64)
    for begin in range(0, len(x), batch_size):
        part = slice(begin, begin + batch_size)
        images = x[part].to(model.device)
        with watched(model, images) as encoded:
            log_prob = model(images, None if context is None else context[part]).log_prob(images)
            (gradient,) = torch.autograd.grad(log_prob[:, :, row, col].sum(), encoded)
        total += gradient.abs().sum((0, 1)).cpu()
        if progress is not None:
            progress(min(1.0, (begin + batch_size) / len(x)))
    return total / len(x)


# --- bits -----------------------------------------------------------------------------------------


def surprise(model: AutoregressiveModel, x: Tensor, c: object = None) -> Tensor:
    """Computes how many bits each pixel costs, given those before it.

    Args:
        model: The model.
        x: Images, integers `(N, C, H, W)`.
        c: Their context.

    Returns:
        `-log2 p(pixel)`, summed over the channels, `(N, H, W)`; an image's sum is its code length.
    """
    return sampling.hidden_bits(model, x, torch.zeros(x.shape, dtype=torch.bool), c).sum(1)


@torch.inference_mode()
def entropy(model: AutoregressiveModel, x: Tensor, c: object = None) -> Tensor:
    """Computes how many bits each pixel was expected to cost, before it was known.

    Args:
        model: The model.
        x: Images, integers `(N, C, H, W)`.
        c: Their context.

    Returns:
        `-sum_v p(v) log2 p(v)`, summed over the channels, `(N, H, W)`. A channel's distribution is
        the one given the true channels before it.
    """
    with sampling.evaluation_mode(model):
        pmf = model(x.to(model.device), c).pmf()
    bits: Tensor = torch.special.entr(pmf).sum((1, -1)) / math.log(2)
    return bits.cpu()


# --- pictures -------------------------------------------------------------------------------------


def draw_kinds(out: Path, *, seed: int = 0, progress: Progress | None = None) -> list[Path]:
    """Draws what every kind of model sees, in one picture.

    Args:
        out: The folder to write into.
        seed: Of the random weights and images.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The file.
    """
    panels = []
    for done, kind in enumerate(KINDS, 1):
        # Shallow, where they differ most.
        seen = _union(kind, seed, {"blocks": 2})
        deepest = _union(kind, seed, STEPS[kind][-1])
        panels.append(figures.Panel(f"{kind}, blocks=2", seen, blind_spot(deepest, SITE)))
        if progress is not None:
            progress(done / len(KINDS))
    figures.save(figures.fields(panels, SITE[:2], columns=3), out / "kinds.png")
    return [out / "kinds.png"]


def draw_kind(
    kind: str, out: Path, *, seed: int = 0, progress: Progress | None = None
) -> list[Path]:
    """Draws a kind of model: its masks, what it sees as it gets deeper, and its blind spot.

    Args:
        kind: One of `KINDS`.
        out: The folder to write into.
        seed: Of the random weights and images.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The files.
    """
    compared = ["PixelCNN", "GatedPixelCNN"] if kind in ("PixelCNN", "GatedPixelCNN") else [kind]
    grown = {}
    for number, name in enumerate(compared):
        grown[name] = growth(name, seed=seed, progress=_part(progress, number, len(compared)))
    written = [out / "masks.png", out / "field.png", out / "slide.gif"]
    figures.save(_masks_figure(kind, seed), written[0])
    panels = [figures.Panel(n, seen, grown[kind].blind) for n, seen in grown[kind].fields.items()]
    figures.save(figures.fields(panels, SITE[:2]), written[1])
    plots.save_gif(figures.sliding(figures.specimen(), _kernels(KERNEL)), written[2], seconds=14)
    if len(compared) > 1:
        deepest = {name: list(each.fields.items())[-1] for name, each in grown.items()}
        pair = [
            figures.Panel(f"{name}, {depth}", seen, grown[name].blind)
            for name, (depth, seen) in deepest.items()
        ]
        written.append(out / "blind-spot.png")
        figures.save(figures.fields(pair, SITE[:2]), written[-1])
    return written


def _kernels(size: int) -> dict[str, Tensor]:
    """What the masks show of grey pictures: the type -> booleans `(k, k)`."""
    types: list[MaskType] = ["A", "B"]
    return {mask_type: kernel_field(mask_type, size, groups=1)[0, 0] for mask_type in types}


def _masks_figure(kind: str, seed: int) -> figures.Figure:
    """Draws the kernels, and what R, G and B see at the centre."""
    groups = 1 if cast("type[CausalNetwork]", find_class(kind)).whole_pixels else 3
    middle = KERNEL // 2
    types: list[MaskType] = ["A", "B"]
    centres = {
        f"mask {mask_type} at the centre": kernel_field(mask_type, groups=groups)[
            ..., middle, middle
        ]
        for mask_type in types
    }
    centres[f"the whole {kind}"] = centre_channels(kind, seed=seed)
    return figures.masks(_kernels(KERNEL), centres)


class Seen(NamedTuple):
    """What a trained model sees, and what an image costs it.

    Attributes:
        files: The pictures.
        surprise: The image's map of `surprise`, `(H, W)`.
        entropy: Its map of `entropy`, `(H, W)`.
        site: Row and column of the central pixel, to which the rest belongs.
        reach: What it sees at all, booleans `(H, W)`.
        heat: What it looks at, see `effective_field`, `(H, W)`.
        images: Number of images that `heat` is the mean over.
    """

    files: list[Path]
    surprise: Tensor
    entropy: Tensor
    site: tuple[int, int]
    reach: Tensor
    heat: Tensor
    images: int


def draw_model(
    model: AutoregressiveModel,
    x: Tensor,
    c: object,
    out: Path,
    *,
    averaged: tuple[Tensor, object] | None = None,
    what: str = "the image",
    seed: int = 0,
    progress: Progress | None = None,
) -> Seen:
    """Draws a trained model: what it looks at, and what surprises it.

    Args:
        model: The model, in float64.
        x: An image, integers `(1, C, H, W)`, to map surprise and entropy of, and to slide a kernel
            over.
        c: Its context.
        out: The folder to write into.
        averaged: The images, and their context, that the effective field is the mean over; the one
            image if None.
        what: The image's name.
        seed: Of the random sum of parameters that shows what is seen at all.
        progress: Called with the fraction done, between 0 and 1.

    Raises:
        UserError: The model has no `encode`, so there is nothing to take gradients of.
    """
    if not isinstance(model, CausalNetwork):
        raise UserError(
            f"What a {type(model).__name__} sees cannot be measured: it is no CausalNetwork, whose "
            "encode tells where pixels become numbers."
        )
    _, height, width = model.shape
    row, col = height // 2, width // 2
    written = [out / "effective.png", out / "surprise.png", out / "slide.gif"]
    bits, expected = surprise(model, x, c)[0], entropy(model, x, c)[0]
    some, their = (x, c) if averaged is None else averaged
    context = model.context(their, len(some))
    heat = effective_field(model, some, context, row=row, col=col, progress=progress)
    # Random images: where all of them are black, a trained network's ReLUs may all be asleep.
    noise = random_images(model, INPUTS, seed)
    one = None if context is None else context[torch.zeros(INPUTS, dtype=torch.int64)]
    reach = receptive_field(model, Site(row, col), noise, one, seed=seed).any(0)
    figures.save(figures.effective(heat, reach, (row, col), len(some)), written[0])
    pixels = plots.to_uint8(x, model.levels)[0]
    figures.save(figures.bits(pixels, bits, expected, what), written[1])
    plots.save_gif(figures.sliding(pixels, _kernels(KERNEL)), written[2], seconds=14)
    return Seen(written, bits, expected, (row, col), reach, heat, len(some))


def sums(seen: Seen) -> str:
    """Says in two lines what the maps of a trained model add up to."""
    cheap, dearest = int((seen.surprise < CHEAP).sum()), int(seen.surprise.argmax())
    row, col = divmod(dearest, seen.surprise.shape[1])
    near, far = (figures.within(seen.heat, seen.site, distance) for distance in (NEAR, FAR))
    few, more = (figures.within(seen.reach, seen.site, distance) for distance in (NEAR, FAR))
    images = f"mean of {seen.images} images" if seen.images > 1 else "of this image"
    return (
        f"{cheap} of {seen.surprise.numel()} pixels cost less than {CHEAP} bits each; the most "
        f"surprising, row {row}, column {col}, costs {seen.surprise.max():.1f} bits\n"
        f"gradient at row {seen.site[0]}, column {seen.site[1]}, {images}: {near:.0%} within "
        f"{NEAR} pixels ({few:.0%} of all seen), {far:.0%} within {FAR} ({more:.0%})"
    )


def _part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Makes the progress of one part of so many."""
    return None if progress is None else lambda done: progress((number + done) / parts)
