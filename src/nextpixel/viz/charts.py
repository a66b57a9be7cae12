"""Charts of training runs and scores."""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nextpixel.errors import UserError
from nextpixel.utils.files import atomic_write
from nextpixel.utils.words import with_error
from nextpixel.viz.images import INK, checked_suffix

__all__ = ["comparison", "confusion_matrix", "loss_curve", "scale", "scatter", "score_histograms"]

# Colours that colour-blind readers can distinguish (Okabe and Ito, 2008), without the palest.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P")


def loss_curve(records: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draws the loss in bits/dim over the training steps.

    Args:
        records: Lines of a run's metrics: `{"step": int, "loss": float}` from training and
            `{"step": int, "valid": float}` for a validation score; other keys are ignored.
        path: Where to write; .png or .svg.

    Raises:
        UserError: If there is nothing to draw, or the suffix is not .png or .svg.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    records = list(records)
    steps, loss = _series(records, "loss")
    valid_steps, valid = _series(records, "valid")
    if not (loss.size or valid.size):
        raise UserError("There is no loss to draw: no record has a step with a loss or a score.")
    figure = Figure(figsize=(6, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if loss.size:
        axes.plot(steps, loss, color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(loss), color="tab:blue", label="training, smoothed")
    if valid.size:
        axes.plot(valid_steps, valid, "o-", color="tab:orange", markersize=4, label="validation")
    axes.set(xlabel="step", ylabel="bits/dim", ylim=_limits(steps, loss, valid_steps, valid))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def scale(scores: Mapping[str, float], path: str | os.PathLike[str]) -> None:
    """Draws bits/dim as bars, the first in the mapping at the top.

    Args:
        scores: Name -> bits/dim; "this model" stands out.
        path: Where to write; .png or .svg.

    Raises:
        UserError: If the suffix is not .png or .svg.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.5 + 0.36 * len(scores)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    colours = ["tab:orange" if name == "this model" else "tab:blue" for name in scores]
    bars = axes.barh(list(scores), list(scores.values()), color=colours, height=0.65)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.invert_yaxis()
    axes.set(xlabel="bits/dim")
    axes.margins(x=0.1)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _save(figure, path)


def comparison(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    scores: Mapping[str, tuple[float, float]],
    path: str | os.PathLike[str],
    *,
    nats: float,
) -> None:
    """Draws the loss of several runs over wall time and over steps, and their test scores.

    Args:
        runs: Label -> lines of the run's metrics, see `loss_curve`, with `"seconds"`; may be empty.
        scores: Label -> (test score in bits/dim, its standard error).
        path: Where to write; .png or .svg.
        nats: Nats per image that equal 1 bit/dim.

    Raises:
        UserError: If the suffix is not .png or .svg.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    looks = dict(zip(scores, zip(cycle(_MARKERS), cycle(_COLOURS), strict=False), strict=False))
    trained = {label: records for label, records in runs.items() if records}
    widths = [1, 1, 0.9] if trained else [1]
    height = max(4.4, 1.6 + 0.45 * len(scores))
    figure = Figure(figsize=(4.9 * sum(widths) + 0.8, height), dpi=150, layout="constrained")
    *curves, last = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for axes, over in zip(curves, ("seconds", "step"), strict=False):
        for label, records in trained.items():
            _draw_run(axes, records, over, label, *looks[label])
        axes.set(ylim=_shared_limits(trained.values()), xlim=(0, None))
    if curves:
        curves[0].set(xlabel="wall time in seconds", ylabel="bits/dim")
        curves[0].set_title("Over time: validation (marks), training (thin)", size=10)
        curves[1].set(xlabel="training steps")
        curves[1].set_title("Over steps: validation (marks), training (thin)", size=10)
        figure.legend(
            *curves[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=min(6, len(trained)),
            frameon=False,
        )
    _draw_scores(last, scores, looks, nats)
    for axes in (*curves, last):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def score_histograms(
    scores: Mapping[str, ArrayLike],
    groups: Mapping[str, ArrayLike],
    path: str | os.PathLike[str],
) -> None:
    """Draws histograms of scores: a panel for each score, a colour for each group of images.

    Args:
        scores: Title -> the score of each image, `(N,)`.
        groups: Name -> True for the images of the group, booleans `(N,)`.
        path: Where to write; .png or .svg.

    Raises:
        UserError: If the suffix is not .png or .svg.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 3.4 * len(scores), 3.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (title, values) in zip(panels, scores.items(), strict=True):
        numbers = np.asarray(values, np.float64)
        edges = np.histogram_bin_edges(numbers, 60)
        for (name, chosen), colour in zip(groups.items(), cycle(_COLOURS), strict=False):
            part = numbers[np.asarray(chosen, bool)]
            weights = np.full(len(part), 1 / max(1, len(part)))  # large and small groups alike
            axes.hist(part, edges, weights=weights, color=colour, alpha=0.55, label=name)
        axes.set(xlabel=f"{title}, bits/dim", yticks=[])
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_ylabel("share of the images")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(groups),
        frameon=False,
    )
    _save(figure, path)


def confusion_matrix(counts: ArrayLike, names: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draws a confusion matrix, coloured by the shares within a row.

    Args:
        counts: Number of images of each true class (row) and predicted class (column), `(K, K)`.
        names: Names of the K classes.
        path: Where to write; .png or .svg.

    Raises:
        UserError: If the suffix is not .png or .svg.
        OSError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    table = np.asarray(counts)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = 1.6 + 0.42 * len(names)
    figure = Figure(figsize=(side, side), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    # The square root makes mistakes visible, which are rare.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    for (true, chosen), count in np.ndenumerate(table):
        colour = "white" if shares[true, chosen] > 0.3 else INK
        if count:
            axes.text(chosen, true, str(count), ha="center", va="center", color=colour, size=8)
    turned = max(map(len, names)) > 3
    axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="true class")
    _save(figure, path)


def scatter(
    points: ArrayLike,
    ids: ArrayLike | None,
    names: Sequence[str] | None,
    path: str | os.PathLike[str],
) -> None:
    """Draws latent codes of two dimensions as points, with a colour for each class.

    Args:
        points: Coordinates, `(N, 2)`.
        ids: The class id of each point, `(N,)`, or None.
        names: The name of each class, or None.
        path: Where to write; .png or .svg.

    Raises:
        UserError: If the suffix is not .png or .svg.
        OSError: If the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    where = np.asarray(points, np.float64)
    classes = np.zeros(len(where), np.int64) if ids is None else np.asarray(ids)
    figure = Figure(figsize=(6.4, 5.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for k in np.unique(classes):
        colour = colormaps["tab10" if classes.max() < 10 else "tab20"](int(k) % 20)
        label = str(k) if names is None else names[k]
        axes.plot(*where[classes == k].T, ".", color=colour, alpha=0.5, markersize=3, label=label)
    axes.set(xlabel="first dimension of the code", ylabel="second dimension of the code")
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    if ids is not None:
        figure.legend(loc="outside right center", frameon=False, markerscale=4)
    _save(figure, path)


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    suffix = checked_suffix(path, (".png", ".svg"))
    with atomic_write(path) as file:
        figure.savefig(file, format=suffix[1:])


def _shared_limits(runs: Iterable[Sequence[Mapping[str, Any]]]) -> tuple[float, float]:
    """Returns limits of the loss axis that fit all runs from their second validation on."""
    values: list[float] = []
    for records in runs:
        _, valid = _series(records, "valid")
        late = valid[1:] if len(valid) > 1 else [*valid, *_smooth(_series(records, "loss")[1])]
        values += [*late]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.2 * (high - low) or 0.1
    return low - margin, high + margin


def _draw_run(axes: Any, records: Any, over: str, label: str, marker: str, colour: str) -> None:
    x, loss = _series(records, "loss", over)
    axes.plot(x, _smooth(loss, 20), color=colour, alpha=0.45, linewidth=1)
    x, valid = _series(records, "valid", over)
    axes.plot(x, valid, marker=marker, color=colour, markersize=5, linewidth=1.6, label=label)


def _draw_scores(
    axes: Any,
    scores: Mapping[str, tuple[float, float]],
    looks: Mapping[str, tuple[str, str]],
    nats: float,
) -> None:
    order = sorted(scores, key=lambda label: -scores[label][0])  # the best at the top
    for y, label in enumerate(order):
        score, error = scores[label]
        marker, colour = looks[label]
        axes.errorbar(
            score, y, xerr=error, fmt=marker, color=colour, markersize=6, capsize=5, linewidth=1.6
        )
        text = with_error(score, error)
        axes.annotate(text, (score, y), (0, 9), textcoords="offset points", ha="center", size=8)
    axes.set_yticks(range(len(order)), order)
    for tick, label in zip(axes.get_yticklabels(), order, strict=True):
        tick.set(color=looks[label][1], fontweight="bold")
    axes.set(xlabel="bits/dim, with standard errors", ylim=(-0.6, len(order) - 0.4))
    axes.margins(x=0.25)
    above = axes.secondary_xaxis("top", functions=(lambda b: b * nats, lambda n: n / nats))
    above.set_xlabel("Test score, nats per image")


def _series(records: Iterable[Mapping[str, Any]], key: str, over: str = "step") -> tuple[Any, Any]:
    """Returns the x coordinates and the finite values of a key of the metrics."""
    points = [(r[over], r[key]) for r in records if r.get(key) is not None and over in r]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _smooth(values: NDArray[np.float64], parts: int = 50) -> NDArray[np.float64]:
    """Averages over `1 / parts` of the curve to either side."""
    i, reach = np.arange(len(values)), len(values) // parts
    # Near the start no further to the right than to the left, because the curve is steep there.
    low, high = np.maximum(i - reach, 0), np.minimum(i + np.minimum(i, reach), len(values) - 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    smoothed: NDArray[np.float64] = (sums[high + 1] - sums[low]) / (high + 1 - low)
    return smoothed


def _limits(steps: Any, loss: Any, valid_steps: Any, valid: Any) -> tuple[float, float]:
    """Returns limits of the loss axis that ignore the first tenth of the steps, a steep fall."""
    start = 0.1 * max(steps.max(initial=0), valid_steps.max(initial=0))
    late, late_valid = loss[steps >= start], valid[valid_steps >= start]
    if len(late) + len(late_valid) < 10:  # a few points are all shown
        late, late_valid = loss, valid
    # All validation scores must be inside, but not every single loss.
    high = max([*late_valid, *([np.percentile(late, 99)] if late.size else [])])
    low = min([*late_valid, *late])
    margin = 0.1 * (high - low) or 0.1
    return float(low - margin), float(high + margin)
