"""Makes the Chinese pages of the documentation site Chinese around their text, too; a hook.

The theme has one language for a site. Here each page gets its own: the theme's words, the names of
the sections, the list of languages in the header and `lang`, by which browsers choose the shapes of
characters and screen readers the voice. Only Learn is translated, and a plugin for whole
translations (mkdocs-static-i18n) would build every other page twice.
"""

from __future__ import annotations

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

CHINESE = "zh/"  # the folder of the Chinese pages, and the theme's name of their language
START = "zh/learn/index.html"  # where readers of Chinese begin
# The sections, in the order in which a Chinese page shows them; Learn is there in Chinese.
SECTIONS = {
    "中文": "入门",
    "Home": "首页 (英文)",
    "Do": "操作 (英文)",
    "Understand": "原理 (英文)",
    "Reference": "参考 (英文)",
    "Notebook": "实验记录 (英文)",
    "In a browser": "在浏览器里 (英文)",
}


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Ends the walk by "next" and "previous" where the language changes."""
    for page in nav.pages:
        for name in ("previous_page", "next_page"):
            other = getattr(page, name)
            if other is not None and is_chinese(other) != is_chinese(page):
                setattr(page, name, None)
    config.extra["sections"] = [(item.title, item) for item in nav.items]
    return nav


def on_page_context(
    context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Navigation
) -> dict[str, Any]:
    """Sets the language of one page, which is rendered next."""
    sections = dict(config.extra["sections"])
    config.extra["alternate"] = alternates(page, {each.url for each in nav.pages})
    if is_chinese(page):
        config.theme["language"] = "zh"
        nav.items = [sections[title] for title in SECTIONS]
        for title, chinese in SECTIONS.items():
            sections[title].title = chinese
    else:
        config.theme["language"] = "en"
        nav.items = [item for title, item in sections.items() if title != "中文"]
    return context


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Gives the sections their titles back, and says that the characters are simplified ones."""
    if not is_chinese(page):
        return output
    for title, item in config.extra["sections"]:
        item.title = title
    return output.replace('<html lang="zh"', '<html lang="zh-CN"', 1)


def is_chinese(page: Page) -> bool:
    """Checks whether a page is a translation."""
    return page.file.src_uri.startswith(CHINESE)


def alternates(page: Page, urls: set[str]) -> list[dict[str, str]]:
    """Lists the languages of the header, each with the same page, or where its readers begin."""
    english = page.url.removeprefix(CHINESE)
    chinese = f"{CHINESE}{english}" if f"{CHINESE}{english}" in urls else START
    return [
        {"name": "English", "link": english, "lang": "en"},
        {"name": "中文", "link": chinese, "lang": "zh-CN"},
    ]
