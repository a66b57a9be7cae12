"""Turns pictures of all kinds into integers: PIL images, files, folders and arrays.

Tensors hold the levels of a model already. Everything else is a picture of 256 levels, which are
reduced to the model's: see `to_images`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.folders import decode_picture, picture_size, read_picture
from nextpixel.data.images import Dataset, Images
from nextpixel.data.levels import requantise
from nextpixel.data.user_data import load_unsplit
from nextpixel.errors import UserError
from nextpixel.utils.files import user_path

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["ImagesLike", "Read", "read_images", "to_images", "to_model_images"]

Shape = tuple[int, int, int]
# What a caller may give as images, see `to_images`.
ImagesLike: TypeAlias = (
    "Tensor | NDArray[Any] | Image.Image | str | os.PathLike[str] | Images | Sequence[ImagesLike]"
)


class Read(NamedTuple):
    """Pictures that were read.

    Attributes:
        x: Integers in `[0, levels)`, `(B, C, H, W)`.
        resized: The number of pictures that had another size, and were cropped and resized.
    """

    x: NDArray[Any]
    resized: int = 0


def to_images(
    pictures: ImagesLike,
    shape: Shape | None = None,
    levels: int = 256,
    *,
    from_levels: int | None = None,
) -> Tensor:
    """Turns pictures into integers, as models take them.

    Args:
        pictures: One of the following, or a list of them:

            - a PIL image;
            - the path of a picture file, of a folder of pictures, or of a file of arrays;
            - a NumPy array of pictures, uint8 or booleans: `(H, W)`, `(H, W, C)` or `(C, H, W)`,
              or a batch of these;
            - a NumPy array of other integers, or a tensor: levels already, in `[0, levels)`;
            - a split of a data set.
        shape: `(C, H, W)` of the images, such as `model.shape`. Pictures are converted to grey or
            colour, and to a square shape they are cropped and resized. None leaves them as they
            are.
        levels: Number of levels of the images, such as `model.levels`. The 256 levels of pictures
            are reduced to it.
        from_levels: Number of levels of arrays; by default 256 for uint8 and `levels` for other
            integers.

    Returns:
        Integers in `[0, levels)`, `(B, C, H, W)`, int64, on the CPU.

    Raises:
        UserError: These are no pictures, they do not fit the shape, or it is not clear how to read
            an array.
    """
    import torch  # imported here, as data are loaded without it

    return torch.from_numpy(read_images(pictures, shape, levels, from_levels).x.astype(np.int64))


def to_model_images(pictures: ImagesLike, shape: Shape, levels: int) -> Tensor:
    """Turns pictures into the images of a model, and warns where their size was changed.

    See `to_images` for arguments and errors. A tensor is returned as it is.
    """
    import torch

    if isinstance(pictures, torch.Tensor):
        return pictures
    x, resized = read_images(pictures, shape, levels)
    if resized:
        warnings.warn(
            f"{resized} of {len(x)} pictures had another size: cropped and resized to "
            f"{shape[2]} x {shape[1]} pixels.",
            stacklevel=_callers_level(),
        )
    return torch.from_numpy(x.astype(np.int64))


def _callers_level() -> int:
    """Finds how many functions, from the one that warns, lie before the caller's own code."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("nextpixel.", "torch.")):
        level, frame = level + 1, frame.f_back
    return level


