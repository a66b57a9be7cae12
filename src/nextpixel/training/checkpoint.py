"""Saves and loads the training state, from which a run resumes exactly.

The file is `MAGIC`, the SHA-256 of what follows, and what `torch.save` writes. Files of versions
before 0.2 are the last part alone; their parts have checksums of 32 bits, which PyTorch ignores.
"""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import torch

from nextpixel.errors import UserError
from nextpixel.utils.files import replace_file
from nextpixel.utils.reading import open_zip, read_regular

__all__ = ["load_state", "save_state"]

MAGIC = b"NPXSTATE"
PLAIN = b"PK"  # how a file without a checksum begins
DIGEST = hashlib.sha256().digest_size


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Saves tensors, numbers and strings atomically: a crash leaves the old file or the new one.

    Args:
        path: The file.
        state: Plain data, as `torch.load` reads them with `weights_only=True`.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    replace_file(path, MAGIC + hashlib.sha256(data).digest() + data)


def load_state(path: Path) -> dict[str, Any]:
    """Loads a file that `save_state` wrote; nothing but plain data is unpickled.

    Raises:
        UserError: The file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(
            f"There is nothing to resume, because {path} does not exist: leave --resume out."
        )
    try:
        data = io.BytesIO(checked(read_regular(path)))
        state: dict[str, Any] = torch.load(data, map_location="cpu", weights_only=True)
        check_state(state)
    except Exception as error:  # the unpickler raises errors of any kind on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is damaged ({reason}): the run cannot be resumed, but its models in best/ "
            "and last/ can still be used."
        ) from None
    return state


def checked(file: bytes) -> bytes:
    """Returns what `torch.save` wrote, if it is still that.

    Raises:
        ValueError: It is not.
    """
    if file.startswith(PLAIN):
        with open_zip(io.BytesIO(file)) as parts:
            if (wrong := parts.testzip()) is not None:
                raise ValueError(f"the checksum of {wrong} is wrong")
        return file
    begin = len(MAGIC) + DIGEST
    if not file.startswith(MAGIC) or len(file) < begin:
        raise ValueError("it is no checkpoint")
    if hashlib.sha256(file[begin:]).digest() != file[len(MAGIC) : begin]:
        raise ValueError("its checksum is wrong")
    return file[begin:]


def check_state(state: Any) -> None:
    """Checks the types of a training state, before any of it is used.

    Raises:
        ValueError: One is wrong.
    """
    if not isinstance(state, dict):
        raise ValueError("not a dictionary")
    for name in ("model", "average", "optimizer"):
        if name in state and not isinstance(state[name], dict):
            raise ValueError(f"{name} is {type(state[name]).__name__}")
    for name in ("step", "stale", "setbacks"):
        value = state.get(name, 0)
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is {value!r}")
    for name in ("best", "seconds"):
        value = state.get(name, 0.0)
        if type(value) not in (int, float) or math.isnan(value):
            raise ValueError(f"{name} is {value!r}")
    for name in ("pending", "watch"):
        values = state.get(name) or {}
        if not isinstance(values, dict) or not all(map(is_number, values.values())):
            raise ValueError(f"{name} is not numbers by name")


def is_number(value: Any) -> bool:
    """Whether this is a number; None stands for one that is not known yet."""
    return value is None or type(value) in (int, float)
