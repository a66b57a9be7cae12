"""Progress bars: only work that takes a while shows one, and pays for it."""

import subprocess
import sys
from typing import Any

import pytest

from nextpixel.utils import progress


def test_short_work_does_not_import_rich() -> None:
    code = (
        "import sys; from nextpixel.utils.progress import progress\n"
        "with progress('working') as show: show(0.5); show(1.0)\n"
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_long_work_shows_a_bar_and_takes_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []
    make = progress.bar_on_stderr

    def keep(**options: Any) -> Any:
        bars.append(make(**options))
        return bars[-1]

    monkeypatch.setattr(progress, "bar_on_stderr", keep)
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    with progress.progress("working") as show:
        for done in (0.25, 0.5):
            show(done)
            assert bars[0].tasks[0].completed == done
        assert bars[0].live.is_started == (not bars[0].disable)
    assert len(bars) == 1
    assert bars[0].tasks[0].description == "working"
    assert not bars[0].live.is_started
