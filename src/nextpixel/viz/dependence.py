"""Draws how much each pixel changes the distribution at one pixel, and leaks from the future."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike

from nextpixel.viz.images import INK

__all__ = ["dependence"]

LEAK, UNKNOWN = "#e6007e", "#eceef1"


def dependence(strength: ArrayLike, site: tuple[int, int], title: str) -> Figure:
    """Draws a heat map of the influence of each pixel on a site.

    Args:
        strength: The change that each pixel makes at the site, `(H, W)`; NaN where it is not known.
        site: Row and column of the site, which is framed.
        title: The title.
    """
    values = np.nan_to_num(np.asarray(strength, np.float64))
    height, width = values.shape
    before = np.arange(height * width).reshape(height, width) < site[0] * width + site[1]
    seen, leaks = (values > 0) & before, (values > 0) & ~before
    logs = np.log10(np.where(seen, values, 1))
    low, high = logs[seen].min(initial=0), logs[seen].max(initial=-9)
    scale = Normalize(low - 0.25 * max(high - low, 1), max(high, low + 1e-3))
    colours = colormaps["Blues"](scale(logs))
    colours[~seen] = to_rgba("white")
    colours[~seen & ~before] = to_rgba(UNKNOWN)
    colours[leaks] = to_rgba(LEAK)
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.imshow(colours, interpolation="nearest")
    axis.add_patch(
        Rectangle((site[1] - 0.5, site[0] - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=2)
    )
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9, color=INK)
    bar = figure.colorbar(ScalarMappable(scale, "Blues"), ax=axis, shrink=0.7)
    bar.set_label("change at the framed pixel, log10", fontsize=8)
    names = {"white": "not seen", UNKNOWN: "the future"}
    if leaks.any():
        names[LEAK] = f"leaks: {leaks.sum()}"
    handles = [Patch(facecolor=c, edgecolor=INK, label=n, linewidth=0.5) for c, n in names.items()]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    return figure
