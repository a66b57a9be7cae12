"""Pictures of images: grids, captioned columns, heat maps and animations.

Every function takes what `np.asarray` takes (arrays, tensors on the CPU, lists), and none depends
on models. Images are `(N, C, H, W)` integers in `[0, levels)` with C = 1 (grey) or 3 (RGB). Colours
from `tint_unknown` or `heat_map` are images of 256 levels.

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
from nextpixel.viz.fonts import label_font

__all__ = [
    "INK",
    "TINT",
    "Pixels",
    "captioned_row",
    "checked_suffix",
    "for_display",
    "grid",
    "heat_map",
    "real_to_uint8",
    "sampling_frames",
    "save_gif",
    "save_image",
    "side_by_side",
    "tint_unknown",
    "to_pil",
    "to_uint8",
    "upright",
]

Pixels = NDArray[np.uint8]
TINT = (68, 79, 104)
"""The colour of unknown pixels: bluish, to differ from every grey level."""
INK = "#303030"
"""The colour of text."""
_BACKGROUND = 244
_TILE = 80  # pixels: small images are enlarged to about this side
_MAX_WIDTH = 1600  # pixels: images are not enlarged beyond this width of a grid
_LAST_FRAME = 1.5  # seconds that a GIF shows its last frame
_SHORTEST_FRAME = 0.02  # seconds: browsers slow down GIFs with shorter frames
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"optimize": True}),
    ".webp": ("WEBP", {"lossless": True}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".gif": ("GIF", {}),
    ".bmp": ("BMP", {}),
}


def to_uint8(x: ArrayLike, levels: int) -> Pixels:
    """Converts levels to bytes, `round(255 * x / (levels - 1))`, so that the last level is white.

    Args:
        x: Integers in `[0, levels)`, any shape.
        levels: Number of levels, at least 2.

    Returns:
        uint8, of the shape of `x`.

    Raises:
        ValueError: If `x` does not hold integers, or holds values outside of `[0, levels)`.
    """
    values = np.asarray(x)
    if not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise ValueError(f"a picture needs integers, but the values are {values.dtype}")
    if values.size and not 0 <= values.min() <= values.max() < levels:
        raise ValueError(
            f"values from {values.min()} to {values.max()} do not lie in [0, {levels}): combine "
            "images with colours only after to_uint8, with levels=256"
        )
    return np.rint(255.0 * values / (levels - 1)).astype(np.uint8)


def real_to_uint8(x: ArrayLike, levels: int) -> Pixels:
    """Converts real numbers in `[0, levels - 1]`, such as means of levels, to bytes."""
    values = np.asarray(x, np.float64)
    return to_uint8(np.rint(values * 255 / (levels - 1)).astype(np.int64), 256)


def to_pil(x: ArrayLike, levels: int) -> Any:
    """Turns images `(B, C, H, W)`, C = 1 or 3, into a list of PIL images; `(C, H, W)` into one.

    Raises:
        UserError: These are no images of so many levels.
    """
    values = np.asarray(x.cpu() if hasattr(x, "cpu") else x)
    if values.ndim not in (3, 4) or values.shape[-3] not in (1, 3):
        raise UserError(
            f"Pictures have the shape (B, C, H, W) or (C, H, W) with 1 or 3 channels, not "
            f"{values.shape}: pick the channels to show."
        )
    if values.ndim == 4:
        return [to_pil(image, levels) for image in values]
    try:
        pixels = to_uint8(values, levels)
    except ValueError as error:
        raise UserError(f"{str(error).capitalize()}: give the levels of the images.") from None
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())


def upright(x: ArrayLike) -> NDArray[Any]:
    """Turns spectrograms to the usual orientation: time to the right, frequency upwards.

    Args:
        x: Images `(N, C, H, W)`, time down the rows and frequency along the columns.

    Returns:
        `(N, C, W, H)`.
    """
    return np.flip(np.asarray(x).swapaxes(2, 3), 2)


def for_display(x: ArrayLike, spectrogram: object | None) -> NDArray[Any]:
    """Orients images for display: spectrograms as by `upright`, others unchanged.

    Args:
        x: Images `(N, C, H, W)`.
        spectrogram: The conversion from sounds to the images; None if they are no spectrograms.

    Returns:
        `(N, C, W, H)` for spectrograms, `(N, C, H, W)` for others.
    """
    return np.asarray(x) if spectrogram is None else upright(x)


def tint_unknown(x: ArrayLike, mask: ArrayLike, levels: int) -> Pixels:
    """Paints unknown pixels, those where `mask` is False, in the colour `TINT`.

    Args:
        x: Images `(N, C, H, W)`.
        mask: Booleans, True where a pixel is known, broadcastable to `(N, C, H, W)`; a pixel is
            known if all its channels are.
        levels: Number of levels of `x`.

    Returns:
        Colours `(N, 3, H, W)`, images of 256 levels.

    Raises:
        UserError: If the mask is not made of booleans.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise UserError(f"A mask is made of booleans, True at known pixels, not of {mask.dtype}.")
    pixels = _to_rgb(_to_pixels(x, levels))
    shape = np.shape(x)
    known = np.broadcast_to(mask, shape).all(axis=1, keepdims=True)
    return np.where(known, pixels, _tint())


