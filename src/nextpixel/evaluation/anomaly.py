"""Scores that tell odd images from ordinary ones, image by image; the larger, the odder.

Plain bits/dim are not enough: simple images are cheap under any model, even under one that has
never seen their like (Nalisnick et al., 2019). Two scores correct for that: by the size that a
lossless codec needs (Serra et al., 2020), and by a background model (Ren et al., 2019).

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nextpixel.data import Images
from nextpixel.data.images import Unsplit
from nextpixel.data.sampler import batches
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import check_images, class_log_probs
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.utils.files import atomic_write
from nextpixel.utils.inference import evaluation_mode

__all__ = [
    "SCORES",
    "auroc",
    "complexity_bits",
    "groups",
    "mixture_bits",
    "named",
    "oddest",
    "read_labels",
    "score_images",
    "table",
    "write_csv",
]

SCORES = ("bits_per_dim", "complexity_score", "likelihood_ratio")
"""The columns to judge by, as far as they were asked for; the larger, the odder."""

KINDS = ("ordinary", "odd")

# PNG and JPEG 2000 as in the paper; WebP in place of its FLIF, which Pillow does not have.
CODECS: tuple[dict[str, Any], ...] = (
    {"format": "PNG", "optimize": True},
    {"format": "WEBP", "lossless": True, "quality": 100, "method": 4},
    {"format": "JPEG2000", "irreversible": False, "no_jp2": True},
)


# --- scores ---------------------------------------------------------------------------------------


@torch.inference_mode()
def score_images(
    model: AutoregressiveModel,
    images: Images,
    *,
    complexity: bool = False,
    background: AutoregressiveModel | None = None,
    batch_size: int = 100,
    progress: Callable[[float], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Scores each image by itself, in the precision of the models' weights, without autocast.

    Args:
        model: The model of ordinary images; a class-conditional one is scored as `mixture_bits`.
        images: The images.
        complexity: Whether to correct the score by the size of the image's file.
        background: A model of what is not worth noticing, to correct the score by.
        batch_size: Images scored together.
        progress: Called with the fraction done, between 0 and 1.

    Returns:
        Columns, a number an image, in bits divided by C H W:

        - `bits_per_dim`, -log2 p(x);
        - `complexity_bits_per_dim`, the size of the file, and `complexity_score`, Serra's S: the
          bits/dim without it;
        - `background_bits_per_dim`, -log2 p(x) under the background model, and `likelihood_ratio`,
          the bits/dim without them: Ren's ratio with its sign turned.

    Raises:
        UserError: The images do not fit a model, or there are none.
    """
    models = {"bits_per_dim": model}
    if background is not None:
        models["background_bits_per_dim"] = background
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in models}
    parts |= {"complexity_bits_per_dim": []} if complexity else {}
    check_context("The model", model, images)
    if background is not None:
        check_context("The background model", background, images)
    dims = math.prod(model.shape)
    for numbers in batches(len(images), batch_size, progress):
        x, _ = images.batch(numbers)
        for name, each in models.items():
            with evaluation_mode(each):
                bits = mixture_bits(each, torch.from_numpy(x).to(each.device))
            parts[name].append(bits.cpu().numpy() / dims)
        if complexity:
            sizes = [complexity_bits(image) / dims for image in x]
            parts["complexity_bits_per_dim"].append(np.array(sizes))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    return with_corrected(columns)


