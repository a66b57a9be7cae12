"""The table of all random streams: who draws what, and from which key.

NumPy's Philox generator computes its numbers from a key of two words and a counter of four, 64 bits
each. So a stream needs no state: an image's number, or a training step, leads straight to its
numbers. The two upper words of the counter belong to the purpose, see `Stream`. The lower two count
up from 0, or from a row, and no stream draws enough to reach the next purpose.

Streams whose keys count different things (`Stream.of`) may use the same counters, and with the same
numbers in their keys they give the same noise: the bits of training step 3 and the pixels of
image 3, say. Nothing puts the two together, and published results rest on them.

PyTorch's generators are seeded, too, with the seeds in `SEEDS`. Where the caller's seed is used as
it is, it is not listed: first weights (`torch.manual_seed` in `nextpixel train` and its like), and
the random networks and images of `nextpixel.evaluation.receptive_field`. `Distribution.sample`
without noise takes PyTorch's default generator as it finds it.

References:
    Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, 2011
    (https://doi.org/10.1145/2063384.2063405), the Philox generator.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SEEDS", "Seed", "Stream", "content_key", "make_seed", "seeded"]


class Stream(Enum):
    """Random numbers for one purpose: a generator for each key.

    Attributes:
        of: What the keys count. Two streams with the same `of` have different counters.
        key: The two words of the key.
        counter: The two upper words of the counter.
        draws: What is drawn.
        used_by: Who draws it.
    """

    # Images that are drawn.
    PIXELS = (
        "images",
        ("seed", "image number"),
        (0, 0),
        "a uniform number for each site of a drawn image",
        "sampling.config.site_noise",
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
        "the code of an image drawn from a VAE, standard normal",
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
        "data.images.draw_bits",
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
        "which values of a batch are replaced, and by what",
        "data.images.mutate",
    )

    # Always the same.
    SPLITS = (
        "data sets",
        ("`data.arrays.SPLIT_SEED`", "number of images"),
        (0, 0),
        "which images of a file are held out where it has no such split",
        "data.own.load_own",
    )
    PHASES = (
        "sounds",
        ("1984", "0"),
        (0, 0),
        "the phases that the synthesis of a sound begins with",
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
            row: Where the second word of the counter begins; each row has numbers of its own.
        """
        # Typed arrays: NumPy rounds a list that holds a word of 2^63 or more to floats.
        key_words = np.array([first, second], dtype=np.uint64)
        begin = np.array([0, row, *self.counter], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key_words, counter=begin))


class Seed(NamedTuple):
    """A seed that is made of several numbers.

    Attributes:
        key: What `make_seed` is given.
        draws: What is drawn by a generator with this seed.
        used_by: Who draws it.
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
        ("seed", "step", "0", "3"),
        "by PyTorch: where unused vectors of a codebook are placed, the same on all ranks",
        "nn.Quantizer",
    ),
    Seed(
        ("seed", "number of grids drawn before"),
        "PIXELS of the next grid of codes, or of the image, with half of this seed",
        "latents.generator.LatentGenerator",
    ),
)


def content_key(pixels: NDArray[np.int64]) -> int:
    """Computes a key from the pixels of an image, in [0, 2^64): a hash of their bytes."""
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=8).digest()
    key = int.from_bytes(digest, "little")
    # Scores were published with large keys rounded to the 53 bits of a float: it stays so.
    return key if key < 2**63 else int(float(key)) % 2**64


def make_seed(*key: int) -> int:
    """Makes a seed in [0, 2^64) from several numbers, not negative; see `SEEDS`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seeded(seed: int) -> np.random.Generator:
    """Makes NumPy's default generator with a seed in [0, 2^64)."""
    return np.random.default_rng(seed)
