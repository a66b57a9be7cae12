"""Sets up the training process: device, precision, ranks and signals."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from lightning_fabric import Fabric

from nextpixel.utils.devices import find_device

__all__ = ["has_bf16", "interrupts", "keep_freed_memory", "launched", "make_fabric"]


def make_fabric(device: str, precision: str) -> Fabric:
    """Makes the Fabric for one process, or for the processes that torchrun started.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: See `TrainArgs`.
    """
    found = find_device(device)
    if precision == "auto":
        precision = "bf16" if has_bf16(found.type) else "float32"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Fabric(
        accelerator=found.type,
        devices=processes if found.index is None else [found.index],
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )


@contextmanager
def launched(fabric: Fabric) -> Iterator[None]:
    """Joins the process group of all ranks, and leaves it at the end."""
    before = torch.distributed.is_initialized()
    fabric.launch()
    fabric.barrier()
    try:
        yield
    except BaseException as error:
        if torch.distributed.is_initialized():
            traceback.clear_frames(error.__traceback__)  # they refer to the model, see below
        raise
    finally:
        if torch.distributed.is_initialized() and not before:
            # The wrapped model must be freed before the group: otherwise the model's destructor
            # waits for the group's threads, which wait for the interpreter's lock that it holds.
            # At the interpreter's exit it is too late: the running threads would abort it.
            gc.collect()
            torch.distributed.destroy_process_group()


def has_bf16(accelerator: str) -> bool:
    """Checks whether the processor has instructions for bfloat16."""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return bool(capabilities and capabilities().get("avx512_bf16"))


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next training step, in the whole process.

    By default glibc may return large blocks to the system and get them back page by page, set to
    zero, which took up to a tenth of a step. Other C libraries are left as they are.
    """
    trim_threshold, map_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(map_threshold, 2**25)  # the largest value allowed
        mallopt(trim_threshold, 2**31 - 1)


@contextmanager
def interrupts() -> Iterator[Callable[[], int]]:
    """Catches the signals that ask a process to stop, so that the current step can finish.

    These are SIGINT (Ctrl-C; a second one stops at once), SIGTERM (timeout, docker stop) and SIGHUP
    (the terminal was closed), unless the process ignores them already, as nohup makes it do.

    Yields:
        A function that returns the number of the signal that was caught, or 0.
    """
    caught = 0

    def handle(number: int, frame: object) -> None:
        nonlocal caught
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught = caught or number
        if number == getattr(signal, "SIGHUP", None):
            abandon_terminal()
        # Not by print, which is not reentrant: the signal may have interrupted a print.
        more = "; Ctrl-C once more stops at once" * (number == signal.SIGINT)
        with suppress(OSError):
            os.write(2, f"\nFinishing this step, then saving{more}.\n".encode())

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread can handle signals
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    wanted = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in wanted:
        signal.signal(number, handle)
    try:
        yield lambda: caught
    finally:
        for number in wanted:
            signal.signal(number, before[number])


def abandon_terminal() -> None:
    """Discards further output to a terminal that was closed, where writing would be an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if os.isatty(stream):
            os.dup2(null, stream)
    os.close(null)
