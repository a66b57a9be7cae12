"""Compresses pictures by a small model of these very pictures, which goes into the file.

The description length decides (Rissanen, 1978): the bytes of the model and those of the pictures
under it. Networks of a few widths are trained for a short time each, and the best width anew for
the rest.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nextpixel.codec.compress import Totals, compress
from nextpixel.codec.models import Coding, Size, compiled
from nextpixel.codec.pictures import smallest_file
from nextpixel.codec.rounding import Rounding, best_rounding, cut
from nextpixel.codec.sources import ArraySource, ImagesLike, Source, source_of
from nextpixel.data import Dataset
from nextpixel.data.arrays import dataset_from_arrays
from nextpixel.models import PixelCNNPP
from nextpixel.models.base.image_model import load
from nextpixel.noise import Stream
from nextpixel.training.choosing import choose_threads, images_per_second, training_options
from nextpixel.training.fitting import fit
from nextpixel.utils.progress import track

__all__ = ["Archived", "Trial", "archive"]

SIDE = 32  # of the crops to train on
WHOLE = 48  # side of images that are trained on as a whole, if all are of one size
CROPS = 30_000  # to train on, at most
OVERLAP = 4  # times that a pixel of a larger picture is in a crop
WIDTHS = (8, 12, 16, 20, 24, 32, 40, 48)
MODEL_SHARE = 0.05  # of the best files' bytes: about where the best model is
BYTES_OF_WEIGHT = 0.55
RATE = 4e-3  # of learning
TRIED = 0.05  # of the time, for each of three widths
SCORED = 96  # crops on which a model is scored


@dataclass(frozen=True)
class Trial:
    """A model that was tried.

    Attributes:
        width: The width of the network.
        total: Bytes of the model and of all pictures, estimated.
        rounding: How its weights are rounded.
    """

    width: int
    total: int
    rounding: Rounding


@dataclass(frozen=True)
class Archived:
    """What was archived.

    Attributes:
        totals: What is in the file.
        classical: Bytes of the best lossless file of each picture, a WebP or its own.
        trial: The model in the file; None if it has none, because none was worth its bytes.
    """

    totals: Totals
    classical: int
    trial: Trial | None


def archive(
    images: ImagesLike | Source,
    out: str | os.PathLike[str],
    *,
    minutes: float = 10,
    threads: int | None = None,
    say: Callable[[str], None] = print,
    show: Callable[[float], None] | None = None,
) -> Archived:
    """Trains a small model on some images, and compresses them by it; the file holds the model.

    Where a model gains nothing, all images are kept as the smallest of a WebP and their own file.

    Args:
        images: As for `nextpixel.compress`.
        out: The .npxz to write; it appears when all is done.
        minutes: Training time.
        threads: Number of threads; by default one for each processor.
        say: Called with sentences about what is done.
        show: Called now and then with the number of images compressed.

    Raises:
        UserError: There are no images.
        OSError: The file cannot be written.
    """
    source = source_of(images)
    seen = look(source)
    classical = seen.classical
    say(f"As lossless files, WebP or their own, the images take {classical:,} bytes.")
    if not len(seen.crops):
        say("None of them is a picture that a model can take.")
        return without_model(source, out, threads, show)
    with tempfile.TemporaryDirectory() as folder:
        file, trial = train(seen, minutes, threads, Path(folder), say)
    if trial.total >= classical:
        say(
            f"A model of them would need {trial.total:,} bytes, "
            f"{trial.rounding.model_bytes:,} of them for itself: nothing is gained."
        )
        return without_model(source, out, threads, show)
    coding = Coding("archive", file)
    say("Compressing ...")
    totals = compress(coding, source, out, threads=threads, show=show)
    if totals.bytes < classical:
        return Archived(totals, classical, trial)
    say(f"With a model they take {totals.bytes:,} bytes: nothing is gained.")
    return without_model(source, out, threads, show)


def without_model(
    source: Source,
    out: str | os.PathLike[str],
    threads: int | None,
    show: Callable[[float], None] | None,
) -> Archived:
    """Keeps all images as their best lossless files."""
    totals = compress(None, source, out, threads=threads, show=show)
    return Archived(totals, totals.files, None)


# --- the images -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What is known about the images before training.

    Attributes:
        crops: Parts of them, or all, `(N, C, H, W)`.
        levels: Their levels.
        sizes: `(H, W)` of some images.
        classical: Bytes of the best lossless file of each image.
        taken: Bytes of those of images that a model can take.
        dims: Levels of these, in all.
    """

    crops: NDArray[Any]
    levels: int
    sizes: list[Size]
    classical: int
    taken: int
    dims: int


