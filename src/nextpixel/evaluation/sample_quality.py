"""How good conditional samples are: by a classifier of real images, and by their neighbours.

A judge is a classifier (`nextpixel.conditioning.classifier`) that was trained on real images alone.
Three questions are asked of a set of images: does it find the classes that were asked for, do its
features of them vary as those of real images do, and are they copies of training images?

Example:
    >>> data, generator = npx.load_data("mnist"), npx.LatentGenerator.load("runs/vq-mnist")
    >>> judgement = judge_samples(generator, data, load_classifier("judge-mnist"), each=100)
    >>> print(judgement.table())
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from nextpixel.conditioning.classifier import Classifier
from nextpixel.data import Dataset, Images
from nextpixel.data.images import batches, level_type, spread
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import Classification, judge
from nextpixel.latents.generator import LatentGenerator
from nextpixel.models.base.codebook import CodebookModel
from nextpixel.models.base.image_model import ImageModel
from nextpixel.utils.inference import evaluation_mode
from nextpixel.viz import images as pictures

__all__ = [
    "Judgement",
    "Verdict",
    "classified",
    "draw_neighbours",
    "frechet_distance",
    "judge_samples",
    "nearest",
    "through_sound",
    "words",
]

_Floats = NDArray[np.float64]
_Ids = NDArray[np.int64]

BATCH = 100  # images at a time
CLOSEST = 0.01  # samples are counted that are nearer than this share of the test images
PICTURED = 16  # samples beside their neighbours, at most
TEST, VALID, TRAIN = "test images", "validation images", "training images"

# From what is done next, in a word, to what is told the fraction done: as
# `utils.progress.progress`.
Progress = Callable[[str], AbstractContextManager[Callable[[float], None]]]


@dataclass(frozen=True)
class Verdict:
    """What is found out about one set of images.

    Attributes:
        name: What they are.
        images: How many there are.
        accuracy: The part of them that the judge takes for what they are meant to be.
        accuracy_error: Its standard error.
        of_real: The accuracy divided by that of the test images.
        words: The accuracy and its error of each word of the classes' names, see `words`.
        frechet: The classifier Frechet distance to the test images.
        distance: The median distance to the nearest training image, see `nearest`; None for
            training images.
        close: The part that is nearer to a training image than all but the nearest 1 % of the test
            images are; None likewise.
    """

    name: str
    images: int
    accuracy: float
    accuracy_error: float
    of_real: float
    words: dict[str, tuple[float, float]]
    frechet: float
    distance: float | None = None
    close: float | None = None


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is found out about the samples, beside the same about real images.

    Attributes:
        verdicts: A set of images each; the last one is that of the samples.
        each: Images of each class whose features are compared by the Frechet distance.
        samples: The samples and their classes.
        distances: Of each sample to the nearest training image, `(N,)`.
        neighbours: That training image, `(N, C, H, W)`.
    """

    verdicts: list[Verdict]
    each: int
    samples: Images
    distances: _Floats
    neighbours: NDArray[np.integer[Any]]

    def settings(self) -> dict[str, Any]:
        """Returns the numbers, as JSON holds them."""
        return {
            "frechet_images_per_class": self.each,
            "rows": [asdict(verdict) for verdict in self.verdicts],
        }

    def table(self) -> str:
        """Writes the numbers, a row a set of images."""
        shared = self.verdicts[0].words
        rows = [["", "images", "accuracy", "of real's", *shared, "Frechet", "nearest", "close"]]
        rows += [_cells(verdict) for verdict in self.verdicts]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        )


def _cells(verdict: Verdict) -> list[str]:
    accuracies = [(verdict.accuracy, verdict.accuracy_error), *verdict.words.values()]
    shares = [f"{100 * share:.2f} ± {100 * error:.2f} %" for share, error in accuracies]
    return [
        verdict.name,
        f"{verdict.images:,}",
        shares[0],
        f"{100 * verdict.of_real:.1f} %",
        *shares[1:],
        f"{verdict.frechet:.4f}",
        "-" if verdict.distance is None else f"{verdict.distance:.2f}",
        "-" if verdict.close is None else f"{100 * verdict.close:.2f} %",
    ]


# --- the three measures ---------------------------------------------------------------------------


