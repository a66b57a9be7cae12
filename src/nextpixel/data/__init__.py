"""Data sets: readers, levels, splits and the resumable sampler; integers from file to loss.

Example:
    >>> from nextpixel.data import batch_indices, load
    >>> mnist = load("mnist", levels=4)
    >>> x, y = mnist.train.batch(batch_indices(len(mnist.train), 32, step=0))
    >>> x.shape, y.shape
    ((32, 1, 28, 28), (32,))
"""

from nextpixel.data.catalogue import DatasetInfo, list_datasets, load
from nextpixel.data.images import DataRecord, Dataset, Images
from nextpixel.data.levels import mutate, requantise
from nextpixel.data.sampler import batch_indices

__all__ = [
    "DataRecord",
    "Dataset",
    "DatasetInfo",
    "Images",
    "batch_indices",
    "list_datasets",
    "load",
    "mutate",
    "requantise",
]
