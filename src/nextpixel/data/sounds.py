"""Sounds as images: the spoken digits, and a folder of the user's own recordings."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nextpixel.data import cache
from nextpixel.data.files import SOUNDS, FileKind, folder_state, list_files
from nextpixel.data.folders import dataset_from_cache, sort_by_split
from nextpixel.data.images import SPLITS, Dataset, Images
from nextpixel.data.sound_files import read_wav, resample
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.errors import UserError
from nextpixel.utils.progress import track
from nextpixel.utils.reading import open_regular, open_zip, refuse_more_than_memory, refusing_damage

__all__ = [
    "SPEAKERS",
    "load_sounds",
    "read_zip",
    "recordings_by_split",
    "spoken_digits",
    "whole_blocks",
]

STATE_VERSION = 2  # increase it when sounds become other integers than before
WHOLE = 8  # real rows come in blocks of 8, each one row of a map at an eighth of the resolution
SOUND_FILES = FileKind(
    "sounds",
    "WAV, FLAC or Ogg files in it or in a subfolder for each class",
    SOUNDS,
)
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
TEST, VALID = range(5), range(5, 10)  # numbers of the recordings of each digit and speaker


def load_sounds(folder: Path) -> Dataset:
    """Loads a folder of the user's own sounds as spectrograms.

    Classes, splits and the cache work as for pictures (see `user_data.load_user_data`). Sounds are
    resampled to the spectrogram's rate. Sounds that are too long are cut, with a warning.

    Args:
        folder: A folder of WAV, FLAC and Ogg files.

    Raises:
        UserError: If there is no such folder, it holds no sounds, or a sound cannot be read.
    """
    spectrogram = Spectrogram()
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} of sounds: give the path of one.")

    def decode() -> cache.Decoded:
        found, skipped = list_files(folder, SOUND_FILES)
        if left_out := skipped.in_words(folder, SOUND_FILES):
            warnings.warn(left_out, stacklevel=6)
        files, others = sort_by_split(folder, found)
        names = [file.name for file in files]
        images, cut = [], 0
        for name in track(names, f"reading {len(names):,} sounds of {folder}, once", len(names)):
            # A second more than fits, because resampling uses the neighbours of a sample.
            seconds = spectrogram.longest / spectrogram.rate + 1
            wave = resample(*read_wav(folder / name, seconds=seconds), spectrogram.rate)
            images.append(spectrogram.analyse(wave[: spectrogram.longest]))
            cut += len(wave) > spectrogram.longest
        x, rows = _stack(images, spectrogram)
        return x.shape, [x], {**others, "rows": rows, "cut": np.array(cut)}

    path = cache.path_of(folder, json.dumps(spectrogram.settings()))
    state = f"{STATE_VERSION} {folder_state(folder, SOUND_FILES.endings)}"
    arrays = cache.load_or_decode(folder, path, state, decode)
    if arrays["cut"]:
        warnings.warn(
            f"{arrays['cut']} of the {len(arrays['x']):,} sounds of {folder} are longer than "
            f"{spectrogram.longest / spectrogram.rate:.2f} s, and only their beginnings are used: "
            "cut them into pieces if the rest matters.",
            stacklevel=3,
        )
    data = dataset_from_cache(folder, arrays, spectrogram.levels)
    return replace(data, spectrogram=spectrogram)


def _stack(
    images: Sequence[tuple[NDArray[np.uint8], int]], spectrogram: Spectrogram
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Stacks spectrograms: images `(N, 1, frames, bands)`, and their numbers of rows, `(N,)`."""
    rows = np.array([rows for _, rows in images], np.int64)
    return np.stack([x for x, _ in images]), whole_blocks(rows, spectrogram.frames)


def whole_blocks(rows: NDArray[np.int64], frames: int) -> NDArray[np.int64]:
    """Rounds numbers of rows up to whole blocks, at most `frames`: the rest is silence."""
    return np.minimum(-(-rows // WHOLE) * WHOLE, frames)


def read_zip(path: Path) -> dict[str, bytes]:
    """Reads the .wav files of an archive, in any of its folders, in the order of their names.

    Returns:
        File name without folder -> content.

    Raises:
        UserError: If the archive cannot be read, or is truncated or corrupt.
    """
    with (
        refusing_damage(path, "zip archive", "download it again"),
        open_regular(path) as file,
        open_zip(file) as archive,
    ):
        sounds = [member for member in archive.infolist() if member.filename.endswith(".wav")]
        refuse_more_than_memory(path, sum(member.file_size for member in sounds))
        names = {Path(member.filename).name: member for member in sounds}
        return {name: archive.read(names[name]) for name in sorted(names)}


def spoken_digits(recordings: dict[str, bytes], path: Path, source: str) -> Dataset:
    """Creates the data set of spoken digits, with a class for each digit and speaker.

    Args:
        recordings: The contents of the files, by their names DIGIT_SPEAKER_NUMBER.wav.
        path: The archive, for messages.
        source: Citation and licence.

    Raises:
        UserError: If a file has another name, or is no sound, or a split has none.
    """
    spectrogram = Spectrogram()
    recorded = recordings_by_split(recordings, path, spectrogram.rate)

    def images(split: str) -> Images:
        analysed = [spectrogram.analyse(wave) for wave, _ in recorded[split]]
        x, rows = _stack(analysed, spectrogram)
        y = np.array([class_id for _, class_id in recorded[split]], np.int64)
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


def recordings_by_split(
    recordings: dict[str, bytes], path: Path, rate: int
) -> dict[str, list[tuple[NDArray[np.float64], int]]]:
    """Reads the recordings of the spoken digits.

    Args:
        recordings: The contents of the files, by their names DIGIT_SPEAKER_NUMBER.wav.
        path: The archive, for messages.
        rate: Samples per second that are wanted.

    Returns:
        Split -> samples `(n,)` and class of each recording.

    Raises:
        UserError: If a file has another name, or is no sound, or a split has none.
    """
    splits: dict[str, list[tuple[NDArray[np.float64], int]]] = {split: [] for split in SPLITS}
    for name, content in recordings.items():
        found = re.fullmatch(rf"(\d)_({'|'.join(SPEAKERS)})_(\d+)\.wav", name)
        if found is None:
            raise UserError(f"{path} holds {name}, which is no spoken digit: download it again.")
        number, wave_rate = int(found[3]), read_wav(path / name, io.BytesIO(content))
        split = "test" if number in TEST else "valid" if number in VALID else "train"
        class_id = int(found[1]) * len(SPEAKERS) + SPEAKERS.index(found[2])
        splits[split].append((resample(*wave_rate, rate), class_id))

    if missing := [split for split in SPLITS if not splits[split]]:
        raise UserError(
            f"{path} lacks the recordings of {' and '.join(missing)}: download it again."
        )
    return splits
