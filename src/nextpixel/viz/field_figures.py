"""Explained figures: masks, receptive fields, maps of bits, an animated mask.

As in `viz.images`, every function takes what `np.asarray` takes, and none depends on models.
Colours have one meaning in all figures, see `COLOURS`.

Example:
    >>> seen = np.tri(9, dtype=bool)
    >>> figure = receptive_fields([Panel("a triangle", seen, ~seen)], site=(8, 8))
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon, Rectangle
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from nextpixel.utils.files import atomic_write
from nextpixel.viz.fonts import label_font
from nextpixel.viz.images import INK

__all__ = [
    "COLOURS",
    "Figure",
    "Panel",
    "bit_maps",
    "effective_field",
    "example_digit",
    "kernel_masks",
    "receptive_fields",
    "save_figure",
    "share_within",
    "sliding_mask",
]

COLOURS = {
    "site": "#f28e2b",
    "seen": "#3b76af",
    "later": "#cfe0ee",
    "blind": "#d1495b",
    "hidden": "#eceef1",
}
"""The site; what it depends on; what it depends on in deeper networks; its blind spot; the rest."""

HATCHED: dict[str, Any] = {"edgecolor": "#c3c7ce", "hatch": "////", "linewidth": 0}
WIDTH = 9.0  # inches: at this DPI a little more than the 850 pixels of a README
DPI = 110
RGB = {"R": "#c8423b", "G": "#3c8f4e", "B": "#3b64b0"}


class Panel(NamedTuple):
    """Holds a receptive field to draw.

    Attributes:
        title: The title.
        seen: The site's receptive field, booleans `(H, W)`.
        blind: Its blind spot, which it sees at no depth, booleans `(H, W)`.
    """

    title: str
    seen: ArrayLike
    blind: ArrayLike


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, atomically.

    Raises:
        OSError: If the file cannot be written.
    """
    with rc_context({"hatch.linewidth": 0.6}), atomic_write(path) as file:
        # The layout alone leaves too much room below square maps, and none above their titles.
        tight: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.08}
        figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"optimize": True}, **tight)


# --- receptive fields and masks -------------------------------------------------------------------


