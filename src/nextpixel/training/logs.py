"""Logs the metrics of training and shows its progress."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL.Image import Image
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from torch.utils.tensorboard import SummaryWriter

from nextpixel.utils.progress import bar_on_stderr

__all__ = ["Log", "ShowStep", "is_logged", "metrics_log", "progress_bar"]


def is_logged(line: bytes, step: int) -> bool:
    """Checks whether a line of `metrics.jsonl` is complete and from no later than a step."""
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


class Log(Protocol):
    """Logs the metrics of a step, and the preview of a validation."""

    def __call__(self, metrics: dict[str, float], preview: Image | None = None) -> None:
        """Adds the metrics, among them "step", and a picture if there is one."""


@contextmanager
def metrics_log(out: Path, step: int, write: bool) -> Iterator[Log]:
    """Opens a run's logs, `metrics.jsonl` and TensorBoard, to add metrics after a step.

    Args:
        out: The run folder.
        step: Steps done so far; TensorBoard drops what was logged after it.
        write: Whether this rank logs at all.

    Yields:
        A function that logs the metrics of a step.
    """
    if not write:
        yield lambda metrics, preview=None: None
        return
    with (
        (out / "metrics.jsonl").open("a", buffering=1) as file,
        quiet_writer(),
        SummaryWriter(str(out / "tensorboard"), purge_step=step + 1) as board,
    ):

        def log(metrics: dict[str, float], preview: Image | None = None) -> None:
            file.write(json.dumps(metrics) + "\n")
            step = int(metrics["step"])
            for name, value in metrics.items():
                if name != "step":
                    board.add_scalar(name, value, step)
            if preview is not None:
                pixels = np.asarray(preview.convert("RGB"))
                board.add_image("preview", pixels, step, dataformats="HWC")

        yield log


@contextmanager
def quiet_writer() -> Iterator[None]:
    """Hides the traceback of TensorBoard's thread when a write fails, as on a full disk.

    The next call of the writer raises the same error in the thread that trains.
    """
    hook = threading.excepthook

    def quiet(args: threading.ExceptHookArgs) -> None:
        of_tensorboard = type(args.thread).__module__.startswith("tensorboard")
        if not (of_tensorboard and issubclass(args.exc_type, OSError)):
            hook(args)

    threading.excepthook = quiet
    try:
        yield
    finally:
        threading.excepthook = hook


class ShowStep(Protocol):
    """Shows the progress of training."""

    def __call__(
        self, step: int, loss: float | None = None, speed: float | None = None, note: str = ""
    ) -> None:
        """Shows a step: its loss in bits/dim and images per second, or a note."""


@contextmanager
def progress_bar(
    step: int, steps: int, visible: bool, seconds_left: Callable[[], float] | None = None
) -> Iterator[ShowStep]:
    """Shows a progress bar in a terminal, and elsewhere prints a line every 30 seconds.

    Args:
        step: Steps done so far.
        steps: All steps.
        visible: Whether this rank shows anything.
        seconds_left: Returns the seconds until the run ends, whatever the steps; None if only the
            steps end it.
    """
    if not visible:
        yield lambda step, loss=None, speed=None, note="": None
        return
    loss_shown, speed_shown = Smoothed(), Smoothed()
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[status]}"),
        TextColumn("{task.fields[left]}"),
    )
    with bar_on_stderr(*columns, speed_estimate_period=120) as bar:
        console = bar.console
        task = bar.add_task("", total=steps, completed=step, status="", left="")
        printed = time.monotonic()

        def show(
            step: int, loss: float | None = None, speed: float | None = None, note: str = ""
        ) -> None:
            nonlocal printed
            if note.startswith("step"):  # gets a line of its own
                console.print(note, highlight=False, soft_wrap=True)
                return
            if loss is not None and speed is not None:
                note = f"{loss_shown(loss):.4f} bits/dim, {speed_shown(speed):.0f} images/s"
            bar.update(task, completed=step, status=note)
            ends = (bar.tasks[task].time_remaining, seconds_left and seconds_left())
            known = [max(0.0, seconds) for seconds in ends if seconds is not None]
            left = f"{timedelta(seconds=round(min(known)))} left" if known else ""
            bar.update(task, left=left)
            if not console.is_terminal and time.monotonic() - printed > 30:
                printed = time.monotonic()
                line = f"step {step}/{steps}: {note}{left and f', {left}'}"
                console.print(line, highlight=False, soft_wrap=True)

        yield show


class Smoothed:
    """Smooths a number for display, by an exponential moving average."""

    def __init__(self) -> None:
        self.value: float | None = None

    def __call__(self, new: float) -> float:
        """Adds a number and returns the average."""
        self.value = new if self.value is None else 0.95 * self.value + 0.05 * new
        return self.value
