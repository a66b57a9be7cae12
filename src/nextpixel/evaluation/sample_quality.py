"""Measures the quality of class-conditional samples.

There are three measures, each also computed for real images:

- the accuracy of a classifier that was trained on real images: does it find the intended classes?
- the Frechet distance of its features to those of real images: do samples vary as real images do?
- the distance to the nearest training image: are samples copies?

Example:
    >>> data, generator = npx.load_data("mnist"), npx.LatentGenerator.load("runs/vq-mnist")
    >>> quality = evaluate_samples(generator, data, load_classifier("judge-mnist"), per_class=100)
    >>> print(quality.table())
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
from nextpixel.data.classes import match_classes, translate_ids
from nextpixel.data.levels import level_type
from nextpixel.data.sampler import batches, evenly_spaced
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.errors import UserError
from nextpixel.evaluation.distances import frechet_distance, nearest_neighbours
from nextpixel.evaluation.likelihood import Classification
from nextpixel.latents.generator import LatentGenerator
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.models.base.codebook import CodebookModel
from nextpixel.models.base.image_model import ImageModel
from nextpixel.utils.inference import evaluation_mode
from nextpixel.viz import images as pictures

__all__ = [
    "ImageSetQuality",
    "SampleQuality",
    "classify_images",
    "draw_neighbours",
    "evaluate_samples",
    "griffin_lim_round_trip",
    "name_words",
]

_Floats = NDArray[np.float64]
_Ids = NDArray[np.int64]

BATCH = 100  # images in a pass
CLOSEST = 0.01  # a sample is close if it is nearer than all but this share of the test images
PICTURED = 16  # samples shown with their neighbours, at most
TEST, VALID, TRAIN = "test images", "validation images", "training images"

# Takes the name of the next step and returns a context, whose value is called with the fraction
# done: `utils.progress.progress` is one.
Progress = Callable[[str], AbstractContextManager[Callable[[float], None]]]


@dataclass(frozen=True)
class ImageSetQuality:
    """The measures of one set of images.

    Attributes:
        name: The name of the set.
        images: Number of images.
        accuracy: The share of images that the classifier assigns to their class.
        accuracy_error: Standard error of `accuracy`.
        of_real: The accuracy divided by that of the test images.
        words: The accuracy and its error for each word of the class names, see `name_words`.
        frechet: The classifier Frechet distance to the test images.
        distance: The median distance to the nearest training image, see `nearest_neighbours`; None
            for training images.
        close: The share of images that are nearer to a training image than all but the nearest 1 %
            of the test images; None for training images.
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
class SampleQuality:
    """The measures of samples and, to compare with, of sets of real images.

    Attributes:
        sets: The measures of each set of images; the samples are last.
        frechet_per_class: Images of each class in the Frechet distances.
        samples: The samples and their classes.
        distances: The distance of each sample to its nearest training image, `(N,)`.
        neighbours: The nearest training images, `(N, C, H, W)`.
    """

    sets: list[ImageSetQuality]
    frechet_per_class: int
    samples: Images
    distances: _Floats
    neighbours: NDArray[np.integer[Any]]

    def settings(self) -> dict[str, Any]:
        """Returns the measures as plain data for JSON."""
        return {
            "frechet_images_per_class": self.frechet_per_class,
            "rows": [asdict(measures) for measures in self.sets],
        }

    def table(self) -> str:
        """Writes the measures as a table, with a row for each set of images."""
        words = self.sets[0].words
        rows = [["", "images", "accuracy", "vs. real", *words, "Frechet", "nearest", "close"]]
        rows += [_cells(measures) for measures in self.sets]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        )


