"""Descriptions of models: the list of all, the layers of a network, the card of a saved model."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nextpixel import models
from nextpixel.errors import UserError
from nextpixel.latents.generator import find_bundle, holds_bundle, read_record
from nextpixel.model_folders import bundles, find, judges, shipped
from nextpixel.models.base.image_model import ImageModel, find_class
from nextpixel.saving import Model, model_name, read_kind
from nextpixel.utils.reading import read_text, refusing_damage

__all__ = ["explain", "is_kind", "layers", "overview"]

WIDTH = 100  # columns of a terminal


def overview() -> str:
    """Lists the kinds of models with their papers, and the pretrained models, at 100 columns."""
    sections = {
        "Kinds of models": kinds(),
        "Pretrained models, with their scores on the test set": table(
            ["name", "model", "parameters", "data", "bits/dim", "nats"],
            [summary(name, folder) for name, folder in shipped().items()],
        ),
        "Pretrained VQ-VAEs with a prior over their codes": table(
            ["name", "model", "parameters", "data", "bits/code", "sample accuracy"],
            [bundle_summary(name, folder) for name, folder in bundles().items()],
        ),
        "Pretrained classifiers, to evaluate samples with": table(
            ["name", "parameters", "data", "test accuracy"],
            [classifier_summary(name, folder) for name, folder in judges().items()],
        ),
    }
    lines = [line for title, rows in sections.items() for line in (f"{title}:", *rows, "")]
    return "\n".join([*lines, "Layers, settings and card of one: nextpixel models NAME"])


def kinds() -> list[str]:
    """Returns a line for each kind of model, or more for a long title: its name and its paper."""
    indent = max(map(len, models.__all__)) + 4
    lines = []
    for name in sorted(models.__all__, key=str.lower):
        paper = textwrap.wrap(find_class(name).paper, WIDTH - indent)
        lines.append(f"  {name:{indent - 2}}{paper[0]}")
        lines += [f"{'':{indent}}{line}" for line in paper[1:]]
    return lines


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table; columns of numbers are aligned on the right."""
    if not rows:
        return ["  none"]
    cells = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [not cell[:1].isalpha() for cell in rows[0]]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]


def summary(name: str, folder: Path) -> list[str]:
    """Returns the row of a pretrained model, from its card."""
    file = folder / "card.json"
    if not file.is_file():
        return [name, "(no card)", "", "", "", ""]
    card = json.loads(file.read_text("utf-8"))
    scores = card["scores"]
    data = f"{card['data']}, {card['task']['name']}" if "task" in card else card["data"]
    if "whole" in scores:
        data = f"{len(scores['whole']['pictures'])} pictures of {scores['whole']['data']}"
    return [
        name,
        card["model"],
        f"{card['parameters']:,}",
        data,
        f"{scores['whole' if 'whole' in scores else 'test']['bits_per_dim']:.4f}",
        f"{scores['test']['nats']:.2f}" if "test" in scores else "-",  # of whole pictures
    ]


def bundle_summary(name: str, folder: Path) -> list[str]:
    """Returns the row of a VQ-VAE with its prior, from its card."""
    card = json.loads((folder / "card.json").read_text("utf-8"))
    return [
        name,
        card["model"],
        f"{card['parameters']:,}",
        card["data"],
        f"{card['codes']['bits_per_code']:.3f}",
        f"{100 * card['quality']['rows'][-1]['accuracy']:.1f} %",
    ]


def classifier_summary(name: str, folder: Path) -> list[str]:
    """Returns the row of a classifier, from its card."""
    card = json.loads((folder / "card.json").read_text("utf-8"))
    accuracy = card["accuracy"]
    return [
        name,
        f"{card['parameters']:,}",
        card["data"],
        f"{100 * accuracy['test']:.2f} ± {100 * accuracy['test_error']:.2f} %",
    ]


