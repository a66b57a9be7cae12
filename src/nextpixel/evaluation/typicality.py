"""Compares images with ordinary ones by several features at once: the combined anomaly score.

No single number is a good anomaly score for all data: simple anomalies have few bits, complex ones
many, and a small fault hardly changes a mean. Here an image is described by how its bits are spread
over its pixels, by the size of its smallest lossless file, and by plain statistics of its pixels.
An image is anomalous if few ordinary images have a description like it, in whatever direction.

References:
    Nalisnick et al.: Detecting Out-of-Distribution Inputs to Deep Generative Models Using
    Typicality, 2019 (https://arxiv.org/abs/1906.02994): a test with two sides.
    Morningstar et al.: Density of States Estimation for Out-of-Distribution Detection, 2021
    (https://arxiv.org/abs/2006.09273): a density over statistics of a model's likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError

__all__ = ["FEATURES", "ORDINARY_IMAGES", "Ordinary", "check_quantile", "image_features"]

FEATURES = (
    "bits",  # mean over the pixels
    "file",  # bits of the smallest lossless file
    "spread of bits",  # standard deviation over the pixels
    "most bits",  # of a patch
    "high bits",  # the 90th percentile of the pixels
    "gradient along rows",
    "gradient along columns",
    "change along rows",  # over 4 pixels
    "change along columns",
    "contrast",  # standard deviation of the pixels
    "skewness",  # of the pixels: above 0 if a few are much brighter than the others
    "spread of rows",  # of their means
    "spread of columns",
    "flat share",  # of neighbours in a row that are equal
)
ORDINARY_IMAGES = 2000  # that are compared with, at most: more hardly help
NEIGHBOURS = 5
SHRINKAGE = 0.1  # of the correlations towards 0, which keeps their inverse bounded
PATCH = 4  # pixels
STEP = 4  # pixels, of the changes
FEWEST = 20  # ordinary images


def image_features(
    x: NDArray[np.uint8], bits: NDArray[np.float64], file: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Describes images by the numbers of `FEATURES`.

    Args:
        x: Images, integers `(N, C, H, W)`, H and W at least 2.
        bits: Bits of each pixel under a model, summed over the channels and divided by their
            number, `(N, H, W)`.
        file: Size of each image's smallest lossless file, in bits/dim, `(N,)`.

    Returns:
        `(N, features)`.
    """
    grey = x.astype(np.float64).mean(1)
    across, down = changes(grey, 1)
    far_across, far_down = changes(grey, STEP)
    pixels = (1, 2)
    columns = (
        bits.mean(pixels),
        file,
        bits.std(pixels),
        patches(bits).max(pixels),
        np.quantile(bits, 0.9, axis=pixels),
        across.mean(pixels),
        down.mean(pixels),
        far_across.mean(pixels),
        far_down.mean(pixels),
        grey.std(pixels),
        skewness(grey),
        grey.mean(2).std(1),
        grey.mean(1).std(1),
        (across == 0).mean(pixels),
    )
    return np.stack(columns, 1)


def changes(
    grey: NDArray[np.float64], step: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes absolute differences over a number of pixels, or half of a smaller image.

    Args:
        grey: `(N, H, W)`.
        step: Number of pixels.

    Returns:
        The differences along rows and along columns.
    """
    across, down = (min(step, side // 2) for side in (grey.shape[2], grey.shape[1]))
    return (
        np.abs(grey[:, :, across:] - grey[:, :, :-across]),
        np.abs(grey[:, down:] - grey[:, :-down]),
    )


def skewness(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes the skewness of each image's pixels `(N, H, W)`; 0 if they are all the same."""
    spread = grey - grey.mean((1, 2), keepdims=True)
    deviation = spread.std((1, 2))
    found: NDArray[np.float64] = (spread**3).mean((1, 2)) / np.maximum(deviation, 1e-6) ** 3
    return found


def patches(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Averages maps `(N, H, W)` over patches; the last rows and columns may fill none."""
    n, height, width = maps.shape
    side = min(PATCH, height, width)
    rows, columns = height // side, width // side
    whole = maps[:, : rows * side, : columns * side]
    means: NDArray[np.float64] = whole.reshape(n, rows, side, columns, side).mean((2, 4))
    return means


@dataclass(frozen=True, eq=False)
class Ordinary:
    """The features of ordinary images, to score others by.

    Attributes:
        features: `(N, features)`, as from `image_features`.

    Raises:
        UserError: There are fewer than 20 images.
    """

    features: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.features) < FEWEST:
            raise UserError(
                f"{len(self.features)} ordinary images are too few to compare with: give {FEWEST} "
                "or more, better 500 (--ordinary on the command line)."
            )

    @cached_property
    def _axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The means, the deviations, and the matrix that makes the features uncorrelated."""
        mean, deviation = self.features.mean(0), self.features.std(0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        z = (self.features - mean) / deviation
        correlations = (1 - SHRINKAGE) * (z.T @ z) / len(z) + SHRINKAGE * np.eye(z.shape[1])
        return mean, deviation, np.linalg.cholesky(np.linalg.inv(correlations))

    def _whitened(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        mean, deviation, axes = self._axes
        return (features - mean) / deviation @ axes

    def scores(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores images: their distance to the nearest ordinary ones.

        Args:
            features: `(M, features)`.

        Returns:
            The root mean square distance to the 5 nearest ordinary images, after the features have
            been scaled to a standard deviation of about 1 and made uncorrelated, `(M,)`. Its size
            means little: compare it with `own_scores`.
        """
        return self._distances(features, skip=0)

    @cached_property
    def own_scores(self) -> NDArray[np.float64]:
        """The scores of the ordinary images, each by the others, `(N,)`."""
        return self._distances(self.features, skip=1)

    def threshold(self, quantile: float) -> float:
        """Returns the score that this share of the ordinary images does not exceed.

        Raises:
            UserError: The quantile does not lie between 0 and 1.
        """
        check_quantile(quantile)
        return float(np.quantile(self.own_scores, quantile))

    def _distances(self, features: NDArray[np.float64], skip: int) -> NDArray[np.float64]:
        """Computes `scores`, without the `skip` nearest: an image is nearest to itself."""
        known, found = self._whitened(self.features), []
        for part in np.array_split(self._whitened(features), 1 + len(features) // 200):
            squares = ((part[:, None] - known[None]) ** 2).sum(2)
            nearest = np.sort(squares, 1)[:, skip : skip + NEIGHBOURS]
            found.append(np.sqrt(nearest.mean(1)))
        return np.concatenate(found)


def check_quantile(quantile: float) -> None:
    """Checks that a quantile is one.

    Raises:
        UserError: It does not lie between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise UserError(f"A quantile lies between 0 and 1, as 0.99, not {quantile}.")
