"""The page in a real browser: the models in it are those of Python, and it asks for nothing."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

import nextpixel as npx
from nextpixel.codec.chunks import CHUNK, LENGTH
from nextpixel.codec.container import Reader, Writer, pack_json
from nextpixel.codec.head import HEAD
from nextpixel.codec.programs import shipped_programs
from nextpixel.engine import Program
from nextpixel.model_folders import shipped
from nextpixel.web import export, write_folder, write_page
from tests.helpers import ROOT
from tests.web.helpers import NAME, opened, sum_of


def test_a_frame_is_as_high_as_the_page(page: Page, file: Path, tmp_path: Path) -> None:
    script = (ROOT / "docs" / "scripts" / "live.js").read_text("utf-8")
    frame = f'<iframe class="live" width="390" src="{file.as_uri()}"></iframe>'
    (tmp_path / "outer.html").write_text(f"<!doctype html>{frame}<script>{script}</script>")
    page.goto((tmp_path / "outer.html").as_uri())
    page.frame_locator("iframe").locator("[data-checksum]").wait_for()
    heights = []
    for panel in ("draw", "compress"):
        page.frame_locator("iframe").locator(f"#tab-{panel}").click()
        heights.append(page.frames[1].evaluate("document.body.offsetHeight"))
        page.wait_for_function(
            "height => document.querySelector('iframe').clientHeight === height + 2",
            arg=heights[-1],
        )
    assert heights[0] > heights[1] > 400


def test_it_draws_what_python_draws(page: Page, file: Path, program: Program) -> None:
    opened(page, file, "seed=7&class=3&speed=100000")
    page.wait_for_selector("[data-checksum]")
    drawn = page.get_attribute("[data-checksum]", "data-checksum")
    assert drawn == sum_of(program.sample(1, seed=7, classes=[3]))
    assert drawn in page.inner_text(".controls")
    assert "nextpixel sample mnist -n 1 --seed 7 --class 3" in page.inner_text("code")

    mixed = np.zeros((1, 10), np.float32)
    mixed[0, [3, 8]] = 0.7, 0.3
    link = "seed=7&class=3&mix=8&share=0.3&temperature=0.8"
    opened(page, file, link).wait_for_selector("[data-checksum]")
    wanted = sum_of(program.sample(1, seed=7, classes=mixed, temperature=0.8))
    assert page.get_attribute("[data-checksum]", "data-checksum") == wanted
    assert "--class 3=0.7,8=0.3 --temperature 0.8" in page.inner_text("code")


def test_an_address_may_say_anything(
    page: Page, small_file: Path, small: npx.GatedPixelCNN
) -> None:
    """Also in the same tab: what is no number, or too large, becomes one that is right."""
    opened(page, small_file, "lang=en&seed=3")
    for link, seed, class_id in (
        ("seed=1.6&class=99&speed=200&temperature=x&panel=nowhere&model=none", 2, 2),
        ("seed=-5&class=-1&share=7&mix=NaN&guidance=9&speed=0", 0, 0),
        ("seed=1e30&class=1.4", 2**53 - 1, 1),
        ("seed=2&class=1&first=x&particles=7&classes=&from=example9&sketch=", 2, 1),
    ):
        page.evaluate("link => (location.hash = link)", link)
        drawn = sum_of(small.sample(1, class_id, seed=seed))
        expect(page.locator("[data-checksum]")).to_have_attribute("data-checksum", drawn)
        assert f"--seed {seed} --class {class_id}" in page.inner_text("code")
    for link in ("panel=complete&particles=7&classes=x&first=-1", "panel=surprise&from=example9"):
        page.evaluate("link => (location.hash = link)", link)
        expect(page.get_by_role("tab", selected=True)).to_have_id(f"tab-{link[6:].split('&')[0]}")
    page.wait_for_selector("[data-bits]")


def test_the_other_language_keeps_state_and_focus(page: Page, small_file: Path) -> None:
    opened(page, small_file, "seed=4&class=2&lang=en").wait_for_selector("[data-checksum]")
    drawn = page.get_attribute("[data-checksum]", "data-checksum")
    page.locator("#language").press("Enter")
    expect(page.locator("h1")).to_have_text("看像素模型如何思考")
    assert page.evaluate("document.activeElement.id") == "language"
    assert page.get_attribute("[data-checksum]", "data-checksum") == drawn
    page.locator("#tab-draw").press("ArrowRight")
    expect(page.locator("#tab-complete")).to_be_focused()
    page.keyboard.press("End")
    expect(page.locator("#tab-see")).to_be_focused()


def test_a_link_shows_the_same_picture(page: Page, small_file: Path) -> None:
    opened(page, small_file, "speed=100000&lang=en").wait_for_selector("[data-checksum]")
    before = page.get_attribute("[data-checksum]", "data-checksum")
    page.get_by_label("Class", exact=True).select_option("1")
    page.get_by_label("Seed").fill("123")
    page.get_by_label("Seed").press("Enter")
    expect(page.locator("code")).to_contain_text("--seed 123 --class 1")
    expect(page.locator("[data-checksum]")).not_to_have_attribute("data-checksum", before or "")
    drawn, link = page.get_attribute("[data-checksum]", "data-checksum"), page.url
    opened(page, small_file, link.split("#")[1]).wait_for_selector("[data-checksum]")
    assert page.get_attribute("[data-checksum]", "data-checksum") == drawn


def test_pictures_and_films_are_saved(
    page: Page, file: Path, program: Program, tmp_path: Path
) -> None:
    opened(page, file, "seed=7&class=3&speed=100000").wait_for_selector("[data-checksum]")
    x = program.sample(1, seed=7, classes=[3])[0, 0]
    for name, frames in (("Save as PNG", 1), ("Save the film", 28)):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        download.value.save_as(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert getattr(picture, "n_frames", 1) == frames
            if frames > 1:
                picture.seek(13)
                assert np.array_equal(np.asarray(picture)[:14], x[:14])
                assert (np.asarray(picture)[14:] == 128).all()
                picture.seek(27)
            assert np.array_equal(np.asarray(picture), x)


def test_it_says_what_the_model_thought(page: Page, file: Path, program: Program) -> None:
    """Of the pixel that the arrow keys point at."""
    opened(page, file, "seed=1&class=4&speed=100000").wait_for_selector("[data-checksum]")
    page.wait_for_timeout(300)
    picture = page.locator(".picture")
    picture.focus()
    picture.hover(position={"x": 225, "y": 225})
    picture.press("ArrowRight")
    model = npx.load(NAME)
    x = model.sample(1, 4, seed=1)
    where = page.inner_text(".why strong")
    row, col = (int(word.strip(",")) - 1 for word in where.split() if word.strip(",").isdigit())
    distribution = model(x, [4]).at(row, col, 0)
    logits = next(v for v in vars(distribution).values() if hasattr(v, "shape"))
    chances = logits.double().softmax(-1).flatten()
    level = int(x[0, 0, row, col])
    entropy = -(chances * chances.log2()).nansum()
    text = page.inner_text(".why p")
    assert f"Level {level}: " in text
    assert f"{-chances[level].log2():.2f} bits" in text
    assert f"Entropy {entropy:.2f} bits" in text
    assert text.endswith("Level 0 is black, 255 white.")


def test_it_scores_a_picture_file(page: Page, file: Path, program: Program, tmp_path: Path) -> None:
    x = program.sample(1, seed=2, classes=[6])
    Image.fromarray(x[0, 0].astype(np.uint8)).save(tmp_path / "six.png")
    opened(page, file, "panel=surprise").wait_for_selector("[data-bits]")
    own = page.get_attribute("[data-bits]", "data-bits")
    page.get_by_label("Picture from a file").set_input_files(tmp_path / "six.png")
    expect(page.locator("[data-bits]")).not_to_have_attribute("data-bits", own or "")
    bits = -program.log_prob(np.repeat(x, 10, 0), classes=np.arange(10)) / np.log(2)
    assert "Classified as 6" in page.inner_text(".bars")
    found = float(page.get_attribute("[data-bits]", "data-bits") or 0)
    assert found == pytest.approx(bits.min(), abs=1e-6)
    assert "A PNG file of it has" in page.inner_text(".facts")


def compress(page: Page, out: Path) -> None:
    """Compresses the list of the panel, and saves the file."""
    page.locator("#panel").get_by_role("button", name="Compress").click()
    page.wait_for_selector("[data-bytes]")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    download.value.save_as(out)


def test_files_go_from_the_page_to_python_and_back(
    page: Page, file: Path, program: Program, tmp_path: Path
) -> None:
    opened(page, file, "seed=7&class=3&speed=100000").wait_for_selector("[data-checksum]")
    page.get_by_role("tab", name="Compress").click()
    page.get_by_role("button", name="Add the picture under Draw").click()
    compress(page, tmp_path / "page.npxz")
    assert (tmp_path / "page.npxz").stat().st_size == int(
        page.get_attribute("[data-bytes]", "data-bytes") or 0
    )
    npx.decompress(tmp_path / "page.npxz", tmp_path / "page.npz")
    with np.load(tmp_path / "page.npz") as found:
        x = program.sample(1, seed=7, classes=[3])
        assert np.array_equal(found["x"], np.concatenate([x, x]).reshape(found["x"].shape))
    page.get_by_label("Open a .npxz").set_input_files(tmp_path / "page.npxz")
    expect(page.locator("[data-opened]")).to_have_attribute(
        "data-opened", sum_of(np.concatenate([x, x]))
    )
    page.locator("#language").click()  # what was opened stays
    expect(page.locator("#panel")).to_contain_text(sum_of(np.concatenate([x, x])))
    page.locator("#language").click()

    x = program.sample(3, seed=5, classes=[1, 2, 3]).astype(np.uint8)
    npx.compress(NAME, x, tmp_path / "python.npxz")
    page.get_by_label("Open a .npxz").set_input_files(tmp_path / "python.npxz")
    page.wait_for_selector("[data-opened]")
    assert page.get_attribute("[data-opened]", "data-opened") == sum_of(x)

    good = (tmp_path / "python.npxz").read_bytes()
    with Reader(tmp_path / "python.npxz") as reader:
        cut = next(record.begin for record in reader.records if record.kind == CHUNK)
    flipped = (
        good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :]
    )
    for data in (
        flipped,
        good[:cut],
        good[:-1],
        b"",
        lying(program, context=[100, 0]),
        lying(program, images=10**9),
    ):
        (tmp_path / "damaged.npxz").write_bytes(data)
        page.get_by_label("Open a .npxz").set_input_files(tmp_path / "python.npxz")
        expect(page.locator("#status")).to_have_text("")
        page.wait_for_selector("[data-opened]")
        page.get_by_label("Open a .npxz").set_input_files(tmp_path / "damaged.npxz")
        expect(page.locator("#status")).to_contain_text(
            "The file is damaged" if data else "no .npxz"
        )


def lying(program: Program, **about: Any) -> bytes:
    """A file whose checksums are right, and whose head is not."""
    file = io.BytesIO()
    writer = Writer(file)
    head = {"shape": program.shape, "levels": 256, "context": [7, 7], "together": 64, "images": 1}
    head |= {"model": NAME, "program": None, "array": None} | about
    chunk = {"first": 0, "images": 1, "entries": {}, "profiles": [], "codes": [], "crc": 0} | about
    packed = pack_json(chunk)
    for kind, body in ((HEAD, pack_json(head)), (CHUNK, LENGTH.pack(len(packed)) + packed)):
        writer.add(kind, body)
    writer.add(HEAD, pack_json(head))
    writer.finish()
    return file.getvalue()


def test_a_model_of_ones_own_is_in_its_files(page: Page, tmp_path: Path) -> None:
    """In colour, of three levels; and its files bring its program."""
    torch.manual_seed(0)
    model = npx.PixelCNNPP(shape=(3, 8, 8), levels=8, width=8, blocks=1, stages=2, components=2)
    model.save(tmp_path / "mine")
    write_page([str(tmp_path / "mine")], tmp_path / "page.html")
    opened(page, tmp_path / "page.html", "seed=5").wait_for_selector("[data-checksum]")
    x = model.sample(1, seed=5)
    assert page.get_attribute("[data-checksum]", "data-checksum") == sum_of(x)
    page.locator(".picture").focus()
    page.locator(".picture").press("ArrowRight")
    row, col = (int(n) - 1 for n in re.findall(r"\d+", page.inner_text(".why strong")))
    text = page.inner_text(".why p")
    for name, level in zip(("Red", "Green", "Blue"), x[0, :, row, col].tolist(), strict=True):
        assert f"{name}, level {level}: " in text
    assert text.endswith("Level 0 is none of a colour, 7 the most.")
    page.get_by_role("tab", name="Compress").click()
    compress(page, tmp_path / "mine.npxz")
    npx.decompress(tmp_path / "mine.npxz", tmp_path / "mine.npz")
    with np.load(tmp_path / "mine.npz") as found:
        assert np.array_equal(found["x"], x.numpy().reshape(found["x"].shape))
        assert "y" not in found


def test_fields_are_those_of_the_networks(page: Page, file: Path) -> None:
    opened(page, file, "panel=see").wait_for_selector("[data-seen]")
    seen = {}
    for kind in ("PixelCNN", "GatedPixelCNN", "PixelSNAIL"):
        page.get_by_label("Network").select_option(kind)
        seen[kind] = int(page.get_attribute("[data-seen]", "data-seen") or 0)
    assert seen["PixelCNN"] < seen["GatedPixelCNN"]  # the blind spot
    assert f"sees {seen['PixelSNAIL']} of the {seen['PixelSNAIL']} pixels" in page.inner_text(
        "#panel"
    )


@pytest.mark.slow
def test_a_folder_speaks(page: Page, tmp_path: Path) -> None:
    """Sounds of all classes, with codes that end where the sound does."""
    write_folder(["binarized-mnist", "spoken-digits"], tmp_path)
    opened(page, tmp_path / "index.html", "panel=listen").wait_for_selector(".sound")
    assert "CC BY-SA 4.0" in page.inner_text("#panel")
    samples = set()
    for word, speaker in (("3", "theo"), ("7", "george")):
        page.get_by_label("Word").select_option(word)
        page.get_by_label("Speaker").select_option(speaker)
        page.get_by_role("button", name="Play the sound").click()
        page.wait_for_timeout(200)
        samples.add(int(page.get_attribute("[data-samples]", "data-samples") or 0))
    assert len(samples) == 2
    assert min(samples) > 800  # a tenth of a second


@pytest.mark.parametrize(("scheme", "language"), [("light", "en"), ("dark", "zh")])
def test_everybody_can_use_it(page: Page, small_file: Path, scheme: Any, language: str) -> None:
    """No serious fault by axe-core; nothing wider than a phone; both languages."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": 390, "height": 844})
    opened(page, small_file, f"lang={language}").wait_for_selector("[data-checksum]")
    for panel in ("draw", "complete", "surprise", "compress", "see"):
        page.locator(f"#tab-{panel}").click()
        if panel in ("complete", "compress"):
            page.locator("#panel button.main").click()
        done = {"complete": "completed", "surprise": "bits", "compress": "bytes", "see": "seen"}
        page.wait_for_selector(f"[data-{done.get(panel, 'checksum')}]")
        found = Axe().run(page).response["violations"]
        faults = [
            (v["id"], v["nodes"][0]["html"])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert faults == [], panel
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, panel
        untold = page.locator("button:not([title]), select:not([aria-describedby])")
        assert untold.count() == 0, panel


@pytest.mark.slow
def test_a_folder_loads_the_model_that_is_chosen(
    page: Page, program: Program, tmp_path: Path
) -> None:
    write_folder([NAME, "binarized-mnist"], tmp_path)
    opened(page, tmp_path / "index.html", "speed=100000").wait_for_selector("[data-checksum]")
    page.get_by_label("Model", exact=True).select_option("binarized-mnist")
    expect(page.locator("code")).to_contain_text("binarized-mnist")
    page.wait_for_selector("[data-checksum]")
    binary = Program(shipped_programs("binarized-mnist")[28, 28])
    expect(page.locator("[data-checksum]")).to_have_attribute(
        "data-checksum", sum_of(binary.sample(1))
    )
    opened(page, tmp_path / "index.html", "model=binarized-mnist&panel=compress")
    x = program.sample(2, seed=5, classes=[1, 2]).astype(np.uint8)
    npx.compress(NAME, x, tmp_path / "python.npxz")
    page.get_by_label("Open a .npxz").set_input_files(tmp_path / "python.npxz")
    page.wait_for_selector("[data-opened]")  # its model was loaded for it
    assert page.get_attribute("[data-opened]", "data-opened") == sum_of(x)


def test_a_panel_plays_sounds(
    page: Page, small: npx.GatedPixelCNN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that there are; the word stands in the address."""
    wave = base64.b64encode(np.arange(900, dtype="<i2").tobytes()).decode()
    spectrogram = base64.b64encode(bytes(range(12))).decode()
    some = {"codes": [[0, 1], [3, 3]], "rows": 3, "spectrogram": spectrogram, "wave": wave}
    names = ("1 ann", "2 ann", "2 bob")
    sounds = {"items": [{"name": name, **some} for name in names], "source": "nobody"}
    sounds |= {"rate": 8000, "bands": 4, "codebook": 4}
    monkeypatch.setattr(export, "is_sound_model", lambda name: name == "sounds")
    monkeypatch.setattr(export, "sounds_of", lambda *_: sounds)
    small.save(tmp_path / "small")
    write_folder([str(tmp_path / "small"), "sounds"], tmp_path / "page")
    opened(page, tmp_path / "page" / "index.html", "panel=listen&lang=en&word=2&speaker=bob")
    page.get_by_role("button", name="Play the sound").click()
    expect(page.locator("[data-samples]")).to_have_attribute("data-samples", "900")
    page.get_by_label("Word").select_option("1")
    expect(page.locator("#panel")).to_contain_text("no sound of this word by this speaker")
    expect(page.get_by_role("button", name="Play the sound")).to_be_disabled()
    assert "word=1" in page.url


def test_a_page_is_not_much_larger_than_its_model(file: Path) -> None:
    card = json.loads((shipped()[NAME] / "card.json").read_text())
    assert file.stat().st_size < 1.4 * card["bytes"] + 300_000
