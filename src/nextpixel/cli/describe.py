"""Models in words: what there is, a network's layers, a trained model's card."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nextpixel import models
from nextpixel.errors import UserError
from nextpixel.latents.generator import find_bundle, holds_bundle, read_record
from nextpixel.models.base.image_model import ImageModel, find_class
from nextpixel.saving import Model, bundles, find, judges, model_name, read_kind, shipped

__all__ = ["explain", "layers", "overview"]


def overview() -> str:
    """Lists the kinds of models, with their papers, and the trained models that come along."""
    lines = ["Kinds of models:"]
    lines += [f"  {name:15} {find_class(name).paper}" for name in models.__all__]
    lines += ["", "Trained models that come with nextpixel:"]
    lines += [f"  {name:24} {summary(folder)}" for name, folder in shipped().items()] or ["  none"]
    lines += [f"  {name:24} {summary_of_bundle(folder)}" for name, folder in bundles().items()]
    lines += ["", "Classifiers that come with nextpixel, to judge samples by:"]
    lines += [f"  {name:24} {summary_of_judge(folder)}" for name, folder in judges().items()]
    return "\n".join([*lines, "", "nextpixel models NAME explains one."])


def summary(folder: Path) -> str:
    """Sums up a trained model's card in a line."""
    file = folder / "card.json"
    if not file.is_file():
        return "(no card)"
    card = json.loads(file.read_text())
    score = card["scores"]["test"]
    data = card["data"]
    if "task" in card:
        data += f" ({', '.join(map(str, card['task'].values()))})"
    accuracy = f", classifies {100 * card['accuracy']['test']:.2f} %" if "accuracy" in card else ""
    return (
        f"{card['model']}, {card['parameters']:,} parameters, {data}: "
        f"{score['bits_per_dim']:.4f} bits/dim, {score['nats']:.2f} nats{accuracy}"
    )


def summary_of_bundle(folder: Path) -> str:
    """Sums up the card of a VQ-VAE and its prior in a line."""
    card = json.loads((folder / "card.json").read_text())
    codes, samples = card["codes"], card["quality"]["rows"][-1]
    return (
        f"{card['model']}, {card['parameters']:,} parameters, {card['data']}: "
        f"{codes['bits_per_code']:.3f} bits a code, {samples['accuracy']:.1%} of its samples are "
        "told for what they are"
    )


def summary_of_judge(folder: Path) -> str:
    """Sums up the card of a classifier in a line."""
    card = json.loads((folder / "card.json").read_text())
    accuracy = card["accuracy"]
    return (
        f"{card['parameters']:,} parameters, {card['data']}: {accuracy['test']:.2%} ± "
        f"{accuracy['test_error']:.2%} of {accuracy['images']:,} test images"
    )


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
    if name in models.__all__ or (re.fullmatch(r"\w+(\.\w+)+", name) and not Path(name).exists()):
        cls = find_class(name)
        try:
            with torch.device("meta"):  # only sizes are wanted: no memory is taken
                given: dict[str, Any] = (
                    {} if classes is None else {"classes": classes}
                )  # a model may not have any
                model = cls(shape=shape, levels=levels, **given)
        except (TypeError, RuntimeError) as error:
            raise UserError(f"{name} cannot be made like this: {error}") from None
        return f"{title(name, model)}\n{layers(model)}"
    if holds_bundle(name):
        return explain_bundle(name, trust)
    try:
        folder = find(name)
    except UserError as error:
        raise UserError(f"{error} Kinds of models are {', '.join(models.__all__)}.") from None
    saved = read_kind(folder, Model, trust=trust)
    lines = [title(name, saved), layers(saved)]
    if (folder / "card.json").is_file():
        lines += ["", "Card:", (folder / "card.json").read_text().rstrip()]
    return "\n".join(lines)


def explain_bundle(name: str, trust: bool) -> str:
    """Explains a VQ-VAE and its priors."""
    parts = [read_kind(folder, Model, trust=trust) for folder in read_record(name)]
    lines = [f"{title(name, part)}\n{layers(part)}" for part in parts]
    card = find_bundle(name) / "card.json"
    if card.is_file():
        lines += [f"Card:\n{card.read_text().rstrip()}"]
    return "\n\n".join(lines)


def title(name: str, model: Model) -> str:
    """Names a model, its class where that is not its name, and the paper where there is one."""
    kind = model_name(type(model))
    paper = model.paper if isinstance(model, ImageModel) else ""
    return ": ".join(part for part in (name, kind if kind != name else "", paper) if part)


def layers(model: Model) -> str:
    """Writes a table of a network's layers, its parameters and its settings."""
    settings = ", ".join(f"{name}={value}" for name, value in model.hyperparameters.items())
    rows: dict[tuple[str, str], tuple[int, int]] = {}
    for name, module in model.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own:
            # Layers that repeat share a row: their names differ in numbers only.
            row = (re.sub(r"\d+", "*", name), repr_line(module))
            count, parameters = rows.get(row, (0, 0))
            rows[row] = (count + 1, parameters + own)
    lines = [f"  {settings}", ""]
    for (name, layer), (count, parameters) in rows.items():
        lines.append(
            f"  {name:30} {f'{count} x' if count > 1 else '':>5} {layer:58} {parameters:>12,}"
        )
    total = sum(p.numel() for p in model.parameters())
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen:
        what = "the classifier whose features condition the model"
        lines.append(f"  {'of these not trained':30} {'':5} {what:58} {frozen:>12,}")
    lines.append(
        f"  {'parameters':30} {'':5} {f'{4 * total / 2**20:.1f} MiB as float32':58} {total:>12,}"
    )
    return "\n".join(lines)


def repr_line(module: nn.Module) -> str:
    """Describes a layer in one line."""
    return f"{type(module).__name__}({module.extra_repr()})"