def _cells(measures: ImageSetQuality) -> list[str]:
    accuracies = [(measures.accuracy, measures.accuracy_error), *measures.words.values()]
    shares = [f"{100 * share:.2f} ± {100 * error:.2f} %" for share, error in accuracies]
    return [
        measures.name,
        f"{measures.images:,}",
        shares[0],
        f"{100 * measures.of_real:.1f} %",
        *shares[1:],
        f"{measures.frechet:.4f}",
        "-" if measures.distance is None else f"{measures.distance:.2f}",
        "-" if measures.close is None else f"{100 * measures.close:.2f} %",
    ]


# --- the words of classes -------------------------------------------------------------------------


def name_words(class_names: Sequence[str]) -> dict[str, _Ids]:
    """Finds the words that class names share, such as the digit in "3 theo" and "3 lucas".

    Args:
        class_names: The name of each class.

    Returns:
        For each position in the names, labelled by its first and last word, the number of each
        class's word. Empty if the names have one word, or different numbers of words.
    """
    split = [name.split() for name in class_names]
    if len({len(name) for name in split}) != 1 or len(split[0]) < 2:
        return {}
    positions = {}
    for column in zip(*split, strict=True):
        distinct = list(dict.fromkeys(column))
        if 1 < len(distinct) < len(column):
            number = np.array([distinct.index(word) for word in column])
            positions[f"{distinct[0]}..{distinct[-1]}"] = number
    return positions


# --- the sets of images ---------------------------------------------------------------------------