def read_images(
    pictures: ImagesLike, shape: Shape | None, levels: int, from_levels: int | None = None
) -> Read:
    """Reads pictures as arrays, see `to_images`."""
    if isinstance(pictures, (list, tuple)):
        if not pictures:
            raise UserError("There are no images: the list is empty.")
        return _join([read_images(each, shape, levels, from_levels) for each in pictures])
    if isinstance(pictures, (str, os.PathLike)):
        return _read_path(user_path(pictures), shape, levels)
    if isinstance(pictures, Images):
        x = pictures.batch(np.arange(len(pictures)))[0]
        return _read_array(x.astype(np.int64), shape, levels, pictures.levels)
    import torch
    from PIL import Image

    if isinstance(pictures, Image.Image):
        return _read_picture(
            partial(decode_picture, pictures), pictures.size, shape, levels, "The picture"
        )
    if isinstance(pictures, torch.Tensor):
        array = pictures.detach().cpu().numpy()
        is_byte = array.dtype == np.uint8
        return _read_array(array.astype(np.int64) if is_byte else array, shape, levels, from_levels)
    if isinstance(pictures, np.ndarray):
        return _read_array(pictures, shape, levels, from_levels)
    if isinstance(pictures, Dataset):
        raise UserError(f"{pictures.name} is a data set: give one of its splits, such as its test.")
    raise UserError(
        "Images are PIL images, paths, arrays, tensors, or a list of these, not "
        f"{type(pictures).__name__}: convert them first."
    )


def _join(parts: Sequence[Read]) -> Read:
    """Puts pictures together; where some are in colour, so are all."""
    channels = max(part.x.shape[1] for part in parts)
    arrays = [np.repeat(part.x, channels, 1) if part.x.shape[1] == 1 else part.x for part in parts]
    shapes = sorted({array.shape[1:] for array in arrays})
    if len(shapes) > 1:
        raise UserError(
            f"The pictures have different shapes, {' and '.join(map(str, shapes))}: give to_images "
            "a shape, or bring them to one size."
        )
    return Read(np.concatenate(arrays), sum(part.resized for part in parts))


def _read_path(path: Path, shape: Shape | None, levels: int) -> Read:
    """Reads a picture file, a folder of pictures or a file of arrays."""
    if not path.exists():
        raise UserError(
            f"There are no images {path}: give the path of a picture, of a folder of pictures or "
            "of a file of arrays."
        )
    from PIL import Image

    if path.is_file() and path.suffix.lower() in Image.registered_extensions():
        size = picture_size(path)
        return _read_picture(partial(read_picture, path), size, shape, levels, str(path))
    channels, resized = None if shape is None else shape[0], False
    try:
        x = load_unsplit(path, channels=channels, levels=levels).images.x
    except UserError:
        if shape is None or shape[1] != shape[2] or not path.is_dir():
            raise
        resized = True
    if shape is not None and path.is_dir() and shape[1] == shape[2]:
        resized = resized or x.shape[1:] != shape
        if resized:
            x = load_unsplit(path, resize=shape[1], channels=channels, levels=levels).images.x
    if shape is not None and x.shape[1:] != shape:
        raise UserError(_mismatch(str(path), x.shape[1:], shape))
    return Read(x, len(x) if resized else 0)


# --- pictures -------------------------------------------------------------------------------------


def _read_picture(
    read: Callable[[int | None, int | None], NDArray[np.uint8]],
    size: tuple[int, int],
    shape: Shape | None,
    levels: int,
    name: str,
) -> Read:
    """Reads a picture; for a square shape it is cropped and resized.

    Args:
        read: Reads it, with the arguments `resize` and `channels` of `decode_picture`.
        size: Its width and height, in this order or the other.
        shape: See `to_images`.
        levels: See `to_images`.
        name: What the picture is called, at the beginning of a message.
    """
    if shape is None:
        return Read(requantise(read(None, None)[None], 256, levels))
    channels, height, width = shape
    if channels not in (1, 3):
        raise UserError(
            f"{name} has 1 or 3 channels, but the images have {channels}: give an array of shape "
            f"{shape}."
        )
    resized = height == width and size != (width, height)
    x = read(height if resized else None, channels)
    if x.shape != shape:
        raise UserError(_mismatch(name, x.shape, shape))
    return Read(requantise(x[None], 256, levels), int(resized))


def _mismatch(name: str, found: Sequence[int], shape: Shape) -> str:
    return (
        f"{name} is {found[2]} x {found[1]} pixels with {found[0]} channels, but the images are "
        f"{shape[2]} x {shape[1]} with {shape[0]}: resize it first."
    )


