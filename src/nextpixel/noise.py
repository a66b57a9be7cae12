"""The table of all random streams: their keys, their purposes and their users.

NumPy's Philox generator computes its numbers from a key of two words and a counter of four, 64 bits
each. So a stream needs no state: the number of an image or of a training step determines its noise.
The two upper words of the counter identify the purpose, see `Stream`. The lower two count up from
0, or from a row, and no stream draws enough to reach the next purpose.

The web page resamples its particles by `PIXELS` of images from number 10^9 on.

Streams whose keys count different things (`Stream.of`) may use the same counters. With the same
numbers in their keys they give the same noise, for example the bits of training step 3 and the
pixels of image 3. They are never used together, and published results depend on them.

PyTorch's generators are seeded with the seeds in `SEEDS`. Uses of the caller's own seed are not
listed: initial weights (`torch.manual_seed`, for example in `nextpixel train`), and the random
networks and images of `nextpixel.evaluation.receptive_field`. `Distribution.sample` without noise
uses PyTorch's default generator in its current state.

References:
    Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, 2011
    (https://doi.org/10.1145/2063384.2063405), the Philox generator.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nextpixel.errors import UserError

__all__ = [
    "SEEDS",
    "Seed",
    "Stream",
    "check_integer",
    "check_seed",
    "content_key",
    "make_seed",
    "seeded",
    "site_noise",
]


class Stream(Enum):
    """Random numbers for one purpose: a generator for each key.

    Attributes:
        of: The things that the keys count. Two streams with the same `of` differ in their counter.
        key: The two words of the key.
        counter: The two upper words of the counter.
        draws: The purpose of the numbers.
        used_by: The function that draws them.
    """

    # Images that are sampled.
    PIXELS = (
        "images",
        ("seed", "image number"),
        (0, 0),
        "a uniform number for each site of a sampled image",
        "noise.site_noise",
    )
    DEGRADATIONS = (
        "images",
        ("seed", "image number"),
        (1, 0),
        "the noise or the holes of a degraded image",
        "conditioning.degradation.Task.degrade",
    )
    RESAMPLING = (
        "images",
        ("seed", "image number"),
        (0, 1),
        "a uniform number at the end of each row, which resamples an image's particles",
        "sampling.particles.resampling_noise",
    )
    PRIOR_CODES = (
        "images",
        ("seed", "image number"),
        (0, 3),
        "the code of an image sampled from a VAE, standard normal",
        "models.base.bounds.code_noise",
    )

    # Images that are scored.
    SCORED_CODES = (
        "contents",
        ("seed", "`content_key` of the image"),
        (0, 0),
        "the codes by which a VAE scores an image, standard normal",
        "models.base.bounds.image_noise",
    )

    # Training.
    BITS = (
        "steps",
        ("seed", "step * world + rank; for the fixed splits of mnist-dynamic the split's number"),
        (0, 0),
        "a bit for each intensity",
        "data.levels.draw_bits",
    )
    ORDER = (
        "steps",
        ("seed", "epoch"),
        (0, 1),
        "the order of the training images in an epoch",
        "data.sampler.batch_indices",
    )
    MUTATIONS = (
        "steps",
        ("seed", "step * world + rank"),
        (0, 2),
        "which values of a batch are replaced, and the new values",
        "data.levels.mutate",
    )

    # Always the same.
    SPLITS = (
        "data sets",
        ("`data.arrays.SPLIT_SEED`", "number of images"),
        (0, 0),
        "which images of a file are held out, if it has no such split",
        "data.user_data.load_user_data",
    )
    CROPS = (
        "data sets",
        ("0", "number of images"),
        (2, 0),
        "the parts of pictures that the model of an archive learns from",
        "codec.archive.look",
    )
    PHASES = (
        "sounds",
        ("1984", "0"),
        (0, 0),
        "the initial phases in the synthesis of a sound",
        "data.spectrogram.Spectrogram.synthesise",
    )

    def __init__(
        self, of: str, key: tuple[str, str], counter: tuple[int, int], draws: str, used_by: str
    ) -> None:
        self.of = of
        self.key = key
        self.counter = counter
        self.draws = draws
        self.used_by = used_by

    def generator(self, first: int, second: int, row: int = 0) -> np.random.Generator:
        """Makes the generator of a key.

        Args:
            first: The first word of the key, in [0, 2^64).
            second: The second word of the key, in [0, 2^64).
            row: The start of the second word of the counter; each row has its own numbers.
        """
        # Typed arrays: NumPy rounds a list that holds a word of 2^63 or more to floats.
        key_words = np.array([first, second], dtype=np.uint64)
        begin = np.array([0, row, *self.counter], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key_words, counter=begin))


class Seed(NamedTuple):
    """A seed made from several numbers.

    Attributes:
        key: The arguments of `make_seed`.
        draws: The purpose of a generator with this seed.
        used_by: The function or class that uses it.
    """

    key: tuple[str, ...]
    draws: str
    used_by: str


SEEDS = (
    Seed(
        ("seed", "step", "rank"),
        "by PyTorch: dropout, and a VAE's codes in training",
        "training.trainer.Run.train_step",
    ),
    Seed(
        ("seed", "step", "rank", "1"),
        "by `seeded`: which images of a batch get the null context",
        "training.trainer.Run.batch",
    ),
    Seed(
        ("seed", "step", "rank", "2"),
        "DEGRADATIONS of a batch, with half of this seed",
        "training.trainer.Run.batch",
    ),
    Seed(
        ("seed", "step", "rank", "4"),
        "by `seeded`: the order of each image of a batch",
        "training.trainer.Run.batch",
    ),
    Seed(
        ("seed", "step", "0", "3"),
        "by PyTorch: where unused codes of a codebook are placed, the same on all ranks",
        "nn.Quantizer",
    ),
    Seed(
        ("seed", "number of grids sampled before"),
        "PIXELS of the next grid of codes, or of the image, with half of this seed",
        "latents.generator.LatentGenerator",
    ),
)


def site_noise(
    shape: tuple[int, int, int], seed: int, numbers: Sequence[int]
) -> NDArray[np.float64]:
    """Draws a uniform number in `[0, 1)` for each site of each image, `(len(numbers), *shape)`.

    The noise of image k depends only on `(seed, k)`.

    Raises:
        UserError: The seed or a number is out of range.
    """
    check_seed(seed, numbers)
    return np.stack([Stream.PIXELS.generator(seed, number).random(shape) for number in numbers])


def check_seed(seed: int, numbers: Sequence[int] = ()) -> None:
    """Checks a seed and the numbers of images, which are the key of their noise.

    Raises:
        UserError: The seed is no integer in [0, 2^63), or a number is none in [0, 2^64).
    """
    for what, value in [("A seed", seed), *(("The number of an image", k) for k in numbers)]:
        check_integer(what, value)
    if not 0 <= seed < 2**63:
        raise UserError(f"A seed lies between 0 and 2^63, not {seed}.")
    wrong = [number for number in numbers if not 0 <= operator.index(number) < 2**64]
    if wrong:
        raise UserError(f"Images have numbers from 0 to 2^64, not {wrong[0]}.")


def check_integer(what: str, value: object) -> None:
    """Checks that a value is an integer of Python, NumPy or PyTorch.

    Args:
        what: What it is; begins the message.
        value: The value.

    Raises:
        UserError: It is not.
    """
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):
        raise UserError(f"{what} is a whole number, not {value!r}: give an integer.") from None


def content_key(pixels: NDArray[np.int64]) -> int:
    """Computes a key from the pixels of an image, in [0, 2^64): a hash of their bytes."""
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=8).digest()
    key = int.from_bytes(digest, "little")
    # Large keys stay rounded to the 53 bits of a float, because published scores depend on it.
    return key if key < 2**63 else int(float(key)) % 2**64


def make_seed(*key: int) -> int:
    """Makes a seed in [0, 2^64) from several non-negative numbers, see `SEEDS`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seeded(seed: int) -> np.random.Generator:
    """Makes NumPy's default generator with a seed in [0, 2^64)."""
    return np.random.default_rng(seed)
