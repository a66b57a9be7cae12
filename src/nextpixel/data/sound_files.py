"""Reads, writes and resamples sounds."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError
from nextpixel.utils.files import replace_file
from nextpixel.utils.reading import read_regular, refusing_damage

__all__ = ["check_sound", "read_wav", "resample", "write_wav"]

_Floats = NDArray[np.float64]

_FORMATS = {".wav": "WAV", ".flac": "FLAC"}  # for writing
_CANCELLED = 1e-4  # of the energy of its channels is left in their mean, 40 dB less
_FASTEST = 384_000  # samples per second; more is a damaged header
_BLOCK = 2**20  # samples


def read_wav(
    path: str | Path, file: BinaryIO | None = None, seconds: float = math.inf
) -> tuple[_Floats, int]:
    """Reads a sound file of any format that libsndfile supports: WAV, FLAC, Ogg and more.

    Args:
        path: The file.
        file: An open file to read instead; `path` is then used in messages only.
        seconds: Reads no more than this of its beginning.

    Returns:
        The mean of the channels, float64 in [-1, 1], `(samples,)`, and the samples per second.

    Raises:
        UserError: If there is no such file, it is corrupt, cut off or no sound, it has no samples
            or more than 384,000 a second, or its channels cancel each other.
    """
    # Imported here, because most commands read no sounds.
    import soundfile

    if file is None and not Path(path).is_file():
        raise UserError(f"There is no sound file {path}: give the path of one.")
    with refusing_damage(path, "sound", "replace it by a WAV, FLAC or Ogg file"):
        source = io.BytesIO(read_regular(path) if file is None else file.read())
        missing = _wav_bytes_missing(source)
        try:
            sound = soundfile.SoundFile(source)
        except soundfile.LibsndfileError as error:
            raise ValueError(error.error_string) from None  # without the address of `source`
        with sound:
            rate, subtype = sound.samplerate, sound.subtype
            if rate > _FASTEST:
                raise ValueError(f"its header says {rate:,} samples a second")
            wanted = int(min(sound.frames, seconds * rate))
            # In blocks, because a damaged header may promise any number of samples.
            blocks = [np.empty((0, sound.channels))]
            while (left := wanted - sum(map(len, blocks))) > 0:
                blocks.append(sound.read(min(left, _BLOCK), dtype="float64", always_2d=True))
                if not len(blocks[-1]):
                    break
        channels = np.concatenate(blocks)
    if missing > 0 or len(channels) < wanted:
        raise UserError(
            f"{path} is cut off: it is shorter than its header says; replace or remove it."
        )
    if not len(channels):
        raise UserError(f"{path} is a sound without any samples: replace or remove it.")
    wave = channels.mean(1)
    if not np.isfinite(wave).all():
        raise UserError(f"{path} holds samples that are not finite: save it with 16-bit integers.")
    energy = np.square(channels).mean()
    if np.square(wave).mean() < _CANCELLED * energy:
        raise UserError(
            f"The channels of {path} cancel each other, so that their mean is silent: save one of "
            "them alone."
        )
    # Lossy formats overshoot a little; a WAV file with such samples was never scaled.
    if subtype in ("FLOAT", "DOUBLE") and (peak := np.abs(wave).max()) > 1:
        warnings.warn(
            f"{path} has samples up to {peak:.4g}, which are clipped to 1: scale the sound down.",
            stacklevel=2,
        )
    return wave.clip(-1, 1), int(rate)


def _wav_bytes_missing(file: BinaryIO) -> int:
    """Returns how many bytes of sound a WAV file promises but does not have; 0 for other files.

    libsndfile reads a file that was cut off as a shorter one. A length of 0, or of all ones, means
    that it was not known when the file was begun.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    header, position = file.read(12), 12
    missing = 0
    if header[:4] == b"RIFF" and header[8:] == b"WAVE":
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            position += 8 + length + length % 2
            if chunk[:4] == b"data":
                known = 0 < length < 0xFFFFFF00
                missing = max(0, position - length % 2 - size) if known else 0
                break
            file.seek(position)
    file.seek(0)
    return missing


def write_wav(path: str | Path, wave: NDArray[np.floating[Any]], rate: int) -> None:
    """Writes a mono sound with 16 bits per sample, clipped to [-1, 1], atomically.

    Args:
        path: The file, .wav or .flac.
        wave: Samples, `(samples,)`.
        rate: Samples per second.

    Raises:
        UserError: If the file has another suffix, or `wave` is not a sound.
    """
    import soundfile

    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise UserError(f"Sounds are written as {' or '.join(_FORMATS)}, not {path.name}.")
    buffer = io.BytesIO()
    samples = check_sound(wave).clip(-1, 1)
    soundfile.write(buffer, samples, rate, "PCM_16", format=_FORMATS[path.suffix.lower()])
    replace_file(path, buffer.getvalue())


def resample(wave: NDArray[np.floating[Any]], rate: int, new_rate: int) -> _Floats:
    """Resamples a sound by a polyphase filter, which prevents aliasing.

    Args:
        wave: Samples, `(n,)`.
        rate: Samples per second of `wave`.
        new_rate: Samples per second of the result.

    Returns:
        `(ceil(n * new_rate / rate),)`.

    Raises:
        UserError: If `wave` is not a sound, or a rate is below 1.
    """
    samples = check_sound(wave)
    if min(rate, new_rate) < 1:
        raise UserError(f"A sound has 1 sample a second or more, not {min(rate, new_rate)}.")
    if rate == new_rate:
        return samples
    # Imported here, because this import is slow.
    from scipy.signal import resample_poly

    shared = math.gcd(rate, new_rate)
    resampled: _Floats = resample_poly(samples, new_rate // shared, rate // shared)
    return resampled


def check_sound(wave: NDArray[np.floating[Any]]) -> _Floats:
    """Returns the samples of a sound as float64, `(samples,)`.

    Raises:
        UserError: It is not floats of one dimension, it is empty, or a sample is not finite.
    """
    samples = np.asarray(wave)
    if samples.ndim != 1 or not samples.size or samples.dtype.kind != "f":
        raise UserError(
            f"A sound is floats of shape (samples,), at least one, not {samples.dtype} of shape "
            f"{samples.shape}."
        )
    if not np.isfinite(samples).all():
        raise UserError("A sound has finite samples, but one of these is NaN or infinite.")
    return samples.astype(np.float64)
