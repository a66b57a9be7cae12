"""Pages as files: their scripts, and what is refused."""

import json
import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from nextpixel.errors import UserError
from nextpixel.evaluation.receptive_field import KINDS
from nextpixel.models import PixelCNN
from nextpixel.web import export
from nextpixel.web.export import PAGE, script, write_folder, write_page
from tests.helpers import refused, run

DECLARED = re.compile(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", re.MULTILINE)


@pytest.mark.parametrize("name", ["app", "worker"])
def test_each_name_of_a_script_is_one_thing(name: str) -> None:
    source = script(name)
    twice = [word for word, times in Counter(DECLARED.findall(source)).items() if times > 1]
    assert twice == []
    assert not re.search(r"^(import|export) ", source, re.MULTILINE)
    assert "</script" not in source


def test_all_modules_are_in_a_script() -> None:
    both = script("app") + script("worker")
    for path in Path(str(PAGE)).glob("*.mjs"):
        source = export.EXPORT.sub("", export.IMPORT.sub("", path.read_text()))
        assert source.strip()
        assert source in both, path.name


def test_every_word_is_in_both_languages_and_used() -> None:
    words = (Path(str(PAGE)) / "words.mjs").read_text()
    table = words[words.index("{") : words.index("\n};")]
    text = r'"((?:[^"\\]|\\.)*)"'
    entries = re.findall(rf"^  (\w+): \[\s*{text},\s*{text},?\s*\]", table, re.MULTILINE)
    keys = [key for key, _, _ in entries]
    assert keys == re.findall(r"^  (\w+): \[", table, re.MULTILINE)
    assert len(keys) == len(set(keys)) > 100
    sources = "".join(p.read_text() for p in Path(str(PAGE)).glob("*.mjs") if p.stem != "words")
    panels = re.findall(r"^  (\w+): \w+Panel,$", sources, re.MULTILINE)
    assert len(panels) == 6
    assert [
        key for key in keys if f'"{key}"' not in sources and key.removesuffix("Tab") not in panels
    ] == []
    for key, *texts in entries:
        places = [set(re.findall(r"\{\d\}", some)) for some in texts]
        assert places[0] == places[1], key


def test_fields_are_of_all_kinds() -> None:
    found = export.fields()
    assert (found["kinds"], found["side"]) == (KINDS, 13)
    with Image.open(Path(str(PAGE)) / "fields.png") as picture:
        assert picture.size == (13**2, len(KINDS) * 13**2)


def test_what_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--program FILE or --web" in refused("export mnist", capsys)
    assert refused("export mnist-four-levels --web a.html", capsys) == (
        "nextpixel: mnist-four-levels needs features that PyTorch computes, of an image or (with "
        "spatial=True) of its class, and so cannot run in a page: choose a model without a "
        "context, or with classes and without spatial=True, such as mnist.\n"
    )
    Path("mine").mkdir()
    Path("mine/index.html").write_text("somebody else's page")
    assert "not a page of nextpixel" in refused("export mnist --web mine", capsys)
    Path("file").write_text("")
    assert "is a file" in refused("export mnist --web file", capsys)
    assert "one model" in refused("export mnist vq-mnist --program a.program", capsys)


def test_nothing_in_a_name_ends_the_page(tmp_path: Path) -> None:
    """Class names and folders may hold anything."""
    model = PixelCNN(shape=(1, 4, 4), levels=2, width=4, blocks=1, classes=2)
    names = ("<!--<script>", "</script><b>")
    model.data_record = replace(model.data_record, class_names=names)
    folder = tmp_path / "it's 0.5 #1"
    model.save(folder)
    write_page([str(folder)], tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "<!--<script>" not in page
    data = json.loads(re.findall(r'id="page">(.*?)</script>', page, re.DOTALL)[0])
    entry = data["models"]["it's 0.5 #1"]
    assert tuple(entry["class_names"]) == names
    assert shlex.split(entry["argument"]) == [str(folder)]
    with pytest.raises(UserError, match="Two of the models are called"):
        write_page([str(folder), str(folder)], tmp_path / "b.html")


def test_a_page_opens_with_digits() -> None:
    models = export.models_for_pages()
    assert models[0] == "mnist"
    assert {"cifar10", "photos", "spoken-digits"} < set(models)


def test_a_page_is_written_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert "open it in a browser" in run("studio binarized-mnist --no-open", capsys)
    assert Path("studio/index.html").is_file()
    assert Path("studio-2/binarized-mnist.js").is_file()
    write_folder(["mnist"], Path("studio"))  # a page of ours is replaced
    page = Path("studio/index.html").read_text()
    assert Path("studio/mnist.js").is_file()
    assert "binarized-mnist" not in page
