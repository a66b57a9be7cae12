"""Which images a training step sees: a pure function of the step, so there is nothing to save."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError
from nextpixel.noise import Stream

__all__ = ["batch_indices"]


def batch_indices(
    n: int, batch_size: int, step: int, *, seed: int = 0, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Returns the indices of the images in the batch of one step.

    Every epoch is a permutation of the n images that depends on (seed, epoch) only. The epochs are
    laid end to end and cut into batches, so every image comes exactly once an epoch whether or not
    the batch size divides n, and a run that resumes at any step goes on as if it had never stopped.

    Args:
        n: The number of images.
        batch_size: Images a step, for each rank; it may exceed n.
        step: The step, from 0.
        seed: The seed of the order, >= 0.
        rank: Which of the ranks asks; the ranks share out world * batch_size images a step.
        world: The number of ranks.

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
    places = np.arange(start, start + batch_size)
    indices = np.empty(batch_size, np.int64)
    for epoch in range(start // n, (start + batch_size - 1) // n + 1):
        here = places // n == epoch
        indices[here] = _permutation(n, seed, epoch)[places[here] % n]
    return indices


@lru_cache(maxsize=4)  # the epoch that runs and its neighbours, for a run or two at a time
def _permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    order = Stream.ORDER.generator(seed, epoch).permutation(n).astype(np.int64)
    order.flags.writeable = False
    return order
