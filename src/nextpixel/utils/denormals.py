"""Lets processors take denormal numbers, those below 1.2e-38, as zero: they are slow at them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["denormals_as_zero"]


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Takes denormal numbers as zero on all threads of PyTorch, where the processor can.

    Gradients through saturated gates, and of pixels that are nearly certain, become that small: a
    convolution of them took nine times as long as of other numbers on x86.
    """
    tiny = torch.tensor(1e-39)
    if (tiny * 1).item() == 0:  # somebody has set it already
        yield
        return
    set_on_all_threads(True)
    try:
        yield
    finally:
        set_on_all_threads(False)


def set_on_all_threads(flush: bool) -> None:
    """Sets how PyTorch's threads take denormal numbers.

    `torch.set_flush_denormal` sets it for one thread, and for those that it starts later. Threads
    that OpenMP has started are reached through OpenMP itself; on systems other than Linux they stay
    as they are.
    """
    one_argument = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    set_here = one_argument(lambda _: torch.set_flush_denormal(flush) and None)
    for openmp in loaded_openmp():
        openmp.GOMP_parallel(set_here, None, torch.get_num_threads(), 0)
    torch.set_flush_denormal(flush)


def loaded_openmp() -> list[ctypes.CDLL]:
    """Returns GNU's OpenMP libraries that this process has loaded, PyTorch's own and others."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    return [ctypes.CDLL(path) for path in sorted(set(re.findall(r"/.*/libgomp.*", maps)))]
