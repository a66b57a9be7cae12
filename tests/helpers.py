"""Helpers of several test files: running commands, reading their files, tiny data and models."""

import errno
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nextpixel import load_data
from nextpixel.cli.main import main
from nextpixel.conditioning.classifier import Classifier
from nextpixel.conditioning.degradation import Degraded, Task
from nextpixel.conditioning.features import Features
from nextpixel.context import Context
from nextpixel.data import Dataset, Images
from nextpixel.distributions import Categorical, Distribution
from nextpixel.models import GatedPixelCNN
from nextpixel.models.base.autoregressive import AutoregressiveModel

ROOT = Path(__file__).parents[1]

# Options that train a tiny model on real digits.
DIGITS = "--data mnist --levels 4 --train.batch_size 8 --train.valid_images 16"
TINY = f"{DIGITS} --model GatedPixelCNN --model.width 8 --model.blocks 2 --model.kernel_size 3"


def needs(command: str, package: str) -> None:
    """Skips a test where a command is missing; fails it in `.ci/run`, which installs all.

    Args:
        command: The command.
        package: The package of Debian that has it.
    """
    if shutil.which(command) is None:
        reason = f"there is no {command}: install {package}"
        if os.environ.get("NEXTPIXEL_SKIP_NOTHING") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


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
    """Makes a folder the current one, for fixtures that train and sample with commands."""
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        yield


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes a folder the current one; what commands add to Python's path is undone with it."""
    patch.chdir(folder)
    patch.setattr(sys, "path", list(sys.path))


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

NOISE = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8)).astype(np.uint8)


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


def save_tiny_images(file: Path) -> None:
    """Saves 80 images of 8 x 8 pixels and 6 levels; the brighter, the higher their class of 3."""
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 80)
    x = (y[:, None, None] * 2 + random.integers(0, 2, (80, 8, 8))).astype(np.uint8)
    np.savez(file, x=x, y=y, levels=6)


def dark_and_light(n: int) -> Tensor:
    """Makes images of two kinds in turn: mostly black, and mostly white."""
    rng = np.random.default_rng(0)
    light = np.where(np.arange(n) % 2, 0.85, 0.15)[:, None, None, None]
    return torch.from_numpy((rng.random((n, 1, 8, 8)) < light).astype(np.uint8))


# --- degraded images ------------------------------------------------------------------------------

TASKS = [
    Task("super-resolution"),
    Task("colourise"),
    Task("denoise"),
    Task("denoise", noise_kind="salt-and-pepper"),
    Task("deblur"),
    Task("inpaint", holes="boxes"),
    Task("inpaint", holes="halves"),
    Task("inpaint", holes="scattered"),
    Task("inpaint"),
]


def words_of(task: Task) -> str:
    """Names a task, for the name of a test."""
    special = {"denoise": f"-{task.noise_kind}", "inpaint": f"-{task.holes}"}
    return task.name + special.get(task.name, "")


def drawn(*shape: int, levels: int = 256) -> NDArray[np.integer]:
    """Draws the pixels of images, always the same ones."""
    return np.random.default_rng(0).integers(levels, size=shape)


def hidden(degraded: Degraded) -> NDArray[np.bool_]:
    """Returns the hidden pixels, `(B, H, W)`."""
    assert degraded.mask is not None
    return ~degraded.mask[:, 0].numpy()


# --- tiny models ----------------------------------------------------------------------------------


def randomize(model: torch.nn.Module, scale: float = 1) -> None:
    """Replaces all weights by random ones that keep activations near 1: every input matters."""
    for parameter in model.parameters():
        std = scale / math.sqrt(max(1, parameter[0].numel()))
        torch.nn.init.normal_(parameter, std=std)


def scoring_model(classes: int | None = None, **arguments: Any) -> GatedPixelCNN:
    """Makes a tiny model whose output depends on the image and on the class."""
    torch.manual_seed(0)
    arguments = {"shape": (1, 8, 8), "levels": 256, "width": 4, "blocks": 1, **arguments}
    model = GatedPixelCNN(classes=classes, kernel_size=3, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


class ConstantModel(AutoregressiveModel):
    """A model that sees nothing: every pixel has the same probabilities."""

    def __init__(self, *, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape=shape, levels=levels)

    def forward(self, x: Tensor, c: object = None) -> Distribution:
        p = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
        return Categorical(p.log().expand(*x.shape, 4))


def small_classifier(seed: int = 0) -> Classifier:
    """Makes a classifier of two kinds of images of 8 x 8 pixels."""
    torch.manual_seed(seed)
    return Classifier(shape=(1, 8, 8), levels=2, classes=2, width=4, embedding=6)


def features_model(layer: str, classifier: Classifier | None = None) -> GatedPixelCNN:
    """Makes a model conditioned on a layer of a classifier, whose output depends on it."""
    features = Features(classifier or small_classifier(), layer)
    torch.manual_seed(1)
    dense = features.part == "vector"
    model = GatedPixelCNN(
        shape=(1, 8, 8),
        levels=2,
        vector=features.shape[0] if dense else None,
        image=None if dense else features.shape,
        width=4,
        blocks=2,
    )
    for parameter in model.condition.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.conditioner = features
    return model.eval()


def context_of(model: GatedPixelCNN, x: Tensor) -> Context:
    """Returns the context of images: the features that a model is conditioned on."""
    context = model.conditioning(x, None, range(len(x))).context
    assert context is not None
    return context
