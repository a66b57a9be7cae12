"""Writes the configuration of a run, and removes what a killed run has left in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from nextpixel.context import ContextSpec
from nextpixel.data import Dataset
from nextpixel.models.base.image_model import ImageModel
from nextpixel.saving import model_name
from nextpixel.training.config import TrainArgs
from nextpixel.training.logs import is_logged
from nextpixel.utils.files import replace_file

__all__ = ["drop_later_metrics", "write_config"]


def write_config(
    out: Path, model: ImageModel, data: Dataset, args: TrainArgs, settings: Mapping[str, Any]
) -> None:
    """Writes `config.yaml`, which `nextpixel train --config` can read.

    Args:
        out: The run folder.
        model: The model.
        data: The data set.
        args: The training options.
        settings: Other options of the command line.
    """
    decided_by_data = {"shape", "levels", *ContextSpec._fields}
    hyperparameters = {
        name: value for name, value in model.hyperparameters.items() if name not in decided_by_data
    }
    config = {
        "model": {"class_path": model_name(type(model)), "init_args": hyperparameters},
        "data": data.location if data.own else data.name,
        "levels": data.levels,
        "conditional": model.classes is not None,
        **task_options(model),
        **settings,
        "train": asdict(args),
    }
    replace_file(out / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())


def task_options(model: ImageModel) -> dict[str, Any]:
    """Returns the options of the restoration task that a model is trained for, if any."""
    conditioner = model.conditioner
    if conditioner is None or conditioner.role != "restore":
        return {}
    options = conditioner.settings()
    return {"task": options.pop("name"), **options}


def drop_later_metrics(out: Path, step: int) -> None:
    """Drops lines of `metrics.jsonl` from after a step, and incomplete ones."""
    path = out / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    replace_file(path, b"".join(line for line in lines if is_logged(line, step)))
