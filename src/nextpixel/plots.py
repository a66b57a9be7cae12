"""Pictures from integers: grids, side-by-side rows, heat maps, animations, the loss curve.

Everything here takes whatever `np.asarray` takes (arrays, tensors on the CPU, lists) and knows
nothing of models. Images are `(N, C, H, W)` integers in `[0, levels)` with C = 1 (grey) or 3
(colour). Pictures that are colours already, from `hide` or `heat_map`, are images of 256 levels.

Example:
    >>> digits = np.zeros((6, 1, 28, 28), dtype=np.uint8)
    >>> grid(digits, levels=256, columns=3, column_labels=["a", "b", "c"]).mode
    'L'
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from nextpixel.errors import UserError
from nextpixel.files import atomic_write

__all__ = [
    "TINT",
    "beside",
    "comparison",
    "confusion",
    "grid",
    "growing",
    "heat_map",
    "hide",
    "histograms",
    "loss_curve",
    "save_gif",
    "save_image",
    "scatter",
    "seen",
    "side_by_side",
    "to_uint8",
    "upright",
]

Pixels = NDArray[np.uint8]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

TINT = (68, 79, 104)
"""The colour of a pixel nobody has seen: bluish, so that no grey level can be taken for it."""

_BACKGROUND = 244
_INK = "#303030"
_TILE = 80  # the side in pixels that small images are brought near to
_WIDEST = 1600  # the width in pixels that upscaling does not go beyond
_HOLD = 1.5  # seconds for the last frame of a GIF
_FASTEST = 0.02  # seconds; browsers slow a GIF down whose frames are shorter
# Colours that the colour-blind can tell apart (Okabe and Ito, 2008), without the palest.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"optimize": True}),
    ".webp": ("WEBP", {"lossless": True}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".gif": ("GIF", {}),
    ".bmp": ("BMP", {}),
}


def to_uint8(x: ArrayLike, levels: int) -> Pixels:
    """Turns levels into bytes, `round(255 * x / (levels - 1))`, so that the last level is white.

    Args:
        x: Integers in `[0, levels)`, any shape.
        levels: Number of levels, at least 2.

    Returns:
        Bytes of the shape of `x`.

    Raises:
        ValueError: If `x` is not made of integers or leaves its range.
    """
    values = np.asarray(x)
    if not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise ValueError(f"a picture is made of integers, but the values are {values.dtype}")
    if values.size and not 0 <= values.min() <= values.max() < levels:
        raise ValueError(
            f"values from {values.min()} to {values.max()} do not lie in [0, {levels}); pictures "
            "that are colours already go with levels=256, and the others through to_uint8 first"
        )
    return np.rint(255.0 * values / (levels - 1)).astype(np.uint8)


def real_to_uint8(x: ArrayLike, levels: int) -> Pixels:
    """Turns real numbers in `[0, levels - 1]`, such as means of levels, into bytes."""
    values = np.asarray(x, np.float64)
    return to_uint8(np.rint(values * 255 / (levels - 1)).astype(np.int64), 256)


def upright(x: ArrayLike) -> NDArray[Any]:
    """Turns spectrograms as people expect them: time to the right and frequency upward.

    Args:
        x: Images `(N, C, H, W)`, time down the rows and frequency along the columns.

    Returns:
        `(N, C, W, H)`.
    """
    return np.flip(np.asarray(x).swapaxes(2, 3), 2)


def seen(x: ArrayLike, spectrogram: object | None) -> NDArray[Any]:
    """Turns images as people look at them: upright if they are spectrograms, else as they are."""
    return np.asarray(x) if spectrogram is None else upright(x)


def hide(x: ArrayLike, mask: ArrayLike, levels: int) -> Pixels:
    """Paints the hidden pixels, those where `mask` is False, in a quiet tint.

    Args:
        x: Images `(N, C, H, W)`.
        mask: True where a pixel is known, broadcastable to `(N, C, H, W)`; a pixel counts as known
            if all its channels are.
        levels: Number of levels of `x`.

    Returns:
        Colours `(N, 3, H, W)`, an image of 256 levels.

    Raises:
        UserError: The mask is not made of booleans.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise UserError(f"A mask is made of booleans, true at known pixels, not of {mask.dtype}.")
    pixels = _to_rgb(_to_pixels(x, levels))
    shape = np.shape(x)
    known = np.broadcast_to(mask, shape).all(axis=1, keepdims=True)
    return np.where(known, pixels, _tint())


