"""The example of a user's own model, and every command and program of docs/own-model.md."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from nextpixel import AutoregressiveModel
from tests.helpers import ROOT

TEXT = (ROOT / "docs" / "own-model.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
PROGRAMS = [block for kind, block in BLOCKS if kind == "python"]
NETS = ["MyNet", "MyFastNet"]
SMALLER = {  # what is added to a command, so that it takes no longer than it must
    "train": "--model.width 4 --train.steps 2 --train.batch_size 4 --train.valid_images 8",
    "eval": "--limit 8",
    "sample": "-n 1",
    "complete": "-n 1 --draws 1",
    "check": "--seed 1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's file in it, as examples/ is."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(ROOT / "examples" / "own_model.py", folder)
    return folder


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's module."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    import own_model

    return own_model


def run(words: list[str], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_the_commands_work_one_after_the_other(folder: Path) -> None:
    first, *commands = COMMANDS
    assert first == "cd examples"
    names = [command.split()[1] for command in commands]
    assert names == ["train", "eval", "sample", "complete", "check", "check", "train", "sample"]
    for command, name in zip(commands, names, strict=True):
        program, *words = shlex.split(command)
        assert program == "nextpixel"
        # The script itself and not `python -m`, which would look for modules here by itself.
        script = str(Path(sys.executable).with_name(program))
        smaller = SMALLER[name] + " --model.window 3" * ("--model.window" in words)
        run([script, *words, *smaller.split()], folder)
        for number, word in enumerate(words):
            if word == "--out":
                assert (folder / words[number + 1]).exists()


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_works(number: int, folder: Path) -> None:
    run([sys.executable, "-c", PROGRAMS[number]], folder)


def test_there_are_two_programs() -> None:
    assert ["Slow" in program for program in PROGRAMS] == [False, True]


GATED = """
import torch
from torch import nn

from nextpixel.nn.context_bias import ContextBias
from nextpixel.context import ContextSpec
from nextpixel.models.base.autoregressive import CausalNetwork
from nextpixel.nn import Head, MaskedConv2d
from nextpixel.nn.resnet import concat_elu

class Gated(CausalNetwork):
    parts, doubled = 2, False

    def __init__(self, *, shape, levels, classes=None, inputs="scaled"):
        super().__init__(shape=shape, levels=levels, classes=classes, inputs=inputs)
        self.condition = ContextBias(ContextSpec(), [], (1, 1))
        self.first = MaskedConv2d("A", self.in_channels, 12, 3, groups=self.groups)
        inputs = 24 if self.doubled else 12
        self.gate = MaskedConv2d("B", inputs, 24, 3, groups=self.groups, parts=self.parts)
        self.head = Head(12, 12, self.out_channels, self.groups)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def network(self, x, biases, cache=None):
        h = self.first(x, cache=cache)
        h = concat_elu(h) if self.doubled else h
        a, b = self.gate(h, cache=cache).chunk(2, 1)
        return self.head(torch.tanh(a) * torch.sigmoid(b), cache)

class Mixed(Gated):
    parts = 1

class Doubled(Gated):
    doubled = True
"""


@pytest.mark.parametrize(
    ("name", "causal"), [("Gated", True), ("Mixed", False), ("Doubled", False)]
)
def test_the_page_finds_channels_that_see_themselves(
    name: str, causal: bool, tmp_path: Path
) -> None:
    (tmp_path / "gated.py").write_text(GATED)
    program = PROGRAMS[0].replace("own_model import MyNet", f"gated import {name} as MyNet")
    assert program != PROGRAMS[0]
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == causal, done.stderr
    assert causal or "sees the future" in done.stderr


def tiny(own: ModuleType, name: str, channels: int = 1, classes: int | None = 3) -> Any:
    torch.manual_seed(0)
    model = getattr(own, name)(shape=(channels, 4, 5), levels=3, classes=classes, width=6).double()
    for parameter in model.parameters():  # the biases of the classes are zero at first
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def pmfs(model: AutoregressiveModel, x: Tensor) -> Tensor:
    """Computes the probabilities at all sites, in raster order, `(sites, B, levels)`."""
    return model(x, 1).pmf().permute(2, 3, 1, 0, 4).flatten(0, 2)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_causal_and_sees_the_past(own: ModuleType, name: str, channels: int) -> None:
    model = tiny(own, name, channels)
    x = torch.randint(3, (2, *model.shape))
    before = pmfs(model, x)
    for site in range(len(before)):
        pixel, channel = divmod(site, channels)
        changed = x.clone()
        changed[(slice(None), channel, *divmod(pixel, 5))] += 1
        after = pmfs(model, changed % 3)
        assert torch.equal(after[: site + 1], before[: site + 1])
        assert pixel == 19 or not torch.equal(after, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [None, 3])
def test_cached_and_full_sampling_agree(
    own: ModuleType, channels: int, classes: int | None
) -> None:
    fast = tiny(own, "MyFastNet", channels, classes)

    class Slow(own.MyFastNet):  # type: ignore[name-defined, misc]
        start = AutoregressiveModel.start
        step = AutoregressiveModel.step

    slow = Slow(**fast.hyperparameters).double()
    slow.load_state_dict(fast.state_dict())
    c = None if classes is None else 2
    drawn = fast.sample(16, c, seed=1)
    assert torch.equal(drawn, slow.sample(16, c, seed=1))
    assert len(drawn.unique(dim=0)) > 8


@pytest.mark.parametrize("name", NETS)
def test_the_class_matters(own: ModuleType, name: str) -> None:
    model = tiny(own, name)
    x = torch.randint(3, (1, *model.shape))
    assert not torch.equal(model.log_prob(x, 0), model.log_prob(x, 2))
