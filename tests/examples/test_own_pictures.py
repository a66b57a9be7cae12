"""The commands of docs/own-pictures.md run, in their order, on a small folder."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel.cli.main import main
from tests.helpers import ROOT, size

# Only time and size are less than on the page.
LESS = {"--minutes 10": "--minutes 0.1", "--train.minutes 30": "--train.minutes 0.1"}
LESS |= {"--resize 32": "--resize 8", "--size small": "--size small --model.width 8"}


def commands() -> list[str]:
    text = (ROOT / "docs/own-pictures.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for folder, count in (("my-pictures", 80), ("my-other-pictures", 5)):
        Path(folder).mkdir()
        for i in range(count):
            x = random.integers(0, 256, (8, 8)).astype(np.uint8)
            Image.fromarray(x).save(Path(folder) / f"{i}.png")
    lines = commands()
    assert len(lines) >= 7
    for line in lines:
        for long, short in LESS.items():
            line = line.replace(long, short)
        program, *words = shlex.split(line)
        assert program == "nextpixel"
        assert main(words) == 0, line
    assert Path("runs/my-pictures/report.html").is_file()
    assert Path("runs/mine/report.html").is_file()
    assert size("new.png") > (30, 30)
    assert size("completed.png") > (30, 30)
    assert len(Path("scores.csv").read_text().splitlines()) == 6
