"""How far a long reading is, shown only once it has taken two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["progress", "shown"]

T = TypeVar("T")
PATIENCE = 2.0  # seconds without a word


def shown(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    weight: Callable[[T], int] = lambda item: 1,
) -> Generator[T, None, None]:
    """Passes items on, and shows their number on the standard error if they take long.

    Args:
        items: What to pass on.
        what: What is done with them, in a few words.
        total: How many there are, if that is known.
        weight: How many an item counts for.
    """
    began, bar, done = time.monotonic(), None, 0
    try:
        for item in items:
            if bar is None and time.monotonic() - began > PATIENCE:
                # Loaded here, because most readings are short, and this takes a while itself.
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

                console = Console(stderr=True)
                columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
                bar = Progress(
                    *columns, console=console, transient=True, disable=not console.is_terminal
                )
                bar.start()
                task = bar.add_task(what, total=total)
                if not console.is_terminal:
                    console.print(f"{what} ...", highlight=False, soft_wrap=True)
            yield item
            done += weight(item)
            if bar is not None:
                bar.update(task, completed=done)
    finally:
        if bar is not None:
            bar.stop()


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """Shows a bar on a terminal; yields what to call with the fraction done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda done: bar.update(task, completed=done)
