"""Chooses the device to compute on, and the number of processor threads."""

from __future__ import annotations

import re

import torch

from nextpixel.errors import UserError

__all__ = ["find_device", "set_threads", "set_up"]


def find_device(name: str | torch.device) -> torch.device:
    """Finds a device by name.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one, else the CPU; or a
            device of PyTorch's.

    Raises:
        UserError: If there is no such device.
    """
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
    torch.set_num_threads(threads)


def set_up(device: str, threads: int | None) -> torch.device:
    """Sets the number of threads and returns the device, for the options --threads and --device.

    Raises:
        UserError: If there is no such device, or the number of threads is below 1.
    """
    chosen = find_device(device)
    set_threads(threads)
    return chosen
