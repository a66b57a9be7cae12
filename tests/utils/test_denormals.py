"""Denormal numbers are zero on all threads while it is asked for, and themselves afterwards."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHECK = """
import torch
from nextpixel.utils.denormals import denormals_as_zero

torch.set_num_threads(3)
x = torch.full((3_000_000,), 1e-39)  # each thread has a share
if {warm}:
    x * 1  # starts the threads
def zeros():
    return (x * 1 == 0).float().mean().item()
with denormals_as_zero():
    inside = zeros()
    with denormals_as_zero():
        pass
    nested = zeros()
print(inside, nested, zeros())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="elsewhere OpenMP is another library, or denormals are as quick as other numbers",
)
@pytest.mark.parametrize("warm", [False, True], ids=["new threads", "old threads"])
def test_all_threads_take_denormals_as_zero(warm: bool) -> None:
    """In a process of its own, because the threads of this one have been started long ago."""
    command = [sys.executable, "-c", CHECK.format(warm=warm)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "1.0", "0.0"]
