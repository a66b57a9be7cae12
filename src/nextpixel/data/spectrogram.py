"""Sounds as integer images, and integer images as sounds; knows nothing of models.

A `Spectrogram` says how: time runs down the rows, so that raster order goes through time, and
frequency along the columns. What is lost is the phase, which `synthesise` makes up anew.

Example:
    >>> wave, rate = read_wav("seven.wav")
    >>> spectrogram = Spectrogram()
    >>> image, rows = spectrogram.analyse(resample(wave, rate, spectrogram.rate))
    >>> image.shape, image.dtype  # the rows from `rows` on are padding
    ((1, 96, 40), dtype('uint8'))
    >>> write_wav("again.wav", spectrogram.synthesise(image, rows), spectrogram.rate)
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nextpixel.errors import UserError
from nextpixel.noise import Stream
from nextpixel.utils.files import replace_file

__all__ = ["Spectrogram", "read_wav", "resample", "write_wav"]

_Floats = NDArray[np.float64]

_FORMATS = {".wav": "WAV", ".flac": "FLAC"}  # what can be written
_PHASES = 1_984  # seed of the phases that synthesis begins with
_MOMENTUM = 0.99
_UPDATES = 100  # of the inverse of the mel filters
_FINER = 2  # synthesis has so many frames for each one of the image
_TINY = 1e-12  # nothing is divided by less, nor is anything that small heard


# --- files ----------------------------------------------------------------------------------------


def read_wav(path: str | Path, file: BinaryIO | None = None) -> tuple[_Floats, int]:
    """Reads a sound file of any format that libsndfile knows: WAV, FLAC, Ogg, and more.

    Args:
        path: The file.
        file: The open file, if it is no file of its own; `path` then names it in messages.

    Returns:
        The mean of its channels, float64 in [-1, 1], `(samples,)`, and its samples a second.

    Raises:
        UserError: There is no such file, it is corrupt or no sound, or it has no samples.
    """
    # Loaded here, for the sake of commands that read no sound.
    import soundfile

    if file is None and not Path(path).is_file():
        raise UserError(f"There is no sound file {path}: give the path of one.")
    try:
        channels, rate = soundfile.read(file or str(path), dtype="float64", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path} is corrupt or no sound ({error}): replace it by a WAV, FLAC or Ogg file."
        ) from error
    if not len(channels):
        raise UserError(f"{path} is a sound without any samples: record it anew, or remove it.")
    wave = channels.mean(1)
    if not np.isfinite(wave).all():
        raise UserError(f"{path} holds samples that are not finite: save it with 16-bit integers.")
    return wave.clip(-1, 1), int(rate)


def write_wav(path: str | Path, wave: NDArray[np.floating[Any]], rate: int) -> None:
    """Writes a sound of one channel with 16 bits a sample; what is beyond [-1, 1] is cut off.

    Args:
        path: The file, .wav or .flac.
        wave: Its samples, `(samples,)`.
        rate: Samples a second.

    Raises:
        UserError: The file's name has another ending, or the sound is not of this kind.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise UserError(f"Sounds are written as {' or '.join(_FORMATS)}, not {path.name}.")
    buffer = io.BytesIO()
    samples = _checked(wave).clip(-1, 1)
    soundfile.write(buffer, samples, rate, "PCM_16", format=_FORMATS[path.suffix.lower()])
    replace_file(path, buffer.getvalue())


