"""Makes variants of the spoken digits' recordings, as spectrograms to train on.

    python tools/sound_variants.py ../shared/data/fsdd runs/sounds.npz
    nextpixel train --config recipes/spoken-digits/spectrograms.yaml --out runs/spectrograms

2,400 recordings are few. Each variant begins up to one row later, so that the frames of the
transform lie elsewhere, and is up to 3 dB louder or quieter and up to 5 % faster or slower. Of all
spectrograms, those of validation and testing too, the first rows are kept: most recordings are over
by then, and the rest is silence.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nextpixel.cli.options import positive
from nextpixel.data.catalogue import FSDD_ARCHIVE
from nextpixel.data.sound_files import resample
from nextpixel.data.sounds import read_zip, recordings_by_split
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.errors import UserError
from nextpixel.utils.files import atomic_write
from nextpixel.utils.progress import track

LOUDER = 3.0  # dB
SPEEDS = np.arange(38, 43) / 40
"""Ratios of small numbers, because resampling by others takes a hundred times as long."""


def main() -> None:
    """Writes the spectrograms of three splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help=f"the folder of {FSDD_ARCHIVE}")
    parser.add_argument("out", type=Path, help="the .npz file to write; it must not exist")
    parser.add_argument(
        "--copies", type=positive, default=50, help="variants of each recording (default: 50)"
    )
    parser.add_argument("--rows", type=positive, default=32, help="rows to keep (default: 32)")
    args = parser.parse_args()
    if args.out.suffix != ".npz" or args.out.exists():
        parser.error(f"name a new .npz file, not {args.out}")
    spectrogram = Spectrogram()
    try:
        path = args.folder / FSDD_ARCHIVE
        waves = recordings_by_split(read_zip(path), path, spectrogram.rate)
    except UserError as error:
        parser.error(str(error))
    generator = np.random.default_rng(0)
    arrays = {
        f"x_{split}": np.stack(
            [spectrogram.analyse(wave)[0][:, : args.rows] for wave, _ in waves[split]]
        )
        for split in ("valid", "test")
    }
    train = waves["train"] * args.copies
    x = [
        spectrogram.analyse(variant(wave, spectrogram, generator))[0][:, : args.rows]
        for wave, _ in track(train, "changing sounds", len(train))
    ]
    arrays["x_train"] = generator.permutation(np.stack(x))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.out) as file:
        np.savez(file, **arrays)
    print(f"{args.out}: {len(x):,} variants of {len(waves['train']):,} recordings")


def variant(
    wave: np.ndarray, spectrogram: Spectrogram, generator: np.random.Generator
) -> np.ndarray:
    """Returns a recording `(samples,)` at another speed and loudness, without its first samples."""
    speed = generator.choice(SPEEDS)
    faster = resample(wave, round(spectrogram.rate * speed), spectrogram.rate)
    louder = faster * 10 ** (generator.uniform(-LOUDER, LOUDER) / 20)
    begin = generator.integers(spectrogram.hop)
    return louder.clip(-1, 1)[begin : spectrogram.longest]


if __name__ == "__main__":
    main()
