import errno
import os
import time
from pathlib import Path

import pytest

from nextpixel.errors import UserError
from nextpixel.utils.files import atomic_write, cache_folder, remove_parts, unused, user_path


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def write(error: BaseException) -> None:
        with atomic_write(path) as file:
            file.write(b"half of the n")
            raise error

    for error in (KeyError(), KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(28))):
        with pytest.raises(type(error)) as caught:
            write(error)
        if isinstance(caught.value, OSError):
            assert caught.value.filename == str(path)  # the message says which file it was
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_missing_folders_are_made_and_a_file_is_no_folder(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b" / "c") as file:
        file.write(b"x")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"
    with pytest.raises(OSError, match="c"), atomic_write(tmp_path / "a" / "b" / "c" / "d"):
        pass


def test_parts_of_killed_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    part = tmp_path / "last" / ".config.json.123.npx-part"
    part.write_bytes(b"half")
    (tmp_path / "state.pt").write_bytes(b"whole")
    remove_parts(tmp_path)
    assert not part.exists()
    assert (tmp_path / "state.pt").exists()


def test_an_unused_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    assert unused(path) == path
    path.touch()
    assert unused(path) == tmp_path / "scores-2.csv"
    (tmp_path / "scores-2.csv").touch()
    assert unused(path) == tmp_path / "scores-3.csv"


def test_what_killed_writers_left_a_day_ago_is_removed(tmp_path: Path) -> None:
    """By the next writer of this folder; what may still be written, or is a user's, stays."""
    yesterday = time.time() - 25 * 60 * 60
    old = [".samples.png.123.npx-part", ".x.7.npx-part", ".out.abc_1234.npx-part"]
    stay = [
        ".samples.png.124.npx-part",
        ".film.download.part",
        ".x.npxz.part",
        ".iso.20240101.part",
    ]
    for name in (*old[:2], *stay):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / old[2] / "files").mkdir(parents=True)
    for name in (old[2] + "/files", *old, *stay[1:]):
        os.utime(tmp_path / name, (yesterday, yesterday))
    busy = tmp_path / ".out.xyz_5678.npx-part"
    (busy / "files").mkdir(parents=True)
    os.utime(busy, (yesterday, yesterday))  # but a file was written into it just now
    with atomic_write(tmp_path / "a"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"a", busy.name, *stay}


def test_homes_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_path("~/x") == Path.home() / "x"
    with pytest.raises(UserError, match="~nobody-here/x begins with a home folder that is not"):
        user_path("~nobody-here/x")

    def none(_: object) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", classmethod(none))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/nextpixel")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(UserError, match="no home folder for cached files: set XDG_CACHE_HOME"):
        cache_folder()
