"""Runs the work of chunks on several threads, in order, with progress while it lasts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["Job", "Tick", "in_order"]

T = TypeVar("T")
Tick = Callable[[float], None]  # called with the fraction done
Job = tuple[int, Callable[[Tick], T]]  # what it counts, and what is to be called

SECONDS = 0.2  # between two looks at what is done


class Stopped(Exception):  # noqa: N818  # no error: nobody sees it
    """Ends a job whose result nobody waits for."""


def in_order(
    jobs: Iterable[Job[T]],
    threads: int,
    show: Callable[[float], None] | None = None,
    done: float = 0,
) -> Iterator[T]:
    """Runs jobs on threads and yields their results in order.

    No more jobs are taken than one for each thread and one that waits. When the caller stops, those
    that run end at their next tick.

    Args:
        jobs: The jobs.
        threads: Number of threads.
        show: Called now and then with how much is done, in what jobs count.
        done: What was done before.
    """
    stop, ticks = threading.Event(), dict[int, float]()

    def run(number: int, job: Job[T]) -> T:
        count, work = job

        def tick(fraction: float) -> None:
            if stop.is_set():
                raise Stopped
            ticks[number] = fraction * count

        tick(0)
        return work(tick)

    def report() -> None:
        if show is not None:
            show(done + sum(list(ticks.values())))

    def result(number: int, count: int, future: Future[T]) -> T:
        nonlocal done
        while not future.done():
            wait([future], SECONDS)
            report()
        found = future.result()
        ticks.pop(number, None)
        done += count
        report()
        return found

    waiting = deque[tuple[int, int, Future[T]]]()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for number, job in enumerate(jobs):
                waiting.append((number, job[0], pool.submit(run, number, job)))
                if len(waiting) > threads:
                    yield result(*waiting.popleft())
            while waiting:
                yield result(*waiting.popleft())
        finally:
            stop.set()
            for _, _, future in waiting:
                future.cancel()
