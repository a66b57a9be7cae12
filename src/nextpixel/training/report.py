"""Writes `report.html` of a run: its curves, its samples over time, its options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nextpixel.data import Dataset
from nextpixel.evaluation.scale import (
    bits_on_scale,
    has_scale,
    scale_in_words,
    scale_names,
    worse_than_uniform,
)
from nextpixel.models.base.image_model import ImageModel
from nextpixel.training.logs import is_logged
from nextpixel.utils.machine import machine
from nextpixel.utils.words import count, with_error
from nextpixel.viz import charts
from nextpixel.viz import images as pictures
from nextpixel.viz.report import Section, write_report

__all__ = ["best_score", "on_a_scale", "report_run", "run_sections", "scale_section"]

PREVIEWS = 3  # previews shown
SCALED = 100  # validation images that PNG and WebP are measured on


def report_run(out: Path, model: ImageModel, data: Dataset) -> Path:
    """Writes `report.html`, a self-contained page, into a run folder.

    Args:
        out: The run folder, after training.
        model: The model.
        data: The data set.

    Returns:
        The page.
    """
    page = out / "report.html"
    name = f"{type(model).__name__} on {data.name}"
    sections, score = run_sections(out, model, data), best_score(out)
    if score is not None and has_scale(model):
        sections.insert(1, scale_section(out, score, *validation_scale(data)))
    write_report(page, name, sections)
    return page


def run_sections(out: Path, model: ImageModel, data: Dataset) -> list[Section]:
    """Returns the sections of the page, see `report_run`."""
    records = read_metrics(out)
    sections = [
        Section("Result", table=results(records, model, data)),
        learning_curve(out, records),
        previews(out),
        Section("Options", "The run's config.yaml.", code=(out / "config.yaml").read_text()),
    ]
    return [section for section in sections if section is not None]


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Reads a run's metrics, one record for each step."""
    with (out / "metrics.jsonl").open("rb") as file:
        return [json.loads(line) for line in file if is_logged(line, 2**63)]


def results(
    records: list[dict[str, Any]], model: ImageModel, data: Dataset
) -> list[tuple[str, str]]:
    """Returns the rows of the table of results."""
    rows = []
    scores = [record for record in records if "valid" in record]
    if scores:
        best = min(scores, key=lambda record: record["valid"])
        kind = "" if model.is_likelihood else f", {model.scores}"
        value = with_error(best["valid"], best["valid_error"])
        score = f"{value} bits/dim at step {best['step']:,}"
        rows.append(("Best validation score", score + kind))
    parameters = sum(p.numel() for p in model.parameters())
    rows.append(("Model", f"{type(model).__name__}, {parameters:,} parameters"))
    shape = " x ".join(map(str, data.shape))
    rows.append(("Data", f"{data.name}: {len(data.train):,} images to train on, {shape}"))
    if records:
        speed = float(np.median([record["images_per_second"] for record in records]))
        time = records[-1]["seconds"] / 60
        steps = records[-1]["step"]
        rows.append(("Training", f"{steps:,} steps in {time:.1f} minutes, {speed:.0f} images/s"))
    rows.append(("Machine", machine()))
    return rows


def best_score(out: Path) -> float | None:
    """Returns a run's best validation score in bits/dim; None before the first validation."""
    return min((record["valid"] for record in read_metrics(out) if "valid" in record), default=None)


def validation_scale(data: Dataset) -> tuple[dict[str, float], int]:
    """Measures validation images, see `bits_on_scale`, and returns how many it measured, too."""
    return bits_on_scale(data.valid, data.train, limit=SCALED), min(SCALED, len(data.valid))


def on_a_scale(score: float, model: ImageModel, data: Dataset) -> list[str]:
    """Says where a validation score stands; nothing if it is no likelihood of images."""
    if not has_scale(model):
        return []
    return scale_in_words(score, *validation_scale(data)).splitlines()


def scale_section(
    out: Path,
    score: float,
    scale: Mapping[str, float],
    images: int,
    table: list[tuple[str, str]] | None = None,
) -> Section:
    """Draws where a score stands on a scale.

    Args:
        out: The run folder; the chart is `scale.svg` there.
        score: The model's bits/dim.
        scale: As from `bits_on_scale`.
        images: Number of images that the scale was measured on.
        table: Rows below the chart.
    """
    charts.scale(scale_names(score, scale), out / "scale.svg")
    files = ", PNG and WebP as whole lossless files" if "png" in scale else ""
    caption = f"Fewer bits are better. Measured on {count(images, 'image')}{files}."
    text = "\n".join(worse_than_uniform(score, scale))
    return Section("How well it predicts", text, out / "scale.svg", caption, table)


def learning_curve(out: Path, records: list[dict[str, Any]]) -> Section | None:
    """Draws the losses of training and validation in one plot."""
    if not records:
        return None
    charts.loss_curve(records, out / "curve.svg")
    return Section("Learning curve", image=out / "curve.svg")


def previews(out: Path) -> Section | None:
    """Shows previews of validations, evenly spaced from the first to the last."""
    files = sorted((out / "samples").glob("step-*.png"))
    if not files:
        return None
    chosen = dict.fromkeys(
        files[i] for i in np.linspace(0, len(files) - 1, PREVIEWS).round().astype(int)
    )
    shown = {}
    for file in chosen:
        with Image.open(file) as picture:
            shown[f"step {int(file.stem.removeprefix('step-')):,}"] = picture.convert("RGB")
    caption = f"The same noise each time; all {len(files)} previews are in {out / 'samples'}."
    return Section("Over time", image=pictures.captioned_row(shown), caption=caption)
