"""What training shows and logs: the time that is left, and TensorBoard's records."""

import errno
import os
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
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


def test_a_resumed_run_replaces_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    """As `drop_later_metrics` does for metrics.jsonl, TensorBoard drops the steps after step 3."""
    for done, steps, loss in ((0, range(1, 6), 1.0), (3, range(4, 6), 2.0)):
        with metrics_log(tmp_path, done, write=True) as log:
            for step in steps:
                log({"step": step, "loss": loss})
        # Files are named after their second and then a count: in one second 10 comes before 9.
        time.sleep(1)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [
        *((1, 1.0), (2, 1.0), (3, 1.0)),
        *((4, 2.0), (5, 2.0)),
    ]


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