def with_corrected(columns: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Adds the corrected scores, each after the column that it is corrected by."""
    ordered = {"bits_per_dim": columns["bits_per_dim"]}
    for by, score in (
        ("complexity_bits_per_dim", "complexity_score"),
        ("background_bits_per_dim", "likelihood_ratio"),
    ):
        if by in columns:
            ordered |= {by: columns[by], score: columns["bits_per_dim"] - columns[by]}
    return ordered


def check_context(what: str, model: AutoregressiveModel, images: Images) -> None:
    """Checks that a model can score images that bring no context; the classes may be others."""
    if others := [name for name in model.context_spec.parts if name != "classes"]:
        raise UserError(
            f"{what} is conditioned on more ({', '.join(others)}) than images to score bring: give "
            "a model without a context, or of classes alone."
        )
    check_images(what, model, images)
    images.refuse_padding("A score of single images")


def mixture_bits(model: AutoregressiveModel, x: Tensor) -> Tensor:
    """Computes -log2 p(x); with classes, p(x) is the mean of p(x | c) over all of them.

    An odd image has no class of the model's, so that the classes are summed over, each with the
    same p(c) = 1 / classes: -log2 sum_c p(c) p(x | c).

    Args:
        model: The model.
        x: Integers `(B, C, H, W)`.

    Returns:
        Bits an image, `(B,)`, float64.
    """
    if model.classes is None:
        nats = -model.log_prob(x).double()
    else:
        nats = math.log(model.classes) - class_log_probs(model, x).logsumexp(1)
    return nats / math.log(2)


def complexity_bits(x: NDArray[np.uint8]) -> int:
    """Measures the size in bits of the smallest file that holds an image without loss.

    The smallest of PNG, WebP and JPEG 2000 (see `CODECS`), header and all, of the integers as they
    are: fewer levels are not stretched to the 256 of a byte.

    Args:
        x: An image, uint8 `(C, H, W)`, C = 1 or 3.
    """
    picture = Image.fromarray(x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0)))
    sizes = []
    for options in CODECS:
        file = io.BytesIO()
        picture.save(file, **options)
        sizes.append(file.tell())
    return 8 * min(sizes)


def auroc(ordinary: NDArray[np.float64], odd: NDArray[np.float64]) -> tuple[float, float]:
    """Computes the area under the ROC curve, and its standard error.

    The area is the probability that an odd image has a larger score than an ordinary one, where
    equal scores count half: 1 tells all apart, 0.5 is chance, below 0.5 the score is misleading.

    Args:
        ordinary: Scores of ordinary images, `(N,)`, N >= 1.
        odd: Scores of odd images, `(M,)`, M >= 1.

    Returns:
        The area and its standard error, which is NaN where N or M is 1.

    References:
        DeLong, DeLong and Clarke-Pearson: Comparing the Areas under Two or More Correlated Receiver
        Operating Characteristic Curves, 1988: the error.
    """
    above = share_below(odd, ordinary)
    below = 1 - share_below(ordinary, odd)
    if min(len(above), len(below)) < 2:
        return float(above.mean()), math.nan
    variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
    return float(above.mean()), math.sqrt(variance)


def share_below(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes for each value which share of the others is smaller, with equal ones as half."""
    ordered = np.sort(others)
    smaller = np.searchsorted(ordered, values, "left")
    not_larger = np.searchsorted(ordered, values, "right")
    return (smaller + not_larger) / (2 * len(ordered))


# --- files and words ------------------------------------------------------------------------------


def named(found: Sequence[tuple[Unsplit, str]]) -> dict[str, list[Any]]:
    """Makes the columns that say which image is which, before it is scored.

    Args:
        found: Images and what they are, in words; of two such sets, the second is the odd one.

    Returns:
        `data`, what the image is one of; `image`, the file's name or number; `label`, the name of
        its class, if any has one; `odd`, 0 or 1, if there are two sets.
    """
    columns: dict[str, list[Any]] = {"data": [], "image": [], "label": [], "odd": []}
    for odd, (each, what) in enumerate(found):
        count, y, classes = len(each.images), each.images.y, each.class_names
        columns["data"] += [what] * count
        columns["image"] += each.names
        columns["label"] += [""] * count if y is None or not classes else [classes[i] for i in y]
        columns["odd"] += [odd] * count
    if not any(columns["label"]):
        del columns["label"]
    if len(found) == 1:
        del columns["odd"]
    return columns


def groups(columns: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Groups images into ordinary and odd ones, where that is known; else there is one group.

    Args:
        columns: As from `named`, with `odd` from there or from `read_labels`.

    Returns:
        The group's name -> which images are of it, `(N,)`; the odd ones come last.
    """
    what = list(dict.fromkeys(columns["data"]))
    if "odd" not in columns:
        return {what[0]: np.ones(len(columns["data"]), bool)}
    odd = np.asarray(columns["odd"], np.float64)
    names = KINDS if len(what) == 1 else tuple(map(": ".join, zip(KINDS, what, strict=True)))
    return {name: odd == kind for kind, name in enumerate(names)}


def read_labels(path: Path, names: Sequence[str]) -> list[float]:
    """Reads which images are odd from a CSV of two columns: the image, and 1 for odd or 0.

    Args:
        path: The file, with a line of titles or without.
        names: The images' names, as `write_csv` writes them.

    Returns:
        0, 1, or NaN where the file does not name the image; a number a name.

    Raises:
        UserError: It is no such file, or names an image that there is not, or one twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} cannot be read as a CSV file ({error}): give a text file."
        ) from None
    places = {name: i for i, name in enumerate(names)}
    if rows and rows[0][0] not in places and rows[0][-1].strip() not in ("0", "1"):
        rows = rows[1:]  # the titles
    odd, seen = [math.nan] * len(names), set[str]()
    for row in rows:
        if len(row) != 2 or row[1].strip() not in ("0", "1"):
            raise UserError(
                f"{path} has a line {','.join(row)!r}, where an image and 0 or 1 (odd) were "
                "expected: write lines like a.png,1."
            )
        if row[0] in seen:
            raise UserError(f"{path} names the image {row[0]!r} twice: leave one line of it.")
        seen.add(row[0])
        if row[0] not in places:
            raise UserError(
                f"{path} names an image {row[0]!r} that is not among those to score: name them "
                f"as in the scores' column image, for example {names[0]}."
            )
        odd[places[row[0]]] = int(row[1])
    if not {0, 1} <= set(odd):
        raise UserError(f"{path} must name images of both kinds, 0 and 1: an AUROC needs both.")
    return odd


