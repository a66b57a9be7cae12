"""Chooses the images of a training step, of a batch to evaluate, and of a smaller subset.

The batch of a training step is a pure function of the step, so that there is no state to save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError
from nextpixel.noise import Stream

__all__ = ["batch_indices", "batches", "evenly_spaced"]


def batch_indices(
    n: int, batch_size: int, step: int, *, seed: int = 0, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Returns the indices of the images in the batch of one step.

    Every epoch is a permutation of the n images that depends on (seed, epoch) only. The epochs are
    concatenated and cut into batches, so every image comes exactly once per epoch even if the batch
    size does not divide n, and a resumed run sees the same batches as one that never stopped.

    Args:
        n: Number of images.
        batch_size: Images per step and rank; may exceed n.
        step: The step, from 0.
        seed: Seed of the order, >= 0.
        rank: Rank of this process. Together the ranks take world * batch_size images a step.
        world: Number of ranks.

    Returns:
        Indices in [0, n), shape (batch_size,), int64.

    Raises:
        UserError: If a number is out of range.
    """
    if min(n, batch_size) < 1 or min(step, seed) < 0 or not 0 <= rank < world:
        raise UserError(
            f"There is no batch for n={n}, batch_size={batch_size}, step={step}, seed={seed}, "
            f"rank={rank}, world={world}: n and batch_size must be at least 1, step and seed at "
            "least 0, and rank below world."
        )
    start = (step * world + rank) * batch_size
    positions = np.arange(start, start + batch_size)
    indices = np.empty(batch_size, np.int64)
    for epoch in range(start // n, (start + batch_size - 1) // n + 1):
        in_epoch = positions // n == epoch
        indices[in_epoch] = _permutation(n, seed, epoch)[positions[in_epoch] % n]
    return indices


@lru_cache(maxsize=4)  # the current epoch and the next, for two runs
def _permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return Stream.ORDER.generator(seed, epoch).permutation(n).astype(np.int64)


def evenly_spaced(count: int, limit: int | None) -> NDArray[np.int64]:
    """Returns at most `limit` evenly spaced indices from 0 to count - 1; all of them if None."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(np.int64)


def batches(
    count: int, size: int, progress: Callable[[float], None] | None = None
) -> Iterator[NDArray[np.int64]]:
    """Splits the indices from 0 to count - 1 into batches.

    Args:
        count: Number of indices.
        size: Length of a batch; the last one may be shorter.
        progress: Called after each batch with the fraction done, 0 to 1.

    Yields:
        Indices, shape (size,), int64.
    """
    for begin in range(0, count, size):
        end = min(begin + size, count)
        yield np.arange(begin, end)
        if progress is not None:
            progress(end / count)
