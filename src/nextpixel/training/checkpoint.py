"""Saves and loads the training state, from which a run resumes exactly."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from nextpixel.errors import UserError
from nextpixel.utils.files import replace_file

__all__ = ["load_state", "save_state"]


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Saves tensors, numbers and strings atomically: a crash leaves the old file or the new one.

    Args:
        path: The file.
        state: Plain data, as `torch.load` reads them with `weights_only=True`.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Loads a file that `save_state` wrote; nothing but plain data is unpickled.

    Raises:
        UserError: The file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(
            f"There is nothing to resume, because {path} does not exist: leave --resume out."
        )
    data = io.BytesIO(path.read_bytes())
    try:
        state: dict[str, Any] = torch.load(data, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("not a dictionary")
    except Exception as error:  # the unpickler raises errors of any kind on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is damaged ({reason}): the run cannot be resumed, but its models in best/ "
            "and last/ can still be used."
        ) from None
    return state