def look(source: Source) -> Seen:
    """Reads all images: compresses them by other codecs, and cuts crops out of them."""
    levels = source.images.levels if isinstance(source, ArraySource) else 256
    sizes = source.sizes()
    height, width = (max(side, default=1) for side in zip(*sizes, strict=True)) if sizes else (1, 1)
    side = (
        (height, width)
        if len(set(sizes)) == 1 and max(height, width) <= WHOLE
        else (min(SIDE, height), min(SIDE, width))
    )
    parts = max(1.0, float(np.mean([h * w for h, w in sizes] or [1])) / (side[0] * side[1]))
    density = min(1.0, CROPS / (OVERLAP * parts * max(1, source.count)))
    generator = Stream.CROPS.generator(0, source.count)
    crops, classical, taken, dims = list[NDArray[Any]](), 0, 0, 0
    for item in track(source.items(None), "looking at the pictures", source.count):
        file = smallest_file(item, levels)
        size = 0 if file is None else len(file[0])
        classical += size
        x = item.levels
        if x is None:
            continue
        taken, dims = taken + size, dims + x.size
        parts = max(1.0, x[0].size / (side[0] * side[1]))
        wanted = density * (OVERLAP * parts if parts > 1 else 1.0)
        crops += [cut(x, side, generator) for _ in range(int(wanted + generator.random()))]
    if not crops:
        return Seen(np.zeros((0, 1, *side), np.uint8), levels, sizes, classical, taken, dims)
    whole = np.stack([crops[k] for k in generator.permutation(len(crops))])
    if (
        whole.shape[1] == 3
        and (whole == whole[:, :1]).all()
        and not isinstance(source, ArraySource)
    ):
        whole, dims = whole[:, :1], dims // 3
    return Seen(whole, levels, sizes, classical, taken, dims)


# --- the model ------------------------------------------------------------------------------------


def train(
    seen: Seen, minutes: float, threads: int | None, folder: Path, say: Callable[[str], None]
) -> tuple[bytes, Trial]:
    """Trains models of some widths for a short time, and the best width anew for the rest.

    The images to be compressed are those to train on and those to validate on: the model is to
    know these and no others.

    Returns:
        The program's file, and what it needs.
    """
    some = seen.crops[:SCORED]
    levels = np.array(seen.levels)
    arrays = {"x_train": seen.crops, "x_valid": some, "x_test": some, "levels": levels}
    data = dataset_from_arrays(folder, arrays, seen.crops.shape[1], None)
    every = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        elif choose_threads(data, minutes) < every:
            say(f"One thread trains faster than {every} now.")
        return train_widths(seen, data, minutes, folder, say)
    finally:
        torch.set_num_threads(every)


def train_widths(
    seen: Seen, data: Dataset, minutes: float, folder: Path, say: Callable[[str], None]
) -> tuple[bytes, Trial]:
    """Tries some widths, and trains the best one anew."""
    trials = {}
    for width in widths_for(seen):
        run = folder / str(width)
        trials[width] = trial = trained(seen, data, width, TRIED * minutes, run)[1]
        say(
            f"  width {width}: {trial.rounding.bits_per_dim:.3f} bits/dim, a model of "
            f"{trial.rounding.model_bytes:,} bytes, {trial.total:,} in all"
        )
    best = min(trials, key=lambda width: trials[width].total)
    left = minutes * (1 - TRIED * len(trials))
    say(f"Training width {best} for {left:.1f} minutes ...")
    return trained(seen, data, best, left, folder / "best")


def widths_for(seen: Seen) -> list[int]:
    """Lists three widths around the one whose model takes a twentieth of the best files' bytes."""
    wanted = MODEL_SHARE * seen.taken / BYTES_OF_WEIGHT
    sizes = [sum(p.numel() for p in network(seen, width).parameters()) for width in WIDTHS]
    nearest = int(np.argmin(np.abs(np.log(np.array(sizes) / max(1.0, wanted)))))
    first = min(max(0, nearest - 1), len(WIDTHS) - 3)
    return list(WIDTHS[first : first + 3])


def network(seen: Seen, width: int) -> PixelCNNPP:
    """Makes a PixelCNN++ for crops."""
    torch.manual_seed(0)
    channels, height, side = seen.crops.shape[1:]
    return PixelCNNPP(
        shape=(channels, height, side),
        levels=seen.levels,
        width=width,
        blocks=1,
        components=5,
        dropout=0.0,
    )


def trained(
    seen: Seen, data: Dataset, width: int, minutes: float, run: Path
) -> tuple[bytes, Trial]:
    """Trains a network for some minutes, and rounds its weights as coarsely as pays."""
    model = network(seen, width)
    speed = images_per_second(model, data, minutes, "cpu")
    options = training_options(speed, minutes, data, RATE, "cpu")
    options |= {"valid_every": options["steps"], "patience": None}
    fit(model, data, out=run, device="cpu", **options)
    best: Any = load(run)
    rounded, found = best_rounding(best, seen.crops[:SCORED], None, seen.dims)
    total = found.total(seen.dims) + seen.classical - seen.taken
    return compiled(rounded, seen.sizes), Trial(width, round(total), found)
