"""Chooses the device to compute on, and the number of processor threads."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.errors import UserError

# PyTorch is imported where it is used, because that takes a while.
if TYPE_CHECKING:
    import torch

__all__ = ["find_device", "is_surely_cpu", "set_threads", "set_up"]

# What exists where there is a driver of a GPU that PyTorch may use: of NVIDIA, of AMD, in Windows'
# Linux, and in Windows.
DRIVERS = (
    Path("/dev/nvidiactl"),
    Path("/dev/kfd"),
    Path("/dev/dxg"),
    Path(os.environ.get("SYSTEMROOT", "")) / "System32" / "nvcuda.dll",
)


def is_surely_cpu(name: str) -> bool:
    """Checks whether `find_device` surely finds the CPU, without importing PyTorch.

    Args:
        name: The name of a device.

    Returns:
        True for "cpu", and for "auto" where there is no driver of a GPU.
    """
    return name == "cpu" or (name == "auto" and not any(driver.exists() for driver in DRIVERS))


def find_device(name: str | torch.device) -> torch.device:
    """Finds a device by name.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one, else the CPU; or a
            device of PyTorch's.

    Raises:
        UserError: If there is no such device.
    """
    import torch

    if isinstance(name, torch.device) and name.type not in ("cpu", "cuda"):
        return name  # for the user to know
    name = str(name)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(f"Unknown device {name}: give auto, cpu, cuda or cuda:N.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"There is no device {name} here: choose cpu (--device cpu).")
    return device


def set_threads(threads: int | None) -> None:
    """Sets PyTorch's number of processor threads; None leaves it unchanged.

    Raises:
        UserError: If the number is below 1.
    """
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"--threads must be at least 1, not {threads}.")
    import torch

    torch.set_num_threads(threads)


def set_up(device: str, threads: int | None) -> torch.device:
    """Sets the number of threads and returns the device, for the options --threads and --device.

    Raises:
        UserError: If there is no such device, or the number of threads is below 1.
    """
    chosen = find_device(device)
    set_threads(threads)
    return chosen
