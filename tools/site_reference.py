"""Makes the reference pages of the documentation site; a hook of MkDocs, see mkdocs.yml.

Nothing of it is kept in the repository: the pages of the Python names come from the docstrings,
those of the commands from their parsers, and the model cards from the cards beside the weights.
In `nav` of mkdocs.yml, a folder with a slash at its end stands for its generated pages.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import nextpixel
from nextpixel.cli import main as cli
from nextpixel.cli.options import Parser
from nextpixel.model_folders import bundles, judges, shipped

ROOT = Path(__file__).parents[1]
UP = "../../../"  # from a generated page to the repository, as if it lay in docs/reference/FOLDER
TITLES = {
    "models": "Models",
    "data": "Data",
    "distributions": "Distributions",
    "sampling": "Sampling",
    "training": "Training",
    "evaluation": "Evaluation",
    "tasks": "Restoration and variations",
    "codec": "Compression",
    "latents": "Latent codes",
    "conditioning": "Conditioning",
    "engine": "Programs",
    "viz": "Pictures",
    "errors": "Errors",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Makes the pages, and puts them into the navigation."""
    pages = dict(page for make in (python_pages, command_pages, card_pages) for page in make())
    config.extra["generated"] = pages
    config.nav = fill(config.nav, list(pages))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages to those of docs/."""
    for path, text in config.extra["generated"].items():
        files.append(File.generated(config, path, content=text))
    return files


def fill(nav: Any, pages: list[str]) -> Any:
    """Replaces each folder in the navigation by its generated pages."""
    if isinstance(nav, list):
        return [fill(entry, pages) for entry in nav]
    if isinstance(nav, dict):
        return {title: fill(entry, pages) for title, entry in nav.items()}
    return [page for page in pages if page.startswith(nav)] if nav.endswith("/") else nav


# --- Python ---------------------------------------------------------------------------------------


def python_pages() -> Iterator[tuple[str, str]]:
    """Makes a page for each room with public names: those of `nextpixel`, then those of modules.

    The names of modules are those that docs/reference.md lists under "More names".
    """
    public = sorted((module, name) for name, module in nextpixel._MODULES.items())
    more = more_names((ROOT / "docs" / "reference.md").read_text("utf-8"))
    rooms = {module.split(".")[1] for module, _ in [*public, *more]}
    if rooms != set(TITLES):
        raise ValueError(f"TITLES must have these rooms: {sorted(rooms)}")
    for room, title in TITLES.items():
        lines = [f"# {title}", "", "Made from the docstrings. `npx` is `nextpixel`."]
        for module, name in public:
            if module.split(".")[1] == room:
                lines += ["", entry(f"{module}.{name}", f"npx.{name}")]
        for module, name in more:
            if module.split(".")[1] == room:
                lines += ["", entry(f"{module}.{name}", f"{module}.{name}")]
        yield f"reference/python/{room}.md", "\n".join(lines) + "\n"


def entry(path: str, heading: str) -> str:
    """Returns the directive that shows one name under a heading."""
    return f'::: {path}\n    options:\n      heading: "{heading}"\n      toc_label: "{heading}"'


def more_names(text: str) -> list[tuple[str, str]]:
    """Finds the modules and names in the rows of docs/reference.md that begin with a module."""
    rows = re.findall(r"^\| `(nextpixel\.[\w.]+)` \| (.*) \|$", text, re.MULTILINE)
    return [
        (module, name)
        for module, cell in rows
        for name in re.findall(r"`(\w+)`", cell.partition(":")[0])
    ]


# --- commands -------------------------------------------------------------------------------------


def command_pages() -> Iterator[tuple[str, str]]:
    """Makes a page for each command, from its parser, and one that lists them."""
    lines = ["# Commands", "", "Made from the parsers; `nextpixel COMMAND --help` prints the same."]
    pages = []
    for group, names in cli.GROUPS.items():
        lines += ["", f"## {group}", "", "| command | what it does |", "| --- | --- |"]
        for name in names:
            first = (cli.command(name).__doc__ or "").splitlines()[0]
            lines.append(f"| [`{name}`]({name}.md) | {first} |")
            pages.append((f"reference/commands/{name}.md", command_page(name)))
    yield "reference/commands/index.md", "\n".join(lines) + "\n"
    yield from pages


def command_page(name: str) -> str:
    """Returns the page of one command, made from its help as it is printed on very long lines."""
    with long_lines():
        text = parser_of(name).format_help()
    head, *sections = re.split(r"^(?=\S.*:$)", text, flags=re.MULTILINE)
    usage, _, description = head.partition("\n\n")
    usage = " ".join(usage.split()).removeprefix("usage: ")
    lines = [f"# {name}", "", *paragraphs(description), "```text", usage, "```"]
    for section in sections:
        title, _, body = section.partition("\n")
        if title == "examples:":
            examples = [line.strip() for line in body.splitlines() if line.strip()]
            lines += ["", "## Examples", "", "```", *examples, "```"]
            continue
        body, _, after = body.partition("\n\n")
        rows = [row for row in options(body) if "--help" not in row[0]]
        if rows:
            lines += ["", f"## {title[:1].upper()}{title[1:].rstrip(':')}", ""]
            lines += ["| option | meaning |", "| --- | --- |"]
            lines += [f"| `{words}` | {cell(meaning)} |" for words, meaning in rows]
        lines += ["", *paragraphs(after)]
    return "\n".join(lines) + "\n"


def parser_of(name: str) -> argparse.ArgumentParser:
    """Returns the parser of a command."""
    if name == "train":
        from nextpixel.cli.train_options import train_parser

        parser: argparse.ArgumentParser = train_parser()
        return parser
    module = cli.command(name)
    parser = Parser(name, module.__doc__ or "", module.EXAMPLES)
    module.arguments(parser)
    return parser


@contextmanager
def long_lines() -> Iterator[None]:
    """Makes argparse print each option's meaning on one line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def options(text: str) -> list[tuple[str, str]]:
    """Reads the options of a section of a help text, each with its meaning."""
    rows: list[tuple[str, str]] = []
    for line in text.splitlines():
        if re.match(r"  \S", line):
            words, _, meaning = line.strip().partition("  ")
            rows.append((words.replace(" \b", ""), meaning.strip()))
        elif rows:
            rows[-1] = (rows[-1][0], f"{rows[-1][1]} {line.strip()}".strip())
    return rows


