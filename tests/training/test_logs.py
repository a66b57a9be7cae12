"""Progress of training: the time that is left."""

import errno
import os
from pathlib import Path

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from nextpixel.training import logs
from nextpixel.training.logs import metrics_log


def test_the_time_ends_a_run_that_has_more_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a million steps ahead, 90 seconds are left if the time says so."""
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    with logs.progress_bar(0, 1_000_000, visible=True, seconds_left=lambda: 90.0) as show:
        now[0] = 31.0
        show(5, loss=1.0, speed=3.0)
    expected = "step 5/1000000: 1.0000 bits/dim, 3 images/s, 0:01:30 left"
    assert expected in capsys.readouterr().err


def test_a_full_disk_under_tensorboard_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", full)

    def write() -> None:
        with metrics_log(tmp_path, 0, write=True) as log:
            for step in range(1000):
                log({"step": step, "loss": 1.0})

    with pytest.raises(OSError, match="No space left"):
        write()
    assert "Traceback" not in capfd.readouterr().err
