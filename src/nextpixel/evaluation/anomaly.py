"""Computes anomaly scores of single images; a larger score is more anomalous.

Bits/dim alone are not enough: simple images have low bits/dim under any model, even one that was
trained on none like them (Nalisnick et al., 2019). Two scores correct for that: by the size of a
lossless file (Serra et al., 2020), and by a background model (Ren et al., 2019). Each fails on some
data; the combined score of `evaluation.typicality` compares with ordinary images instead.

References:
    Nalisnick et al.: Do Deep Generative Models Know What They Don't Know?, 2019
    (https://arxiv.org/abs/1810.09136).
    Serra et al.: Input Complexity and Out-of-distribution Detection with Likelihood-based
    Generative Models, 2020 (https://arxiv.org/abs/1909.11480).
    Ren et al.: Likelihood Ratios for Out-of-Distribution Detection, 2019
    (https://arxiv.org/abs/1906.02845).
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel.data import Images
from nextpixel.data.images import Unsplit
from nextpixel.data.pictures import ImagesLike
from nextpixel.data.sampler import batches
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import as_split, check_images, class_log_probs, standard_error
from nextpixel.evaluation.scale import FILES, file_bits
from nextpixel.evaluation.typicality import ORDINARY_IMAGES, Ordinary, image_features
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.utils.files import atomic_write
from nextpixel.utils.inference import evaluation_mode
from nextpixel.utils.reading import read_text, refusing_damage
from nextpixel.utils.words import with_error

__all__ = [
    "SCORES",
    "auroc",
    "complexity_bits",
    "fit_ordinary",
    "groups",
    "image_columns",
    "mixture_bits",
    "most_anomalous",
    "primary",
    "read_labels",
    "score_images",
    "site_bits",
    "table",
    "write_csv",
]

SCORES = ("bits_per_dim", "complexity_score", "likelihood_ratio", "combined_score")
"""The columns that are anomaly scores."""

PREFERRED = ("combined_score", "complexity_score", "likelihood_ratio", "bits_per_dim")

GROUPS = ("normal", "anomalous")

# PNG and JPEG 2000 as in the paper; WebP in place of FLIF, which Pillow does not have.
CODECS: tuple[dict[str, Any], ...] = (
    *FILES.values(),
    {"format": "JPEG2000", "irreversible": False, "no_jp2": True},
)


# --- scores ---------------------------------------------------------------------------------------


@torch.inference_mode()
def score_images(
    model: AutoregressiveModel,
    images: Images | ImagesLike,
    *,
    complexity: bool = False,
    background: AutoregressiveModel | None = None,
    ordinary: Ordinary | None = None,
    batch_size: int = 100,
    progress: Callable[[float], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Scores each image, in the precision of the models' weights, without autocast.

    Args:
        model: The model of normal images; see `mixture_bits` for a class-conditional one.
        images: The images: a split of a data set; or pictures, see `nextpixel.to_images`.
        complexity: Whether to correct the score by the size of a lossless file.
        background: A background model to correct the score by, see `TrainArgs.mutate`.
        ordinary: Ordinary images to compare with, as from `fit_ordinary`.
        batch_size: Images scored together.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        Columns with a number for each image, in bits divided by C H W:

        - `bits_per_dim`, -log2 p(x);
        - `complexity_bits_per_dim`, the size of the file, and `complexity_score`, the bits/dim
          minus this size: S in Serra et al.;
        - `background_bits_per_dim`, -log2 p(x) under the background model, and `likelihood_ratio`,
          the bits/dim minus these: the ratio of Ren et al. with the opposite sign;
        - `combined_score`, the distance to ordinary images, see `Ordinary.scores`; not in bits.

    Raises:
        UserError: The images do not fit a model, or there are none.
    """
    images = as_split(model, images)
    models = {"bits_per_dim": model}
    if background is not None:
        models["background_bits_per_dim"] = background
    parts: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
    check_context("The model", model, images)
    if background is not None:
        check_context("The background model", background, images)
    dims = math.prod(model.shape)
    for numbers in batches(len(images), batch_size, progress):
        x, _ = images.batch(numbers)
        for name, scorer in models.items():
            with evaluation_mode(scorer) as network:
                bits = mixture_bits(network, torch.from_numpy(x).to(scorer.device))
            parts[name].append(bits.cpu().numpy() / dims)
        if complexity or ordinary is not None:
            sizes = file_sizes(x)
        if complexity:
            parts["complexity_bits_per_dim"].append(sizes)
        if ordinary is not None:
            parts["combined_score"].append(ordinary.scores(features_of(model, x, sizes)))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    return with_corrected(columns)


