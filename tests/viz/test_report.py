import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from nextpixel.errors import UserError
from nextpixel.viz.report import Section, write_report

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects what a page shows, and checks that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.images = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data))

    def all(self, tag):
        return [text for where, text in self.texts if where == tag]


def page(tmp_path, *sections, title="Title"):
    write_report(tmp_path / "out" / "report.html", title, sections)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    return Page(text), text


def embedded(image):
    head, data = image["src"].split(",")
    return head, base64.b64decode(data)


def test_a_section_shows_all_its_parts(tmp_path):
    shown, _ = page(
        tmp_path,
        Section(
            "Score",
            text="First.\nStill first.\n \nSecond.\n\n\n\nThird ± 1.",
            table=[("bits/dim", "0.93"), ("nats", "506")],
            code="a  b\n  c",
        ),
        Section("Nothing"),
    )
    assert shown.all("title") == shown.all("h1") == ["Title"]
    assert shown.all("h2") == ["Score", "Nothing"]
    assert shown.all("p") == ["First.\nStill first.", "Second.", "Third ± 1."]
    assert shown.all("th") == ["bits/dim", "nats"]
    assert shown.all("td") == ["0.93", "506"]
    assert shown.all("code") == ["a  b\n  c"]
    assert shown.images == []


def test_text_is_escaped_everywhere(tmp_path):
    evil = "<script>\"x\" & 'y' {braces}</script>"
    shown, text = page(
        tmp_path,
        Section(evil, evil, Image.new("L", (2, 2)), evil, [(evil, evil)], evil),
        title=evil,
    )
    assert "<script" not in text
    for tag in ("title", "h1", "h2", "p", "figcaption", "th", "td", "code"):
        assert shown.all(tag) == [evil]
    assert shown.images[0]["alt"] == evil


def test_a_picture_is_embedded_exactly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    shown, _ = page(
        tmp_path,
        Section("Digits", image=Image.fromarray(pixels)),
        Section("More", image=Image.fromarray(pixels[..., 0]), caption="Ten of each class"),
    )
    head, data = embedded(shown.images[0])
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(data)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)
    assert [image["alt"] for image in shown.images] == ["Digits", "Ten of each class"]
    assert shown.all("figcaption") == ["Ten of each class"]


@pytest.mark.parametrize(
    ("name", "type_"), [("a.png", "png"), ("a.GIF", "gif"), ("a.svg", "svg+xml")]
)
def test_files_are_embedded_as_they_are(tmp_path, name, type_):
    (tmp_path / name).write_bytes(b"\x00the very bytes\xff")
    shown, _ = page(tmp_path, Section("A", image=tmp_path / name))
    assert embedded(shown.images[0]) == (f"data:image/{type_};base64", b"\x00the very bytes\xff")


def test_the_page_needs_nothing_else(tmp_path):
    shown, text = page(tmp_path, Section("A", image=Image.new("RGB", (3, 3))))
    assert "http" not in text
    assert "url(" not in text
    assert "<link" not in text
    assert all(image["src"].startswith("data:") for image in shown.images)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_a_failing_write_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, "Old", [])
    old = path.read_bytes()
    (tmp_path / "a.bin").write_bytes(b"")
    for image, message in (
        (tmp_path / "missing.png", r"missing\.png: No such file"),
        (tmp_path / "a.bin", r"a\.bin: .*\.png, \.gif, \.svg"),
    ):
        with pytest.raises(UserError, match=message):
            write_report(path, "New", [Section("A"), Section("B", image=image)])
    assert path.read_bytes() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "report.html"]
