"""Estimates what no model saves: the bits of noise in a spectrogram.

    pip install '.[benchmarks]'
    python benchmarks/noise_floor.py --model runs/spectrograms

White noise of which everything is known that can be, its spectrum and its past, still has an
entropy. It is estimated from many spectrograms of it: the entropy of the levels of each band, less
what the bands below and the four rows before say about them, by the correlations of their ranks (a
Gaussian copula). JPEG XL then compresses such noise, and the model's bits on the test recordings of
the spoken digits are split into silence and sound.
"""

from __future__ import annotations

import argparse

import imagecodecs
import numpy as np
import torch
import yardstick
from codec import DATA, mosaic
from numpy.typing import NDArray
from scipy.stats import norm

import nextpixel as npx
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.evaluation.likelihood import surprisal
from nextpixel.models.base.autoregressive import AutoregressiveModel

ROWS = 5  # of a spectrogram of noise: the last one is predicted from the others
AMPLITUDE = 0.02  # of the noise, well above the lowest level
IMAGES = 12_000


def noise(count: int, rows: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Makes spectrograms of white noise, `(count, rows, bands)`, without rows that see an end."""
    spectrogram = Spectrogram()
    waves = generator.normal(0, AMPLITUDE, (count, spectrogram.hop * (rows + 3)))
    return np.stack([spectrogram.analyse(wave)[0][0, 2 : 2 + rows] for wave in waves])


def entropy_of_noise(generator: np.random.Generator) -> float:
    """Estimates the entropy of a value of the last row, given the rows before, in bits."""
    x = noise(IMAGES, ROWS, generator)
    bands = x.shape[2]
    x = x.reshape(IMAGES, -1)
    ranks = (x + generator.uniform(size=x.shape)).argsort(0).argsort(0)
    correlations = np.corrcoef(norm.ppf((ranks + 0.5) / IMAGES).T)
    shared = log2_det(correlations[:-bands, :-bands]) - log2_det(correlations)
    alone = sum(entropy(np.bincount(column)) for column in x[:, -bands:].T)
    return (alone - shared / 2) / bands


def log2_det(matrix: NDArray[np.float64]) -> float:
    """Returns the binary logarithm of a determinant."""
    return float(np.linalg.slogdet(matrix)[1] / np.log(2))


def entropy(counts: NDArray[np.int64]) -> float:
    """Estimates the entropy of a distribution from counts, in bits (Miller, 1955)."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum() + (len(p) - 1) / (2 * counts.sum() * np.log(2)))


def of_recordings(model: str) -> list[list[str]]:
    """Splits a model's bits on the test recordings: padding, the lowest level, and all else."""
    images = npx.load_data("spoken-digits", data_dir=DATA).test
    network = npx.load(model, shape=images.x.shape[1:])
    assert isinstance(network, AutoregressiveModel)
    x = images.batch(np.arange(len(images)))[0]
    with torch.inference_mode():
        parts = torch.from_numpy(x).long().split(20)
        bits = torch.cat([surprisal(network, part) for part in parts]).reshape(x.shape).numpy()
    sounding = np.asarray(x.any((1, 3)))  # a row of an image
    sound = np.logical_or.accumulate(sounding[:, ::-1], 1)[:, ::-1][:, None, :, None]
    kinds = {
        "after the end": ~sound & (x == 0),
        "lowest level, before it": sound & (x == 0),
        "all others": x > 0,
        "in all": x >= 0,
    }
    return [
        [name, f"{where.sum():,}", f"{bits[where].mean():.3f}", f"{bits[where].sum() / 8:,.0f}"]
        for name, where in kinds.items()
    ]


def main() -> None:
    """Prints the estimates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name or run folder of a model of spectrograms")
    args = parser.parse_args()
    generator = np.random.default_rng(1)
    print(f"White noise, its spectrum known: {entropy_of_noise(generator):.2f} bits a value")
    images = noise(300, 20, generator)
    picture = mosaic(list(images))
    assert picture is not None
    size = len(imagecodecs.jpegxl_encode(picture, lossless=True, effort=9))
    print(
        f"300 x 20 rows of it as one JPEG XL, effort 9: {8 * size / images.size:.2f} bits a value"
    )
    if args.model:
        yardstick.print_table(["values", "number", "bits each", "bytes"], of_recordings(args.model))


if __name__ == "__main__":
    main()