def heat_map(values: ArrayLike) -> Pixels:
    """Colours values by Matplotlib's "magma", from the smallest to the largest of all.

    A missing value, NaN, gets the colour `TINT`.

    Args:
        values: Real numbers `(N, H, W)`.

    Returns:
        Colours `(N, 3, H, W)`, images of 256 levels.

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
    # If all values are equal or missing, there is no range to divide by.
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
    """Arranges images in rows, left to right and top to bottom.

    Args:
        x: Images `(N, C, H, W)`, C = 1 or 3.
        levels: Number of levels of `x`.
        columns: Images in a row; about the square root of N if None.
        places: The position of each image, row by row from 0; consecutive if None.
        row_labels: A label for each row, on the left.
        column_labels: A label for each column, at the top; long labels are wrapped between words.
        scale: Enlarges each pixel of `x` to scale x scale pixels; if None, small images are
            enlarged to a side of about 80.
        gap: Space around each image, in pixels of `x`.

    Returns:
        A grey ("L") picture for C = 1, a colour ("RGB") picture for C = 3.

    Raises:
        ValueError: If `x` has another shape, or there is not one label per row or column.
    """
    pixels = _to_pixels(x, levels)
    n, _, height, width = pixels.shape
    columns = columns or ceil(sqrt(n))
    places = range(n) if places is None else places
    rows = max(places) // columns + 1
    row_labels = _check_labels("row", row_labels, rows)
    column_labels = _check_labels("column", column_labels, columns)
    scale = scale or _default_scale(height, width, columns)
    gap, height, width = gap * scale, height * scale, width * scale

    font_size = min(20, max(12, width // 6))
    font, line = label_font(font_size), ceil(1.25 * font_size)
    # A cell has the size of an image, or more if a word of a label needs it.
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
        draw.text((left - line // 4, y), label, INK, font, anchor="rm")
    for i, caption in enumerate(captions):
        x_middle = left + gap + i * (width + gap) + width // 2
        for k, text in enumerate(reversed(caption)):
            draw.text((x_middle, top - line // 4 - k * line), text, INK, font, anchor="ms")
    return picture


def side_by_side(
    columns: Mapping[str, ArrayLike],
    levels: int,
    *,
    row_labels: Sequence[str] | None = None,
    scale: int | None = None,
    gap: int = 1,
) -> Image.Image:
    """Arranges stacks of images side by side: a row for each image, a captioned column per stack.

    Grey and coloured stacks can be combined. As `tint_unknown` and `heat_map` return colours of 256
    levels, apply `to_uint8` to other stacks next to theirs, and set `levels` to 256.

    Args:
        columns: Caption -> images `(N, C, H, W)`, with the same N, H and W in each.
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


