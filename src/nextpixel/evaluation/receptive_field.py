"""Measures receptive fields, by the gradients of the networks themselves in float64.

The Jacobian is taken with respect to the output of `CausalNetwork.encode`, the only place where
integers become floats. A site's receptive field is where the gradient of its parameters is not
exactly zero; no formula for kernel sizes is used.

Example:
    >>> network = random_network("PixelCNN", (1, 9, 9), blocks=2)
    >>> field = receptive_field(network, Site(6, 4))  # (1, 9, 9) booleans
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from nextpixel.context import ContextLike
from nextpixel.distributions import Distribution
from nextpixel.models.base.autoregressive import AutoregressiveModel, CausalNetwork
from nextpixel.models.base.image_model import find_class
from nextpixel.nn import MaskedConv2d, Site
from nextpixel.nn.masks import MaskType

__all__ = [
    "CHEAP",
    "DEPTHS",
    "FAR",
    "INPUTS",
    "KERNEL",
    "KINDS",
    "NEAR",
    "SITE",
    "Growth",
    "Progress",
    "blind_spot",
    "centre_channels",
    "effective_field",
    "growth",
    "kernel_field",
    "pixels_before",
    "random_images",
    "random_network",
    "random_network_field",
    "receptive_field",
    "site_gradient",
]

Progress = Callable[[float], None]
LEVELS = 4
SIZE = 21  # side of the images that random networks are made for
SITE = Site(15, 10)  # most of the image lies before it, and there is room on both sides
KERNEL = 5
INPUTS = 8  # random images: a field is the union over them
AVERAGED = 16  # images that an effective field is averaged over
NETWORKS = 3  # random networks: likewise
NEAR, FAR = 3, 6  # distances in pixels up to which the gradient is summed
CHEAP = 0.01  # bits
# Sizes at which a Jacobian takes at most a second; wide enough that some ReLU is always active.
SMALL: dict[str, dict[str, Any]] = {
    "PixelCNN": {"width": 16, "head": 16},
    "GatedPixelCNN": {"width": 16, "kernel_size": 3},
    "RowLSTM": {"width": 12, "head": 16},
    "DiagonalBiLSTM": {"width": 12, "head": 16},
    "PixelCNNPP": {"width": 12, "components": 3},
    "PixelSNAIL": {"width": 12, "layers": 1, "key": 4, "components": 3},
}
# Depths to measure. The last one covers all that any depth covers at this SIZE.
DEPTHS: dict[str, list[dict[str, int]]] = {
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
KINDS = list(DEPTHS)


# --- networks with random weights -----------------------------------------------------------------


def random_network(
    kind: str, shape: tuple[int, int, int], *, seed: int = 0, **arguments: Any
) -> CausalNetwork:
    """Makes a small network with random weights, in float64.

    Args:
        kind: One of `KINDS`.
        shape: `(C, H, W)` of its images.
        seed: Seed of the weights.
        arguments: Arguments of the model's `__init__`; they take precedence over `SMALL`.
    """
    network = find_class(kind)(shape=shape, levels=LEVELS, **{**SMALL[kind], **arguments})
    network = cast(CausalNetwork, network).double().eval()
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        # Some models start with layers near zero, which would hide connections.
        std = 1 / math.sqrt(max(1, parameter[0].numel()))
        torch.nn.init.normal_(parameter, std=std, generator=random)
    return network


def random_images(model: AutoregressiveModel, n: int, seed: int) -> Tensor:
    """Draws images of uniform noise, integers `(n, C, H, W)`."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(model.levels, (n, *model.shape), generator=random).to(model.device)


# --- fields, from Jacobians -----------------------------------------------------------------------


@contextmanager
def encoding_as_leaf(model: CausalNetwork, x: Tensor) -> Iterator[Tensor]:
    """Makes the encoded pixels a leaf of the graph, to take gradients with respect to them.

    Yields:
        The tensor that `model.encode` returns inside the context, `(B, in_channels, H, W)`.
    """
    encoded = model.encode(x).detach().requires_grad_()
    model.encode = lambda x: encoded  # type: ignore[method-assign]
    try:
        yield encoded
    finally:
        del model.encode


def receptive_field(
    model: CausalNetwork,
    site: Site,
    x: Tensor | None = None,
    c: ContextLike = None,
    *,
    seed: int = 0,
) -> Tensor:
    """Computes the receptive field of a site: the sites its distribution depends on.

    Args:
        model: The network; in float64 its zeros are exact.
        site: The site.
        x: Images, integers `(B, C, H, W)`, on any device; a few random ones by default.
        c: Their context.
        seed: Seed of the random numbers.

    Returns:
        Booleans `(C, H, W)`: True where, for some image, the gradient of a random linear
        combination of the site's parameters is not exactly zero.
    """
    x = random_images(model, INPUTS, seed) if x is None else x.to(model.device)
    return (site_gradient(model, site, x, c, seed) != 0).any(0).cpu()