def frechet_distance(a: _Floats, b: _Floats) -> float:
    """Computes the squared Frechet distance between Gaussians fitted to two sets of features.

    `|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`, m being the means and S the covariances
    (divided by N - 1). It is biased: the fewer there are, the larger it is, also between sets of
    the same kind. Only distances of as many features each can be compared.

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
            f"A Frechet distance is between sets of 2 images or more, not {len(a)} and {len(b)}."
        )
    covariances = [np.atleast_2d(np.cov(x.astype(np.float64), rowvar=False)) for x in (a, b)]
    # The eigenvalues of S_a S_b are those of the symmetric S_a^(1/2) S_b S_a^(1/2).
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)
    spread = np.trace(covariances[0] + covariances[1]) - 2 * np.sqrt(shared).sum()
    apart = np.square(a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)).sum()
    return max(0.0, float(apart + spread))


def nearest(
    images: Images, train: Images, progress: Callable[[float], None] | None = None
) -> tuple[_Floats, _Ids]:
    """Finds the nearest training image of each image.

    The distance of two images is the root of the mean squared difference of their levels, over the
    rows that are real in either of them; padding is of level 0 there, as it is everywhere.

    Args:
        images: The images, N.
        train: Where to look for neighbours.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        The distances, in levels, `(N,)`, and the neighbours' numbers in `train`, `(N,)`.
    """
    # Sums of squared levels are integers, which float64 adds up exactly.
    others = torch.from_numpy(train.x.reshape(len(train), -1).astype(np.float64))
    lengths, sites = others.square().sum(1), torch.from_numpy(train.sites())
    least, chosen = [], []
    for numbers in batches(len(images), BATCH):
        x = torch.from_numpy(images.x[numbers].reshape(len(numbers), -1).astype(np.float64))
        squares = x.square().sum(1)[:, None] + lengths - 2 * x @ others.T
        of_either = torch.maximum(torch.from_numpy(images.sites()[numbers])[:, None], sites)
        found = (squares / of_either).min(1)
        least.append(found.values.sqrt().numpy())
        chosen.append(found.indices.numpy())
        if progress is not None:
            progress((numbers[-1] + 1) / len(images))
    return np.concatenate(least), np.concatenate(chosen)


def words(class_names: Sequence[str]) -> dict[str, _Ids]:
    """Finds the words that names of classes share, as "3 theo" and "3 lucas" do.

    Args:
        class_names: A name for each class.

    Returns:
        For each place of a word, described by its first and last word, the word's number for each
        class; nothing where names have one word, or not all as many.
    """
    split = [name.split() for name in class_names]
    if len({len(name) for name in split}) != 1 or len(split[0]) < 2:
        return {}
    places = {}
    for column in zip(*split, strict=True):
        distinct = list(dict.fromkeys(column))
        if 1 < len(distinct) < len(column):
            number = np.array([distinct.index(word) for word in column])
            places[f"{distinct[0]}..{distinct[-1]}"] = number
    return places


# --- the sets of images ---------------------------------------------------------------------------


def through_sound(
    spectrogram: Spectrogram, images: Images, progress: Callable[[float], None] | None = None
) -> Images:
    """Turns spectrograms into sounds, and these into spectrograms again: what can be heard of them.

    Args:
        spectrogram: How sounds become images.
        images: Images of sounds; where the real rows are not known, a sound ends at the last row
            above level 0.
        progress: Called with the fraction done, between 0 and 1.
    """
    x, rows = np.empty_like(images.x), np.empty(len(images), np.int64)
    for i, image in enumerate(images.x):
        wave = spectrogram.synthesise(image, None if images.rows is None else int(images.rows[i]))
        x[i], rows[i] = spectrogram.analyse(wave)
        if progress is not None:
            progress((i + 1) / len(x))
    return replace(images, x=x, rows=rows)


def reconstruct(
    model: CodebookModel, images: Images, progress: Callable[[float], None] | None = None
) -> Images:
    """Shows what is left of images in their codes: the mean of each pixel, rounded.

    Padding stays padding.
    """
    parts = []
    for numbers in batches(len(images), BATCH):
        padding = images.padding(numbers)
        x = torch.from_numpy(images.x[numbers]).to(model.device)
        mask = None if padding is None else torch.tensor(padding, device=model.device)
        with torch.inference_mode(), evaluation_mode(model):
            codes = model.codes_of_unknown(x, mask)
        shown = model.picture(codes).round().numpy()
        parts.append(shown if padding is None else np.where(padding, 0, shown))
        if progress is not None:
            progress((numbers[-1] + 1) / len(images))
    return replace(images, x=np.concatenate(parts).astype(level_type(images.levels)))


def balanced(images: Images, each: int) -> _Ids:
    """Chooses as many images of each class, spread evenly over all of it, class by class."""
    y = _classes_of(images)
    of_class = [np.flatnonzero(y == c) for c in range(int(y.max()) + 1)]
    return np.concatenate([found[spread(len(found), each)] for found in of_class])


def _classes_of(images: Images) -> _Ids:
    if images.y is None or not len(images):
        raise UserError("Samples are judged by their classes: give data that have some.")
    return images.y


def _take(images: Images, numbers: _Ids) -> Images:
    """Takes some images; of a redrawn split with one draw of their bits."""
    x, y = images.batch(numbers)
    rows = None if images.rows is None else images.rows[numbers]
    return Images(x.astype(level_type(images.levels)), y, images.levels, rows=rows)


# --- all together ---------------------------------------------------------------------------------


def judge_samples(
    generator: LatentGenerator | ImageModel,
    data: Dataset,
    classifier: Classifier,
    *,
    each: int = 100,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = lambda _: nullcontext(lambda _: None),
) -> Judgement:
    """Judges conditional samples of a generator, beside real images and reconstructions.

    Of sounds it is judged what can be heard: spectrograms become sounds, and these spectrograms
    again.

    Args:
        generator: A VQ-VAE with its prior, or any model that draws images of a class.
        data: The images that it learned from.
        classifier: The judge, trained on real images of these data.
        each: Samples of each class.
        limit: Judge only so many test images, spread evenly over all.
        seed: Of the samples.
        progress: See `Progress`.

    Raises:
        UserError: Generator, data and judge do not belong together, or some class is missing.
    """
    _check("model", generator, data)
    _check("judge", classifier, data)
    test, valid, train = (
        _settled(split) for split in (data.test.spread(limit), data.valid, data.train)
    )
    matched = min(each, *(_rarest(split, data) for split in (test, valid, train)))
    sets = {
        TEST: test,
        VALID: _take(valid, balanced(valid, matched)),
        TRAIN: _take(train, balanced(train, matched)),
    }
    made = {}
    if data.spectrogram is not None:
        made[TEST] = test
    if isinstance(generator, LatentGenerator):
        with progress("reconstructing") as show:
            made["reconstructions"] = reconstruct(generator.decoder, test, show)
    with progress("drawing") as show:
        made["samples"] = _draw(generator, data, each, seed, show)
    for name, images in made.items():
        if data.spectrogram is None:
            sets[name] = images
        else:
            with progress(f"{name} as sounds") as show:
                sets[f"{name} by Griffin-Lim"] = through_sound(data.spectrogram, images, show)
    neighbours = {}
    for name in sets.keys() - {TRAIN}:
        with progress(f"neighbours of {name}") as show:
            neighbours[name] = nearest(sets[name], train, show)
    verdicts = _verdicts(
        sets, {name: found[0] for name, found in neighbours.items()}, classifier, data, matched
    )
    last = list(sets)[-1]
    distances, chosen = neighbours[last]
    return Judgement(verdicts, matched, sets[last], distances, train.x[chosen])


def _verdicts(
    sets: dict[str, Images],
    distances: dict[str, _Floats],
    classifier: Classifier,
    data: Dataset,
    matched: int,
) -> list[Verdict]:
    """Compares sets of images with that of the test images, `sets[TEST]`."""
    closest = float(np.quantile(distances[TEST], CLOSEST))
    shared = words(data.class_names or ())
    features = {
        name: _embeddings(classifier, _take(images, balanced(images, matched)))
        for name, images in sets.items()
    }
    verdicts: list[Verdict] = []
    for name, images in sets.items():
        whole, by_word = classified(classifier, images, shared)
        real = verdicts[0].accuracy if verdicts else whole.accuracy
        if not real:
            raise UserError("The judge knows the class of no test image: train it for longer.")
        found = distances.get(name)
        verdicts.append(
            Verdict(
                name=name,
                images=len(images),
                accuracy=whole.accuracy,
                accuracy_error=whole.accuracy_error,
                of_real=whole.accuracy / real,
                words={word: (one.accuracy, one.accuracy_error) for word, one in by_word.items()},
                frechet=frechet_distance(features[name], features[TEST]),
                distance=None if found is None else float(np.median(found)),
                close=None if found is None else float((found < closest).mean()),
            )
        )
    return verdicts


def _check(what: str, given: LatentGenerator | ImageModel | Classifier, data: Dataset) -> None:
    """Makes sure that a model or judge is one of such images and classes."""
    if data.classes is None:
        raise UserError(f"Samples are judged by their classes, and {data.name} has none.")
    its, wanted = ((x.shape, x.levels, x.classes or "no") for x in (given, data))
    if its != wanted:
        raise UserError(
            "The {} is for images {} with {} levels and {} classes".format(what, *its)
            + ", but {} has {}, {} and {}: all three must agree.".format(data.name, *wanted)
        )


def _settled(images: Images) -> Images:
    """Copies images; of a redrawn split it takes one draw of the bits."""
    return _take(images, np.arange(len(images)))


def _rarest(images: Images, data: Dataset) -> int:
    """Counts the images of the class that has the fewest."""
    counts = np.bincount(_classes_of(images), minlength=data.classes or 0)
    if not counts.min():
        missing = (data.class_names or ())[counts.argmin()]
        raise UserError(
            f"Every class needs an image in every split, but one of {data.name} has none of class "
            f"{missing}: raise the limit or leave it out, or give more data."
        )
    return int(counts.min())


def _draw(
    generator: LatentGenerator | ImageModel,
    data: Dataset,
    each: int,
    seed: int,
    progress: Callable[[float], None],
) -> Images:
    """Draws as many images of each class, the classes in turn."""
    y = np.tile(np.arange(data.classes or 0), each)
    x = generator.sample(len(y), torch.from_numpy(y), seed=seed, progress=progress)
    return Images(x.numpy().astype(level_type(data.levels)), y, data.levels)


@torch.inference_mode()
def classified(
    classifier: Classifier, images: Images, shared: dict[str, _Ids]
) -> tuple[Classification, dict[str, Classification]]:
    """Classifies images, and finds each word of the classes' names, see `words`.

    A word's probability is that of all classes with it.
    """
    with evaluation_mode(classifier):
        logits = torch.cat([classifier(x).cpu() for x in _tensors(classifier, images)])
    probabilities, y = logits.double().softmax(1).numpy(), _classes_of(images)
    by_word = {}
    for word, number in shared.items():
        of_word = probabilities @ np.eye(number.max() + 1)[number]
        by_word[word] = judge(number[y], of_word.argmax(1), of_word.shape[1])
    return judge(y, probabilities.argmax(1), classifier.classes), by_word


@torch.inference_mode()
def _embeddings(classifier: Classifier, images: Images) -> _Floats:
    with evaluation_mode(classifier):
        parts = [classifier.features(x, "embedding").cpu() for x in _tensors(classifier, images)]
    return torch.cat(parts).double().numpy()


def _tensors(classifier: Classifier, images: Images) -> Iterator[torch.Tensor]:
    for numbers in batches(len(images), BATCH):
        yield torch.from_numpy(images.x[numbers]).to(classifier.device)


def draw_neighbours(judgement: Judgement, data: Dataset) -> Image.Image:
    """Lays out the sample of each class that is nearest to a training image, beside that image.

    A row says the class that was asked for, and the distance, see `nearest`. Of more classes than
    `PICTURED` some are shown, spread evenly.
    """
    names, y = data.class_names or (), _classes_of(judgement.samples)
    order = np.argsort(judgement.distances, kind="stable")
    first = np.unique(y[order], return_index=True)[1]  # of each class
    shown = order[first][spread(len(first), PICTURED)]
    columns = {
        "sample": judgement.samples.x[shown],
        "nearest training image": judgement.neighbours[shown],
    }
    if data.spectrogram is not None:
        columns = {caption: pictures.upright(x) for caption, x in columns.items()}
    labels = [f"{names[y[i]]}: {judgement.distances[i]:.1f}" for i in shown]
    return pictures.side_by_side(columns, data.levels, row_labels=labels)
