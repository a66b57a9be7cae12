"""The documentation names commands, options and files that exist."""

import re
import shlex
from pathlib import Path

import pytest

from nextpixel.cli import main as cli
from tests.helpers import ROOT

PAGES = [
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "recipes/*.md", "data/*.md")
    for path in sorted(ROOT.glob(pattern))
]


def commands(text: str) -> list[list[str]]:
    """Finds the commands in blocks of code, except those that need a run or a shell."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [block for language, block in blocks if not language]
    lines = [line for block in commands for line in block.replace("\\\n", " ").splitlines()]
    ours = [line for line in lines if line.startswith("nextpixel ")]
    return [
        shlex.split(line, comments=True)[1:] for line in ours if not re.search(r"\$|--resume", line)
    ]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_in_the_documentation_can_be_read(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "examples")  # docs/own-model.md runs there
    for name, *rest in commands((ROOT / page).read_text()):
        module = cli.command(name)
        if name == "train":
            module.arguments(rest)
        else:
            cli.read(name, module, rest)


def test_the_documentation_has_commands() -> None:
    assert sum(len(commands((ROOT / page).read_text())) for page in PAGES) > 50


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_in_the_documentation_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text())
    files = [link for link in links if not link.startswith("http")]
    assert [link for link in files if not (ROOT / page.parent / link).exists()] == []