@torch.inference_mode()
def fit_ordinary(
    model: AutoregressiveModel,
    images: Images,
    *,
    batch_size: int = 100,
    progress: Callable[[float], None] | None = None,
) -> Ordinary:
    """Describes ordinary images that the model was not trained on, to compare others with them.

    Args:
        model: The model of ordinary images.
        images: Ordinary images, better validation images than training images, 500 or more.
        batch_size: Images scored together.
        progress: Called with the fraction done, between 0 and 1.

    Raises:
        UserError: The images do not fit the model, or there are fewer than 20.
    """
    check_context("The model", model, images)
    _, channels, height, width = images.x.shape
    if channels not in (1, 3) or min(height, width) < 2 or images.levels > 256:
        raise UserError(
            "The combined score is for grey or colour pictures of at least 2 x 2 pixels, and these "
            f"are {channels} x {height} x {width} with {images.levels} levels: leave it out."
        )
    images = images.subset(ORDINARY_IMAGES)
    features = []
    for numbers in batches(len(images), batch_size, progress):
        x, _ = images.batch(numbers)
        features.append(features_of(model, x, file_sizes(x)))
    return Ordinary(np.concatenate(features))


def file_sizes(x: NDArray[Any]) -> NDArray[np.float64]:
    """Computes `complexity_bits` of images `(B, C, H, W)`, in bits/dim, `(B,)`."""
    return np.array([complexity_bits(image) / image.size for image in x])