def site_gradient(model: CausalNetwork, site: Site, x: Tensor, c: ContextLike, seed: int) -> Tensor:
    """Computes the gradient of a random combination of a site's parameters, see `receptive_field`.

    Returns:
        The sum of its absolute values over the numbers that encode a site, `(B, C, H, W)`.
    """
    with encoding_as_leaf(model, x) as encoded:
        parameters = parameters_at(model(x, c), site)
        random = torch.Generator().manual_seed(seed)
        weights = torch.randn(parameters.shape, generator=random, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((parameters * weights.to(parameters)).sum(), encoded)
    # An embedded channel is encoded as several numbers, one after the other.
    return torch.unflatten(gradient.abs(), 1, (model.shape[0], -1)).sum(2)


def parameters_at(distribution: Distribution, site: Site) -> Tensor:
    """Returns all parameters of a site's distribution, `(B, P)`."""
    tensors = [t for t in vars(distribution.at(*site)).values() if isinstance(t, Tensor)]
    return torch.cat([t.reshape(len(t), -1) for t in tensors], 1)


def pixels_before(site: Site, height: int, width: int) -> Tensor:
    """Returns the pixels before a site in raster order, booleans `(H, W)`."""
    return (torch.arange(height * width) < site.row * width + site.col).view(height, width)


class Growth(NamedTuple):
    """The receptive field of `SITE` at growing depths of a network.

    Attributes:
        fields: The network's arguments, as text -> its receptive field, booleans `(H, W)`.
        blind: The blind spot of the deepest network, booleans `(H, W)`.
    """

    fields: dict[str, Tensor]
    blind: Tensor


def growth(kind: str, *, seed: int = 0, progress: Progress | None = None) -> Growth:
    """Measures the receptive fields of networks of growing depth.

    Args:
        kind: One of `KINDS`.
        seed: Seed of the random weights and images.
        progress: Called with the fraction done, between 0 and 1.
    """
    fields = {}
    for done, arguments in enumerate(DEPTHS[kind], 1):
        name = ", ".join(f"{key}={value}" for key, value in arguments.items())
        fields[name] = random_network_field(kind, seed, arguments)
        if progress is not None:
            progress(done / len(DEPTHS[kind]))
    return Growth(fields, blind_spot(fields[name], SITE))


def random_network_field(kind: str, seed: int, arguments: dict[str, int]) -> Tensor:
    """Computes the receptive field of `SITE`, as the union over a few random networks.

    In a single one of them, dead ReLUs may interrupt a path.

    Args:
        kind: One of `KINDS`.
        seed: Seed of the random weights and images.
        arguments: Arguments of the networks.

    Returns:
        Booleans `(H, W)`.
    """
    field = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    for number in range(NETWORKS):
        network = random_network(kind, (1, SIZE, SIZE), seed=seed + number, **arguments)
        field |= receptive_field(network, SITE, seed=seed + number)[0]
    return field


def blind_spot(field: Tensor, site: Site) -> Tensor:
    """Returns the pixels before a site that its receptive field misses, booleans `(H, W)`."""
    return pixels_before(site, *field.shape) & ~field


def kernel_field(mask_type: MaskType, kernel_size: int = KERNEL, *, groups: int = 3) -> Tensor:
    """Computes the receptive field of a masked convolution of colour images.

    Args:
        mask_type: "A" or "B".
        kernel_size: Height and width, odd.
        groups: Channel groups: 3 for R, G and B, or 1 for the whole pixel.

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
    """Computes on which channels of the same pixel each channel's distribution depends.

    Args:
        kind: One of `KINDS`.
        seed: Seed of the random weights and images.

    Returns:
        Booleans `(3, 3)`: the channel of the distribution, the channel it depends on.
    """
    row, col = 3, 2
    depends = torch.zeros(3, 3, dtype=torch.bool)
    for number in range(NETWORKS):
        network = random_network(kind, (3, 5, 5), seed=seed + number, blocks=1)
        for channel in range(3):
            field = receptive_field(network, Site(row, col, channel), seed=seed + number)
            depends[channel] |= field[:, row, col]
    return depends


def effective_field(
    model: CausalNetwork,
    x: Tensor,
    c: ContextLike = None,
    *,
    row: int,
    col: int,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Tensor:
    """Computes the effective receptive field of a pixel: the mean gradient magnitude.

    Args:
        model: The network.
        x: The images to average over, integers `(N, C, H, W)`.
        c: Their context.
        row: Row of the pixel, whose channels are taken together.
        col: Its column.
        batch_size: Images in a pass; it does not change the result.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The mean over the images of `|d log p(pixel) / d input|`, summed over the numbers that
        encode an input pixel, `(H, W)`, in nats per unit of input.

    References:
        Luo, Li, Urtasun, Zemel: Understanding the Effective Receptive Field in Deep Convolutional
        Neural Networks, 2016 (https://arxiv.org/abs/1701.04128). There the gradient is that of a
        feature, here that of the log-probability.
    """
    context = model.context(c, len(x))
    total = torch.zeros(model.shape[1:], dtype=torch.float64)
    for begin in range(0, len(x), batch_size):
        part = slice(begin, begin + batch_size)
        images = x[part].to(model.device)
        with encoding_as_leaf(model, images) as encoded:
            log_prob = model(images, None if context is None else context[part]).log_prob(images)
            (gradient,) = torch.autograd.grad(log_prob[:, :, row, col].sum(), encoded)
        total += gradient.abs().sum((0, 1)).cpu()
        if progress is not None:
            progress(min(1.0, (begin + batch_size) / len(x)))
    return total / len(x)
