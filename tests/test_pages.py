"""The pages of docs/learn run from top to bottom, and print what they say they print.

Their translations have the same code and the same outputs.
"""

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import ROOT, enter

PAGES = sorted((ROOT / "docs" / "learn").glob("[0-9]*.md"))
TRANSLATED = {
    "README.md": "README.zh-CN.md",
    **{
        f"docs/learn/{path.name}": f"docs/zh/learn/{path.name}"
        for path in (ROOT / "docs" / "learn").glob("*.md")
    },
}
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_pages", ROOT / "tools" / "run_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "run_pages", module)  # dataclasses look there
        spec.loader.exec_module(module)
    return module


def alike(shown: str, printed: str) -> bool:
    """Checks whether two outputs have the same words and nearly the same numbers."""
    numbers = [
        [float(number.replace(",", "")) for number in NUMBER.findall(text)]
        for text in (shown, printed)
    ]
    return NUMBER.sub("#", shown) == NUMBER.sub("#", printed) and all(
        math.isclose(a, b, rel_tol=0.02, abs_tol=0.01) for a, b in zip(*numbers, strict=True)
    )


def test_there_are_seven() -> None:
    assert [path.name[0] for path in PAGES] == list("1234567")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_prints_what_it_shows(
    path: Path, tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path, monkeypatch)
    page = tool.Page(path.read_text("utf-8"))
    assert len(list(page.run())) >= 3
    assert len(page.printed) >= 3
    for start, end, printed, compared in page.printed:
        if compared:
            assert alike(page.text[start:end], printed), printed


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 1,000 b", "a 1,001 b", True),
        ("a 0.50 b", "a 0.60 b", False),
        ("a 1 b", "a 1 c", False),
        ("1 2", "1", False),
    ],
)
def test_outputs_are_compared(shown: str, printed: str, same: bool) -> None:
    assert alike(shown, printed) is same


def test_a_page_is_filled_with_what_it_prints(tool: ModuleType) -> None:
    text = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n\n```text\nno output\n```\n"
    page = tool.Page(text)
    assert len(list(page.run())) == 1
    assert page.filled() == text.replace("3", "2", 1)


@pytest.mark.parametrize("original", sorted(TRANSLATED))
def test_a_translation_has_the_same_blocks_headings_and_images(
    original: str, tool: ModuleType
) -> None:
    texts = [(ROOT / name).read_text("utf-8") for name in (original, TRANSLATED[original])]
    blocks = [[block[0] for block in tool.BLOCK.finditer(text)] for text in texts]
    assert blocks[0] == blocks[1]
    prose = [tool.BLOCK.sub("", text) for text in texts]
    headings = [re.findall(r"^#+ ", text, re.MULTILINE) for text in prose]
    assert headings[0] == headings[1]
    images = [
        [Path(name).name for name in re.findall(r"!\[.*?\]\((.*?)\)", text)] for text in prose
    ]
    assert images[0] == images[1]


def test_every_translation_has_an_original() -> None:
    chinese = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/zh").rglob("*.md")]
    assert set(chinese) <= set(TRANSLATED.values())


def test_a_translation_is_filled(tool: ModuleType) -> None:
    text = "甲\n\n```text\n1\n```\n"
    assert tool.with_blocks(text, "A\n\n```text\n\\2\n```\n") == "甲\n\n```text\n\\2\n```\n"
    with pytest.raises(ValueError, match="more or fewer"):
        tool.with_blocks(text, "A")


def test_a_command_that_fails_is_noticed(tool: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="nextpixel models NoSuchModel"):
        list(tool.Page("```\nnextpixel models NoSuchModel\n```\n").run())