def features_of(
    model: AutoregressiveModel, x: NDArray[Any], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Describes images `(B, C, H, W)` for the combined score, see `image_features`."""
    with evaluation_mode(model) as network:
        bits = site_bits(network, torch.from_numpy(x).to(model.device)).mean(1).cpu().numpy()
    return image_features(x, bits, sizes)


def site_bits(model: AutoregressiveModel, x: Tensor) -> Tensor:
    """Computes the bits of each site, which add up to `mixture_bits`.

    Args:
        model: The model.
        x: Integers `(B, C, H, W)`.

    Returns:
        `-log2 p(x_i | x_1 .. x_{i-1})`, `(B, C, H, W)`, float64. A class-conditional model is a
        mixture of its classes, which the sites before tell apart better and better.
    """
    if model.classes is None:
        bits: Tensor = model(x).log_prob(x).double() / -math.log(2)
        return bits
    contexts = [model.context(c, len(x)) for c in range(model.classes)]
    logs = torch.stack([model(x, c).log_prob(x).double() for c in contexts])
    order = logs.permute(0, 1, 3, 4, 2)  # the channels of a pixel come together
    until = order.flatten(2).cumsum(2).logsumexp(0) - math.log(model.classes)
    nats = torch.diff(until, prepend=torch.zeros_like(until[:, :1])).view(order.shape[1:])
    return nats.permute(0, 3, 1, 2) / -math.log(2)


def with_corrected(columns: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Adds the corrected scores, each after the correction it uses."""
    ordered = {"bits_per_dim": columns["bits_per_dim"]}
    for correction, score in (
        ("complexity_bits_per_dim", "complexity_score"),
        ("background_bits_per_dim", "likelihood_ratio"),
    ):
        if correction in columns:
            corrected = columns["bits_per_dim"] - columns[correction]
            ordered |= {correction: columns[correction], score: corrected}
    if "combined_score" in columns:
        ordered["combined_score"] = columns["combined_score"]
    return ordered


def primary(scores: Mapping[str, NDArray[np.float64]]) -> str:
    """Returns the name of the score to rely on most, among those that there are."""
    return next(name for name in PREFERRED if name in scores)


def check_context(name: str, model: AutoregressiveModel, images: Images) -> None:
    """Checks that a model can score images without a context; their classes may differ.

    Args:
        name: The model's name for the message, at the beginning of a sentence.
        model: The model.
        images: The images.

    Raises:
        UserError: It cannot.
    """
    if others := [part for part in model.context_spec.parts if part != "classes"]:
        raise UserError(
            f"{name} needs a context ({', '.join(others)}) that images to score do not have: give "
            "an unconditional or a class-conditional model."
        )
    check_images(name, model, images)
    images.refuse_padding("A score of single images")


def mixture_bits(model: AutoregressiveModel, x: Tensor) -> Tensor:
    """Computes -log2 p(x), where a class-conditional model is a mixture of its classes.

    An anomalous image has none of the model's classes, so they are summed out with the uniform
    prior p(c) = 1 / classes: -log2 sum_c p(c) p(x | c).

    Args:
        model: The model.
        x: Integers `(B, C, H, W)`.

    Returns:
        Bits per image, `(B,)`, float64.
    """
    if model.classes is None:
        nats = -model.log_prob(x).double()
    else:
        nats = math.log(model.classes) - class_log_probs(model, x).logsumexp(1)
    return nats / math.log(2)


def complexity_bits(x: NDArray[np.uint8]) -> int:
    """Computes the size in bits of an image's smallest lossless file, headers included.

    The formats are PNG, WebP and JPEG 2000, see `CODECS`. The levels are stored as they are, not
    stretched to the 256 of a byte.

    Args:
        x: An image, uint8 `(C, H, W)`, C = 1 or 3.
    """
    return min(file_bits(x, options) for options in CODECS)


def auroc(normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> tuple[float, float]:
    """Computes the area under the ROC curve, and its standard error.

    The area is the probability that an anomalous image has a larger score than a normal one, where
    equal scores count half: 1 separates all, 0.5 is chance, below 0.5 the score is misleading.

    Args:
        normal: Scores of normal images, `(N,)`, N >= 1.
        anomalous: Scores of anomalous images, `(M,)`, M >= 1.

    Returns:
        The area and its standard error, which is NaN where N or M is 1.

    References:
        DeLong, DeLong and Clarke-Pearson: Comparing the Areas under Two or More Correlated Receiver
        Operating Characteristic Curves, 1988: the standard error.
    """
    above = share_below(anomalous, normal)
    below = 1 - share_below(normal, anomalous)
    if min(len(above), len(below)) < 2:
        return float(above.mean()), math.nan
    variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
    return float(above.mean()), math.sqrt(variance)


def share_below(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes for each value the share of others that are smaller; equal ones count half."""
    ordered = np.sort(others)
    smaller = np.searchsorted(ordered, values, "left")
    not_larger = np.searchsorted(ordered, values, "right")
    return (smaller + not_larger) / (2 * len(ordered))


# --- tables ---------------------------------------------------------------------------------------


def image_columns(sets: Sequence[tuple[Unsplit, str]]) -> dict[str, list[Any]]:
    """Makes the columns that identify images.

    Args:
        sets: One set of images with its name, or two: normal images and anomalous ones.

    Returns:
        `data`, the name of the set; `image`, the file's name or number; `label`, the name of the
        class, if any image has one; `anomaly`, 0 or 1, if there are two sets.
    """
    columns: dict[str, list[Any]] = {"data": [], "image": [], "label": [], "anomaly": []}
    for anomaly, (unsplit, name) in enumerate(sets):
        count, y, classes = len(unsplit.images), unsplit.images.y, unsplit.class_names
        columns["data"] += [name] * count
        columns["image"] += unsplit.names
        columns["label"] += [""] * count if y is None or not classes else [classes[i] for i in y]
        columns["anomaly"] += [anomaly] * count
    if not any(columns["label"]):
        del columns["label"]
    if len(sets) == 1:
        del columns["anomaly"]
    return columns


def groups(columns: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Groups images into normal and anomalous ones, or into one group if nothing is known.

    Args:
        columns: As from `image_columns`; `anomaly` may also be from `read_labels`.

    Returns:
        The group's name -> booleans, `(N,)`; anomalous images come last.
    """
    sets = list(dict.fromkeys(columns["data"]))
    if "anomaly" not in columns:
        return {sets[0]: np.ones(len(columns["data"]), bool)}
    anomaly = np.asarray(columns["anomaly"], np.float64)
    names = GROUPS if len(sets) == 1 else tuple(map(": ".join, zip(GROUPS, sets, strict=True)))
    return {name: anomaly == value for value, name in enumerate(names)}


def read_labels(path: Path, names: Sequence[str]) -> list[float]:
    """Reads labels from a CSV of two columns: the image, and 1 for anomalous or 0 for normal.

    Args:
        path: The file, with or without a header.
        names: The images' names, as `write_csv` writes them.

    Returns:
        For each name 0, 1, or NaN where the file does not list the image.

    Raises:
        UserError: It is not such a file, or it lists an unknown image, or one twice.
    """
    with refusing_damage(path, "CSV file", "give another"):
        text = read_text(path).removeprefix("\ufeff")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    places = {name: i for i, name in enumerate(names)}
    if rows and rows[0][0] not in places and rows[0][-1].strip() not in ("0", "1"):
        rows = rows[1:]  # the header
    labels, seen = [math.nan] * len(names), set[str]()
    for row in rows:
        if len(row) != 2 or row[1].strip() not in ("0", "1"):
            raise UserError(
                f"{path} has a line {','.join(row)!r}: write an image and 0 (normal) or 1 "
                "(anomalous), for example a.png,1."
            )
        if row[0] in seen:
            raise UserError(f"{path} names the image {row[0]!r} twice: keep one of the lines.")
        seen.add(row[0])
        if row[0] not in places:
            raise UserError(
                f"{path} names an image {row[0]!r} that is not among those to score: name them "
                f"as in the scores' column image, for example {names[0]}."
            )
        labels[places[row[0]]] = int(row[1])
    if not {0, 1} <= set(labels):
        raise UserError(f"{path} must name images of both kinds, 0 and 1: an AUROC needs both.")
    return labels


def write_csv(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
    """Writes columns as a CSV file with a header; floats have six decimals.

    Args:
        path: The file.
        columns: Title -> a value for each image: text, integers or floats; NaN is left empty.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        zip(*([cell(value) for value in column] for column in columns.values()), strict=True)
    )
    with atomic_write(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))  # paths as they are


def cell(value: Any) -> str:
    """Formats a value of the CSV file."""
    if not isinstance(value, float):
        return str(value)
    return "" if math.isnan(value) else f"{value:.6f}"


def table(
    scores: Mapping[str, NDArray[np.float64]], groups: Mapping[str, NDArray[np.bool_]]
) -> str:
    """Writes the mean scores of each group and, for two groups, the AUROC of each score.

    Args:
        scores: Name -> a score for each image, `(N,)`.
        groups: As from `groups`.
    """
    rows = [["mean", *groups, *(["AUROC"] if len(groups) == 2 else [])]]
    for name, values in scores.items():
        parts = [values[members] for members in groups.values()]
        row = [name, *(with_error(part.mean(), standard_error(part)) for part in parts)]
        if len(parts) == 2:
            row.append(with_error(*auroc(parts[0], parts[1])))
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def most_anomalous(scores: Mapping[str, NDArray[np.float64]], names: Sequence[str]) -> str:
    """Writes the five images with the largest scores, a line for each score."""
    lines = []
    for score, values in scores.items():
        largest = np.argsort(-values, kind="stable")[:5]
        images = ", ".join(f"{names[i]} ({values[i]:.4f})" for i in largest)
        lines.append(f"most anomalous by {score}: {images}")
    return "\n".join(lines)