def write_csv(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> None:
    """Writes columns as a CSV file with a line of titles; real numbers to six decimals.

    Args:
        path: The file.
        columns: Title -> a value an image: words, whole numbers, or reals, NaN for none.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        zip(*([cell(value) for value in each] for each in columns.values()), strict=True)
    )
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def cell(value: Any) -> str:
    """Writes a value of the table."""
    if not isinstance(value, float):
        return str(value)
    return "" if math.isnan(value) else f"{value:.6f}"


def table(
    scores: Mapping[str, NDArray[np.float64]], groups: Mapping[str, NDArray[np.bool_]]
) -> str:
    """Writes the means of scores, and with two groups how well a score tells them apart.

    Args:
        scores: Name -> a score an image, `(N,)`.
        groups: As from `groups`.
    """
    rows = [["mean", *groups, *(["AUROC"] if len(groups) == 2 else [])]]
    for name, values in scores.items():
        parts = [values[chosen] for chosen in groups.values()]
        row = [name, *(with_error(part.mean(), standard_error(part)) for part in parts)]
        if len(parts) == 2:
            row.append(with_error(*auroc(parts[0], parts[1])))
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def oddest(scores: Mapping[str, NDArray[np.float64]], names: Sequence[str]) -> str:
    """Writes the five images with the largest scores, a line for each score."""
    lines = []
    for score, values in scores.items():
        first = np.argsort(-values, kind="stable")[:5]
        lines.append(
            f"oddest by {score}: " + ", ".join(f"{names[i]} ({values[i]:.4f})" for i in first)
        )
    return "\n".join(lines)


def standard_error(values: NDArray[np.float64]) -> float:
    """Computes the standard error of a mean, NaN of one value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def with_error(value: float, error: float) -> str:
    """Writes a number with its standard error, if there is one."""
    return f"{value:.4f}" if math.isnan(error) else f"{value:.4f} ± {error:.4f}"