def heat_map(values: ArrayLike) -> Pixels:
    """Colours numbers by Matplotlib's "magma", from the smallest to the largest.

    A NaN, no value at all, gets the tint of a hidden pixel.

    Args:
        values: Numbers `(N, H, W)`.

    Returns:
        Colours `(N, 3, H, W)`, an image of 256 levels.

    Raises:
        ValueError: If `values` has another number of dimensions.
    """
    from matplotlib import colormaps

    heat = np.asarray(values, dtype=np.float64)
    if heat.ndim != 3:
        raise ValueError(f"a heat map needs values (N, H, W), but their shape is {heat.shape}")
    missing = np.isnan(heat)
    present = heat[~missing]
    low, high = present.min(initial=np.inf), present.max(initial=-np.inf)
    # Equal values everywhere, or none at all, leave no range to divide by.
    span = high - low if high > low else 1.0
    colours = colormaps["magma"](np.where(missing, 0.0, (heat - low) / span), bytes=True)
    return np.where(missing[:, None], _tint(), np.moveaxis(colours[..., :3], -1, 1))


def grid(
    x: ArrayLike,
    levels: int,
    *,
    columns: int | None = None,
    places: Sequence[int] | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    scale: int | None = None,
    gap: int = 1,
) -> Image.Image:
    """Lays images out in rows, left to right and top to bottom.

    Args:
        x: Images `(N, C, H, W)`, C = 1 or 3.
        levels: Number of levels of `x`.
        columns: Images in a row; near the square root of N if None.
        places: The place of each image, counted like that from 0; one after the other if None.
        row_labels: A label for each row, on the left.
        column_labels: A label for each column, on top; long ones are broken between words.
        scale: Side in pixels of a pixel of `x`; chosen so that small images look good if None.
        gap: Space around each image, in pixels of `x`.

    Returns:
        A grey ("L") picture for C = 1, a colour ("RGB") picture for C = 3.

    Raises:
        ValueError: If `x` is not such a stack of images or the labels do not fit its layout.
    """
    pixels = _to_pixels(x, levels)
    n, _, height, width = pixels.shape
    columns = columns or ceil(sqrt(n))
    places = range(n) if places is None else places
    rows = max(places) // columns + 1
    row_labels = _checked("row", row_labels, rows)
    column_labels = _checked("column", column_labels, columns)
    scale = scale or _good_scale(height, width, columns)
    gap, height, width = gap * scale, height * scale, width * scale

    font_size = min(20, max(12, width // 6))
    font, line = ImageFont.load_default(font_size), ceil(1.25 * font_size)
    # A cell is an image, or larger where a word of its label would not fit beside it.
    words = [word for label in column_labels for word in label.split()]
    width = max(width, _widest(words, font) + line // 2) if words else width
    height = max(height, line) if row_labels else height
    captions = [_wrap(label, width - line // 2, font) for label in column_labels]
    top = line * max(map(len, captions)) + line // 4 if captions else 0
    left = _widest(row_labels, font) + line // 2 if row_labels else 0

    canvas = _arrange(pixels, (rows, columns), places, scale, (height, width), gap)
    canvas = np.pad(canvas, ((top, 0), (left, 0), (0, 0)), constant_values=_BACKGROUND)
    picture = Image.fromarray(canvas[..., 0] if canvas.shape[-1] == 1 else canvas)
    draw = ImageDraw.Draw(picture)
    for i, label in enumerate(row_labels):
        y = top + gap + i * (height + gap) + height // 2
        draw.text((left - line // 4, y), label, _INK, font, anchor="rm")
    for i, caption in enumerate(captions):
        x_middle = left + gap + i * (width + gap) + width // 2
        for k, text in enumerate(reversed(caption)):
            draw.text((x_middle, top - line // 4 - k * line), text, _INK, font, anchor="ms")
    return picture


def side_by_side(
    columns: Mapping[str, ArrayLike],
    levels: int,
    *,
    row_labels: Sequence[str] | None = None,
    scale: int | None = None,
    gap: int = 1,
) -> Image.Image:
    """Lays stacks of images out side by side: a row an image, a captioned column a stack.

    Grey and coloured stacks mix. As `hide` and `heat_map` return colours of 256 levels, images of
    fewer levels beside them go through `to_uint8` first, and `levels` is 256.

    Args:
        columns: Caption -> images `(N, C, H, W)`, the same N, H and W in each.
        levels: Number of levels of every stack.
        row_labels: A label for each row, on the left.
        scale: See `grid`.
        gap: See `grid`.

    Returns:
        A grey picture if all stacks are grey, a colour picture otherwise.

    Raises:
        ValueError: If there is no stack, or their shapes differ in more than C.
    """
    stacks = [_to_pixels(x, levels) for x in columns.values()]
    shapes = {name: s.shape for name, s in zip(columns, stacks, strict=True)}
    if len({(n, h, w) for n, _, h, w in shapes.values()}) != 1:
        raise ValueError(f"images side by side must agree in N, H and W, but these are {shapes}")
    if any(s.shape[1] == 3 for s in stacks):
        stacks = [_to_rgb(s) for s in stacks]
    return grid(
        np.stack(stacks, axis=1).reshape(-1, *stacks[0].shape[1:]),
        levels=256,
        columns=len(stacks),
        row_labels=row_labels,
        column_labels=list(columns),
        scale=scale,
        gap=gap,
    )


def beside(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Puts pictures next to each other, each under its caption."""
    font = ImageFont.load_default(18)
    shown = [picture.convert("RGB") for picture in pictures.values()]
    gap, top = 24, 36
    width = sum(picture.width for picture in shown) + gap * (len(shown) - 1)
    sheet = Image.new("RGB", (width, top + max(p.height for p in shown)), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(sheet)
    left = 0
    for caption, picture in zip(pictures, shown, strict=True):
        draw.text((left + picture.width // 2, top // 2), caption, _INK, font, anchor="mm")
        sheet.paste(picture, (left, top))
        left += picture.width + gap
    return sheet


def growing(
    frames_x: Iterable[ArrayLike],
    pixels_done: Iterable[int],
    levels: int,
    spectrogram: object | None = None,
    **options: Any,
) -> Iterator[Image.Image]:
    """Yields the grids of images that are being drawn pixel by pixel in raster order.

    Args:
        frames_x: Images `(N, C, H, W)` at each moment; what is not drawn yet may be any level.
        pixels_done: How many pixels of each image are drawn at each moment, 0 to H * W.
        levels: Number of levels.
        spectrogram: Of what they are spectrograms, see `seen`.
        **options: Passed on to `grid`.

    Yields:
        A colour picture a moment, with the tint of `hide` where nothing is drawn yet.
    """
    for x, done in zip(frames_x, pixels_done, strict=True):
        height, width = np.shape(x)[-2:]
        drawn = np.arange(height * width).reshape(height, width) < done
        yield grid(seen(hide(x, drawn, levels), spectrogram), 256, **options)


def loss_curve(records: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draws the loss in bits/dim over the training steps.

    Args:
        records: Lines of a run's metrics: `{"step": int, "loss": float}` while training and
            `{"step": int, "valid": float}` for a validation score; other keys are ignored.
        path: Where to write; .png or .svg.

    Raises:
        UserError: If there is nothing to draw, or the suffix is another.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    records = list(records)
    steps, loss = _series(records, "loss")
    valid_steps, valid = _series(records, "valid")
    if not (loss.size or valid.size):
        raise UserError("there is no loss to draw: no record has a step with a loss or a score")
    suffix = _suffix(path, (".png", ".svg"))

    figure = Figure(figsize=(6, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if loss.size:
        axes.plot(steps, loss, color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(loss), color="tab:blue", label="training, smoothed")
    if valid.size:
        axes.plot(valid_steps, valid, "o-", color="tab:orange", markersize=4, label="validation")
    axes.set(xlabel="step", ylabel="bits/dim", ylim=_limits(steps, loss, valid_steps, valid))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_write(path) as file:
        figure.savefig(file, format=suffix[1:])


def comparison(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    scores: Mapping[str, tuple[float, float]],
    path: str | os.PathLike[str],
    *,
    nats: float,
) -> None:
    """Draws the curves of several runs, over wall time and over steps, and their test scores.

    Args:
        runs: Label -> lines of the run's metrics, see `loss_curve`, with `"seconds"`; may be empty.
        scores: Label -> the test score in bits/dim and its standard error.
        path: Where to write; .png or .svg.
        nats: How many nats an image a bit/dim is.

    Raises:
        UserError: If the suffix is another.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    suffix = _suffix(path, (".png", ".svg"))
    looks = dict(zip(scores, zip(cycle(_MARKERS), cycle(_COLOURS), strict=False), strict=False))
    trained = {label: records for label, records in runs.items() if records}
    widths = [1, 1, 0.9] if trained else [1]
    height = max(4.4, 1.6 + 0.45 * len(scores))
    figure = Figure(figsize=(4.9 * sum(widths) + 0.8, height), dpi=150, layout="constrained")
    *curves, last = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for axes, over in zip(curves, ("seconds", "step"), strict=False):
        for label, records in trained.items():
            _draw_run(axes, records, over, label, *looks[label])
        axes.set(ylim=_shared_limits(trained.values()), xlim=(0, None))
    if curves:
        curves[0].set(xlabel="wall time in seconds", ylabel="bits/dim")
        curves[0].set_title("Over time: validation (marks), training (thin)", size=10)
        curves[1].set(xlabel="training steps")
        curves[1].set_title("Over steps: validation (marks), training (thin)", size=10)
        figure.legend(
            *curves[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=min(6, len(trained)),
            frameon=False,
        )
    _draw_scores(last, scores, looks, nats)
    for axes in (*curves, last):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format=suffix[1:])


def histograms(
    scores: Mapping[str, ArrayLike],
    groups: Mapping[str, ArrayLike],
    path: str | os.PathLike[str],
) -> None:
    """Draws how scores are distributed: a panel a score, a colour a group of images.

    Args:
        scores: Title -> a number an image, `(N,)`.
        groups: Name -> which of the images are of the group, booleans `(N,)`.
        path: Where to write; .png or .svg.

    Raises:
        UserError: If the suffix is another.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    suffix = _suffix(path, (".png", ".svg"))
    figure = Figure(figsize=(0.6 + 3.4 * len(scores), 3.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (title, values) in zip(panels, scores.items(), strict=True):
        numbers = np.asarray(values, np.float64)
        edges = np.histogram_bin_edges(numbers, 60)
        for (name, chosen), colour in zip(groups.items(), cycle(_COLOURS), strict=False):
            part = numbers[np.asarray(chosen, bool)]
            weights = np.full(len(part), 1 / max(1, len(part)))  # large and small groups alike
            axes.hist(part, edges, weights=weights, color=colour, alpha=0.55, label=name)
        axes.set(xlabel=f"{title}, bits/dim", yticks=[])
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_ylabel("share of the images")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(groups),
        frameon=False,
    )
    with atomic_write(path) as file:
        figure.savefig(file, format=suffix[1:])


def confusion(counts: ArrayLike, names: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draws a table of what was taken for what; the colours are the shares of a row.

    Args:
        counts: How many images of the class of the row were taken for the column's, `(K, K)`.
        names: The names of the K classes.
        path: Where to write; .png or .svg.

    Raises:
        UserError: If the suffix is another.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    suffix = _suffix(path, (".png", ".svg"))
    table = np.asarray(counts)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = 1.6 + 0.42 * len(names)
    figure = Figure(figsize=(side, side), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    # The right ones are a hundred times the mistakes: the root lets these be seen.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    for (true, chosen), count in np.ndenumerate(table):
        colour = "white" if shares[true, chosen] > 0.3 else _INK
        if count:
            axes.text(chosen, true, str(count), ha="center", va="center", color=colour, size=8)
    turned = max(map(len, names)) > 3
    axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="taken for", ylabel="true class")
    with atomic_write(path) as file:
        figure.savefig(file, format=suffix[1:])


def scatter(
    points: ArrayLike,
    ids: ArrayLike | None,
    names: Sequence[str] | None,
    path: str | os.PathLike[str],
) -> None:
    """Draws points in the plane, a colour a class.

    Args:
        points: `(N, 2)`.
        ids: The class of each, `(N,)`, or None.
        names: A name for each class, or None.
        path: Where to write; .png or .svg.

    Raises:
        UserError: If the suffix is another.
        OSError: If the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    suffix = _suffix(path, (".png", ".svg"))
    where = np.asarray(points, np.float64)
    classes = np.zeros(len(where), np.int64) if ids is None else np.asarray(ids)
    figure = Figure(figsize=(6.4, 5.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for k in np.unique(classes):
        colour = colormaps["tab10" if classes.max() < 10 else "tab20"](int(k) % 20)
        label = str(k) if names is None else names[k]
        axes.plot(*where[classes == k].T, ".", color=colour, alpha=0.5, markersize=3, label=label)
    axes.set(xlabel="first number of the code", ylabel="second number of the code")
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    if ids is not None:
        figure.legend(loc="outside right center", frameon=False, markerscale=4)
    with atomic_write(path) as file:
        figure.savefig(file, format=suffix[1:])


def _shared_limits(runs: Iterable[Sequence[Mapping[str, Any]]]) -> tuple[float, float]:
    """Leaves out what comes before each run's second validation: the end is what is compared."""
    shown: list[float] = []
    for records in runs:
        _, valid = _series(records, "valid")
        shown += [*valid[1:]] if len(valid) > 1 else [*valid, *_smooth(_series(records, "loss")[1])]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    margin = 0.2 * (high - low) or 0.1
    return low - margin, high + margin


def _draw_run(axes: Any, records: Any, over: str, label: str, marker: str, colour: str) -> None:
    x, loss = _series(records, "loss", over)
    axes.plot(x, _smooth(loss, 20), color=colour, alpha=0.45, linewidth=1)
    x, valid = _series(records, "valid", over)
    axes.plot(x, valid, marker=marker, color=colour, markersize=5, linewidth=1.6, label=label)


def _draw_scores(
    axes: Any,
    scores: Mapping[str, tuple[float, float]],
    looks: Mapping[str, tuple[str, str]],
    nats: float,
) -> None:
    order = sorted(scores, key=lambda label: -scores[label][0])  # the best on top
    for y, label in enumerate(order):
        score, error = scores[label]
        marker, colour = looks[label]
        axes.errorbar(
            score, y, xerr=error, fmt=marker, color=colour, markersize=6, capsize=5, linewidth=1.6
        )
        text = f"{score:.4f} ± {error:.4f}"
        axes.annotate(text, (score, y), (0, 9), textcoords="offset points", ha="center", size=8)
    axes.set_yticks(range(len(order)), order)
    for tick, label in zip(axes.get_yticklabels(), order, strict=True):
        tick.set(color=looks[label][1], fontweight="bold")
    axes.set(xlabel="bits/dim, with standard errors", ylim=(-0.6, len(order) - 0.4))
    axes.margins(x=0.25)
    above = axes.secondary_xaxis("top", functions=(lambda b: b * nats, lambda n: n / nats))
    above.set_xlabel("Test score, nats an image")


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture, all of it or nothing, in the format that the suffix names.

    Args:
        image: The picture.
        path: Where to write; missing folders are made.

    Raises:
        UserError: If the suffix names no format.
        OSError: If the file cannot be written.
    """
    format_, options = _FORMATS[_suffix(path, _FORMATS)]
    if format_ == "JPEG" and image.mode != "L":
        image = image.convert("RGB")
    with atomic_write(path) as file:
        image.save(file, format=format_, **options)


def save_gif(
    frames: Iterable[Image.Image], path: str | os.PathLike[str], *, seconds: float = 6.0
) -> None:
    """Writes an endless animation that lasts about `seconds`, its last frame 1.5 of them.

    Of more frames than can be shown in that time, an even choice with the last one is kept.

    Args:
        frames: Pictures of one size, at least one.
        path: Where to write; .gif, missing folders are made.
        seconds: Length of one round, more than the last frame's 1.5.

    Raises:
        ValueError: If there is no frame, or no time for any but the last.
        UserError: If the suffix is another.
        OSError: If the file cannot be written.
    """
    _suffix(path, (".gif",))
    shown = list(frames)
    if not shown or seconds <= _HOLD:
        raise ValueError(
            f"{len(shown)} frames cannot be shown in {seconds} s, {_HOLD} s of them for the last"
        )
    most = 1 + max(1, int((seconds - _HOLD) / _FASTEST))
    if len(shown) > most:
        shown = [shown[i] for i in np.linspace(0, len(shown) - 1, most).round().astype(int)]
    # A GIF counts in hundredths of a second; rounding the moments keeps the sum right.
    moments = np.rint(np.linspace(0, 100 * (seconds - _HOLD), len(shown)))
    durations = [*(10 * np.diff(moments)).astype(int).tolist(), round(1000 * _HOLD)]
    first, *rest = _share_palette(shown)
    with atomic_write(path) as file:
        first.save(
            file,
            format="GIF",
            save_all=True,
            append_images=rest,
            duration=durations,
            loop=0,
            optimize=True,
        )


def _suffix(path: str | os.PathLike[str], known: Iterable[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        what = f"the suffix {suffix!r}" if suffix else "no suffix"
        raise UserError(f"cannot write {Path(path)}: it has {what}; use {', '.join(known)}")
    return suffix


def _tint() -> Pixels:
    return np.array(TINT, dtype=np.uint8).reshape(1, 3, 1, 1)


def _to_pixels(x: ArrayLike, levels: int) -> Pixels:
    pixels = to_uint8(x, levels)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not pixels.size:
        raise ValueError(f"images must be (N, 1 or 3, H, W), but their shape is {pixels.shape}")
    return pixels


def _to_rgb(pixels: Pixels) -> Pixels:
    n, _, height, width = pixels.shape
    return np.broadcast_to(pixels, (n, 3, height, width))


def _good_scale(height: int, width: int, columns: int) -> int:
    return max(1, min(round(_TILE / max(height, width)), _WIDEST // (columns * width)))


def _checked(what: str, labels: Sequence[str] | None, count: int) -> Sequence[str]:
    if labels is None:
        return ()
    if len(labels) != count:
        raise ValueError(f"{count} {what}s need {count} {what} labels, but got {len(labels)}")
    return labels


def _widest(texts: Iterable[str], font: _Font) -> int:
    return max((ceil(font.getlength(text)) for text in texts), default=0)


def _wrap(label: str, width: int, font: _Font) -> list[str]:
    """Breaks a label between words into lines that fit `width`."""
    lines: list[str] = []
    for word in label.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _arrange(
    pixels: Pixels,
    layout: tuple[int, int],
    places: Sequence[int],
    scale: int,
    cell: tuple[int, int],
    gap: int,
) -> Pixels:
    """Enlarges `(N, C, H, W)` and sets each into the middle of its cell: `(height, width, C)`."""
    tiles = pixels.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    (rows, columns), (_, height, width, channels) = layout, tiles.shape
    cells = np.full((rows * columns, cell[0] + gap, cell[1] + gap, channels), _BACKGROUND, np.uint8)
    y, x = gap + (cell[0] - height) // 2, gap + (cell[1] - width) // 2
    cells[list(places), y : y + height, x : x + width] = tiles
    sheet = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    sheet = sheet.reshape(rows * cells.shape[1], columns * cells.shape[2], channels)
    # Each cell brings its gap on the left and on top; the sheet ends with one as well.
    return np.pad(sheet, ((0, gap), (0, gap), (0, 0)), constant_values=_BACKGROUND)


def _share_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Gives all frames one palette: colours hold still, and only what changed is stored."""
    if all(frame.mode == "L" for frame in frames):
        return list(frames)  # 256 greys are a palette
    some = [frames[i].convert("RGB") for i in np.linspace(0, len(frames) - 1, 5).astype(int)]
    sheet = Image.fromarray(np.concatenate([np.asarray(frame) for frame in some]))
    palette = sheet.quantize(256, dither=Image.Dither.NONE)
    return [
        frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames
    ]


def _series(records: Iterable[Mapping[str, Any]], key: str, over: str = "step") -> tuple[Any, Any]:
    points = [(r[over], r[key]) for r in records if r.get(key) is not None and over in r]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _smooth(values: NDArray[np.float64], parts: int = 50) -> NDArray[np.float64]:
    """Averages over a fiftieth of the curve (or another part of it) to either side."""
    i, reach = np.arange(len(values)), len(values) // parts
    # At the start no further to the right than to the left: the fall is steep there.
    low, high = np.maximum(i - reach, 0), np.minimum(i + np.minimum(i, reach), len(values) - 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    smoothed: NDArray[np.float64] = (sums[high + 1] - sums[low]) / (high + 1 - low)
    return smoothed


def _limits(steps: Any, loss: Any, valid_steps: Any, valid: Any) -> tuple[float, float]:
    """Leaves out the first tenth of the steps, where the loss falls from far above the rest."""
    start = 0.1 * max(steps.max(initial=0), valid_steps.max(initial=0))
    late, late_valid = loss[steps >= start], valid[valid_steps >= start]
    if len(late) + len(late_valid) < 10:  # a handful of points is shown whole
        late, late_valid = loss, valid
    # Single losses may leave the picture, validation scores may not.
    high = max([*late_valid, *([np.percentile(late, 99)] if late.size else [])])
    low = min([*late_valid, *late])
    margin = 0.1 * (high - low) or 0.1
    return float(low - margin), float(high + margin)
