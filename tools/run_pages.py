"""Runs the code of pages of the documentation, and writes what it prints into them.

    python tools/run_pages.py docs/learn/*.md

A page runs from top to bottom in an empty folder: blocks of `python` share their names, and a block
without a language holds commands. A block of `text` behind one of these is what it prints, and is
replaced. The comment `<!-- not compared -->` before a block of `text` says that another machine may
print something else there; tests/test_pages.py compares the others. The translation of a page of
docs/learn, in docs/zh/learn, gets the same blocks.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_COMPARED = "<!-- not compared -->\n"


@dataclass
class Page:
    """A page that runs block by block.

    Attributes:
        text: Its Markdown.
        printed: For each block of `text` behind code: where it begins and ends in the page, what
            the code before it printed, and whether all machines print the same.
    """

    text: str
    scope: dict[str, Any] = field(default_factory=dict)
    printed: list[tuple[int, int, str, bool]] = field(default_factory=list)

    def run(self) -> Iterator[tuple[str, float]]:
        """Runs the page in the current folder; yields each block of code and its seconds."""
        out = None
        for block in BLOCK.finditer(self.text):
            language, code = block.groups()
            if language == "text":
                if out is not None:
                    same = not self.text[: block.start()].endswith(NOT_COMPARED)
                    self.printed.append((block.start(2), block.end(2), out, same))
                out = None
                continue
            start = time.monotonic()
            stream = io.StringIO()
            with contextlib.redirect_stdout(stream):
                if language == "python":
                    exec(code, self.scope)
                elif not language:
                    run_commands(code)
            out = "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())
            yield code, time.monotonic() - start

    def filled(self) -> str:
        """Returns the page with what was printed, after `run`."""
        text = self.text
        for start, end, out, _ in reversed(self.printed):
            text = text[:start] + out + text[end:]
        return text


def with_blocks(text: str, original: str) -> str:
    """Returns a translation with the blocks of its original."""
    blocks = [block[0] for block in BLOCK.finditer(original)]
    if len(blocks) != len(BLOCK.findall(text)):
        raise ValueError("The translation has more or fewer blocks than its original.")
    return BLOCK.sub(lambda _: blocks.pop(0), text)


def run_commands(block: str) -> None:
    """Runs the commands of a block, which must succeed."""
    from nextpixel.cli.main import main

    for line in block.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "nextpixel" and main(words) != 0:
            raise RuntimeError(f"This command failed: {line}")
        if program not in ("", "nextpixel"):
            raise ValueError(f"A block without a language has commands of nextpixel only: {line}")


def run() -> None:
    """Runs the pages that are named and writes them again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    for path in parser.parse_args().pages:
        path = path.absolute()
        page = Page(path.read_text("utf-8"))
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for code, seconds in page.run():
                print(f"{path.name}: {seconds:5.1f} s  {code.splitlines()[0]}", file=sys.stderr)
            os.chdir(before)
        path.write_text(page.filled(), "utf-8")
        translation = path.parents[1] / "zh" / path.parent.name / path.name
        if translation.exists():
            filled = with_blocks(translation.read_text("utf-8"), page.filled())
            translation.write_text(filled, "utf-8")


if __name__ == "__main__":
    run()
