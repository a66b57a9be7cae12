"""Data: readers, levels, splits and the resumable sampler; integers from file to loss.

Example:
    >>> from nextpixel.data import batch_indices, load
    >>> mnist = load("mnist", levels=4)
    >>> x, y = mnist.train.batch(batch_indices(len(mnist.train), 32, step=0))
    >>> x.shape, y.shape
    ((32, 1, 28, 28), (32,))
"""

from nextpixel.data.catalogue import KnownDataset, known, load
from nextpixel.data.images import DataRecord, Dataset, Images, mutate, requantise
from nextpixel.data.sampler import batch_indices

__all__ = [
    "DataRecord",
    "Dataset",
    "Images",
    "KnownDataset",
    "batch_indices",
    "known",
    "load",
    "mutate",
    "requantise",
]
