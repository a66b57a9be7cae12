"""Measures a model: its score, its sampling speed and its receptive field."""

from __future__ import annotations

import copy
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextpixel import sampling
from nextpixel.comparison.contenders import Contender
from nextpixel.conditioning.regions import half_mask
from nextpixel.context import ContextLike
from nextpixel.data import Dataset, Images
from nextpixel.data.sampler import evenly_spaced
from nextpixel.evaluation import receptive_field as fields
from nextpixel.evaluation.likelihood import Score, evaluate
from nextpixel.models.base.autoregressive import AutoregressiveModel, CausalNetwork
from nextpixel.nn import Cache, Site
from nextpixel.sampling.config import site_noise
from nextpixel.saving import model_name
from nextpixel.utils.progress import progress
from nextpixel.utils.reading import mapping, read_regular, read_yaml, refusing_damage

__all__ = [
    "FIELD_IMAGES",
    "NAIVE_SITES",
    "Result",
    "cached_seconds",
    "complete",
    "measure",
    "naive_seconds",
    "numbers_to_complete",
    "read_config",
    "read_metrics",
    "receptive_field",
    "refusing_damaged",
]

NAIVE_SITES = 8  # sites at which a full pass is timed
FIELD_IMAGES = 16  # a ReLU that is dead for one image is alive for another
COMPLETIONS = 10  # test images to complete