def captioned_row(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Puts pictures next to each other, each below its caption.

    Args:
        pictures: Caption -> picture of any size.
    """
    coloured = [picture.convert("RGB") for picture in pictures.values()]
    gap = 24
    width = sum(picture.width for picture in coloured) + gap * (len(coloured) - 1)
    size = max(18, width // 55)  # readable where a page shrinks a wide sheet
    font, top = label_font(size), 2 * size
    sheet = Image.new("RGB", (width, top + max(p.height for p in coloured)), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(sheet)
    left = 0
    for caption, picture in zip(pictures, coloured, strict=True):
        draw.text((left + picture.width // 2, top // 2), caption, INK, font, anchor="mm")
        sheet.paste(picture, (left, top))
        left += picture.width + gap
    return sheet


def sampling_frames(
    snapshots: Iterable[ArrayLike],
    pixels_done: Iterable[int],
    levels: int,
    spectrogram: object | None = None,
    **options: Any,
) -> Iterator[Image.Image]:
    """Yields a grid for each snapshot of images that are sampled in raster order.

    Args:
        snapshots: Images `(N, C, H, W)`; pixels not sampled yet may have any level.
        pixels_done: Number of sampled pixels of each image in each snapshot, 0 to H * W.
        levels: Number of levels.
        spectrogram: See `for_display`.
        **options: Options of `grid`.

    Yields:
        Colour pictures, with the colour `TINT` at pixels not sampled yet.
    """
    for x, done in zip(snapshots, pixels_done, strict=True):
        height, width = np.shape(x)[-2:]
        sampled = np.arange(height * width).reshape(height, width) < done
        yield grid(for_display(tint_unknown(x, sampled, levels), spectrogram), 256, **options)


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture atomically, in the format of the suffix.

    Args:
        image: The picture.
        path: Where to write; missing folders are created.

    Raises:
        UserError: If the suffix belongs to no format.
        OSError: If the file cannot be written.
    """
    format_, options = _FORMATS[checked_suffix(path, _FORMATS)]
    if format_ == "JPEG" and image.mode != "L":
        image = image.convert("RGB")
    with atomic_write(path) as file:
        image.save(file, format=format_, **options)


def save_gif(
    frames: Iterable[Image.Image], path: str | os.PathLike[str], *, seconds: float = 6.0
) -> None:
    """Writes an endless animation that takes `seconds`, 1.5 of them for its last frame.

    If there are more frames than fit into that time, evenly spaced ones are shown, with the last.

    Args:
        frames: Pictures of one size, at least one.
        path: Where to write, a .gif; missing folders are created.
        seconds: Duration of a loop, more than the last frame's 1.5.

    Raises:
        ValueError: If there is no frame, or `seconds` leaves no time before the last frame.
        UserError: If the suffix is not .gif.
        OSError: If the file cannot be written.
    """
    checked_suffix(path, (".gif",))
    pictures = list(frames)
    if not pictures or seconds <= _LAST_FRAME:
        raise ValueError(
            f"{len(pictures)} frames cannot be shown in {seconds} s, of which the last takes "
            f"{_LAST_FRAME} s"
        )
    limit = 1 + max(1, int((seconds - _LAST_FRAME) / _SHORTEST_FRAME))
    if len(pictures) > limit:
        indices = np.linspace(0, len(pictures) - 1, limit).round().astype(int)
        pictures = [pictures[i] for i in indices]
    # A GIF counts in hundredths of a second; rounding the start times keeps the sum right.
    starts = np.rint(np.linspace(0, 100 * (seconds - _LAST_FRAME), len(pictures)))
    durations = [*(10 * np.diff(starts)).astype(int).tolist(), round(1000 * _LAST_FRAME)]
    first, *rest = _share_palette(pictures)
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


def checked_suffix(path: str | os.PathLike[str], allowed: Iterable[str]) -> str:
    """Returns the suffix of a path, in lower case.

    Raises:
        UserError: If it is not one of the allowed ones.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in allowed:
        found = f"the suffix {suffix!r}" if suffix else "no suffix"
        raise UserError(f"Cannot write {Path(path)}: it has {found}; use {', '.join(allowed)}.")
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


def _default_scale(height: int, width: int, columns: int) -> int:
    return max(1, min(round(_TILE / max(height, width)), _MAX_WIDTH // (columns * width)))


def _check_labels(axis: str, labels: Sequence[str] | None, count: int) -> Sequence[str]:
    if labels is None:
        return ()
    if len(labels) != count:
        raise ValueError(f"{count} {axis}s need {count} {axis} labels, but got {len(labels)}")
    return labels


def _widest(texts: Iterable[str], font: ImageFont.FreeTypeFont) -> int:
    return max((ceil(font.getlength(text)) for text in texts), default=0)


def _wrap(label: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Wraps a label between words into lines of at most `width` pixels."""
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
    """Enlarges images `(N, C, H, W)` and centres each in its cell: `(height, width, C)`."""
    tiles = pixels.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    (rows, columns), (_, height, width, channels) = layout, tiles.shape
    cells = np.full((rows * columns, cell[0] + gap, cell[1] + gap, channels), _BACKGROUND, np.uint8)
    y, x = gap + (cell[0] - height) // 2, gap + (cell[1] - width) // 2
    cells[list(places), y : y + height, x : x + width] = tiles
    sheet = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    sheet = sheet.reshape(rows * cells.shape[1], columns * cells.shape[2], channels)
    # The gap of a cell is on its left and top; the sheet needs one on its right and bottom too.
    return np.pad(sheet, ((0, gap), (0, gap), (0, 0)), constant_values=_BACKGROUND)


def _share_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Gives all frames one palette: colours do not flicker, and the file is smaller."""
    if all(frame.mode == "L" for frame in frames):
        return list(frames)  # 256 greys are a palette
    five = [frames[i].convert("RGB") for i in np.linspace(0, len(frames) - 1, 5).astype(int)]
    sheet = Image.fromarray(np.concatenate([np.asarray(frame) for frame in five]))
    palette = sheet.quantize(256, dither=Image.Dither.NONE)
    return [
        frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames
    ]
