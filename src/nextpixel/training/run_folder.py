"""Keeps a run's folder: one process at a time, its configuration, and no rest of a killed run."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from os.path import samestat
from pathlib import Path
from typing import Any

from nextpixel.context import PARTS
from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.models.base.image_model import ImageModel
from nextpixel.saving import model_name
from nextpixel.training.config import TrainArgs
from nextpixel.training.logs import is_logged
from nextpixel.utils.files import replace_file, try_lock
from nextpixel.utils.reading import dump_yaml, is_utf8

__all__ = ["drop_later_metrics", "locked", "refuse_begun", "write_config"]

LOCK = ".lock"


def refuse_begun(out: Path) -> None:
    """Refuses to begin a run in a folder that holds one.

    Raises:
        UserError: It does.
    """
    if (out / "state.pt").exists():
        raise UserError(
            f"{out} already holds a run: resume it with --resume {shlex.quote(str(out))}, or name "
            "another folder."
        )


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps a run folder for this process while the block runs; the system ends that with it.

    Raises:
        UserError: Another process has it, or TensorBoard could not write there.
        OSError: The folder cannot be written.
    """
    if not is_utf8(str(out)):
        raise UserError(f"{out} is not UTF-8: name another run folder.")
    out.mkdir(parents=True, exist_ok=True)
    path = out / LOCK
    with path.open("a+", encoding="utf-8") as file:
        # Whoever held it may have removed the file in between.
        if not (
            try_lock(file) and path.exists() and samestat(path.stat(), os.fstat(file.fileno()))
        ):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"{out} is being trained in already, by {holder}: wait for it, stop it, or name "
                "another folder."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                path.unlink()


def is_at(path: Path, file: int) -> bool:
    """Whether an open file is still at a path: who held it before may have removed it."""
    return path.exists() and samestat(path.stat(), os.fstat(file))


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
    decided_by_data = {"shape", "levels", *PARTS}
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
    replace_file(out / "config.yaml", dump_yaml(config))


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
