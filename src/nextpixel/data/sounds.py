"""Sounds as images: the spoken digits, and a folder of the user's own recordings."""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nextpixel.data import cache
from nextpixel.data.folders import Kind, find_files, folder_state, from_kept, split_up
from nextpixel.data.images import SPLITS, Dataset, Images
from nextpixel.data.spectrogram import Spectrogram, read_wav, resample
from nextpixel.errors import UserError
from nextpixel.utils.progress import shown

__all__ = ["SPEAKERS", "load_sounds", "read_zip", "spoken_digits", "whole_blocks"]

STATE_VERSION = 2  # to be raised when sounds are turned into other integers than before
WHOLE = 8  # rows: real ones come in blocks of so many, each a row of a map of an eighth of the size
SOUND_FILES = Kind(
    "sounds",
    "WAV, FLAC or Ogg files in it or in a subfolder for each class",
    (".wav", ".flac", ".ogg"),
)
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
OF_TEST, OF_VALID = range(5), range(5, 10)  # the numbers of a digit's and speaker's recordings


def load_sounds(folder: Path) -> Dataset:
    """Loads a folder of the user's own sounds as spectrograms.

    Subfolders are classes, or splits, and missing splits are made, as for pictures (see
    `own.load_own`); what was decoded is kept like them. Sounds are resampled to the spectrogram's
    rate. Of one that is too long the beginning is taken, and a warning says how many there were.

    Args:
        folder: A folder of WAV, FLAC and Ogg files.

    Raises:
        UserError: There is no such folder, or it holds no sounds, or one that cannot be read.
    """
    spectrogram = Spectrogram()
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} of sounds: give the path of one.")

    def decode() -> cache.Decoded:
        files, others = split_up(folder, find_files(folder, SOUND_FILES))
        names = [file.name for file in files]
        images, cut = [], 0
        for name in shown(names, f"reading {len(names):,} sounds of {folder}, once", len(names)):
            wave, rate = read_wav(folder / name)
            # A little more than there is room for: a resampled sample is made of its neighbours.
            wave = resample(
                wave[: spectrogram.longest * rate // spectrogram.rate + rate],
                rate,
                spectrogram.rate,
            )
            images.append(spectrogram.analyse(wave[: spectrogram.longest]))
            cut += len(wave) > spectrogram.longest
        x, rows = _together(images, spectrogram)
        return x.shape, [x], {**others, "rows": rows, "cut": np.array(cut)}

    place = cache.place(folder, json.dumps(spectrogram.settings()))
    state = f"{STATE_VERSION} {folder_state(folder, SOUND_FILES.endings)}"
    arrays = cache.made(folder, place, state, decode)
    if arrays["cut"]:
        warnings.warn(
            f"{arrays['cut']} of the {len(arrays['x']):,} sounds of {folder} are longer than "
            f"{spectrogram.longest / spectrogram.rate:.2f} s, and only their beginnings are taken: "
            "cut them into pieces if the rest matters.",
            stacklevel=3,
        )
    data = from_kept(folder, arrays, spectrogram.levels)
    return replace(data, spectrogram=spectrogram)


def _together(
    images: Sequence[tuple[NDArray[np.uint8], int]], spectrogram: Spectrogram
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Stacks what `analyse` made: images `(N, 1, frames, bands)`, and their real rows, `(N,)`."""
    rows = np.array([rows for _, rows in images], np.int64)
    return np.stack([x for x, _ in images]), whole_blocks(rows, spectrogram.frames)


def whole_blocks(rows: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """Fills sounds up with silence: their rows, to a block's end or that of the image."""
    return np.minimum(-(-rows // WHOLE) * WHOLE, frames)


def read_zip(path: Path) -> dict[str, bytes]:
    """Reads the recordings in an archive, of whatever folder, in the order of their names.

    Raises:
        UserError: It cannot be read, or is truncated or corrupt.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name: name for name in archive.namelist() if name.endswith(".wav")}
            return {name: archive.read(names[name]) for name in sorted(names)}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is truncated or corrupt ({error}): get the file anew.") from error


def spoken_digits(recordings: dict[str, bytes], path: Path, source: str) -> Dataset:
    """Makes the data set of the spoken digits, a class a digit and speaker.

    Args:
        recordings: The content of the files DIGIT_SPEAKER_NUMBER.wav.
        path: Where they are from, for messages.
        source: Citation and licence.
    """
    spectrogram = Spectrogram()
    splits: dict[str, list[tuple[NDArray[np.float64], int]]] = {split: [] for split in SPLITS}
    for name, content in recordings.items():
        found = re.fullmatch(rf"(\d)_({'|'.join(SPEAKERS)})_(\d+)\.wav", name)
        if found is None:
            raise UserError(f"{path} holds {name}, which is no spoken digit: get the file anew.")
        number, wave_rate = int(found[3]), read_wav(path / name, io.BytesIO(content))
        split = "test" if number in OF_TEST else "valid" if number in OF_VALID else "train"
        class_id = int(found[1]) * len(SPEAKERS) + SPEAKERS.index(found[2])
        splits[split].append((resample(*wave_rate, spectrogram.rate), class_id))

    def images(split: str) -> Images:
        analysed = [spectrogram.analyse(wave) for wave, _ in splits[split]]
        x, rows = _together(analysed, spectrogram)
        y = np.array([class_id for _, class_id in splits[split]], np.int64)
        return Images(x, y, spectrogram.levels, rows=rows)

    train, valid, test = map(images, SPLITS)
    return Dataset(
        "spoken-digits",
        train,
        valid,
        test,
        levels=spectrogram.levels,
        class_names=tuple(f"{digit} {speaker}" for digit in range(10) for speaker in SPEAKERS),
        source=source,
        spectrogram=spectrogram,
    )