@dataclass(frozen=True)
class Result:
    """The measurements of one model.

    Attributes:
        label: Its name in the table.
        source: The recipe, kind of model or folder that it was made from.
        model: The name of its class.
        conditional: Whether it is conditioned on the class.
        loaded: Whether it was loaded, not trained.
        parameters: Number of parameters.
        batch_size: Images per training step, on each device. This and the next three are None where
            no training run is found.
        steps: Training steps.
        seconds: Wall time of training: steps, validations and checkpoints.
        images_per_second: Median over the training steps.
        score: The score of the test images.
        naive: Seconds per sample with one full forward pass per site.
        cached: Seconds per sample with the cached path; None where the model has none.
        seen: Number of sites in the central site's receptive field; None where it cannot be
            computed.
        earlier: Number of sites before the central one.
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
        """Number of training images over all steps; repeated images count each time."""
        if self.steps is None or self.batch_size is None:
            return None
        return self.steps * self.batch_size


def refusing_damaged(file: Path) -> AbstractContextManager[None]:
    """Turns errors in reading a file of a comparison into a `UserError`."""
    return refusing_damage(file, "file of a comparison", "take another copy, or another --out")


def read_config(run: Path) -> dict[str, Any]:
    """Reads the configuration of a training run."""
    file = run / "config.yaml"
    with refusing_damaged(file):
        config = mapping(read_yaml(file))
        config["train"] = mapping(config["train"])
        int(config["train"]["batch_size"])
    return config


def read_metrics(run: Path | None) -> list[dict[str, float]]:
    """Reads the metrics of a training run; an incomplete last line is skipped."""
    if run is None:
        return []
    file = run / "metrics.jsonl"
    with refusing_damaged(file):
        lines = read_regular(file).decode("utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


# --- measuring ------------------------------------------------------------------------------------


def measure(
    contender: Contender,
    model: AutoregressiveModel,
    dataset: Dataset,
    batch_size: int,
) -> Result:
    """Measures a trained model.

    Args:
        contender: Where the model comes from.
        model: The model.
        dataset: The data set, whose test images are scored.
        batch_size: Images sampled together when sampling is timed.
    """
    label, run = contender.label, contender.run_folder()
    metrics = read_metrics(run)
    with progress(f"{label}: scoring") as show:
        score = evaluate(model, dataset.test, progress=show)
    with progress(f"{label}: sampling by full passes") as show:
        naive = naive_seconds(model, batch_size, show)
    with progress(f"{label}: sampling by the cached path") as show:
        cached = cached_seconds(model, batch_size, show)
    x, conditioning = model.inputs(dataset.test, evenly_spaced(len(dataset.test), FIELD_IMAGES))
    seen, earlier = receptive_field(model, x, conditioning.context)
    last = metrics[-1] if metrics else {}
    return Result(
        label=label,
        source=contender.source,
        model=model_name(type(model)),
        conditional=model.classes is not None,
        loaded=contender.recipe is None,
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
    """Makes the context of n samples: the classes in turn, or None."""
    if model.classes is None:
        return None
    trained = torch.tensor(model.data_record.trained(model.classes))
    return trained[torch.arange(n) % len(trained)]


@torch.inference_mode()
def naive_seconds(model: AutoregressiveModel, n: int, show: Callable[[float], None]) -> float:
    """Times sampling with one full forward pass per site.

    A pass takes the same time at every site, so a few are timed and their mean is scaled up.

    Args:
        model: The model.
        n: Images sampled together.
        show: Called with the fraction done, between 0 and 1.

    Returns:
        Seconds per sample.
    """
    sites = list(sampling.sites(model.shape))
    timed = sites[:: math.ceil(len(sites) / NAIVE_SITES)]
    x = torch.zeros(n, *model.shape, dtype=torch.int64, device=model.device)
    noise = site_noise(model.shape, 0, range(n)).to(model.device)
    cache = Cache(context=model.context(classes_in_turn(model, n), n))
    began = 0.0
    for done, site in enumerate([sites[0], *timed]):  # the first pass is not timed
        at_site = (slice(None), site.channel, site.row, site.col)
        drawn = AutoregressiveModel.step(model, x, site, cache).sample(noise[at_site])
        x[at_site] = drawn
        drawn.cpu()  # waits for the device
        began = began or time.perf_counter()
        show(done / len(timed))
    return (time.perf_counter() - began) / len(timed) * len(sites) / n


def cached_seconds(
    model: AutoregressiveModel, n: int, show: Callable[[float], None]
) -> float | None:
    """Times the model's own sampling.

    Args:
        model: The model.
        n: Images sampled together.
        show: Called with the fraction done, between 0 and 1.

    Returns:
        Seconds per sample, or None where the model samples by full passes anyway.
    """
    if not model.has_cached_path:
        return None
    c = classes_in_turn(model, n)
    for _ in itertools.islice(sampling.trace(model, n, c), 2):
        pass  # the first steps are slower than the rest
    began = time.perf_counter()
    model.sample(n, c, batch_size=n, progress=show)
    return (time.perf_counter() - began) / n


def receptive_field(
    model: AutoregressiveModel, x: Tensor, c: ContextLike = None
) -> tuple[int | None, int]:
    """Counts the sites in the receptive field of the central site, by the Jacobian in float64.

    A site is outside where the derivative is exactly zero for all images.

    Args:
        model: The model.
        x: Images, integers `(N, C, H, W)`; the union over them counts.
        c: Their context.

    Returns:
        The number of sites in the field, None where the model has no `encode`; and the number of
        all sites before the central one.
    """
    channels, height, width = model.shape
    row, col, channel = height // 2, width // 2, channels // 2
    earlier = (row * width + col) * channels + channel
    if not isinstance(model, CausalNetwork):
        return None, earlier
    network = copy.deepcopy(model).double().requires_grad_(False)
    field = fields.receptive_field(network, Site(row, col, channel), x, c)
    return int(field.movedim(0, 2).flatten()[:earlier].sum()), earlier


def complete(model: AutoregressiveModel, test: Images) -> Tensor:
    """Completes the lower halves of some test images, see `numbers_to_complete`."""
    x, conditioning = model.inputs(test, numbers_to_complete(test))
    mask = half_mask("top", *model.shape[1:])
    with progress("completing") as show:
        return sampling.complete(model, x, mask, conditioning.context, seed=1, progress=show)


def numbers_to_complete(test: Images) -> np.ndarray:
    """Chooses the test images to complete: the first of each class, or spread evenly."""
    if test.y is None:
        last, count = len(test) - 1, min(COMPLETIONS, len(test))
        return np.linspace(0, last, count).round().astype(np.int64)
    return np.unique(test.y, return_index=True)[1][:COMPLETIONS]