def cell(text: str) -> str:
    """Escapes what would end a cell of a table."""
    return text.replace("|", "\\|")


def paragraphs(text: str) -> list[str]:
    """Returns paragraphs with an empty line after each; indented ones stay code."""
    lines = []
    for part in text.strip("\n").split("\n\n"):
        lines += [f"```text\n{part}\n```" if part.startswith("  ") else " ".join(part.split()), ""]
    return lines


# --- model cards ----------------------------------------------------------------------------------


def card_pages() -> Iterator[tuple[str, str]]:
    """Makes a page for each pretrained model and classifier, from its card."""
    folders = {**shipped(), **bundles(), **judges()}
    cards = {
        name: json.loads((folder / "card.json").read_text("utf-8"))
        for name, folder in folders.items()
    }
    lines = ["# Model cards", "", "Made from the cards that lie beside the weights;"]
    lines += [
        "`nextpixel models NAME` prints one.",
        "",
        "| name | model | data |",
        "| --- | --- | --- |",
    ]
    for name, card in cards.items():
        lines.append(
            f"| [`{name}`]({name}.md) | {card.get('model', 'classifier')} | {card['data']} |"
        )
    yield "reference/models/index.md", "\n".join(lines) + "\n"
    for name, card in cards.items():
        yield f"reference/models/{name}.md", card_page(name, card)


def card_page(name: str, card: dict[str, Any]) -> str:
    """Returns the page of one card: its facts as tables, and the commands that measured them."""
    commands: list[str] = []
    tables: list[str] = []
    facts = flatten(
        {key: value for key, value in card.items() if key != "name"}, "", commands, tables
    )
    lines = [f"# {name}", "", "| fact | value |", "| --- | --- |"]
    lines += [f"| {key} | {value} |" for key, value in facts]
    lines += tables
    if commands:
        lines += ["", "Measured by:", "", "```", *commands, "```"]
    return "\n".join(lines) + "\n"


def flatten(
    part: dict[str, Any], before: str, commands: list[str], tables: list[str]
) -> list[tuple[str, str]]:
    """Returns the facts of a card in rows; its commands and its tables are put aside."""
    rows = []
    for key, value in part.items():
        name = f"{before}{key.replace('_', ' ')}"
        if key == "command":
            commands.append(value)
        elif isinstance(value, dict):
            rows += flatten(value, f"{name}: ", commands, tables)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += table(name, value)
        elif key == "recipe":
            rows.append((name, f"[{value}]({UP}{value})"))
        elif not key.endswith("_error"):
            rows.append((name, number(value, part.get(f"{key}_error"))))
    return rows


def table(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """Returns a table of rows that have the same columns; columns of dictionaries are left out."""
    keys = [
        key
        for key, value in rows[0].items()
        if not isinstance(value, dict) and not key.endswith("_error")
    ]
    lines = [
        "",
        f"## {name[:1].upper()}{name[1:]}",
        "",
        f"| {' | '.join(keys)} |".replace("_", " "),
    ]
    lines.append("|" + " --- |" * len(keys))
    for values in rows:
        cells = [number(values.get(key), values.get(f"{key}_error")) for key in keys]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def number(value: Any, error: float | None = None) -> str:
    """Returns a value of a card as text, with its standard error if it has one."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " x ".join(map(str, value))
    if not isinstance(value, (int, float)):
        return cell(str(value))
    if error is not None:
        return f"{value:.4f} ± {error:.4f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
