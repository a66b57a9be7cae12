"""Converts sounds to integer images and back.

In a `Spectrogram` time runs down the rows, so that raster order follows time, and frequency runs
along the columns. The phase is lost; `synthesise` estimates a new one.

Example:
    >>> wave, rate = read_wav("seven.wav")
    >>> spectrogram = Spectrogram()
    >>> image, rows = spectrogram.analyse(resample(wave, rate, spectrogram.rate))
    >>> image.shape, image.dtype  # the rows from `rows` on are padding
    ((1, 96, 40), dtype('uint8'))
    >>> write_wav("again.wav", spectrogram.synthesise(image, rows), spectrogram.rate)
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nextpixel.data.sound_files import check_sound
from nextpixel.errors import UserError
from nextpixel.noise import Stream

__all__ = ["Spectrogram"]

_Floats = NDArray[np.float64]

_PHASES = 1_984  # seed of the initial phases of synthesis
_MOMENTUM = 0.99  # of fast Griffin-Lim
_UPDATES = 100  # iterations that invert the mel filters
_FINER = 2  # frames of synthesis per frame of the image
_LARGEST = 1_000_000  # of a spectrogram's whole numbers
_TINY = 1e-12  # an inaudible magnitude; also the smallest divisor


@dataclass(frozen=True)
class Spectrogram:
    """Converts sounds to images of shape `(1, frames, bands)` and back, as its settings define.

    A row is a frame of the short-time Fourier transform; a column is the mean magnitude in a band
    of frequencies, spaced evenly on the mel scale. Row k is centred on the samples from `k * hop`
    to `(k + 1) * hop`. Magnitudes are in decibels relative to a sine of amplitude 1 (whose band has
    a mean about 10 dB lower). The range from `floor` to 0 dB is divided into equal levels; values
    outside of it get the lowest or the highest level.

    Attributes:
        rate: Samples per second.
        window: Samples per frame, weighted by a Hann window; a multiple of `hop`, at least twice.
        hop: Samples from one frame to the next, an even number.
        bands: Number of bands.
        lowest: Lower edge of the lowest band, in Hz.
        highest: Upper edge of the highest band, in Hz.
        floor: Magnitude of level 0, in dB, below 0.
        frames: Rows of an image; those after a sound's end are padding of level 0.
        levels: Number of levels, 2 to 256.

    Raises:
        UserError: If a setting is out of range, or a band contains no frequency of the transform.

    References:
        O'Shaughnessy: Speech Communication: Human and Machine, 1987: the mel scale.
    """

    rate: int = 8000
    window: int = 384
    hop: int = 192
    bands: int = 40
    lowest: float = 50.0
    highest: float = 4000.0
    floor: float = -80.0
    frames: int = 96
    levels: int = 256

    def __post_init__(self) -> None:
        for name in ("rate", "window", "hop", "bands", "frames", "levels"):
            value = getattr(self, name)
            if not (isinstance(value, int) and 1 <= value <= _LARGEST):
                raise UserError(f"{name} is a whole number from 1 to {_LARGEST:,}, not {value!r}.")
        for name in ("lowest", "highest", "floor"):
            if not isinstance(getattr(self, name), int | float):
                raise UserError(f"A spectrogram's {name} is a number: {getattr(self, name)!r}.")
        if self.hop % _FINER or self.window % self.hop or self.window < 2 * self.hop:
            raise UserError(
                f"A spectrogram's hop is even and its window 2, 3 or more times as long, not "
                f"{self.hop} and {self.window}."
            )
        if not 2 <= self.levels <= 256:
            raise UserError(f"A spectrogram has 2 to 256 levels, not {self.levels}.")
        if not -math.inf < self.floor < 0:
            raise UserError(f"A spectrogram's floor, in dB, is below 0, not {self.floor}.")
        if not 0 <= self.lowest < self.highest <= self.rate / 2:
            raise UserError(
                f"A spectrogram's frequencies go from 0 Hz at least to {self.rate / 2:g} Hz at "
                f"most, half its rate, not from {self.lowest} to {self.highest}."
            )
        if (self._filters.sum(1) == 0).any():
            raise UserError(
                f"{self.bands} bands are too narrow for a window of {self.window} samples: choose "
                "fewer bands or a longer window."
            )

    def settings(self) -> dict[str, Any]:
        """Returns the settings as JSON stores them; `Spectrogram(**settings)` restores them."""
        return asdict(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image, `(1, frames, bands)`."""
        return 1, self.frames, self.bands

    @property
    def longest(self) -> int:
        """The number of samples of the longest sound that fits into an image."""
        return self.frames * self.hop

    def analyse(self, wave: NDArray[np.floating[Any]]) -> tuple[NDArray[np.uint8], int]:
        """Converts a sound to an image.

        Args:
            wave: Samples at this spectrogram's rate, at most `longest`, `(samples,)`.

        Returns:
            Integers in `[0, levels)`, `(1, frames, bands)`, and the number of real rows,
            `ceil(samples / hop)`; the other rows are padding of level 0.

        Raises:
            UserError: If `wave` is not a sound, or too long.
        """
        levels = self.quantise(self.decibels(wave))
        if len(levels) > self.frames:
            raise UserError(
                f"A sound of {len(wave) / self.rate:.2f} s is too long for a spectrogram of "
                f"{self.longest / self.rate:.2f} s ({self.frames} frames): cut it first."
            )
        image = np.zeros(self.shape, np.uint8)
        image[0, : len(levels)] = levels
        return image, len(levels)

    def decibels(self, wave: NDArray[np.floating[Any]]) -> _Floats:
        """Computes the magnitudes of a sound of any length in decibels.

        Args:
            wave: Samples, `(samples,)`.

        Returns:
            Magnitudes in dB, from `floor` to 0, `(ceil(samples / hop), bands)`.

        Raises:
            UserError: If `wave` is not a sound.
        """
        samples = check_sound(wave)
        rows = math.ceil(len(samples) / self.hop)
        padded = np.zeros((rows - 1) * self.hop + self.window)
        padded[self._margin : self._margin + len(samples)] = samples
        bands = np.abs(_transform(padded, self._window, self.hop)) @ self._filters.T
        decibels: _Floats = 20 * np.log10(np.maximum(bands, _TINY))
        return decibels.clip(self.floor, 0)

    def quantise(self, decibels: _Floats) -> NDArray[np.uint8]:
        """Quantises decibels to levels, from 0 at `floor` or below to the highest at 0 dB."""
        above = (decibels - self.floor) / -self.floor
        return np.floor(above * self.levels).clip(0, self.levels - 1).astype(np.uint8)

    def magnitudes(self, levels: NDArray[np.integer[Any]]) -> _Floats:
        """Returns the linear magnitude in the middle of each level; 0 for level 0."""
        decibels = self.floor - self.floor * (np.asarray(levels) + 0.5) / self.levels
        return np.where(np.asarray(levels) == 0, 0.0, 10 ** (decibels / 20))

    def synthesise(
        self, image: NDArray[np.integer[Any]], rows: int | None = None, iterations: int = 32
    ) -> _Floats:
        """Converts an image to a sound that has nearly this spectrogram, deterministically.

        The magnitudes of the frequencies are the least-squares solution without negative values.
        Frames are interpolated between those of the image, because more overlap constrains the
        phases more. The phases are estimated by fast Griffin-Lim from random ones.

        Args:
            image: Integers in `[0, levels)`, `(1, frames, bands)`.
            rows: Number of real rows; by default those up to the last row above level 0.
            iterations: Iterations of Griffin-Lim; 0 leaves the phases random.

        Returns:
            Samples, `(rows * hop,)`; a few may be outside [-1, 1].

        Raises:
            UserError: If the image has another shape, type or range, or a number is out of range.

        References:
            Griffin and Lim: Signal estimation from modified short-time Fourier transform, 1984.
            Perraudin, Balazs and Sondergaard: A fast Griffin-Lim algorithm, 2013: the momentum.
            Lee and Seung: Algorithms for non-negative matrix factorization, 2001: the updates that
            invert the mel filters.
        """
        return self.invert(self.magnitudes(self._real_rows(image, rows)), iterations)

    def invert(self, magnitudes: _Floats, iterations: int = 32) -> _Floats:
        """Converts magnitudes in the bands to a sound, see `synthesise`.

        Args:
            magnitudes: Linear magnitudes, not negative, `(rows, bands)`.
            iterations: Iterations of Griffin-Lim; 0 leaves the phases random.

        Returns:
            Samples, `(rows * hop,)`.

        Raises:
            UserError: If `iterations` is below 0.
        """
        if iterations < 0:
            raise UserError(f"Griffin-Lim takes 0 iterations or more, not {iterations}.")
        coarse = self._unfiltered(magnitudes)
        wanted = np.empty((_FINER * (len(coarse) - 1) + 1, coarse.shape[1]))
        wanted[::_FINER] = coarse
        wanted[1::_FINER] = (coarse[:-1] + coarse[1:]) / 2
        inside = slice(self._margin, self._margin + len(coarse) * self.hop)
        return _griffin_lim(wanted, self._window, self.hop // _FINER, inside, iterations)

    def _real_rows(
        self, image: NDArray[np.integer[Any]], rows: int | None
    ) -> NDArray[np.integer[Any]]:
        """Returns the real rows of an image, `(rows, bands)`."""
        pixels = np.asarray(image)
        if pixels.shape != self.shape or pixels.dtype.kind not in "ui":
            raise UserError(
                f"An image of this spectrogram is integers of shape {self.shape}, not "
                f"{pixels.dtype} of shape {pixels.shape}."
            )
        if pixels.min() < 0 or pixels.max() >= self.levels:
            raise UserError(
                f"An image of this spectrogram has levels from 0 to {self.levels - 1}, not from "
                f"{pixels.min()} to {pixels.max()}."
            )
        if rows is None:
            audible = np.flatnonzero(pixels[0].any(1))
            rows = int(audible[-1]) + 1 if len(audible) else 1
        if not 1 <= rows <= self.frames:
            raise UserError(f"An image has 1 to {self.frames} real rows, not {rows}.")
        return pixels[0, :rows]

    @property
    def _margin(self) -> int:
        """The number of samples that the first frame begins before the sound."""
        return (self.window - self.hop) // 2

    @property
    def _window(self) -> _Floats:
        """A Hann window scaled so that a sine of amplitude 1 has magnitude 1, `(window,)`."""
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        window: _Floats = hann * (2 / hann.sum())
        return window

    @property
    def _filters(self) -> _Floats:
        return _mel_filters(self.rate, self.window, self.bands, self.lowest, self.highest)

    def _unfiltered(self, bands: _Floats) -> _Floats:
        """Estimates the magnitudes of the frequencies, `(rows, window // 2 + 1)`, from the bands'.

        Solves for non-negative least squares by Lee and Seung's updates, all rows at once. The
        pseudo-inverse would be faster, but its negative values would have to be clipped.
        """
        filters = self._filters
        wanted = bands @ filters
        found: _Floats = wanted / np.maximum(filters.sum(0), _TINY)
        for _ in range(_UPDATES):
            found *= wanted / np.maximum(found @ filters.T @ filters, _TINY)
            found[found < _TINY] = 0  # avoids denormal numbers, which are slow
        return found


@lru_cache
def _mel_filters(rate: int, window: int, bands: int, lowest: float, highest: float) -> _Floats:
    """Computes triangular filters on the mel scale, with sum 1, `(bands, window // 2 + 1)`."""
    frequencies = np.concatenate([[lowest, highest], np.arange(window // 2 + 1) * rate / window])
    mel = 2595 * np.log10(1 + frequencies / 700)
    edges, places = np.linspace(mel[0], mel[1], bands + 2), mel[2:]
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (places - left) / (middle - left), (right - places) / (right - middle)
    filters: _Floats = np.minimum(rising, falling).clip(0)
    filters /= np.maximum(filters.sum(1, keepdims=True), _TINY)
    filters.flags.writeable = False  # shared by all callers
    return filters


def _transform(wave: _Floats, window: _Floats, step: int) -> NDArray[np.complex128]:
    """Computes the short-time Fourier transform, `(frames, len(window) // 2 + 1)`."""
    frames = sliding_window_view(wave, len(window))[::step]
    spectrum: NDArray[np.complex128] = np.fft.rfft(frames * window)
    return spectrum


def _inverse(spectrum: NDArray[np.complex128], window: _Floats, step: int) -> _Floats:
    """Computes the sound with the nearest transform, least squares (Griffin and Lim, equation 6).

    Args:
        spectrum: `(frames, len(window) // 2 + 1)`.
        window: The window, of a length that is a multiple of `step`.
        step: Samples from one frame to the next.

    Returns:
        `((frames - 1) * step + len(window),)`.
    """
    count, parts = len(spectrum), len(window) // step
    frames = (np.fft.irfft(spectrum, len(window)) * window).reshape(count, parts, step)
    weights = (window**2).reshape(parts, step)
    total, weight = np.zeros((2, count + parts - 1, step))
    for part in range(parts):  # the parts of a frame belong to successive steps
        total[part : part + count] += frames[:, part]
        weight[part : part + count] += weights[part]
    wave: _Floats = (total / np.maximum(weight, 1e-8 * weight.max())).ravel()
    return wave


def _griffin_lim(
    wanted: _Floats, window: _Floats, step: int, inside: slice, iterations: int
) -> _Floats:
    """Estimates a sound whose transform has nearly these magnitudes, by fast Griffin-Lim.

    Alternately projects the spectrum to the wanted magnitudes and to the nearest transform of a
    sound; the momentum extrapolates the last change. Returns the samples `inside`; the sound is
    silent before and after them.
    """
    noise = Stream.PHASES.generator(_PHASES, 0)
    spectrum = wanted * np.exp(2j * np.pi * noise.random(wanted.shape))
    before: NDArray[np.complex128] | None = None
    for _ in range(iterations):
        found = _inverse(spectrum, window, step)
        sound = np.zeros_like(found)
        sound[inside] = found[inside]
        possible = _transform(sound, window, step)
        ahead = possible if before is None else possible + _MOMENTUM * (possible - before)
        before = possible
        spectrum = wanted * ahead / np.maximum(np.abs(ahead), _TINY)
    return _inverse(spectrum, window, step)[inside]
