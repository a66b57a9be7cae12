"""Measures a model: its score, its speed, its receptive field."""

from __future__ import annotations

import copy
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from nextpixel import sampling
from nextpixel.comparison.contenders import Contender
from nextpixel.conditioning.regions import half_mask
from nextpixel.data import Dataset, Images
from nextpixel.data.images import spread
from nextpixel.errors import UserError
from nextpixel.evaluation import receptive_field as fields
from nextpixel.evaluation.likelihood import Score, evaluate
from nextpixel.models.base.autoregressive import AutoregressiveModel, CausalNetwork
from nextpixel.nn import Cache, Site
from nextpixel.sampling.config import site_noise
from nextpixel.saving import model_name
from nextpixel.utils.progress import progress

__all__ = [
    "FIELD_IMAGES",
    "NAIVE_SITES",
    "Result",
    "cached_seconds",
    "complete",
    "measure",
    "naive_seconds",
    "read_config",
    "read_metrics",
    "reading",
    "receptive_field",
    "shown",
]

NAIVE_SITES = 8  # at which full passes are timed
FIELD_IMAGES = 16  # units that are dead for one image are alive for another
DIGITS = 10  # images to complete


@dataclass(frozen=True)
class Result:
    """What a model is, what it took, and what it can do.

    Attributes:
        label: Its name in the table.
        source: What it was made from.
        model: The class.
        conditional: Whether it is given the class.
        loaded: Whether it was loaded and not trained.
        parameters: Number of parameters.
        batch_size: Images a training step, on each device; None where it is not known, as the next
            three.
        steps: Training steps.
        seconds: Wall time of training: steps, validations and saving.
        images_per_second: Median over the training steps.
        score: On the test images.
        naive: Seconds a sample by full passes.
        cached: Seconds a sample by the cached path; None where the model has none.
        seen: Earlier sites that influence the central one; None where it cannot be told.
        earlier: All sites before the central one.
    """

    label: str
    source: str
    model: str
    conditional: bool
    loaded: bool
    parameters: int
    batch_size: int | None
    steps: int | None
    seconds: float | None
    images_per_second: float | None
    score: Score
    naive: float
    cached: float | None
    seen: int | None
    earlier: int

    @property
    def images_seen(self) -> int | None:
        """How many images it was trained on, each counted as often as it came."""
        if self.steps is None or self.batch_size is None:
            return None
        return self.steps * self.batch_size


@contextmanager
def reading(file: Path) -> Iterator[str]:
    """Yields the text of a file, and says in a sentence where it is not what was written."""
    try:
        yield file.read_text()
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        raise UserError(
            f"{file} is damaged: take another copy of it, or give another --out."
        ) from None


def read_config(run: Path) -> dict[str, Any]:
    """Reads the configuration of a run."""
    with reading(run / "config.yaml") as text:
        config = dict(yaml.safe_load(text))
        config["train"] = dict(config["train"])
        int(config["train"]["batch_size"])
    return config


def read_metrics(run: Path | None) -> list[dict[str, float]]:
    """Reads a run's metrics; a line that is being written is left out."""
    if run is None:
        return []
    with reading(run / "metrics.jsonl") as text:
        lines = text.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


# --- measuring ------------------------------------------------------------------------------------


def measure(
    contender: Contender,
    model: AutoregressiveModel,
    dataset: Dataset,
    batch_size: int,
) -> Result:
    """Measures a trained model."""
    label, run = contender.label, contender.run()
    metrics = read_metrics(run)
    with progress(f"{label}: scoring") as show:
        score = evaluate(model, dataset.test, progress=show)
    with progress(f"{label}: drawing by full passes") as show:
        naive = naive_seconds(model, batch_size, show)
    with progress(f"{label}: drawing by the cached path") as show:
        cached = cached_seconds(model, batch_size, show)
    x, given = model.inputs(dataset.test, spread(len(dataset.test), FIELD_IMAGES))
    seen, earlier = receptive_field(model, x, given.context)
    last = metrics[-1] if metrics else {}
    return Result(
        label=label,
        source=contender.source,
        model=model_name(type(model)),
        conditional=model.classes is not None,
        loaded=contender.settings is None,
        parameters=sum(p.numel() for p in model.parameters()),
        batch_size=read_config(run)["train"]["batch_size"] if run else None,
        steps=int(last["step"]) if last else None,
        seconds=last.get("seconds"),
        images_per_second=(
            statistics.median(line["images_per_second"] for line in metrics) if metrics else None
        ),
        score=score,
        naive=naive,
        cached=cached,
        seen=seen,
        earlier=earlier,
    )


