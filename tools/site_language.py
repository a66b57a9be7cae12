"""Marks the Chinese pages of the documentation site as Chinese; a hook of MkDocs.

Browsers choose the shapes of characters by it, and screen readers the voice.
"""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Returns the built page, with its language."""
    if page.file.src_uri.startswith("zh/"):
        return output.replace('<html lang="en"', '<html lang="zh-CN"', 1)
    return output