# --- arrays ---------------------------------------------------------------------------------------


def _read_array(x: NDArray[Any], shape: Shape | None, levels: int, from_levels: int | None) -> Read:
    """Reads an array of pictures or levels."""
    if not x.size:
        raise UserError(f"There are no images: the array has shape {x.shape}.")
    if x.dtype.kind not in "bui":
        raise UserError(
            f"Images are integers, not {x.dtype} of shape {x.shape}: turn them into 0 to 255 and "
            "uint8."
        )
    if x.dtype == np.bool_:
        x = x.astype(np.uint8) * 255
    own = from_levels or _own_levels(x, levels)
    least, most = int(x.min()), int(x.max())
    if least < 0 or most >= own:
        raise UserError(
            f"These {x.dtype} values go from {least} to {most}, but images of {own} levels have 0 "
            f"to {own - 1}: give pictures as uint8, or to_images the right from_levels."
        )
    images = _channels_first(x, shape)
    if (shape is not None and images.shape[1:] != shape) or (
        images.shape[1] == 4 and shape is None
    ):
        return _convert(images, shape, levels, own)
    return Read(images if own == levels else requantise(images, own, levels))


def _own_levels(x: NDArray[Any], levels: int) -> int:
    """Finds the number of levels of an array: bytes are pictures, other integers levels."""
    if x.dtype != np.uint8 or levels > 256:
        return levels
    most = int(x.max())
    if levels == 256 or most >= levels or most == 0:
        return 256
    if levels == 2:
        return 2
    raise UserError(
        f"These uint8 values go up to {most} only, so they may be {levels} levels already, or dark "
        f"pictures of 256: give to_images(..., from_levels={levels}) or from_levels=256, or a "
        "tensor of levels."
    )


def _channels_first(x: NDArray[Any], shape: Shape | None) -> NDArray[Any]:
    """Brings an array to `(N, C, H, W)`; where two layouts fit, the shape decides."""
    if x.ndim == 2:
        return x[None, None]
    if x.ndim not in (3, 4):
        raise UserError(f"Images have 2 to 4 dimensions, not {x.ndim}: reshape the array.")
    one = x.shape[-3:]
    if shape is not None:
        channels, *size = shape
        if one == shape:
            return x.reshape(-1, *shape)
        if one == (*size, channels):
            return np.moveaxis(x.reshape(-1, *one), 3, 1)
        if x.ndim == 3 and channels == 1 and one[1:] == tuple(size):
            return x[:, None]
    first, last = one[0] in (1, 3), one[2] in (1, 3, 4)
    if first and last:
        raise UserError(
            f"The channels of an array of shape {x.shape} could come first or last: reshape it, or "
            "give to_images the shape (C, H, W)."
        )
    if last:
        return np.moveaxis(x.reshape(-1, *one), 3, 1)
    if first:
        return x.reshape(-1, *one)
    if x.ndim == 3:
        return x[:, None]
    raise UserError(
        f"An array of shape {x.shape} has 1, 3 or 4 channels neither first nor last: reshape it to "
        "(B, C, H, W)."
    )


def _convert(x: NDArray[Any], shape: Shape | None, levels: int, own: int) -> Read:
    """Converts an array of pictures to another size or other channels."""
    from PIL import Image

    if own != 256 or x.shape[1] not in (1, 3, 4):
        raise UserError(_mismatch("An array", x.shape[1:], shape or (3, *x.shape[2:])))
    last = np.ascontiguousarray(np.moveaxis(x, 1, 3).astype(np.uint8))
    pictures = [Image.fromarray(each[..., 0] if each.shape[2] == 1 else each) for each in last]
    return _join(
        [
            _read_picture(partial(decode_picture, each), each.size, shape, levels, "An array")
            for each in pictures
        ]
    )
