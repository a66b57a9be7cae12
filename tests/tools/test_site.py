"""The hooks of the documentation site: links to files outside docs/, and generated pages."""

import importlib.util
import posixpath
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import parse_qsl

import pytest

from nextpixel import __all__ as public
from nextpixel.cli.main import COMMANDS
from tests.helpers import ROOT

pytest.importorskip("mkdocs", reason="there is no MkDocs: make docs installs it")

APP = "src/nextpixel/web/page/app.mjs"


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files() -> ModuleType:
    return hook("site_files")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return hook("site_reference")


@pytest.mark.parametrize(
    ("source", "link", "rewritten"),
    [
        ("own-model.md", "../examples/own_model.py", "repository/examples/own_model.py.md"),
        ("do/x.md", "../../recipes/README.md#mnist", "../repository/recipes/README.md#mnist"),
        ("own-model.md", "../src/nextpixel/models", "repository/src/nextpixel/models/index.md"),
        ("repository/CONTRIBUTING.md", "docs/reference.md", "../reference.md"),
        ("repository/recipes/README.md", "../docs/codes.md", "../../codes.md"),
        ("repository/src/nextpixel/models/index.md", "vae.py", "vae.py.md"),
        ("do/x.md", "../speed.md#cost", "../speed.md#cost"),
        ("speed.md", "https://arxiv.org/abs/1601.06759", "https://arxiv.org/abs/1601.06759"),
        ("speed.md", "../no-such-file.md", "../no-such-file.md"),
    ],
)
def test_links_lead_to_pages(files: ModuleType, source: str, link: str, rewritten: str) -> None:
    assert files.rewritten(source, f"see [it]({link}).") == f"see [it]({rewritten})."


def test_files_become_pages(files: ModuleType) -> None:
    assert "class MyNet" in files.contents("examples/own_model.py")
    assert "- [vae.py](vae.py)\n" in files.contents("src/nextpixel/models")
    assert "```python\n" in files.contents("examples/pictures.ipynb")
    assert files.contents("CONTRIBUTING.md") == (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    ("html", "foreign"),
    [
        ('<script src="https://a.b/c.js"></script>', True),
        ('<link rel="stylesheet" href="//a.b/c.css">', True),
        ("@import url(https://a.b/c.css)", True),
        ('<a href="https://a.b/">a</a><img src="a.png">', False),
        ('<link rel="stylesheet" href="../assets/main.css">', False),
    ],
)
def test_what_other_hosts_would_load_is_found(files: ModuleType, html: str, foreign: bool) -> None:
    assert bool(files.FOREIGN.search(html)) is foreign


def page_at(uri: str) -> SimpleNamespace:
    file = SimpleNamespace(src_uri=uri)
    return SimpleNamespace(file=file, url=uri.replace(".md", ".html"), title=uri)


def test_chinese_pages_are_chinese_around_their_text() -> None:
    language = hook("site_language")
    names = ["index.md", "learn/index.md", "page.md", "zh/learn/index.md", "zh/learn/1.md"]
    home, learn, last, start, first = pages = [page_at(name) for name in names]
    for page, before, after in zip(pages, [None, *pages], [*pages[1:], None], strict=False):
        page.previous_page, page.next_page = before, after
    items = [SimpleNamespace(title=title) for title in ("Learn", *language.SECTIONS)]
    nav, config = SimpleNamespace(pages=pages, items=items), SimpleNamespace(extra={}, theme={})
    language.on_nav(nav, config, None)
    assert (home.next_page, last.next_page) == (learn, None)
    assert (start.previous_page, start.next_page) == (None, first)

    language.on_page_context({}, start, config, nav)
    assert config.theme["language"] == "zh"
    assert [item.title for item in nav.items] == list(language.SECTIONS.values())
    assert [each["link"] for each in config.extra["alternate"]] == [learn.url, start.url]
    built = language.on_post_page('<html lang="zh" class="no-js">', start, config)
    assert built == '<html lang="zh-CN" class="no-js">'

    language.on_page_context({}, last, config, nav)
    assert config.theme["language"] == "en"
    assert [item.title for item in nav.items] == [
        title for title in ("Learn", *language.SECTIONS) if title != "中文"
    ]
    assert [each["link"] for each in config.extra["alternate"]] == [last.url, start.url]
    english = '<html lang="en" class="no-js">'
    assert language.on_post_page(english, last, config) == english


