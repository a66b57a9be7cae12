"""Degrades images, as conditioning for a model that restores them.

A `Task` degrades images and is the `Conditioner` of a model. Nothing here depends on models.

Example:
    >>> task = Task("super-resolution", factor=2)
    >>> x = torch.randint(16, (3, 1, 28, 28))
    >>> degraded = task.degrade(x, levels=16, numbers=range(3))
    >>> degraded.image.shape
    torch.Size([3, 1, 14, 14])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel.conditioning.regions import Half, box_mask, half_mask
from nextpixel.errors import UserError
from nextpixel.noise import Stream, check_seed

if TYPE_CHECKING:
    from nextpixel.data import Dataset

__all__ = [
    "Degraded",
    "Floats",
    "Holes",
    "NoiseKind",
    "Task",
    "TaskName",
    "check_levels",
    "checked_pixels",
    "gaussian_blur",
    "gaussian_kernel",
]

TaskName = Literal["super-resolution", "colourise", "denoise", "deblur", "inpaint"]
NoiseKind = Literal["gaussian", "salt-and-pepper"]
Holes = Literal["boxes", "halves", "scattered", "mixed"]
_HOLES: tuple[Holes, ...] = ("boxes", "halves", "scattered")  # that "mixed" chooses from
Floats = NDArray[np.floating[Any]]
# Thousandths of red, green and blue: ITU-R BT.601, section 2.5.1.
_LUMINANCE = np.array([299, 587, 114])
_GREY = 128  # where pixels are hidden
_TRUNCATE = 4.0  # standard deviations at which the kernel of a blur ends


@dataclass(frozen=True, eq=False)
class Degraded:
    """Degraded images as picture files hold them, on the CPU.

    Attributes:
        picture: Bytes `(B, C, Hc, Wc)`, uint8: 0 is black and 255 white. The values at hidden
            pixels do not matter; `Task.degrade` makes them grey.
        mask: True at known pixels, `(B, 1, H, W)`; None where no pixel is hidden.
    """

    picture: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.picture)

    def __getitem__(self, images: Any) -> Degraded:
        """Picks out images: a slice or indices."""
        return Degraded(self.picture[images], None if self.mask is None else self.mask[images])

    @property
    def image(self) -> Tensor:
        """The image of the context, `(B, Cc, Hc, Wc)`, float32: black is -1 and white 1.

        Hidden pixels are 0, and then a last channel is 1 at known pixels and 0 at hidden ones.
        """
        image = (self.picture.double() / 255 * 2 - 1).float()
        if self.mask is None:
            return image
        return torch.cat([torch.where(self.mask, image, 0.0), self.mask.float()], 1)

    def pixels(self, levels: int) -> Tensor:
        """Rounds to the nearest levels; known pixels get their original levels.

        Args:
            levels: Number of levels, at most 256.

        Returns:
            Integers in `[0, levels)`, `(B, C, Hc, Wc)`, int64.
        """
        check_levels(levels)
        return (self.picture.double() * (levels - 1) / 255).round().long()


@dataclass(frozen=True)
class Task:
    """A degradation of images that a model learns to undo.

    Each task uses only its own options.

    Attributes:
        name: "super-resolution" averages blocks of pixels, "colourise" keeps the luminance,
            "denoise" adds noise, "deblur" blurs and adds no noise, "inpaint" hides pixels.
        factor: Super-resolution: side of the blocks, 2 or more.
        noise: Denoise: the standard deviation of Gaussian noise, as a fraction of the range from
            black to white, or the probability that salt and pepper replaces a pixel.
        noise_kind: Denoise: "gaussian", clipped at black and white, or "salt-and-pepper": a pixel,
            with all its channels, becomes black or white, equally often.
        sigma: Deblur: standard deviation of a Gaussian blur in pixels; the picture is mirrored at
            its edges (the outermost pixels are repeated).
        holes: Inpaint: the hidden pixels. "boxes": a box, each side between a quarter and two
            thirds of the picture's; "halves": the left, right, top or bottom half; "scattered":
            each pixel, with a probability between 0.5 and 0.9 drawn for the image; "mixed": one of
            these three, equally often.

    Raises:
        UserError: An option is out of range.
    """

    kind: ClassVar[str] = "task"
    part: ClassVar[Literal["image"]] = "image"
    role: ClassVar[str] = "restore"
    advice: ClassVar[str] = "use nextpixel restore"

    name: TaskName
    factor: int = 4
    noise: float = 0.3
    noise_kind: NoiseKind = "gaussian"
    sigma: float = 2.0
    holes: Holes = "mixed"

    def __post_init__(self) -> None:
        for option, value, names in (
            ("restoration task", self.name, get_args(TaskName)),
            ("kind of noise", self.noise_kind, get_args(NoiseKind)),
            ("kind of holes", self.holes, get_args(Holes)),
        ):
            if value not in names:
                raise UserError(f"There is no {option} {value!r}: choose {', '.join(names)}.")
        if not (isinstance(self.factor, int) and self.factor >= 2):
            raise UserError(f"The factor must be an integer of 2 or more, not {self.factor}.")
        if not 0 < self.noise < math.inf:
            raise UserError(f"The noise must be a number above 0, not {self.noise}.")
        if self.noise_kind == "salt-and-pepper" and self.noise > 1:
            raise UserError(
                f"Salt and pepper replaces a fraction of the pixels up to 1, not {self.noise}."
            )
        if not 0 < self.sigma < math.inf:
            raise UserError(f"sigma, in pixels, must be a number above 0, not {self.sigma}.")

    def settings(self) -> dict[str, Any]:
        """Returns the name and the options that the task uses, see `Conditioner.settings`."""
        options = {
            "super-resolution": ("factor",),
            "colourise": (),
            "denoise": ("noise", "noise_kind"),
            "deblur": ("sigma",),
            "inpaint": ("holes",),
        }
        return {name: getattr(self, name) for name in ("name", *options[self.name])}

    def context_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Computes the shape `(Cc, Hc, Wc)` of the context's image.

        Args:
            shape: `(C, H, W)` of the image.

        Raises:
            UserError: An image of this shape cannot be degraded in this way.
        """
        channels, height, width = shape
        if self.name == "super-resolution":
            if height % self.factor or width % self.factor:
                raise UserError(
                    f"Super-resolution by {self.factor} needs a height and a width that "
                    f"{self.factor} divides, not {height}x{width}: choose another factor."
                )
            return channels, height // self.factor, width // self.factor
        if self.name == "colourise":
            if channels != 3:
                raise UserError(
                    f"Only pictures of 3 channels can be colourised, not {channels}: "
                    "choose colour pictures or another task."
                )
            return 1, height, width
        if self.name == "inpaint":
            if min(height, width) < 2:
                raise UserError(
                    f"Inpainting needs pictures of 2x2 or more, not {height}x{width}: choose "
                    "larger pictures or another task."
                )
            return channels + 1, height, width
        return shape

    def context_size(self, data: Dataset) -> tuple[int, int, int]:
        """Returns the shape of the context's image for a data set, see `context_shape`."""
        return self.context_shape(data.shape)

    def condition(
        self,
        x: Tensor,
        levels: int,
        numbers: Sequence[int],
        seed: int,
        coarse_codes: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes the degraded images and the known pixels, see `Conditioner.condition`."""
        degraded = self.degrade(x, levels, numbers, seed)
        return degraded.image, degraded.mask

    def in_words(self) -> str:
        """Describes the context in a few words."""
        return f"a degraded image ({', '.join(map(str, self.settings().values()))})"

    def degrade(
        self,
        x: Tensor | NDArray[np.integer[Any]],
        levels: int,
        numbers: Sequence[int],
        seed: int = 0,
    ) -> Degraded:
        """Degrades images.

        Args:
            x: Images, integers in `[0, levels)`, `(B, C, H, W)`.
            levels: Number of levels.
            numbers: The number of each image, B integers >= 0. The noise or the hole of an image
                depends only on `(seed, number)`, not on the batch.
            seed: Not negative.

        Returns:
            The degraded images, clipped at black and white and rounded to bytes, halves to even.

        Raises:
            UserError: Images, numbers or seed are out of range, or do not fit the task.
        """
        pixels = checked_pixels(x, levels)
        self.context_shape(pixels.shape[1:])
        if levels > 256:
            raise UserError(f"Pictures of up to 256 levels can be degraded, not {levels}.")
        if len(numbers) != len(pixels):
            raise UserError(f"{len(pixels)} images have {len(pixels)} numbers, not {len(numbers)}.")
        check_seed(seed, numbers)
        # A stream of its own: a model samples pixels with the same seed and number.
        streams = [Stream.DEGRADATIONS.generator(seed, int(number)) for number in numbers]
        if self.name == "inpaint":
            hidden = np.stack([self._hidden(pixels.shape[2:], stream) for stream in streams])
            mask = ~hidden[:, None]
            picture = np.where(mask, 255 * pixels / (levels - 1), _GREY)
            return Degraded(_bytes(picture), torch.from_numpy(mask))
        return Degraded(_bytes(self._changed(pixels, levels, streams)))

    def from_pictures(
        self,
        pictures: Tensor | NDArray[np.uint8],
        shape: tuple[int, int, int],
        levels: int,
        mask: Tensor | NDArray[np.bool_] | None = None,
    ) -> Degraded:
        """Takes pictures that are degraded already, for example from files.

        Args:
            pictures: Bytes `(B, C, Hc, Wc)`, uint8. For inpainting they are rounded to the nearest
                levels, because known pixels stay in the restored image.
            shape: `(C, H, W)` of the restored images.
            levels: Number of levels of the restored images.
            mask: Inpaint: true at known pixels, `(H, W)` for all pictures or `(B, 1, H, W)`.

        Raises:
            UserError: The pictures do not have the shape that this task gives to such images.
        """
        picture = torch.as_tensor(pictures).cpu()
        channels, *size = self.context_shape(shape)
        expected = channels - (self.name == "inpaint"), *size
        if picture.dtype != torch.uint8 or picture.ndim != 4 or picture.shape[1:] != expected:
            raise UserError(
                f"Pictures for {self.name} to images {shape} are bytes (B, {_commas(expected)}), "
                f"not {picture.dtype} ({_commas(picture.shape)})."
            )
        if (mask is not None) != (self.name == "inpaint"):
            raise UserError("A mask of known pixels goes with inpaint, and with no other task.")
        if mask is None:
            return Degraded(picture)
        mask = torch.as_tensor(mask).cpu()
        if mask.dtype != torch.bool or mask.shape not in {(*size,), (len(picture), 1, *size)}:
            raise UserError(
                f"The mask of known pixels is made of booleans ({_commas(size)}) or "
                f"({_commas((len(picture), 1, *size))}), not {mask.dtype} ({_commas(mask.shape)})."
            )
        pixels = Degraded(picture).pixels(levels).numpy()
        return Degraded(_bytes(255 * pixels / (levels - 1)), mask.expand(len(picture), 1, *size))

    def _changed(
        self, x: NDArray[np.int64], levels: int, streams: Sequence[np.random.Generator]
    ) -> Floats:
        """Degrades images; the result has grey levels from 0 to 255, not rounded.

        The result does not depend on the batch: sums are of integers, exact in any order, and a
        blur goes line by line.
        """
        top = levels - 1
        if self.name == "super-resolution":
            channels, height, width = self.context_shape(x.shape[1:])
            blocks = x.reshape(-1, channels, height, self.factor, width, self.factor)
            means: Floats = 255 * blocks.sum((3, 5)) / (top * self.factor**2)
            return means
        if self.name == "colourise":
            weighted = _LUMINANCE[:, None, None] * x
            luminance: Floats = 255 * weighted.sum(1, keepdims=True) / (top * _LUMINANCE.sum())
            return luminance
        grey = 255 * x / top
        if self.name == "deblur":
            return gaussian_blur(grey, self.sigma)
        if self.noise_kind == "gaussian":
            normal = np.stack([stream.standard_normal(x.shape[1:]) for stream in streams])
            return grey + 255 * self.noise * normal
        drawn = np.stack([stream.random((2, 1, *x.shape[2:])) for stream in streams])
        replaced, white = drawn[:, 0], drawn[:, 1]
        return np.where(replaced < self.noise, np.where(white < 0.5, 0.0, 255.0), grey)

    def _hidden(self, size: tuple[int, int], stream: np.random.Generator) -> NDArray[np.bool_]:
        """Draws the mask of hidden pixels, `(H, W)`."""
        holes = self.holes
        if holes == "mixed":
            holes = _HOLES[stream.integers(len(_HOLES))]
        if holes == "scattered":
            return stream.random(size) < stream.uniform(0.5, 0.9)
        if holes == "halves":
            half: Half = get_args(Half)[stream.integers(4)]
            return half_mask(half, *size).numpy()
        height, width = (int(stream.integers(-(-n // 4), n * 2 // 3 + 1)) for n in size)
        row = int(stream.integers(size[0] - height + 1))
        col = int(stream.integers(size[1] - width + 1))
        return box_mask(row, col, height, width, size).numpy()


def gaussian_blur(image: Floats, sigma: float) -> Floats:
    """Blurs the last two dimensions, as float64; the picture is mirrored at its edges."""
    from skimage.filters import gaussian

    blurred: Floats = gaussian(
        image,
        (0,) * (image.ndim - 2) + (sigma, sigma),
        mode="reflect",
        truncate=_TRUNCATE,
        preserve_range=True,
    )
    return blurred


def gaussian_kernel(sigma: float) -> Floats:
    """Computes the kernel of `gaussian_blur`: a square of odd size."""
    radius = int(_TRUNCATE * sigma + 0.5)
    point = np.zeros((2 * radius + 1, 2 * radius + 1))
    point[radius, radius] = 1
    return gaussian_blur(point, sigma)


def checked_pixels(x: Tensor | NDArray[np.integer[Any]], levels: int) -> NDArray[np.int64]:
    """Checks images and converts them to an array.

    Raises:
        UserError: Their type, shape or range is wrong.
    """
    check_levels(levels)
    pixels = np.asarray(x.cpu() if isinstance(x, Tensor) else x)
    if pixels.ndim != 4 or not pixels.size or not np.issubdtype(pixels.dtype, np.integer):
        raise UserError(
            f"Images are integers of shape (B, C, H, W), at least one, not {pixels.dtype} of "
            f"shape {pixels.shape}."
        )
    if pixels.min() < 0 or pixels.max() >= levels:
        raise UserError(
            f"Images of {levels} levels hold integers from 0 to {levels - 1}, not from "
            f"{pixels.min()} to {pixels.max()}: give the right number of levels."
        )
    return pixels.astype(np.int64)


def check_levels(levels: int) -> None:
    """Checks a number of levels.

    Raises:
        UserError: It is below 2.
    """
    if levels < 2:
        raise UserError(f"Images have 2 levels or more, not {levels}.")


def _bytes(grey: Floats) -> Tensor:
    """Clips grey levels at 0 and 255 and rounds them to bytes."""
    return torch.from_numpy(grey.round().clip(0, 255).astype(np.uint8))


def _commas(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
