"""Measures which pixels the distribution at a site depends on, in any autoregressive model.

`receptive_field` asks whether a network of `CausalNetwork` can see a pixel; here is how much, also
for models of the user's own, and whether a pixel leaks from the future.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel.evaluation.model_checks import (
    Finding,
    Leak,
    chunks,
    exact_copy,
    name_site,
    order_of,
    parameters_of,
    random_context,
    random_steps,
    randomize,
)
from nextpixel.evaluation.receptive_field import (
    NETWORKS,
    SIZE,
    blind_spot,
    pixels_before,
    random_images,
    site_gradient,
)
from nextpixel.models.base.autoregressive import AutoregressiveModel, CausalNetwork
from nextpixel.nn import Site

__all__ = ["dependence", "view", "viewpoint"]

WINDOW = 10  # pixels to each side of a pixel whose influence is measured by changes


def viewpoint(shape: tuple[int, int, int], leak: Leak | None = None) -> Site:
    """Returns the site whose view is drawn: that of a leak, or one below the middle."""
    if leak is not None:
        return leak.target
    return Site(shape[1] * 2 // 3, shape[2] // 2, 0)


def dependence(
    model: AutoregressiveModel,
    site: Site,
    leak: Leak | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float64]:
    """Computes how much each pixel changes the distribution at a site, with random weights.

    Args:
        model: The model.
        site: The site.
        leak: What `find_leak` found.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The gradient of the site's parameters with respect to each pixel, `(H, W)`. Where a model
        has none: the change of a parameter when the pixel changes, and NaN for pixels too far away
        to try.
    """
    if isinstance(model, CausalNetwork):
        network, by_pixel = exact_copy(model), np.zeros(model.shape[1:])
        assert isinstance(network, CausalNetwork)
        for seed in range(NETWORKS):  # in a single one, dead ReLUs may interrupt a path
            randomize(network, seed)
            x, c = random_images(network, 2, seed), random_context(network, 2, seed)
            by_pixel += site_gradient(network, site, x, c, seed).double().sum((0, 1)).numpy()
        place = None if leak is None or leak.source is None else leak.source[:2]
        if leak is None or (place is not None and by_pixel[place] > 0):
            return by_pixel
    return changes(model, site, leak is not None and leak.training, progress)


def changes(
    model: AutoregressiveModel,
    site: Site,
    training: bool,
    progress: Callable[[float], None] | None,
) -> NDArray[np.float64]:
    """Changes one pixel after the other, see `dependence`; at the site the channels from its on."""
    network = randomize(exact_copy(model)).train(training)
    _, height, width = model.shape
    order = order_of(model.shape)
    target = int(order[site.channel, site.row, site.col])
    near = [
        (row, col)
        for row in range(max(0, site.row - WINDOW), min(height, site.row + WINDOW + 1))
        for col in range(max(0, site.col - WINDOW), min(width, site.col + WINDOW + 1))
    ]
    strength = np.full((height, width), np.nan)
    parts = list(chunks(list(range(len(near))), model))
    image, context = random_images(network, 1, 0), random_context(network, 1)
    before: dict[int, Tensor] = {}  # by the number of images, which may change the rounding
    for done, part in enumerate(parts, 1):
        x = image.repeat(len(part), 1, 1, 1)
        c = None if context is None else context[[0] * len(part)]
        if len(part) not in before:
            before[len(part)] = parameters_of(network, x, c)[:, target]
        for number, place in enumerate(part):
            row, col = near[place]
            steps = random_steps(network, 1, place)[0, :, row, col]
            later = (row, col) != site[:2] or order[:, row, col] >= target
            x[number, :, row, col] = (x[number, :, row, col] + steps * later) % model.levels
        change = parameters_of(network, x, c)[:, target] - before[len(part)]
        for number, place in enumerate(part):
            strength[near[place]] = float(change[number].abs().max())
        if progress is not None:
            progress(done / len(parts))
    return strength


def view(model: AutoregressiveModel, site: Site, strength: NDArray[np.float64]) -> Finding:
    """Reports which of the pixels before a site it does not see: no fault, but worth knowing.

    Args:
        model: The model.
        site: The site.
        strength: The result of `dependence`.
    """
    name = "blind spot"
    seen = torch.from_numpy(np.nan_to_num(strength) > 0)
    measured = torch.from_numpy(~np.isnan(strength))
    blind = blind_spot(seen, site) & measured
    before = site.row * model.shape[2] + site.col
    far = int((pixels_before(site, *seen.shape) & ~measured).sum())
    where = name_site(Site(site.row, site.col), 1)
    more = f" ({far} further pixels were not tried)" if far else ""
    if not bool(blind.any()):
        _, height, width = model.shape
        if min(height, width) < SIZE:  # the blind spot of PixelCNN lies some pixels to the right
            more += "; larger images may have a blind spot"
        return Finding(
            name, True, f"at {height} x {width}, {where} sees all pixels before it{more}"
        )
    rows, cols = blind.nonzero().unbind(1)
    nearest = int(((rows - site.row).abs() + (cols - site.col).abs()).argmin())
    up, right = site.row - int(rows[nearest]), int(cols[nearest]) - site.col
    side = f"{abs(right)} to the {'right' if right > 0 else 'left'}" if right else "straight above"
    return Finding(
        name,
        None,
        f"{where} does not see {int(blind.sum())} of the {before} pixels before it; the nearest is "
        f"{up} up, {side}{more}",
    )