def resample(wave: NDArray[np.floating[Any]], rate: int, to: int) -> _Floats:
    """Changes the samples a second, by a polyphase filter that keeps out what would fold back.

    Args:
        wave: Samples, `(n,)`.
        rate: How many of them are a second.
        to: How many there are to be.

    Returns:
        `(ceil(n * to / rate),)`.

    Raises:
        UserError: The sound is none, or a rate is below 1.
    """
    samples = _checked(wave)
    if min(rate, to) < 1:
        raise UserError(f"A sound has 1 sample a second or more, not {min(rate, to)}.")
    if rate == to:
        return samples
    # Loaded here, because it takes longer than all the rest.
    from scipy.signal import resample_poly

    shared = math.gcd(rate, to)
    resampled: _Floats = resample_poly(samples, to // shared, rate // shared)
    return resampled


def _checked(wave: NDArray[np.floating[Any]]) -> _Floats:
    samples = np.asarray(wave)
    if samples.ndim != 1 or not samples.size or samples.dtype.kind != "f":
        raise UserError(
            f"A sound is floats of shape (samples,), at least one, not {samples.dtype} of shape "
            f"{samples.shape}."
        )
    if not np.isfinite(samples).all():
        raise UserError("A sound has finite samples, but one of these is not.")
    return samples.astype(np.float64)


# --- spectrograms ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrogram:
    """How a sound becomes an image of `(1, frames, bands)`, and an image a sound.

    A row is a frame of the short-time Fourier transform, a column the mean magnitude in a band of
    frequencies, spaced evenly on the mel scale. Row k is centred on the middle of the samples from
    `k * hop` to `(k + 1) * hop`, so that rows share a sound out between them. Magnitudes are in
    decibels, where 0 is that of a sine of amplitude 1 (the mean in its band is some 10 dB lower),
    and the range from the floor to 0 is cut into equal levels: level 0 is the floor and all below
    it, the highest one takes in all above it.

    Attributes:
        rate: Samples a second.
        window: Samples in a frame, weighted by a Hann window.
        hop: Samples from one frame to the next; even, and the window holds two or more of it.
        bands: Number of bands.
        lowest: Where the lowest band begins, in Hz.
        highest: Where the highest band ends, in Hz.
        floor: In dB, below 0.
        frames: Rows of an image; those after a sound's end are padding, of level 0.
        levels: Number of levels, 2 to 256.

    Raises:
        UserError: A setting is none of those, or some band is too narrow to hold a frequency of the
            transform.

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
            if not (isinstance(value, int) and value >= 1):
                raise UserError(f"A spectrogram's {name} is a whole number above 0, not {value}.")
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
        """Lists the settings, as JSON holds them: `Spectrogram(**settings)` is this one again."""
        return asdict(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image, `(1, frames, bands)`."""
        return 1, self.frames, self.bands

    @property
    def longest(self) -> int:
        """The samples of the longest sound that an image has room for."""
        return self.frames * self.hop

    def analyse(self, wave: NDArray[np.floating[Any]]) -> tuple[NDArray[np.uint8], int]:
        """Turns a sound into an image.

        Args:
            wave: Samples at this spectrogram's rate, 1 to `longest`, `(samples,)`.

        Returns:
            Integers in `[0, levels)`, `(1, frames, bands)`, and how many rows are real,
            `ceil(samples / hop)`; the rest is padding of level 0.

        Raises:
            UserError: The sound is none, or too long.
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
        """Computes the magnitudes of a sound of any length, before they become levels.

        Args:
            wave: Samples, `(samples,)`.

        Returns:
            In dB, from the floor to 0, `(ceil(samples / hop), bands)`.

        Raises:
            UserError: The sound is none.
        """
        samples = _checked(wave)
        rows = math.ceil(len(samples) / self.hop)
        padded = np.zeros((rows - 1) * self.hop + self.window)
        padded[self._margin : self._margin + len(samples)] = samples
        bands = np.abs(_transform(padded, self._window, self.hop)) @ self._filters.T
        decibels: _Floats = 20 * np.log10(np.maximum(bands, _TINY))
        return decibels.clip(self.floor, 0)

    def quantise(self, decibels: _Floats) -> NDArray[np.uint8]:
        """Cuts decibels into levels: the floor and all below is 0, and 0 dB the highest level."""
        above = (decibels - self.floor) / -self.floor
        return np.floor(above * self.levels).clip(0, self.levels - 1).astype(np.uint8)

    def magnitudes(self, levels: NDArray[np.integer[Any]]) -> _Floats:
        """Undoes `quantise`, to the middle of each level, not in dB; that of level 0 is 0."""
        decibels = self.floor - self.floor * (np.asarray(levels) + 0.5) / self.levels
        return np.where(np.asarray(levels) == 0, 0.0, 10 ** (decibels / 20))

    def synthesise(
        self, image: NDArray[np.integer[Any]], rows: int | None = None, iterations: int = 32
    ) -> _Floats:
        """Turns an image into a sound that has nearly this spectrogram; always the same one.

        The magnitudes of the frequencies are those, none negative, whose means in the bands come
        nearest to the image (least squares). Frames are put between its frames, with the means of
        their magnitudes, as more overlap leaves less freedom to the phases. Those are found by fast
        Griffin-Lim, from random ones.

        Args:
            image: Integers in `[0, levels)`, `(1, frames, bands)`.
            rows: How many rows are real; by default those up to the last one above level 0.
            iterations: Of Griffin-Lim; 0 keeps the random phases.

        Returns:
            Samples, `(rows * hop,)`; a few may lie beyond [-1, 1].

        Raises:
            UserError: The image or a number is not of this kind.

        References:
            Griffin and Lim: Signal estimation from modified short-time Fourier transform, 1984.
            Perraudin, Balazs and Sondergaard: A fast Griffin-Lim algorithm, 2013: the momentum.
            Lee and Seung: Algorithms for non-negative matrix factorization, 2001: the updates by
            which the bands are undone.
        """
        return self.invert(self.magnitudes(self._real_rows(image, rows)), iterations)

    def invert(self, magnitudes: _Floats, iterations: int = 32) -> _Floats:
        """Finds a sound from magnitudes in the bands, see `synthesise`.

        Args:
            magnitudes: Not negative and not in dB, `(rows, bands)`.
            iterations: Of Griffin-Lim; 0 keeps the random phases.

        Returns:
            Samples, `(rows * hop,)`.
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
            heard = np.flatnonzero(pixels[0].any(1))
            rows = int(heard[-1]) + 1 if len(heard) else 1
        if not 1 <= rows <= self.frames:
            raise UserError(f"An image has 1 to {self.frames} real rows, not {rows}.")
        return pixels[0, :rows]

    @property
    def _margin(self) -> int:
        """Samples by which the first frame begins before the sound."""
        return (self.window - self.hop) // 2

    @property
    def _window(self) -> _Floats:
        """A Hann window by which a sine of amplitude 1 has the magnitude 1, `(window,)`."""
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        window: _Floats = hann * (2 / hann.sum())
        return window

    @property
    def _filters(self) -> _Floats:
        return _mel_filters(self.rate, self.window, self.bands, self.lowest, self.highest)

    def _unfiltered(self, bands: _Floats) -> _Floats:
        """Finds the magnitudes of the frequencies, `(rows, window // 2 + 1)`, from the bands'.

        Least squares without negative numbers, all rows at once by Lee and Seung's updates: the
        pseudo-inverse is quicker, but what it makes negative has to be cut off.
        """
        filters = self._filters
        wanted = bands @ filters
        found: _Floats = wanted / np.maximum(filters.sum(0), _TINY)
        for _ in range(_UPDATES):
            found *= wanted / np.maximum(found @ filters.T @ filters, _TINY)
            found[found < _TINY] = 0  # or they become so small that the processor is slow
        return found


@lru_cache
def _mel_filters(rate: int, window: int, bands: int, lowest: float, highest: float) -> _Floats:
    """Makes triangles on the mel scale, each a weighted mean, `(bands, window // 2 + 1)`."""
    frequencies = np.concatenate([[lowest, highest], np.arange(window // 2 + 1) * rate / window])
    mel = 2595 * np.log10(1 + frequencies / 700)
    edges, places = np.linspace(mel[0], mel[1], bands + 2), mel[2:]
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (places - left) / (middle - left), (right - places) / (right - middle)
    filters: _Floats = np.minimum(rising, falling).clip(0)
    filters /= np.maximum(filters.sum(1, keepdims=True), _TINY)
    filters.flags.writeable = False  # it is shared
    return filters


def _transform(wave: _Floats, window: _Floats, step: int) -> NDArray[np.complex128]:
    """Computes the short-time Fourier transform, `(frames, len(window) // 2 + 1)`."""
    frames = sliding_window_view(wave, len(window))[::step]
    spectrum: NDArray[np.complex128] = np.fft.rfft(frames * window)
    return spectrum


def _inverse(spectrum: NDArray[np.complex128], window: _Floats, step: int) -> _Floats:
    """Finds the sound whose transform is nearest, by least squares (Griffin and Lim, equation 6).

    Args:
        spectrum: `(frames, len(window) // 2 + 1)`.
        window: Its length is a multiple of `step`.
        step: Samples from one frame to the next.

    Returns:
        `((frames - 1) * step + len(window),)`.
    """
    count, parts = len(spectrum), len(window) // step
    frames = (np.fft.irfft(spectrum, len(window)) * window).reshape(count, parts, step)
    weights = (window**2).reshape(parts, step)
    total, weight = np.zeros((2, count + parts - 1, step))
    for part in range(parts):  # a frame's parts fall into successive steps
        total[part : part + count] += frames[:, part]
        weight[part : part + count] += weights[part]
    wave: _Floats = (total / np.maximum(weight, 1e-8 * weight.max())).ravel()
    return wave


def _griffin_lim(
    wanted: _Floats, window: _Floats, step: int, inside: slice, iterations: int
) -> _Floats:
    """Finds a sound whose transform has nearly these magnitudes.

    In turn, the magnitudes are set to the wanted ones, and the transform to the nearest one that
    some sound has; the momentum goes on in the direction of the last change. The sound is where
    `inside` says, and what comes before and after it is silence.
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
