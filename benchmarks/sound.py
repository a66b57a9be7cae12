"""Measures how much of a spoken digit is lost in a spectrogram, for several settings.

    python benchmarks/sound.py --pictures runs/sound

Takes 60 recordings, one for each digit and speaker, none of the test split. `own` is the
log-spectral distance in dB, in the bands of the spectrogram itself, root mean square over rows and
bands; `conv` is the spectral convergence (the relative error of the magnitudes); both without and
with quantisation. `fine` is the log-spectral distance in the bands of three other spectrograms
(windows of 16, 32 and 64 ms, floor -70 dB), which shows what coarse settings lose.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np

from nextpixel.data import list_datasets
from nextpixel.data.catalogue import FSDD_ARCHIVE
from nextpixel.data.sound_files import read_wav, write_wav
from nextpixel.data.sounds import read_zip
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.viz import images as plots

LONGEST = 18_262  # samples of the longest digit
SETTINGS = (  # window, hop, bands
    (512, 256, 32),
    (512, 256, 48),
    (512, 256, 64),
    (384, 192, 32),
    (384, 192, 40),
    (384, 192, 48),
    (256, 128, 32),
    (512, 128, 32),
)
FINE = tuple(
    Spectrogram(window=window, hop=window // 4, bands=bands, floor=-70.0)
    for window, bands in ((128, 20), (256, 40), (512, 64))
)
ITERATIONS = (0, 8, 32, 60)
SPEAKERS = ("george", "jackson", "lucas", "theo", "yweweler")


def read_recordings(archive: Path) -> dict[str, np.ndarray]:
    """Reads the fifth recording of each digit and speaker, by file name."""
    contents = read_zip(archive).items()
    return {n: read_wav(n, io.BytesIO(c))[0] for n, c in contents if n.endswith("_5.wav")}


def rms(x: np.ndarray) -> float:
    """Returns the root mean square."""
    return float(np.sqrt((x**2).mean()))


def distances(spectrogram: Spectrogram, wave: np.ndarray, again: np.ndarray) -> list[float]:
    """Returns `own`, `conv` and `fine` between a sound and its reconstruction."""
    before, after = spectrogram.decibels(wave), spectrogram.decibels(again)
    m, n = 10 ** (before / 20), 10 ** (after / 20)
    wave = np.pad(wave, (0, len(again) - len(wave)))
    fine = [(f.decibels(wave) - f.decibels(again)).ravel() for f in FINE]
    fine_distance = float(np.sqrt(np.mean([(each**2).mean() for each in fine])))
    return [rms(before - after), float(np.linalg.norm(m - n) / np.linalg.norm(m)), fine_distance]


def print_row(
    name: str, spectrogram: Spectrogram, waves: list[np.ndarray], iterations: int
) -> None:
    """Prints the mean distances of one spectrogram."""
    exact, rounded = [], []
    for wave in waves:
        image, rows = spectrogram.analyse(wave)
        again = spectrogram.synthesise(image, rows, iterations)
        rounded.append(distances(spectrogram, wave, again))
        again = spectrogram.invert(10 ** (spectrogram.decibels(wave) / 20), iterations)
        exact.append(distances(spectrogram, wave, again))
    e, r = np.mean(exact, 0), np.mean(rounded, 0)
    sites = spectrogram.frames * spectrogram.bands
    print(
        f"{name:12} {iterations:3} {sites:6,}   {e[0]:5.2f} {e[1]:6.3f}   "
        f"{r[0]:5.2f} {r[1]:6.3f} {r[2]:5.2f}",
        flush=True,
    )


def draw(waves: dict[str, np.ndarray], folder: Path) -> None:
    """Writes five digits and their reconstructions, and a picture of the spectrograms."""
    spectrogram = Spectrogram(frames=24)
    names = [f"{digit}_{who}_5.wav" for digit, who in zip(range(0, 10, 2), SPEAKERS, strict=True)]
    rows = []
    for name in names:
        wave = waves[name][: spectrogram.longest]
        image, real = spectrogram.analyse(wave)
        sounds = [spectrogram.synthesise(image, real, n) for n in (32, 0)]
        rows += [image, *(spectrogram.analyse(sound)[0] for sound in sounds)]
        write_wav(folder / name, wave, spectrogram.rate)
        write_wav(folder / f"again_{name}", sounds[0], spectrogram.rate)
    labels = ["original", "round trip", "random phases"]
    pictures = plots.upright(np.stack(rows))
    by_kind = [3 * i + k for k in range(3) for i in range(len(names))]
    picture = plots.grid(
        pictures[by_kind],
        spectrogram.levels,
        columns=len(names),
        row_labels=labels,
        column_labels=[name.removesuffix("_5.wav").replace("_", " ") for name in names],
        scale=4,
    )
    plots.save_image(picture, folder / "round-trip.png")


def main() -> None:
    """Measures all settings and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="folder to search first")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="write sounds and pictures of them"
    )
    args = parser.parse_args()
    digits = next(data for data in list_datasets(args.data_dir) if data.name == "spoken-digits")
    if digits.present is None:
        parser.error("there are no spoken digits: download them by nextpixel data spoken-digits")
    waves = read_recordings(digits.present / FSDD_ARCHIVE)
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
        draw(waves, args.pictures)
    print(f"{'':12} it. sites    exact: own conv   rounded: own conv fine")
    sounds = list(waves.values())
    for window, hop, bands in SETTINGS:
        frames = -(-LONGEST // (8 * hop)) * 8
        spectrogram = Spectrogram(window=window, hop=hop, bands=bands, frames=frames)
        print_row(f"{window}/{hop}/{bands}", spectrogram, sounds, 32)
    for iterations in ITERATIONS:
        print_row("the default", Spectrogram(), sounds, iterations)
    for levels in (16, 64):
        print_row(f"{levels} levels", Spectrogram(levels=levels), sounds, 32)


if __name__ == "__main__":
    main()
