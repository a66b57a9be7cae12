"""Writes a comparison as a page: its table, curves and completions."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextpixel.comparison.contenders import VALID_IMAGES, VALIDATIONS, Budget, Contender
from nextpixel.comparison.measure import (
    FIELD_IMAGES,
    NAIVE_SITES,
    Result,
    numbers_to_complete,
    read_metrics,
)
from nextpixel.conditioning.regions import half_mask
from nextpixel.data import Dataset
from nextpixel.utils.files import replace_file
from nextpixel.utils.machine import machine
from nextpixel.utils.words import with_error
from nextpixel.viz import charts
from nextpixel.viz import images as pictures

__all__ = ["number", "table", "write"]

FIRST = ("PixelCNN", "GatedPixelCNN")  # adjacent in the picture, to show the blind spot


# --- writing --------------------------------------------------------------------------------------


def write(
    results: Sequence[Result],
    contenders: Sequence[Contender],
    completed: Mapping[str, Tensor],
    dataset: Dataset,
    budget: Budget,
    batch_size: int,
    out: Path,
    command: str,
) -> None:
    """Writes the page, the numbers and the pictures into a folder.

    Args:
        results: The measurements, one for each contender.
        contenders: The models compared.
        completed: Label -> its completions, integers `(N, C, H, W)`.
        dataset: The data set.
        budget: The training budget.
        batch_size: Images sampled together when sampling was timed.
        out: The folder.
        command: The command line, for the record.
    """
    charts.comparison(
        {contender.label: read_metrics(contender.run_folder()) for contender in contenders},
        {r.label: (r.score.bits_per_dim, r.score.bits_per_dim_error) for r in results},
        out / "compare.png",
        nats=math.prod(dataset.shape) * math.log(2),
    )
    pictures.save_image(completions(results, completed, dataset), out / "completions.png")
    about = {
        "command": command,
        "data": dataset.name,
        "levels": dataset.levels,
        "source": dataset.source,
        "budget": asdict(budget),
        "sampling_batch_size": batch_size,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
    }
    numbers = json.dumps({**about, "models": [asdict(r) for r in results]}, indent=2)
    # The standard error of a single image's score is NaN, which JSON cannot hold.
    replace_file(out / "compare.json", (re.sub(r"\bNaN\b", "null", numbers) + "\n").encode())
    page = markdown(results, about, str(budget))
    replace_file(out / "compare.md", page.encode(errors="replace"))


def completions(
    results: Sequence[Result], completed: Mapping[str, Tensor], dataset: Dataset
) -> Image.Image:
    """Lays out the completions: the originals, their known halves, and a row for each model."""
    x = torch.from_numpy(dataset.test.batch(numbers_to_complete(dataset.test))[0])
    mask = half_mask("top", *dataset.shape[1:])
    rows = {
        "original": pictures.to_uint8(x, dataset.levels),
        "given": pictures.tint_unknown(x, mask, dataset.levels),
    }
    order = sorted(results, key=lambda r: FIRST.index(r.model) if r.model in FIRST else len(FIRST))
    for result in order:
        rows[result.label] = pictures.to_uint8(completed[result.label], dataset.levels)
    pixels = [np.broadcast_to(row, (len(x), 3, *x.shape[2:])) for row in rows.values()]
    return pictures.grid(np.concatenate(pixels), 256, columns=len(x), row_labels=list(rows))


COLUMNS = (
    "model",
    "kind",
    "parameters",
    "training images/s",
    "steps",
    "images seen",
    "wall s",
    "test nats",
    "bits/dim",
    "naive s/sample",
    "cached s/sample",
    "speed-up",
    "field",
)


def table(results: Sequence[Result]) -> str:
    """Writes the results as an aligned Markdown table."""
    rows = [COLUMNS, *map(cells, results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    left = 2  # left-aligned columns; numbers are right-aligned
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(pairs)]
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def cells(result: Result) -> tuple[str, ...]:
    """Formats a result as a row of the table."""
    r, score = result, result.score
    steps = "" if r.steps is None else f"{r.steps:,} x {r.batch_size}"
    return (
        r.label,
        r.model + (", given class" if r.conditional else ""),
        f"{r.parameters:,}",
        number(r.images_per_second),
        f"{steps} (loaded)".strip() if r.loaded else steps,
        "-" if r.images_seen is None else f"{r.images_seen:,}",
        number(r.seconds),
        with_error(score.nats, score.nats_error, 2),
        with_error(score.bits_per_dim, score.bits_per_dim_error),
        number(r.naive),
        number(r.cached),
        "-" if r.cached is None else f"{number(r.naive / r.cached)}x",
        "-" if r.seen is None else f"{r.seen / max(1, r.earlier):.1%}",
    )


def number(value: float | None) -> str:
    """Formats a number with at least three digits, and None as a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def markdown(results: Sequence[Result], about: Mapping[str, Any], budget: str) -> str:
    """Writes the page in Markdown: the table, its columns explained, pictures and conditions."""
    images = results[0].score.images
    all_loaded = all(result.loaded for result in results)
    training = "Trained before" if all_loaded else f"Trained for an equal budget each ({budget})"
    return f"""# Comparison on {about["data"]}

{training}, scored on {images:,} test images.

{table(results)}

- **steps**: optimizer steps x images per step; **images seen** is the product. An equal number of
  steps is not an equal number of images: recipes with a larger batch see more of them. A model
  marked as loaded was trained before, with a budget of its own, counted here for one device. A
  budget in seconds is turned into steps by timing the first few; it covers the steps alone, while
  **wall s** also includes validation and checkpoints.
- **test nats**, **bits/dim**: mean of -log p and its standard error over the images. All models
  score the same images, so their differences are more certain than these errors. The model scored
  is the best of {VALIDATIONS} validations in training, on up to {VALID_IMAGES:,} images.
- **naive**: sampling with one full forward pass per site, timed at {NAIVE_SITES} sites spread over
  the image and scaled up. **cached**: sampling with the cached path. Both are seconds per sample,
  with {about["sampling_batch_size"]} sampled together; **speed-up** is their ratio.
- **field**: the share of the sites before the central one that can influence it: the non-zero
  entries of the trained network's Jacobian in float64, the union over {FIELD_IMAGES} test images.

![Training and validation over time and over steps, and the test scores](compare.png)

The lower halves of test images, completed by each model with the same noise:

![Completions](completions.png)

| | |
| --- | --- |
| command | `{about["command"]}` |
| data | {about["data"]}, {about["levels"]} levels; {about["source"]} |
| machine | {about["machine"]}; processor threads used: {about["threads"]} |
| date | {about["date"]} |
"""
