import errno
import os
from pathlib import Path

import pytest

from nextpixel.utils.files import atomic_write, remove_parts, unused


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
    part = tmp_path / "last" / ".config.json.123.part"
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
