"""Finds images of a data set that occur more than once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nextpixel.data.folders import picture_names
from nextpixel.data.images import SPLITS, Dataset, Images

__all__ = ["Duplicates", "find_duplicates"]

NAMED = 3  # pairs as examples


@dataclass(frozen=True)
class Duplicates:
    """Counts the images of a data set that equal an earlier one, in all pixels.

    Attributes:
        count: Images that equal an earlier one.
        across_splits: Those of them that equal one of an earlier split: scores on them are too
            good.
        across_classes: Those of them that equal one of another class.
        examples: The names of a few pairs, the earlier image first: files, or "train 17".
    """

    count: int = 0
    across_splits: int = 0
    across_classes: int = 0
    examples: tuple[tuple[str, str], ...] = ()


def find_duplicates(data: Dataset, folder: Path | None = None) -> Duplicates:
    """Finds the images that equal an earlier one, in the order train, valid, test.

    Pictures are compared as they were decoded, after they have been resized and requantised.

    Args:
        data: The data set.
        folder: The folder of pictures that it was loaded from, for the names of the examples.
    """
    first: dict[bytes, tuple[str, int]] = {}
    count = across_splits = across_classes = 0
    pairs: list[tuple[tuple[str, int], tuple[str, int]]] = []
    for split in SPLITS:
        images: Images = getattr(data, split)
        for i in range(len(images)):
            digest = hashlib.blake2b(images.x[i].tobytes(), digest_size=16).digest()
            earlier = first.setdefault(digest, (split, i))
            if earlier == (split, i):
                continue
            count += 1
            across_splits += earlier[0] != split
            others: Images = getattr(data, earlier[0])
            if images.y is not None and others.y is not None:
                across_classes += int(images.y[i] != others.y[earlier[1]])
            # Pairs across splits come first, as they matter most.
            pairs.insert(0 if earlier[0] != split else len(pairs), (earlier, (split, i)))
            pairs = pairs[:NAMED]
    files = {
        split: picture_names(folder, split, data.skipped) if folder is not None else None
        for split in {split for pair in pairs for split, _ in pair}
    }

    def name(split: str, number: int) -> str:
        names = files[split]
        return f"{split} {number}" if names is None else names[number]

    examples = tuple((name(*one), name(*other)) for one, other in pairs)
    return Duplicates(count, across_splits, across_classes, examples)
