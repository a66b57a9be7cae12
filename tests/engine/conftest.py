"""Shared by the tests of the engine."""

from collections.abc import Callable, Iterator

import pytest

from nextpixel.engine import Replay, begin_replay
from nextpixel.engine.program import load_program
from nextpixel.nn import Cache
from nextpixel.utils.compiling import load_c_library


@pytest.fixture
def forget() -> Callable[[], None]:
    """Makes the next one look for the compiled program again."""

    def clear() -> None:
        load_program.cache_clear()
        load_c_library.cache_clear()

    return clear


@pytest.fixture(autouse=True)
def _compile_anew(forget: Callable[[], None]) -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[Replay]:
    """All replays that are begun."""
    begun: list[Replay] = []

    def begin(cache: Cache, images: int, size: tuple[int, int]) -> Replay | None:
        replay = begin_replay(cache, images, size)
        if replay is not None:
            begun.append(replay)
        return replay

    monkeypatch.setattr("nextpixel.sampling.loop.begin_replay", begin)
    return begun
