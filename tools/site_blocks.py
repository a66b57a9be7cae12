"""Marks commands and outputs among the blocks of code, for docs/style.css; a hook of MkDocs.

Commands and outputs wrap, because nobody scrolls sideways to see how they end; but pictures made of
characters, and tables with wide gaps, do not. Outputs are not to be copied.
"""

from __future__ import annotations

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"[ .:oO#@]{12}")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Marks the blocks of a page."""
    return marked(markdown)


def marked(text: str) -> str:
    """Gives blocks of commands the class `commands`, outputs `output`, and what wraps `wrapped`."""

    def replace(block: re.Match[str]) -> str:
        language, code = block.groups()
        if language not in ("", "text"):
            return block[0]
        classes = ".output" if language else ".commands"
        if not (language and PICTURE.search(code)):
            classes += " .wrapped"
        return f"```{{ .text {classes} }}\n{code}```"

    return BLOCK.sub(replace, text)