@pytest.mark.parametrize(
    ("block", "classes"),
    [
        ("```\nnextpixel check\n```", "{ .text .commands .wrapped }"),
        ("```text\nPassed, 1.0000 of all\n```", "{ .text .output .wrapped }"),
        ("```text\n  .:oO@@@@@@@o.  \n```", "{ .text .output }"),
        ("```python\nprint()\n```", "python"),
    ],
)
def test_commands_and_outputs_are_marked(block: str, classes: str) -> None:
    marked = hook("site_blocks").marked(f"Text.\n\n{block}\n\nMore.\n")
    assert marked.startswith(f"Text.\n\n```{classes}\n")
    assert marked.endswith("\n```\n\nMore.\n")


def test_every_public_name_has_an_entry(reference: ModuleType) -> None:
    text = "".join(page for _, page in reference.python_pages())
    assert [name for name in public if f'heading: "npx.{name}"' not in text] == []


def test_every_command_and_its_options_have_a_page(reference: ModuleType) -> None:
    pages = dict(reference.command_pages())
    for name in COMMANDS:
        assert f"({name}.md)" in pages["reference/commands/index.md"]
        assert "| `--help" not in pages[f"reference/commands/{name}.md"]
    train = pages["reference/commands/train.md"]
    assert "| `--train.lr LR` | Peak learning rate. (default: 0.003) |" in train
    assert "\n## Examples\n\n```\nnextpixel train --model GatedPixelCNN " in train
    sample = pages["reference/commands/sample.md"]
    assert "| `-n N` | sample N images" in sample
    assert "nextpixel sample mnist --out grid.png" in sample


def test_every_pretrained_model_has_its_card(reference: ModuleType) -> None:
    pages = dict(reference.card_pages())
    digits = pages["reference/models/mnist.md"]
    assert "| scores: test: bits per dim | 0.7793 ± 0.0030 |" in digits
    assert "nextpixel eval mnist --data mnist --json\n" in digits
    assert "[recipes/mnist/mnist.yaml](../../../recipes/mnist/mnist.yaml)" in digits
    assert "## Quality: rows" in pages["reference/models/vq-mnist.md"]


def test_folders_in_the_navigation_are_filled(reference: ModuleType) -> None:
    nav = [{"Home": "index.md"}, {"Commands": "reference/commands/"}]
    filled = reference.fill(nav, ["reference/commands/a.md", "reference/models/b.md"])
    assert filled == [{"Home": "index.md"}, {"Commands": ["reference/commands/a.md"]}]


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.stem + path.parent.stem
)
def test_links_to_the_live_page_lead_to_it(page: Path) -> None:
    """MkDocs checks links of Markdown only, and on GitHub these lead nowhere."""
    found = re.findall(r'(?:href|src)="([^"#]*live/[^"#]*)(?:#([^"]*))?"', page.read_text("utf-8"))
    for target, state in found:
        path = posixpath.normpath(f"{page.relative_to(ROOT / 'docs').parent.as_posix()}/{target}")
        assert path == "live/index.html"
        panel = dict(parse_qsl(state)).get("panel", "draw")
        assert f"  {panel}: {panel}Panel,\n" in (ROOT / APP).read_text("utf-8")


def test_pages_for_readers_link_to_the_live_page() -> None:
    pages = ["index.md", "page.md", "do/index.md", *(f"{zh}learn/index.md" for zh in ("", "zh/"))]
    assert [p for p in pages if "live/index.html" not in (ROOT / "docs" / p).read_text()] == []
