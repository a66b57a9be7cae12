"""Distances between sets of images: of their features, and to the nearest training images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from nextpixel.data import Images
from nextpixel.data.sampler import batches
from nextpixel.errors import UserError

__all__ = ["frechet_distance", "nearest_neighbours"]

_Floats = NDArray[np.float64]

BATCH = 100  # images that are compared at once


def frechet_distance(a: _Floats, b: _Floats) -> float:
    """Computes the squared Frechet distance between Gaussians fitted to two sets of features.

    `|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`, with means m and covariances S (divided by
    N - 1). It is biased: it grows as the sets get smaller, even if both have the same distribution.
    Compare only distances between sets of the same size.

    Args:
        a: Features, `(N, D)`, N at least 2.
        b: Features, `(M, D)`.

    Returns:
        The distance, 0 or more, in squared units of the features.

    Raises:
        UserError: A set has fewer than 2.

    References:
        Dowson and Landau: The Frechet distance between multivariate normal distributions, 1982.
    """
    if min(len(a), len(b)) < 2:
        raise UserError(
            f"A Frechet distance needs sets of at least 2 images, not {len(a)} and {len(b)}."
        )
    covariances = [np.atleast_2d(np.cov(x.astype(np.float64), rowvar=False)) for x in (a, b)]
    # The eigenvalues of S_a S_b are those of the symmetric S_a^(1/2) S_b S_a^(1/2).
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)
    spread = np.trace(covariances[0] + covariances[1]) - 2 * np.sqrt(shared).sum()
    means = np.square(a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)).sum()
    return max(0.0, float(means + spread))


def nearest_neighbours(
    images: Images, train: Images, progress: Callable[[float], None] | None = None
) -> tuple[_Floats, NDArray[np.int64]]:
    """Finds the nearest training image of each image.

    The distance between two images is the root mean squared difference of their levels, over the
    rows that are real in at least one of them; padding has level 0.

    Args:
        images: N images.
        train: The training images.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The distances in levels, `(N,)`, and the neighbours' numbers in `train`, `(N,)`.
    """
    # Sums of squared levels are integers, which float64 adds exactly.
    others = torch.from_numpy(train.x.reshape(len(train), -1).astype(np.float64))
    lengths, sites = others.square().sum(1), torch.from_numpy(train.sites())
    distances, neighbours = [], []
    for numbers in batches(len(images), BATCH):
        x = torch.from_numpy(images.x[numbers].reshape(len(numbers), -1).astype(np.float64))
        squares = x.square().sum(1)[:, None] + lengths - 2 * x @ others.T
        real = torch.maximum(torch.from_numpy(images.sites()[numbers])[:, None], sites)
        nearest = (squares / real).min(1)
        distances.append(nearest.values.sqrt().numpy())
        neighbours.append(nearest.indices.numpy())
        if progress is not None:
            progress((numbers[-1] + 1) / len(images))
    return np.concatenate(distances), np.concatenate(neighbours)