def classes_in_turn(model: AutoregressiveModel, n: int) -> Tensor | None:
    """Makes the context to draw n images with."""
    return None if model.classes is None else torch.arange(n) % model.classes


@torch.inference_mode()
def naive_seconds(model: AutoregressiveModel, n: int, show: Callable[[float], None]) -> float:
    """Times sampling by a full pass for every site, in seconds a sample of n drawn together.

    A full pass costs the same at every site, so a few of them are timed, and the mean is scaled up.
    """
    every = list(sampling.sites(model.shape))
    chosen = every[:: math.ceil(len(every) / NAIVE_SITES)]
    x = torch.zeros(n, *model.shape, dtype=torch.int64, device=model.device)
    noise = site_noise(model.shape, 0, range(n)).to(model.device)
    cache = Cache(context=model.context(classes_in_turn(model, n), n))
    began = 0.0
    for done, site in enumerate([every[0], *chosen]):  # the first one is not counted
        at_site = (slice(None), site.channel, site.row, site.col)
        drawn = AutoregressiveModel.step(model, x, site, cache).sample(noise[at_site])
        x[at_site] = drawn
        drawn.cpu()  # waits for the device
        began = began or time.perf_counter()
        show(done / len(chosen))
    return (time.perf_counter() - began) / len(chosen) * len(every) / n


def cached_seconds(
    model: AutoregressiveModel, n: int, show: Callable[[float], None]
) -> float | None:
    """Times the model's own sampling, in seconds a sample of n drawn together."""
    if not model.has_cached_path:
        return None  # it draws by full passes
    c = classes_in_turn(model, n)
    for _ in itertools.islice(sampling.trace(model, n, c), 2):
        pass  # the first steps are slower than the rest
    began = time.perf_counter()
    model.sample(n, c, batch_size=n, progress=show)
    return (time.perf_counter() - began) / n


def receptive_field(
    model: AutoregressiveModel, x: Tensor, c: object = None
) -> tuple[int | None, int]:
    """Counts the earlier sites that influence the central one, by the Jacobian in float64.

    Where a derivative is exactly zero for all images given, the site is outside of the field.

    Args:
        model: The model.
        x: Images, integers `(N, C, H, W)`; the union over them counts.
        c: Their context.

    Returns:
        The number of sites seen, None where the model has no `encode`, and that of all sites
        before the central one.
    """
    channels, height, width = model.shape
    row, col, channel = height // 2, width // 2, channels // 2
    earlier = (row * width + col) * channels + channel
    if not isinstance(model, CausalNetwork):
        return None, earlier
    network = copy.deepcopy(model).double().requires_grad_(False)
    seen = fields.receptive_field(network, Site(row, col, channel), x, c)
    return int(seen.movedim(0, 2).flatten()[:earlier].sum()), earlier


def complete(model: AutoregressiveModel, test: Images) -> Tensor:
    """Completes test images of which the lower half is hidden."""
    x, given = model.inputs(test, shown(test))
    with progress("completing") as show:
        known = half_mask("top", *model.shape[1:])
        return sampling.complete(model, x, known, given.context, seed=1, progress=show)


def shown(test: Images) -> np.ndarray:
    """Picks the images to complete: the first of each class, or evenly among all."""
    if test.y is None:
        return np.linspace(0, len(test) - 1, min(DIGITS, len(test))).round().astype(np.int64)
    return np.unique(test.y, return_index=True)[1][:DIGITS]
