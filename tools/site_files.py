"""Makes links to files outside docs/ work on the documentation site; a hook of MkDocs.

On GitHub a page may link to `../examples/own_model.py`. On the site that file becomes a page
under `repository/`: a Markdown file as it is, a notebook cell by cell, a folder as a list, and
any other file as code. The hook also checks that no page loads anything from another host.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\[[^\]]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
LANGUAGES = {".py": "python", ".c": "c", ".yaml": "yaml", ".toml": "toml", ".js": "javascript"}
LONGEST = 200_000  # bytes of a file that becomes a page
FOREIGN = re.compile(
    r"<(?:script|img|iframe|audio|video|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'> ]*"
    r"|<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preload|preconnect|icon))"
    r"[^>]*href=[\"']?(?:https?:)?//[^\"'> ]*"
    r"|(?:url\(|@import )[\"']?(?:https?:)?//[^\"') ]*"
)
log = logging.getLogger("mkdocs.hooks.site_files")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside docs/ that a page leads to, by one link or several."""
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        source, text = waiting.pop()
        for target in targets(source, text):
            uri = page_of(target)
            if uri.startswith("repository/") and uri not in files.src_uris:
                made = contents(target)
                files.append(File.generated(config, uri, content=made))
                waiting.append((uri, made))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links to files outside docs/, and those of the pages that show such files."""
    return rewritten(page.file.src_uri, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Warns, which fails a strict build, where a built file loads something from another host."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css"):
            for found in FOREIGN.findall(path.read_text("utf-8")):
                log.warning("%s loads from another host: %s", path.name, found[:100])


def where(source: str) -> str:
    """Returns the path of a page in the repository: what its links are relative to."""
    if not source.startswith("repository/"):
        return f"docs/{source}"
    path = source.removeprefix("repository/")
    if path.endswith("/index.md") and not (ROOT / path).exists():  # the list of a folder
        return path
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def page_of(target: str) -> str:
    """Returns the path, within docs/, of the page or file that shows a file of the repository."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if (ROOT / target).is_dir():
        return f"repository/{target}/index.md"
    return f"repository/{target}" if target.endswith(".md") else f"repository/{target}.md"


def targets(source: str, text: str) -> list[str]:
    """Lists the files of the repository that the links of a page lead to."""
    return [target for _, link, _ in LINK.findall(text) if (target := target_of(source, link))]


def target_of(source: str, link: str) -> str | None:
    """Returns the file of the repository that a link leads to; None if there is none."""
    if re.match(r"[a-z]+:|/", link):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(where(source)), link))
    return target if not target.startswith("..") and (ROOT / target).exists() else None


def rewritten(source: str, text: str) -> str:
    """Rewrites the links of a page to those of the site; links within docs/ stay as they are."""

    def replace(match: re.Match[str]) -> str:
        start, link, end = match.groups()
        target = target_of(source, link)
        if target is None or (target.startswith("docs/") and not source.startswith("repository/")):
            return match[0]
        return f"{start}{os.path.relpath(page_of(target), posixpath.dirname(source) or '.')}{end}"

    return LINK.sub(replace, text)


def contents(target: str) -> str:
    """Returns the Markdown of the page that shows a file or a folder of the repository."""
    path = ROOT / target
    if path.is_dir():
        names = sorted(
            entry.name for entry in path.iterdir() if not entry.name.startswith(("_", "."))
        )
        lines = [f"- [{name}]({name})" for name in names]
        return "\n".join([f"# {target}", "", *lines, ""])
    if path.suffix == ".md":
        return path.read_text("utf-8")
    if path.stat().st_size > LONGEST:
        return f"# {target}\n\nThis file is too long to be shown here.\n"
    if path.suffix == ".ipynb":
        return notebook(path.read_text("utf-8"))
    code = path.read_text("utf-8").rstrip()
    return f"# {target}\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{code}\n````\n"


def notebook(text: str) -> str:
    """Returns the cells of a notebook as Markdown."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(parts) + "\n"
