"""Describes the machine in one line."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

__all__ = ["machine"]


def machine() -> str:
    """Describes the machine: processor, GPU and the version of PyTorch."""
    device = "no GPU"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    processor = capabilities.get("cpu_name") or platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of {processor}, {device}, PyTorch {torch.__version__}"