def griffin_lim_round_trip(
    spectrogram: Spectrogram, images: Images, progress: Callable[[float], None] | None = None
) -> Images:
    """Turns spectrograms into sounds and back, which leaves what can be heard of them.

    Args:
        spectrogram: The settings of the spectrograms.
        images: The spectrograms; where `rows` is not known, a sound ends at the last row above
            level 0.
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
    """Reconstructs images from their codes, by the rounded mean of each pixel.

    Padding stays padding.
    """
    parts = []
    for numbers in batches(len(images), BATCH):
        padding = images.padding(numbers)
        x = torch.from_numpy(images.x[numbers]).to(model.device)
        mask = None if padding is None else torch.tensor(padding, device=model.device)
        with torch.inference_mode(), evaluation_mode(model) as network:
            codes = network.codes_of_unknown(x, mask)
        shown = model.picture(codes).round().numpy()
        parts.append(shown if padding is None else np.where(padding, 0, shown))
        if progress is not None:
            progress((numbers[-1] + 1) / len(images))
    return replace(images, x=np.concatenate(parts).astype(level_type(images.levels)))


def balanced(images: Images, per_class: int) -> _Ids:
    """Chooses the same number of images of each class, spread evenly, sorted by class."""
    y = _class_ids(images)
    members = [np.flatnonzero(y == c) for c in range(int(y.max()) + 1)]
    return np.concatenate([numbers[evenly_spaced(len(numbers), per_class)] for numbers in members])


def _class_ids(images: Images) -> _Ids:
    if images.y is None or not len(images):
        raise UserError("Samples are evaluated by their classes: give data with classes.")
    return images.y


def _select(images: Images, numbers: _Ids) -> Images:
    """Copies some images; those of a redrawn split are drawn once."""
    x, y = images.batch(numbers)
    rows = None if images.rows is None else images.rows[numbers]
    return Images(x.astype(level_type(images.levels)), y, images.levels, rows=rows)


# --- the evaluation -------------------------------------------------------------------------------


def evaluate_samples(
    generator: LatentGenerator | ImageModel,
    data: Dataset,
    classifier: Classifier,
    *,
    per_class: int = 100,
    limit: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    guidance: float = 1.0,
    progress: Progress = lambda _: nullcontext(lambda _: None),
) -> SampleQuality:
    """Evaluates class-conditional samples of a model, along with real images and reconstructions.

    Spectrograms are evaluated after Griffin-Lim, see `griffin_lim_round_trip`.

    Args:
        generator: A VQ-VAE with its prior, or any class-conditional model of images.
        data: The data set that it was trained on.
        classifier: A classifier trained on real images of this data set.
        per_class: Samples of each class.
        limit: The number of test images to evaluate, spread evenly over all; all by default.
        seed: Seed of the samples.
        temperature: Of the samples, see `sampling.sample`.
        guidance: Of the samples, see `sampling.sample`. Only with 1 for both are they the model's.
        progress: See `Progress`.

    Raises:
        UserError: The generator or the classifier does not fit the data, a class is missing, or
            guidance is not 1 and the generator no autoregressive model.
    """
    _check_fit("model", generator, data)
    _check_fit("classifier", classifier, data)
    how: dict[str, Any] = {"seed": seed, "temperature": temperature}
    if guidance != 1:
        if not isinstance(generator, AutoregressiveModel):
            raise UserError(
                f"Guidance is for models of pixels, not for a {type(generator).__name__}: leave it "
                "out."
            )
        how["guidance"] = guidance
    test, valid, train = (
        _select(split, np.arange(len(split)))
        for split in (data.test.subset(limit), data.valid, data.train)
    )
    matched = min(per_class, *(_smallest_class(split, data) for split in (test, valid, train)))
    sets = {
        TEST: test,
        VALID: _select(valid, balanced(valid, matched)),
        TRAIN: _select(train, balanced(train, matched)),
    }
    generated = {}
    if isinstance(generator, LatentGenerator):
        with progress("reconstructing") as show:
            generated["reconstructions"] = reconstruct(generator.decoder, test, show)
    with progress("sampling") as show:
        generated["samples"] = _sample(generator, data, per_class, how | {"progress": show})
    if data.spectrogram is None:
        sets |= generated
    else:
        for name, images in {TEST: test, **generated}.items():
            with progress(f"{name} as sounds") as show:
                heard = griffin_lim_round_trip(data.spectrogram, images, show)
            sets[f"{name} by Griffin-Lim"] = heard
    distances, neighbours = {}, {}
    for name in sets.keys() - {TRAIN}:
        with progress(f"neighbours of {name}") as show:
            distances[name], neighbours[name] = nearest_neighbours(sets[name], train, show)
    measures = _measure(sets, distances, classifier, data, matched)
    last = list(sets)[-1]
    return SampleQuality(measures, matched, sets[last], distances[last], train.x[neighbours[last]])


def _measure(
    sets: dict[str, Images],
    distances: dict[str, _Floats],
    classifier: Classifier,
    data: Dataset,
    matched: int,
) -> list[ImageSetQuality]:
    """Measures each set of images against the test images, `sets[TEST]`, which come first."""
    closest = float(np.quantile(distances[TEST], CLOSEST))
    words = name_words(data.class_names or ())
    order = match_classes(data.test.class_names, classifier.class_names, data.name)
    features = {
        name: _embeddings(classifier, _select(images, balanced(images, matched)))
        for name, images in sets.items()
    }
    measures: list[ImageSetQuality] = []
    for name, images in sets.items():
        whole, by_word = classify_images(classifier, images, words, order)
        real = measures[0].accuracy if measures else whole.accuracy
        if not real:
            raise UserError("The classifier finds the class of no test image: train it for longer.")
        nearest = distances.get(name)
        measures.append(
            ImageSetQuality(
                name=name,
                images=len(images),
                accuracy=whole.accuracy,
                accuracy_error=whole.accuracy_error,
                of_real=whole.accuracy / real,
                words={
                    word: (result.accuracy, result.accuracy_error)
                    for word, result in by_word.items()
                },
                frechet=frechet_distance(features[name], features[TEST]),
                distance=None if nearest is None else float(np.median(nearest)),
                close=None if nearest is None else float((nearest < closest).mean()),
            )
        )
    return measures


def _check_fit(name: str, model: LatentGenerator | ImageModel | Classifier, data: Dataset) -> None:
    """Checks that a model or a classifier has the shape, levels and classes of a data set."""
    if data.classes is None:
        raise UserError(
            f"Samples are evaluated by their classes, and {data.name} has none: give other data."
        )
    actual, expected = ((x.shape, x.levels, x.classes or "no") for x in (model, data))
    if actual != expected:
        raise UserError(
            "The {} is for images {} with {} levels and {} classes".format(name, *actual)
            + ", but {} has {}, {} and {}: all three must agree.".format(data.name, *expected)
        )


def _smallest_class(images: Images, data: Dataset) -> int:
    """Returns the number of images of the class that has the fewest."""
    counts = np.bincount(_class_ids(images), minlength=data.classes or 0)
    if not counts.min():
        raise UserError(
            f"Every split needs an image of class {(data.class_names or ())[counts.argmin()]}, but "
            f"one of {data.name} has none: raise the limit or leave it out, or give more data."
        )
    return int(counts.min())


def _sample(
    generator: LatentGenerator | ImageModel,
    data: Dataset,
    per_class: int,
    how: dict[str, Any],
) -> Images:
    """Draws the same number of samples of each class, the classes in turn."""
    y = np.tile(np.arange(data.classes or 0), per_class)
    c = translate_ids(y, data.test.class_names, generator.data_record.class_names, data.name)
    x = generator.sample(len(y), torch.from_numpy(c), **how)
    return Images(x.numpy().astype(level_type(data.levels)), y, data.levels)


@torch.inference_mode()
def classify_images(
    classifier: Classifier, images: Images, words: dict[str, _Ids], order: _Ids | None = None
) -> tuple[Classification, dict[str, Classification]]:
    """Classifies images by their class, and by each word of the class names.

    Args:
        classifier: The classifier.
        images: The images, with their true classes.
        words: As from `name_words`; a word's probability is that of all classes with this word.
        order: The classifier's id of each class id of the images; None if they are the same.

    Returns:
        The classification by class, and the classifications by word.
    """
    with evaluation_mode(classifier) as network:
        logits = torch.cat([network(x).cpu() for x in _tensors(classifier, images)])
    logits = logits if order is None else logits[:, torch.from_numpy(order)]
    probabilities, y = logits.double().softmax(1).numpy(), _class_ids(images)
    by_word = {}
    for word, number in words.items():
        summed = probabilities @ np.eye(number.max() + 1)[number]
        by_word[word] = Classification.of(number[y], summed.argmax(1), summed.shape[1])
    return Classification.of(y, probabilities.argmax(1), classifier.classes), by_word


@torch.inference_mode()
def _embeddings(classifier: Classifier, images: Images) -> _Floats:
    with evaluation_mode(classifier) as network:
        parts = [network.features(x, "embedding").cpu() for x in _tensors(classifier, images)]
    return torch.cat(parts).double().numpy()


def _tensors(classifier: Classifier, images: Images) -> Iterator[torch.Tensor]:
    for numbers in batches(len(images), BATCH):
        yield torch.from_numpy(images.x[numbers]).to(classifier.device)


def draw_neighbours(quality: SampleQuality, data: Dataset) -> Image.Image:
    """Lays out, for each class, the sample nearest to a training image, next to that image.

    Rows are labelled with the class and the distance. At most `PICTURED` classes are shown, spread
    evenly.
    """
    names, y = data.class_names or (), _class_ids(quality.samples)
    order = np.argsort(quality.distances, kind="stable")
    nearest = np.unique(y[order], return_index=True)[1]  # of each class
    shown = order[nearest][evenly_spaced(len(nearest), PICTURED)]
    columns = {
        "sample": quality.samples.x[shown],
        "nearest training image": quality.neighbours[shown],
    }
    if data.spectrogram is not None:
        columns = {caption: pictures.upright(x) for caption, x in columns.items()}
    labels = [f"{names[y[i]]}: {quality.distances[i]:.1f}" for i in shown]
    return pictures.side_by_side(columns, data.levels, row_labels=labels)