def receptive_fields(
    panels: Sequence[Panel], site: tuple[int, int], *, columns: int | None = None
) -> Figure:
    """Draws receptive fields side by side, with a legend.

    Args:
        panels: The fields.
        site: Row and column of their site.
        columns: Panels in a row; if None all of them, up to 6.
    """
    columns = columns or min(6, max(2, len(panels)))
    rows = ceil(len(panels) / columns)
    # At most 2.9 inches each, so that a few panels do not fill the width.
    side = min(WIDTH / columns, 2.9)
    figure = Figure(figsize=(side * columns, (side + 0.4) * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, panel in zip(axes, panels, strict=False):
        _field(axis, panel, site)
    for axis in list(axes)[len(panels) :]:
        axis.set_axis_off()
    names = {"site": "the pixel", "seen": "seen", "later": "seen by deeper networks"}
    if not any(_unseen(panel, site).any() for panel in panels):
        del names["later"]
    if any(np.asarray(panel.blind).any() for panel in panels):
        names["blind"] = "blind spot: seen at no depth"
    names["hidden"] = "the future"
    _legend(figure, names)
    return figure


def _unseen(panel: Panel, site: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the pixels before the site that are neither seen nor in its blind spot."""
    seen, blind = np.asarray(panel.seen, dtype=bool), np.asarray(panel.blind, dtype=bool)
    unseen: NDArray[np.bool_] = _before(site, seen.shape) & ~seen & ~blind
    return unseen


def _before(site: tuple[int, int], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    height, width = shape
    return np.arange(height * width).reshape(height, width) < site[0] * width + site[1]


def _field(axis: Any, panel: Panel, site: tuple[int, int]) -> None:
    seen, blind = np.asarray(panel.seen, dtype=bool), np.asarray(panel.blind, dtype=bool)
    colours = np.full(seen.shape, 4)  # indices of COLOURS
    colours[_unseen(panel, site)] = 2
    colours[blind], colours[seen], colours[site] = 3, 1, 0
    _cells(axis, colours, ListedColormap(list(COLOURS.values())), vmax=4)
    _hatch_future(axis, site, seen.shape)
    before = _before(site, seen.shape).sum()
    axis.set_title(f"{panel.title}\nsees {seen.sum()} of {before}", fontsize=9, color=INK)


def _cells(axis: Any, values: NDArray[Any], cmap: Any, **options: Any) -> Any:
    """Draws a map of square cells with thin lines between them, row 0 at the top."""
    lines = {"edgecolors": "white", "linewidth": 0.4}
    mesh = axis.pcolormesh(values, cmap=cmap, **{"vmin": 0, **lines, **options})
    axis.set(aspect="equal", xticks=[], yticks=[])
    axis.invert_yaxis()
    axis.spines[:].set_visible(False)
    return mesh


def _hatch_future(axis: Any, site: tuple[int, int], shape: tuple[int, ...]) -> None:
    """Hatches everything after the site in raster order."""
    (row, col), (height, width) = site, shape
    corners = [(col + 1, row), (width, row), (width, height), (0, height), (0, row + 1)]
    corners.append((col + 1, row + 1))
    axis.add_patch(Polygon(corners, facecolor=COLOURS["hidden"], **HATCHED))


def _legend(figure: Figure, names: Mapping[str, str]) -> None:
    """Explains the colours below the figure."""
    handles = [
        Patch(facecolor=COLOURS[key], label=name, **(HATCHED if key == "hidden" else {}))
        for key, name in names.items()
    ]
    with rc_context({"hatch.linewidth": 0.6}):
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            fontsize=9,
        )


def kernel_masks(kernels: Mapping[str, ArrayLike], centres: Mapping[str, ArrayLike]) -> Figure:
    """Draws masked kernels, and which channels of an RGB image see each other at the centre.

    Args:
        kernels: Type of the mask -> the mask, booleans `(k, k)`, True where the kernel sees.
        centres: Title -> the centre's mask, booleans `(3, 3)`, output channel by input channel.
    """
    count = len(kernels) + len(centres)
    figure = Figure(figsize=(WIDTH, WIDTH / count + 0.6), layout="constrained")
    axes = iter(figure.subplots(1, count))
    for name, kernel in kernels.items():
        axis = next(axes)
        _kernel(axis, np.asarray(kernel, dtype=bool))
        axis.set_title(f"mask {name}", fontsize=9, color=INK)
    for name, centre in centres.items():
        axis = next(axes)
        _channels(axis, np.asarray(centre, dtype=bool))
        axis.set_title(name, fontsize=9, color=INK)
    _legend(figure, {"seen": "seen", "hidden": "hidden", "site": "the centre"})
    return figure


def _kernel(axis: Any, kernel: NDArray[np.bool_]) -> None:
    size, middle = len(kernel), len(kernel) // 2
    _cells(axis, np.where(kernel, 1, 4), ListedColormap(list(COLOURS.values())), vmax=4)
    _hatch_future(axis, (middle, middle), kernel.shape)
    style: dict[str, Any] = {"facecolor": "none", "edgecolor": COLOURS["site"], "linewidth": 2.5}
    axis.add_patch(Rectangle((middle, middle), 1, 1, **style))
    for row in range(size):
        for col in range(size):
            colour = "white" if kernel[row, col] else "#8a8f98"
            place = {"ha": "center", "va": "center", "fontsize": 9}
            axis.text(col + 0.5, row + 0.5, int(kernel[row, col]), color=colour, **place)


def _channels(axis: Any, centre: NDArray[np.bool_]) -> None:
    """Draws a table with a row for each output channel and a column for each input channel."""
    _cells(axis, np.where(centre, 1, 4), ListedColormap(list(COLOURS.values())), vmax=4)
    for row, col in np.argwhere(~centre):
        axis.add_patch(Rectangle((col, row), 1, 1, facecolor="none", **HATCHED))
    middles = np.arange(3) + 0.5
    axis.set_xticks(middles, list(RGB))
    axis.set_yticks(middles, [f"{name} sees" for name in RGB])
    axis.tick_params(length=0, labelsize=9)
    axis.xaxis.tick_bottom()
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        for label, colour in zip(labels, RGB.values(), strict=True):
            label.set(color=colour, fontweight="bold")


# --- heat maps ------------------------------------------------------------------------------------


def effective_field(
    heat: ArrayLike, reach: ArrayLike, site: tuple[int, int], images: int
) -> Figure:
    """Draws the effective receptive field of a site, as a map and over the distance.

    Args:
        heat: Mean absolute gradients, `(H, W)`.
        reach: The receptive field, booleans `(H, W)`.
        site: Row and column of the site.
        images: Number of images that the gradients are averaged over.

    References:
        Luo et al.: Understanding the Effective Receptive Field in Deep Convolutional Neural
        Networks, 2016 (https://arxiv.org/abs/1701.04128).
    """
    values, seen = np.asarray(heat, dtype=np.float64), np.asarray(reach, dtype=bool)
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.1, 1])
    shares = np.where(values > 0, values / values.max(initial=1e-300), np.nan)
    # Viridis has no orange, which marks the site.
    cmap = colormaps["viridis"].with_extremes(bad=COLOURS["later"])
    mesh = _cells(left, shares, cmap, norm=LogNorm(1e-4, 1), vmin=None, edgecolors="face")
    _hatch_future(left, site, seen.shape)
    left.add_patch(Rectangle(site[::-1], 1, 1, facecolor=COLOURS["site"]))
    left.set_title(f"influence on the orange pixel, mean of {images} images", fontsize=10)
    bar = figure.colorbar(mesh, ax=left, shrink=0.85, extend="min")
    bar.set_label("mean |gradient|, relative to the largest", fontsize=9)
    _shares(right, values, seen, site)
    return figure


def share_within(values: ArrayLike, site: tuple[int, int], distance: int) -> float:
    """Computes the share of a map's sum within a distance of a site.

    Args:
        values: The map, `(H, W)`.
        site: Row and column of the site.
        distance: Distance in pixels, the larger of rows and columns.

    Returns:
        The share, 0 to 1.
    """
    weights = np.asarray(values, dtype=np.float64)
    near = weights[_distance(site, weights.shape) <= distance]
    return float(near.sum() / max(weights.sum(), 1e-300))


def _distance(site: tuple[int, int], shape: tuple[int, ...]) -> NDArray[np.int64]:
    rows, cols = np.indices(shape)
    distance: NDArray[np.int64] = np.maximum(abs(rows - site[0]), abs(cols - site[1]))
    return distance


def _shares(
    axis: Any, values: NDArray[np.float64], seen: NDArray[np.bool_], site: tuple[int, int]
) -> None:
    """Draws the shares of the gradient and of the receptive field within each distance."""
    distances = range(int(_distance(site, seen.shape)[seen].max(initial=1)) + 1)
    for maps, name, colour in (
        (values, "of the gradient", COLOURS["site"]),
        (seen.astype(float), "of the pixels seen at all", COLOURS["seen"]),
    ):
        shares = [share_within(maps, site, distance) for distance in distances]
        axis.plot(distances, shares, "o-", color=colour, label=name, markersize=4)
    axis.set(
        xlabel="distance in pixels, the larger of rows and columns",
        ylabel="share within that distance",
    )
    axis.set(ylim=(0, 1.02), xlim=(0, None))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="lower right")


def bit_maps(image: ArrayLike, surprise: ArrayLike, entropy: ArrayLike, title: str) -> Figure:
    """Draws an image, the surprise of its pixels, and their entropy, the expected surprise.

    Args:
        image: Bytes `(C, H, W)`, C = 1 or 3.
        surprise: -log2 p of each pixel in bits, `(H, W)`.
        entropy: Entropy of each pixel's distribution in bits, `(H, W)`.
        title: Title of the image.
    """
    pixels = np.asarray(image)
    maps = [np.asarray(surprise, dtype=np.float64), np.asarray(entropy, dtype=np.float64)]
    names = ["surprise, -log₂ p", "entropy, the expected surprise"]
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    axes = figure.subplots(1, 3)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if len(pixels) == 1 else {}
    axes[0].imshow(np.moveaxis(pixels, 0, -1).squeeze(), **grey)
    axes[0].set_title(title, fontsize=10)
    top = max(max(each.max(initial=0) for each in maps), 1e-9)
    for axis, values, name in zip(axes[1:], maps, names, strict=True):
        mesh = axis.imshow(values, cmap="magma", vmin=0, vmax=top)
        axis.set_title(f"{name}\n{values.sum():.1f} bits in total", fontsize=10)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    figure.colorbar(mesh, ax=axes[1:], shrink=0.85).set_label("bits per pixel", fontsize=9)
    return figure


# --- the sliding mask -----------------------------------------------------------------------------

SIDE = 198  # pixels: side of the image and of the enlarged kernel
GAP, TOP, BOTTOM = 20, 40, 36
MAX_POSITIONS = 36  # of a kernel, evenly spaced
CAPTIONS = {
    "A": "mask A, the first layer: the centre is hidden",
    "B": "mask B, all later layers: the centre is seen",
}


def example_digit() -> NDArray[np.uint8]:
    """Draws a small grey digit two to slide a kernel over, `(1, 11, 11)` bytes."""
    picture = Image.new("L", (11, 11))
    font = label_font(12)
    ImageDraw.Draw(picture).text((5.5, 5.5), "2", 255, font, anchor="mm")
    return np.asarray(picture)[None]


def sliding_mask(image: ArrayLike, kernels: Mapping[str, ArrayLike]) -> Iterator[Image.Image]:
    """Yields frames of a masked kernel that slides over an image in raster order, for each kernel.

    Args:
        image: Bytes `(C, H, W)`, C = 1 or 3.
        kernels: Type of the mask, "A" or "B" -> booleans `(k, k)`, True where the kernel sees.

    Yields:
        Colour pictures of one size: the image with the kernel on it, and what the kernel sees.
    """
    pixels = np.broadcast_to(np.asarray(image), (3, *np.shape(image)[1:])).transpose(1, 2, 0)
    height, width = pixels.shape[:2]
    positions = np.linspace(0, height * width - 1, min(MAX_POSITIONS, height * width)).astype(int)
    for name, mask in kernels.items():
        kernel = np.asarray(mask, dtype=bool)
        for position in positions:
            site = divmod(int(position), width)
            pictures = [_window(pixels, kernel, site), _taps(pixels, kernel, site)]
            yield _sheet(pictures, CAPTIONS[name])


def _window(
    pixels: NDArray[np.uint8], kernel: NDArray[np.bool_], site: tuple[int, int]
) -> Image.Image:
    """Draws the image, pale at future pixels, and blue at those the kernel sees."""
    height, width = pixels.shape[:2]
    reach, cell = len(kernel) // 2, SIDE // max(height, width)
    # Padded, because a kernel may extend beyond the edge.
    seen = np.zeros((height + 2 * reach, width + 2 * reach), dtype=bool)
    (row, col), size = site, len(kernel)
    seen[row : row + size, col : col + size] = kernel
    seen = seen[reach : reach + height, reach : reach + width]
    known = _before(site, (height, width))
    colours = _blend(pixels, "hidden", np.where(known, 0.0, 0.75))
    picture = _enlarge(_blend(colours, "seen", np.where(seen, 0.55, 0.0)), cell)
    draw = ImageDraw.Draw(picture)
    left, top = (col - reach) * cell, (row - reach) * cell
    draw.rectangle([left, top, left + size * cell, top + size * cell], outline=INK, width=2)
    _outline(draw, site, cell)
    return picture


def _taps(
    pixels: NDArray[np.uint8], kernel: NDArray[np.bool_], site: tuple[int, int]
) -> Image.Image:
    """Draws what the kernel sees: the pixels below it, zeros beyond the edge, the rest hidden."""
    reach, size = len(kernel) // 2, len(kernel)
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)))
    (row, col), cell = site, SIDE // size
    under = padded[row : row + size, col : col + size]
    picture = _enlarge(_blend(under, "hidden", np.where(kernel, 0.0, 1.0)), cell)
    draw, font = ImageDraw.Draw(picture), label_font(cell // 2)
    inside = np.pad(np.ones(pixels.shape[:2], dtype=bool), reach)[
        row : row + size, col : col + size
    ]
    for i, j in np.argwhere(kernel & ~inside):
        middle = ((int(j) + 0.5) * cell, (int(i) + 0.5) * cell)
        draw.text(middle, "0", "#8a8f98", font, anchor="mm")
    for i, j in np.argwhere(~kernel):
        left, top = int(j) * cell, int(i) * cell
        for shift in range(0, cell, 10):  # two lines make a hatch across the whole cell
            draw.line([left + shift, top, left, top + shift], "#c3c7ce")
            draw.line([left + cell, top + shift, left + shift, top + cell], "#c3c7ce")
    for i, j in np.argwhere(kernel):
        left, top = int(j) * cell, int(i) * cell
        box = [left + 1, top + 1, left + cell - 1, top + cell - 1]
        draw.rectangle(box, outline=COLOURS["seen"], width=3)
    _outline(draw, (reach, reach), cell)
    return picture


def _sheet(pictures: Sequence[Image.Image], caption: str) -> Image.Image:
    """Arranges pictures side by side, with a caption above and a legend below."""
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) + 1)
    height = max(picture.height for picture in pictures)
    sheet = Image.new("RGB", (width, TOP + height + BOTTOM), "white")
    draw, left = ImageDraw.Draw(sheet), GAP
    draw.text((width // 2, TOP // 2), caption, INK, label_font(17), anchor="mm")
    for picture in pictures:
        sheet.paste(picture, (left, TOP))
        left += picture.width + GAP
    font, left = label_font(14), GAP
    names = {"site": "the centre", "seen": "seen (0: padding)", "hidden": "hidden, unknown"}
    y = TOP + height + BOTTOM // 2
    for key, name in names.items():
        draw.rectangle([left, y - 6, left + 12, y + 6], COLOURS[key], outline="#c3c7ce")
        draw.text((left + 20, y), name, INK, font, anchor="lm")
        left += 44 + ceil(font.getlength(name))
    return sheet


def _enlarge(colours: NDArray[np.uint8], cell: int) -> Image.Image:
    """Enlarges each pixel to a square of side `cell`."""
    return Image.fromarray(colours.repeat(cell, axis=0).repeat(cell, axis=1))


def _outline(draw: ImageDraw.ImageDraw, site: tuple[int, int], cell: int) -> None:
    top, left = site[0] * cell, site[1] * cell
    draw.rectangle([left, top, left + cell, top + cell], outline=COLOURS["site"], width=4)


def _blend(pixels: NDArray[np.uint8], colour: str, share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Mixes a share `(H, W)` of one of `COLOURS` into pixels `(H, W, 3)`."""
    other = np.array([int(COLOURS[colour][i : i + 2], 16) for i in (1, 3, 5)])
    mixed = pixels * (1 - share[..., None]) + other * share[..., None]
    return np.rint(mixed).astype(np.uint8)
