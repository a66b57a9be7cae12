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
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from nextpixel.errors import UserError
from nextpixel.utils.files import atomic_write

__all__ = [
    "TINT",
    "Pixels",
    "beside",
    "grid",
    "growing",
    "heat_map",
    "hide",
    "save_gif",
    "save_image",
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
