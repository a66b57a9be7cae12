"""Chooses a model and training options for a data set and the time there is, by measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import evaluate
from nextpixel.evaluation.scale import bits_on_scale
from nextpixel.model_folders import shipped
from nextpixel.models import PixelCNNPP
from nextpixel.models.base.image_model import ImageModel, load
from nextpixel.training.config import TrainArgs
from nextpixel.training.estimate import measure
from nextpixel.training.fine_tuning import copy_weights
from nextpixel.utils.devices import find_device

__all__ = ["Plan", "choose", "choose_threads"]

WIDTHS = (16, 24, 32, 48, 64)  # of PixelCNN++ with one block per stage
SMALL_BATCH = 4  # on a CPU: more steps are worth more than exact gradients in short runs
BATCH = 16  # on a GPU, where 16 images take as long as 4
WANTED = 25_000  # images that a model should see; a wider model that sees fewer is worse
SCORED = 64  # validation images on which a pretrained model is tried
SPARE = 16  # times as many steps as are expected, so that the time ends the run
VALIDATED_SHARE = 0.05  # images validated, as a share of those trained on


@dataclass(frozen=True)
class Plan:
    """What to train.

    Attributes:
        model: The model, with its first weights.
        options: Fields of `TrainArgs`.
        speed: Images a second.
        reason: Why this one, in a sentence.
        start: The pretrained model whose weights it has, or None.
    """

    model: ImageModel
    options: dict[str, Any]
    speed: float
    reason: str
    start: str | None = None


def choose(
    data: Dataset, minutes: float, device: str = "auto", say: Callable[[str], None] = print
) -> Plan:
    """Chooses a pretrained model to train on, or the widest PixelCNN++ that learns in time.

    A pretrained model of the same shape fits if it predicts validation images in fewer bits than
    PNG needs for them. Otherwise the choice is the widest PixelCNN++ that sees WANTED images.

    Args:
        data: The data set.
        minutes: Training time.
        device: See `nextpixel.fit`.
        say: Called with what is being measured.
    """
    plan = pretrained(data, minutes, device, say)
    if plan is not None:
        return plan
    chosen: tuple[ImageModel, int, float] | None = None
    for width in WIDTHS:
        model: ImageModel = new_model(data, width)
        speed = images_per_second(model, data, minutes, device)
        say(f"  PixelCNN++ of width {width}: {speed:.0f} images/s")
        seen = 60 * minutes * speed
        if chosen is not None and seen < WANTED:
            break
        chosen = model, width, speed
    assert chosen is not None
    model, width, speed = chosen
    reason = (
        f"the widest PixelCNN++ that sees {WANTED:,} images in {minutes:.1f} minutes"
        if 60 * minutes * speed >= WANTED
        else f"the smallest PixelCNN++; in {minutes:.1f} minutes it sees "
        f"{60 * minutes * speed:,.0f} images, and {WANTED:,} would be better"
    )
    rate = 4e-3 if width < 48 else 3e-3
    return Plan(model, training_options(speed, minutes, data, rate, device), speed, reason)


def new_model(data: Dataset, width: int) -> PixelCNNPP:
    """Makes a PixelCNN++ for a data set."""
    torch.manual_seed(0)
    return PixelCNNPP(
        shape=data.shape,
        levels=data.levels,
        classes=data.classes,
        width=width,
        blocks=1,
        components=5,
        dropout=0.1 if len(data.train) < 10_000 else 0.0,
    )


def choose_threads(data: Dataset, minutes: float) -> int:
    """Sets the number of threads: all, or one if other programs make these wait for each other.

    Returns:
        The number.
    """
    model, speeds = new_model(data, WIDTHS[0]), {}
    for threads in dict.fromkeys((torch.get_num_threads(), 1)):
        torch.set_num_threads(threads)
        speeds[threads] = images_per_second(model, data, minutes, "cpu")
    fastest = max(speeds, key=lambda threads: speeds[threads])
    torch.set_num_threads(fastest)
    return fastest


def pretrained(
    data: Dataset, minutes: float, device: str, say: Callable[[str], None]
) -> Plan | None:
    """Finds a pretrained model that already predicts these images better than simple methods do."""
    scale = bits_on_scale(data.valid, data.train, limit=SCORED)
    simple = min(scale.values())
    best: tuple[float, str, ImageModel] | None = None
    for name in shipped():
        source = load(name)
        fits = source.shape == data.shape and source.levels == data.levels
        if not fits or source.role != "sample" or "png" not in scale:
            continue
        decided = {"shape", "levels", "classes"}
        arguments = {k: v for k, v in source.hyperparameters.items() if k not in decided}
        torch.manual_seed(0)
        try:
            model = type(source)(
                shape=data.shape, levels=data.levels, classes=data.classes, **arguments
            )
            copy_weights(model, source, None if data.unnamed else data.class_names)
        except UserError:  # for one, it needs classes, and the data have none
            continue
        bits = evaluate(model, data.valid, limit=SCORED).bits_per_dim
        say(f"  {name}, as it is: {bits:.2f} bits/dim; the best simple method: {simple:.2f}")
        if bits < simple and (best is None or bits < best[0]):
            best = bits, name, model
    if best is None:
        return None
    bits, name, model = best
    speed = images_per_second(model, data, minutes, device)
    reason = f"the pretrained {name}, which predicts these pictures better than PNG and WebP"
    return Plan(model, training_options(speed, minutes, data, 1e-3, device), speed, reason, name)


def batch_size(device: str) -> int:
    """Returns the images of a step, which are few on a CPU."""
    return SMALL_BATCH if find_device(device).type == "cpu" else BATCH


def images_per_second(model: ImageModel, data: Dataset, minutes: float, device: str) -> float:
    """Measures training."""
    args = TrainArgs(batch_size=batch_size(device), minutes=minutes)
    return args.batch_size / measure(model, data, args, device).step_seconds


def training_options(
    speed: float, minutes: float, data: Dataset, lr: float, device: str
) -> dict[str, Any]:
    """Returns options for `fit` with which a run ends on time.

    The time ends it, also where the machine becomes faster than it was when it was measured.
    """
    batch = batch_size(device)
    steps = max(10, int(60 * minutes * speed / batch))
    validations = int(np.clip(minutes, 2, 10))  # each also draws a preview, which takes seconds
    wanted = int(VALIDATED_SHARE * steps * batch / validations)
    return {
        "steps": SPARE * steps,
        "minutes": _short(minutes),
        "batch_size": batch,
        "lr": lr,
        "warmup": max(1, min(200, steps // 20)),
        "ema": _short(float(np.clip(1 - 20 / steps, 0.9, 0.999))),
        "valid_every": -(-steps // validations),
        "valid_images": min(len(data.valid), int(np.clip(wanted, 16, 500))),
        "patience": 4,
        "save_minutes": _short(min(1.0, minutes / 5)),
    }


def _short(value: float) -> float:
    """Rounds to three digits, so that the command is short."""
    return float(f"{value:.3g}")