def explain(
    name: str,
    shape: tuple[int, int, int],
    levels: int,
    classes: int | None,
    *,
    trust: bool = False,
) -> str:
    """Explains a kind of model (with its default sizes) or a saved model.

    Args:
        name: A class of `nextpixel.models`, a dotted path, or what `nextpixel.load` takes.
        shape: `(C, H, W)` of the images, for a kind of model.
        levels: Levels of a pixel, for a kind of model.
        classes: Number of classes, for a kind of model.
        trust: See `nextpixel.load`.
    """
    if is_kind(name):
        return explain_kind(name, shape, levels, classes)
    if holds_bundle(name):
        return explain_bundle(name, trust)
    try:
        folder = find(name)
    except UserError as error:
        raise UserError(f"{error} Kinds of models are {', '.join(models.__all__)}.") from None
    saved = read_kind(folder, Model, trust=trust)
    lines = [title(name, saved), layers(saved)]
    if (folder / "card.json").is_file():
        lines += ["", "Card:", read_card(folder / "card.json")]
    return "\n".join(lines)


def read_card(file: Path) -> str:
    """Reads a card, which is shown as it is."""
    with refusing_damage(file, "card", "take another copy"):
        return read_text(file).rstrip()


def is_kind(name: str) -> bool:
    """Checks whether a name is that of a kind of model, or a dotted path, not a saved model."""
    dotted = re.fullmatch(r"\w+(\.\w+)+", name) is not None
    return name in models.__all__ or (dotted and not Path(name).exists())


def explain_kind(name: str, shape: tuple[int, int, int], levels: int, classes: int | None) -> str:
    """Explains a kind of model, see `explain`."""
    cls = find_class(name)
    # Some kinds have no classes.
    conditioning: dict[str, Any] = {} if classes is None else {"classes": classes}
    try:
        with torch.device("meta"):  # only shapes are needed, no memory
            model = cls(shape=shape, levels=levels, **conditioning)
    except (TypeError, RuntimeError) as error:
        raise UserError(f"{name} cannot be made with these settings: {error}") from None
    return f"{title(name, model)}\n{layers(model)}"


def explain_bundle(name: str, trust: bool) -> str:
    """Explains each model of a VQ-VAE with its priors, see `explain`."""
    parts = [read_kind(folder, Model, trust=trust) for folder in read_record(name)]
    lines = [f"{title(name, part)}\n{layers(part)}" for part in parts]
    card = find_bundle(name) / "card.json"
    if card.is_file():
        lines += [f"Card:\n{read_card(card)}"]
    return "\n\n".join(lines)


def title(name: str, model: Model) -> str:
    """Returns a model's name, its class if that is another name, and its paper if it has one."""
    kind = model_name(type(model))
    paper = model.paper if isinstance(model, ImageModel) else ""
    return ": ".join(part for part in (name, kind if kind != name else "", paper) if part)


def layers(model: Model) -> str:
    """Returns a network's hyperparameters, and a table of its layers and their parameters."""
    settings = ", ".join(f"{name}={value}" for name, value in model.hyperparameters.items())
    rows: dict[tuple[str, str], tuple[int, int]] = {}
    for name, module in model.named_modules():
        size = sum(p.numel() for p in module.parameters(recurse=False))
        if size:
            # Repeated layers share a row: their names differ in numbers only.
            row = (re.sub(r"\d+", "*", name), repr_line(module))
            count, parameters = rows.get(row, (0, 0))
            rows[row] = (count + 1, parameters + size)
    lines = [f"  {settings}", ""]
    for (name, layer), (count, parameters) in rows.items():
        lines.append(
            f"  {name:30} {f'{count} x' if count > 1 else '':>5} {layer:58} {parameters:>12,}"
        )
    total = sum(p.numel() for p in model.parameters())
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen:
        source = "the classifier whose features condition the model"
        lines.append(f"  {'of these not trained':30} {'':5} {source:58} {frozen:>12,}")
    lines.append(
        f"  {'parameters':30} {'':5} {f'{4 * total / 2**20:.1f} MiB as float32':58} {total:>12,}"
    )
    return "\n".join(lines)


def repr_line(module: nn.Module) -> str:
    """Returns a layer's class and settings in one line."""
    return f"{type(module).__name__}({module.extra_repr()})"
