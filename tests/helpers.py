"""Helpers of several test files: running commands, reading their files, tiny data."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nextpixel import load_data
from nextpixel.cli.main import main
from nextpixel.data import Dataset, Images

ROOT = Path(__file__).parents[1]

# Options that train a tiny model on real digits.
DIGITS = "--data mnist --levels 4 --train.batch_size 8 --train.valid_images 16"
TINY = f"{DIGITS} --model GatedPixelCNN --model.width 8 --model.blocks 2 --model.kernel_size 3"

# --- commands -------------------------------------------------------------------------------------


def run(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command in this process that must succeed silently, and returns what it prints."""
    capsys.readouterr()
    status = main(words.split())
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def refused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command in this process that must be refused in one line, and returns that line."""
    capsys.readouterr()
    status = main(words.split())
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("nextpixel: ")
    assert err.endswith(".\n")
    assert err.count("\n") == 1
    return err


def assert_refused(
    words: str, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> str:
    """Checks that a command is refused for a reason, and leaves a folder's files as they were.

    Returns the line that refuses it.
    """

    def files() -> list[Path]:
        return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)

    before = files()
    error = refused(words, capsys)
    assert reason in error
    assert files() == before
    return error


def succeed(*commands: str) -> None:
    """Runs commands in this process that must succeed, whatever they print."""
    for words in commands:
        assert main(words.split()) == 0, words


def command(words: str) -> list[str]:
    """Returns the arguments of a process that runs a command."""
    return [sys.executable, "-m", "nextpixel", *words.split()]


def process(words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command that must succeed without a warning, as a process of its own."""
    done = subprocess.run(command(words), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Makes a folder the current one, for fixtures that train and sample with commands.

    Steps of sampling are computed, not replayed: compiling what replays them takes long.
    """
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        compute_steps(patch)
        yield


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes a folder the current one; what commands add to Python's path is undone with it."""
    patch.chdir(folder)
    patch.setattr(sys, "path", list(sys.path))


def compute_steps(patch: pytest.MonkeyPatch) -> None:
    """Makes sampling compute its steps instead of replaying them."""
    patch.setattr("nextpixel.sampling.loop.begin_replay", lambda *_: None)


def no_space(*_: object, **__: object) -> None:
    """Fails as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- files that commands write --------------------------------------------------------------------


def size(path: str | Path) -> tuple[int, int]:
    """Returns the width and height of a picture file."""
    with Image.open(path) as picture:
        return picture.size


def pixels(path: str | Path) -> bytes:
    """Returns the pixels of a picture file."""
    with Image.open(path) as picture:
        return picture.tobytes()


def arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file."""
    with np.load(path) as file:
        return dict(file)


# --- tiny data ------------------------------------------------------------------------------------


def random_images(model: Any, n: int = 4, seed: int = 0) -> Tensor:
    """Makes random images of a model's shape and levels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.levels, (n, *model.shape), generator=generator)


def small_mnist(part: slice, *counts: int) -> Dataset:
    """Makes a data set of real digits at 4 levels: the `part` of their rows and columns.

    `counts` are the numbers of training, validation and test images.
    """
    mnist = load_data("mnist", levels=4)

    def shrink(images: Images, n: int) -> Images:
        assert images.y is not None
        return Images(np.ascontiguousarray(images.x[:n, :, part, part]), images.y[:n], 4)

    splits = (mnist.train, mnist.valid, mnist.test)
    train, valid, test = (shrink(images, n) for images, n in zip(splits, counts, strict=True))
    return Dataset("tiny", train, valid, test, 4, mnist.class_names, "MNIST, made small")
