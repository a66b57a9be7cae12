"""Marks commands and outputs among the blocks of code, for docs/style.css; a hook of MkDocs.

Commands wrap, because nobody scrolls sideways to see how one ends. So do outputs of long lines;
those of short lines may be pictures made of characters, which must not. Outputs are not copied.
"""

from __future__ import annotations

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = 100  # columns that a picture made of characters has at most


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Marks the blocks of a page."""
    return marked(markdown)


def marked(text: str) -> str:
    """Gives blocks of commands the class `commands`, and those of outputs `output`."""

    def replace(block: re.Match[str]) -> str:
        language, code = block.groups()
        if language not in ("", "text"):
            return block[0]
        longest = max(map(len, code.splitlines()), default=0)
        classes = ".commands" if not language else ".output"
        if not language or longest > PICTURE:
            classes += " .wrapped"
        return f"```{{ .text {classes} }}\n{code}```"

    return BLOCK.sub(replace, text)
