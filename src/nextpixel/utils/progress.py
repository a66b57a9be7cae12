"""Progress bars on standard error, which are hidden where that is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

# rich is imported where it is used, because that takes a while and most work is short.
if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["bar_on_stderr", "progress", "track"]

T = TypeVar("T")
PATIENCE = 2.0  # seconds after which a bar appears


def bar_on_stderr(*columns: str | ProgressColumn, **options: Any) -> Progress:
    """Creates a rich progress bar on standard error, hidden where that is no terminal.

    Args:
        *columns: Columns of the bar; rich's default ones if none.
        **options: Other options of `rich.progress.Progress`.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal, **options)


def track(
    items: Iterable[T],
    description: str,
    total: int | None = None,
    weight: Callable[[T], int] = lambda item: 1,
) -> Generator[T, None, None]:
    """Yields items, and shows a progress bar once that has taken two seconds.

    Where there is no terminal, the description is printed once instead.

    Args:
        items: The items to yield.
        description: What is being done, in a few words.
        total: Number of items, if known.
        weight: The number of items that an item counts as.
    """
    start, bar, done = time.monotonic(), None, 0
    try:
        for item in items:
            if bar is None and time.monotonic() - start > PATIENCE:
                from rich.progress import BarColumn, MofNCompleteColumn

                columns = "{task.description}", BarColumn(), MofNCompleteColumn()
                bar = bar_on_stderr(*columns, transient=True)
                bar.start()
                task = bar.add_task(description, total=total)
                if not bar.console.is_terminal:
                    bar.console.print(f"{description} ...", highlight=False, soft_wrap=True)
            yield item
            done += weight(item)
            if bar is not None:
                bar.update(task, completed=done)
    finally:
        if bar is not None:
            bar.stop()


@contextmanager
def progress(description: str) -> Iterator[Callable[[float], None]]:
    """Shows a progress bar once the work has taken two seconds.

    Args:
        description: What is being done, in a few words.

    Yields:
        A function to call with the fraction done, 0 to 1.
    """
    start = time.monotonic()
    bar: Progress | None = None

    def show(done: float) -> None:
        nonlocal bar
        if bar is None and time.monotonic() - start > PATIENCE:
            bar = bar_on_stderr(transient=True)
            bar.start()
            bar.add_task(description, total=1.0)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()
