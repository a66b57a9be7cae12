"""Writes a comparison: its table, curves and completions."""

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
from nextpixel.comparison.measure import FIELD_IMAGES, NAIVE_SITES, Result, read_metrics, shown
from nextpixel.conditioning.regions import half_mask
from nextpixel.data import Dataset
from nextpixel.utils.files import replace_file
from nextpixel.utils.machine import machine
from nextpixel.viz import charts
from nextpixel.viz import images as pictures

__all__ = ["number", "table", "write"]

FIRST = ("PixelCNN", "GatedPixelCNN")  # on top of the picture, for the blind spot


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
    """Writes the table, the numbers and the pictures."""
    charts.comparison(
        {contender.label: read_metrics(contender.run()) for contender in contenders},
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
    # The error of a single image's score is not a number, and JSON has no word for that.
    replace_file(out / "compare.json", (re.sub(r"\bNaN\b", "null", numbers) + "\n").encode())
    page = markdown(results, about, str(budget))
    replace_file(out / "compare.md", page.encode())


def completions(
    results: Sequence[Result], completed: Mapping[str, Tensor], dataset: Dataset
) -> Image.Image:
    """Lays the completions out, a row a model, below what was given."""
    x = torch.from_numpy(dataset.test.batch(shown(dataset.test))[0])
    known = half_mask("top", *dataset.shape[1:])
    rows = {
        "original": pictures.to_uint8(x, dataset.levels),
        "given": pictures.tint_unknown(x, known, dataset.levels),
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
    "ratio",
    "field",
)


def table(results: Sequence[Result]) -> str:
    """Writes the results as a table in Markdown, aligned to be read as it is."""
    rows = [COLUMNS, *map(cells, results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    left = 2  # columns of words; numbers are aligned on the right
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(pairs)]
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def cells(result: Result) -> tuple[str, ...]:
    """Writes a result as a row of the table."""
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
        f"{score.nats:.2f} ± {score.nats_error:.2f}",
        f"{score.bits_per_dim:.4f} ± {score.bits_per_dim_error:.4f}",
        number(r.naive),
        number(r.cached),
        "-" if r.cached is None else f"{number(r.naive / r.cached)}x",
        "-" if r.seen is None else f"{r.seen / max(1, r.earlier):.1%}",
    )


def number(value: float | None) -> str:
    """Writes a number with three digits or more, and a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def markdown(results: Sequence[Result], about: Mapping[str, Any], budget: str) -> str:
    """Writes the page: the table, what its columns mean, the pictures and how it was made."""
    images = results[0].score.images
    all_loaded = all(result.loaded for result in results)
    how = "Trained before" if all_loaded else f"Trained for an equal budget each ({budget})"
    return f"""# Comparison on {about["data"]}

{how}, scored on {images:,} test images.

{table(results)}

- **steps**: optimizer steps x images a step; **images seen** is the product. A budget in steps is
  not one in images: recipes with a larger batch see more of them in as many steps. A model marked
  as loaded was trained before, with a budget of its own, which is counted here for one device. A
  budget in seconds is turned into steps by the speed of the first few; it is
  for the steps alone, and **wall s** counts validation and saving too.
- **test nats**, **bits/dim**: mean of -log p and its standard error over the images. They are the
  same images for every model, so differences are surer than these errors. What is scored is the
  best of a training's {VALIDATIONS} validations, on up to {VALID_IMAGES:,} images.
- **naive**: drawing with a full pass for every site, timed at {NAIVE_SITES} sites spread over the
  image and scaled up to all of them. **cached**: drawing by the cached path. Both in seconds a
  sample, {about["sampling_batch_size"]} drawn together.
- **field**: of the sites before the one at the centre of the image, those whose change can
  influence it: the non-zero entries of the trained network's Jacobian in float64, the union over
  {FIELD_IMAGES} test images.

![Training and validation over time and over steps, and the test scores](compare.png)

The lower halves of test images, drawn by each model with the same noise:

![Completions](completions.png)

| | |
| --- | --- |
| command | `{about["command"]}` |
| data | {about["data"]}, {about["levels"]} levels; {about["source"]} |
| machine | {about["machine"]}; processor threads used: {about["threads"]} |
| date | {about["date"]} |
"""
