"""Sketches, their completions and what surprises the model: in links, in Python, in the hand."""

import json
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import nextpixel as npx
from nextpixel.web import write_folder
from nextpixel.web.export import PAGE
from tests.helpers import needs
from tests.web.helpers import completed, opened, pixels, stroke, sum_of, watched

COMPLETE = "Complete three times"
PICTURE = ".picture canvas"


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def levels_of(page: Page) -> torch.Tensor:
    """The levels that a sketch of the small model shows, with 0 for hidden ones."""
    x = torch.from_numpy(pixels(page, PICTURE) // 85).long()[None, None]
    x[:, :, 4:] = 0
    return x


def sketched(page: Page, small_file: Path) -> torch.Tensor:
    """Draws a line into the upper half, and returns the levels."""
    opened(page, small_file, "panel=complete&lang=en")
    stroke(page, (1, 2), (1, 6))
    x = levels_of(page)
    assert x[0, 0, 1, 2:6].tolist() == [3, 3, 3, 3]
    return x


def test_a_link_shows_the_same_sketch_and_completions(
    page: Page, small_file: Path, small: npx.GatedPixelCNN
) -> None:
    """Which are those of Python; each press gives those of the next seed."""
    x = sketched(page, small_file)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[:, :, :4] = True
    seen = []
    for seed in range(2):
        press(page, COMPLETE)
        expect(page.get_by_label("Seed of the completions")).to_have_value(str(seed))
        sums = completed(page)
        captions = page.locator(".results figcaption").all_inner_texts()
        classes = [int(re.findall(r"as class (\d)", text)[0]) for text in captions]
        for i, class_id in enumerate(classes):
            drawn = npx.complete(small, x, mask, [class_id], seed=seed, numbers=[i])
            assert sums[i] == sum_of(drawn)
        seen.extend(sums)
    assert len(set(seen)) > 4
    page.get_by_label("Seed of the completions").fill("7")
    page.get_by_label("Seed of the completions").press("Enter")
    expect(page.locator("[data-completed]")).not_to_have_attribute("data-completed", " ".join(sums))
    link, sums, shown = page.url, completed(page), pixels(page, PICTURE)
    assert len(link.split("#")[1]) < 150
    opened(page, small_file, link.split("#")[1])
    assert completed(page) == sums
    assert np.array_equal(pixels(page, PICTURE), shown)
    assert page.url == link


def test_a_link_is_pasted_into_another_copy(page: Page, small_file: Path) -> None:
    opened(page, small_file, "lang=en").wait_for_selector("[data-checksum]")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            const state = "model=small&panel=complete&completed=1&first=4";
            data.setData("text", `file:///elsewhere/a.html#${state}`);
            window.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }"""
    )
    completed(page)
    expect(page.get_by_label("Seed of the completions")).to_have_value("4")


def test_all_that_decides_completions_is_in_the_link(page: Page, small_file: Path) -> None:
    opened(page, small_file, "panel=complete&lang=en")
    page.get_by_label("Keep").select_option("keepLeft")
    stroke(page, (1, 1), (6, 2))
    press(page, "Hide")
    stroke(page, (2, 1), (2, 1))
    page.get_by_label("Class of the completions").select_option("given")
    page.get_by_label("Class", exact=True).select_option("1")
    page.get_by_label("Mixed with").select_option("2")
    page.get_by_label("Particles").select_option("8")
    page.get_by_label("Seed of the completions").fill("5")
    press(page, COMPLETE)
    sums, link, shown = completed(page), page.url, pixels(page, PICTURE)
    assert page.get_by_text("choose 8 particles").count() == 0
    opened(page, small_file, link.split("#")[1])
    assert completed(page) == sums
    assert np.array_equal(pixels(page, PICTURE), shown)
    for i in range(3):  # particles keep what is known
        known = shown[:, :4] % 85 == 0  # hidden pixels have other greys
        picture = pixels(page, f".results canvas >> nth={i}")
        assert np.array_equal(picture[:, :4][known], shown[:, :4][known])
    expect(page.get_by_label("Keep")).to_have_value("keepMine")
    page.get_by_label("Particles").select_option("1")  # other completions at once
    expect(page.locator("[data-completed]")).not_to_have_attribute("data-completed", " ".join(sums))


def test_a_damaged_picture_in_a_link_is_told(page: Page, small_file: Path) -> None:
    opened(page, small_file, "panel=see&lang=en")
    told = page.locator("#status")
    for picture in ("AAAA", "%00", "IICB", "A" * 100_000, "___________", "IA=="):
        for panel in ("complete", "surprise&from=own"):
            word = "sketch" if panel == "complete" else "picture"
            page.evaluate("link => (location.hash = link)", f"panel={panel}&{word}={picture}")
            expect(told).to_contain_text("The picture in the link is damaged")
            assert word not in page.url
            told.click()
            expect(told).to_be_empty()
        page.wait_for_selector("[data-bits]")


def test_pictures_in_addresses_by_the_thousand() -> None:
    """What was written is read; whatever is read fits the model."""
    needs("node", "nodejs")
    done = subprocess.run(
        ["node", "--input-type=module", "-e", FUZZ % json.dumps((PAGE / "address.mjs").as_uri())],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    read, refused = map(int, done.stdout.split())
    assert min(read, refused) > 50


FUZZ = """
import { decodePicture, encodePicture } from %s;
let state = 1;
const random = (n) => (state = (state * 48271) %% 2147483647) %% n;
const counts = [0, 0];
for (let turn = 0; turn < 1500; turn++) {
  const [side, channels] = [1 + random(9), [1, 3][random(2)]];
  const levels = [2, 4, 256, 65536][random(4)];
  const pixels = side * side;
  const model = { pixels, dims: channels * pixels, levels };
  const most = [1, 2, levels][random(3)];
  const hidden = Uint8Array.from({ length: pixels }, () => random(3) === 0);
  const level = (_, i) => (hidden[i %% pixels] ? 0 : random(most));
  const x = Uint16Array.from({ length: model.dims }, level);
  const text = encodePicture({ levels: x, hidden }, model);
  const again = decodePicture(text, model);
  if (`${again.levels}|${again.hidden}` !== `${x}|${hidden}`) throw new Error("another picture");
  const letters = [...text];
  letters[random(letters.length)] = "AZaz09-_"[random(8)];
  const changed = random(2) ? letters.join("") : text.slice(0, random(text.length));
  const some = decodePicture(changed, model);
  counts[some ? 0 : 1]++;
  if (some && (some.levels.length !== model.dims || some.levels.some((level) => level >= levels)))
    throw new Error("no picture of the model");
}
console.log(...counts);
"""


def surprise_of(page: Page) -> float:
    page.wait_for_selector("[data-bits]")
    return float(page.get_attribute("[data-bits]", "data-bits") or "nan")


def bits_of(model: npx.GatedPixelCNN, x: torch.Tensor, known: int) -> float:
    """The bits of the first known pixels under the class that makes them likeliest."""
    with torch.inference_mode():
        nats = model(x.expand(3, -1, -1, -1), [0, 1, 2]).log_prob(x.expand(3, -1, -1, -1))
    return -float(nats.double().flatten(1)[:, :known].sum(1).max()) / math.log(2)


def test_sketches_and_completions_surprise_as_in_python(
    page: Page, small_file: Path, small: npx.GatedPixelCNN
) -> None:
    x = sketched(page, small_file)
    press(page, COMPLETE)
    completed(page)
    other = torch.from_numpy(pixels(page, ".results canvas >> nth=1") // 85).long()[None, None]
    press(page, "Where was the model surprised?")
    assert surprise_of(page) == pytest.approx(bits_of(small, x, 32), abs=1e-4)
    link = page.url
    page.go_back()
    completed(page)
    press(page, "Surprise (2)")
    assert surprise_of(page) == pytest.approx(bits_of(small, other, 64), abs=1e-4)
    assert np.array_equal(pixels(page, f"{PICTURE} >> nth=0") // 85, other[0, 0])
    expect(page.get_by_label("Picture", exact=True)).to_have_value("own")
    opened(page, small_file, link.split("#")[1])
    assert surprise_of(page) == pytest.approx(bits_of(small, x, 32), abs=1e-4)


def test_surprise_follows_the_drawing_and_the_model(
    page: Page, small: npx.GatedPixelCNN, tmp_path: Path
) -> None:
    """And pictures stay where another model of the same size is chosen."""
    torch.manual_seed(1)
    same = npx.GatedPixelCNN(shape=(1, 8, 8), levels=4, width=8, blocks=1, classes=3).eval()
    wide = npx.GatedPixelCNN(shape=(1, 4, 4), levels=2, width=8, blocks=1)
    long = "a model with a rather long name, as folders sometimes have it"
    models = {"small": small, "same": same, long: wide}
    for name, model in models.items():
        model.save(tmp_path / name)
    write_folder([str(tmp_path / name) for name in models], tmp_path / "page")
    opened(page, tmp_path / "page" / "index.html", "lang=en&class=0&seed=1&speed=100000")
    page.wait_for_selector("[data-checksum]")
    press(page, "Where was the model surprised?")
    bits = bits_of(small, small.sample(1, 0, seed=1), 64)
    assert surprise_of(page) == pytest.approx(bits, abs=1e-4)
    page.get_by_role("tab", name="Draw").click()
    page.get_by_label("Seed").fill("2")
    page.get_by_label("Seed").press("Enter")
    page.get_by_role("tab", name="Surprise").click()
    x = small.sample(1, 0, seed=2)
    assert surprise_of(page) == pytest.approx(bits_of(small, x, 64), abs=1e-4)
    page.get_by_role("tab", name="Complete").click()
    stroke(page, (1, 2), (1, 6))
    sketch = levels_of(page)
    press(page, "Where was the model surprised?")
    surprise_of(page)
    page.get_by_label("Model", exact=True).select_option("same")
    expect(page.locator("#panel")).to_contain_text("your own picture")
    page.wait_for_function("location.hash.includes('model=same')")
    assert surprise_of(page) == pytest.approx(bits_of(same, sketch, 32), abs=1e-4)
    page.get_by_label("Model", exact=True).select_option(long)
    page.wait_for_function("location.hash.includes('rather')")
    surprise_of(page)
    assert "from=" not in page.url
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    page.go_back()
    expect(page.get_by_label("Model", exact=True)).to_have_value("same")


def test_sketches_and_completions_are_saved(page: Page, small_file: Path, tmp_path: Path) -> None:
    x = sketched(page, small_file)
    press(page, COMPLETE)
    completed(page)
    wanted = [x[0, 0].numpy(), *(pixels(page, f".results canvas >> nth={i}") // 85 for i in (0, 2))]
    for name, levels in zip(("Save as PNG", "Save (1)", "Save (3)"), wanted, strict=True):
        with page.expect_download() as download:
            press(page, name)
        download.value.save_as(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert np.array_equal(np.asarray(picture.convert("L")) // 85, levels)


def test_a_sketch_that_changes_tells_that_completions_are_old(page: Page, small_file: Path) -> None:
    sketched(page, small_file)
    press(page, COMPLETE)
    sums = completed(page)
    old = page.get_by_text("Your sketch has changed since")
    expect(old).to_be_hidden()
    stroke(page, (2, 2), (2, 6))
    expect(old).to_be_visible()
    assert "completed=1" not in page.url
    press(page, "Undo")
    expect(old).to_be_hidden()
    assert "completed=1" in page.url
    page.get_by_role("tab", name="Draw").click()
    page.get_by_role("tab", name="Complete").click()
    assert completed(page) == sums
    page.locator("#language").click()
    assert completed(page) == sums


def test_strokes_are_undone_and_cleared(page: Page, small_file: Path) -> None:
    first = sketched(page, small_file)
    press(page, "Eraser")
    stroke(page, (1, 2), (1, 6))
    assert not levels_of(page).any()
    page.keyboard.press("Control+z")
    assert torch.equal(levels_of(page), first)
    press(page, "Clear")
    assert not levels_of(page).any()
    press(page, "Undo")
    assert torch.equal(levels_of(page), first)
    press(page, "Undo")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    press(page, "Brush")
    stroke(page, (6, 2), (6, 5))
    expect(page.locator("#panel")).to_contain_text("These pixels are hidden")
    page.locator(".picture").press("ArrowUp")
    page.locator(".picture").press("ArrowUp")
    page.locator(".picture").press("ArrowUp")
    page.locator(".picture").press(" ")
    assert levels_of(page).any()
    assert "sketch=" in page.url


def test_back_leads_to_the_panel_before(page: Page, small_file: Path) -> None:
    opened(page, small_file, "lang=en&seed=3").wait_for_selector("[data-checksum]")
    page.get_by_role("tab", name="Complete").click()
    stroke(page, (1, 2), (1, 6))
    sketch = pixels(page, PICTURE)
    page.get_by_role("tab", name="See").click()
    page.go_back()
    expect(page.get_by_role("tab", name="Complete")).to_have_attribute("aria-selected", "true")
    assert np.array_equal(pixels(page, PICTURE), sketch)
    page.go_back()
    expect(page.get_by_role("tab", name="Draw")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("Seed")).to_have_value("3")
    page.get_by_role("tab", name="Complete").click()
    assert np.array_equal(pixels(page, PICTURE), sketch)


def test_a_finger_draws_and_does_not_scroll(browser: Browser, small_file: Path) -> None:
    phone = {"width": 390, "height": 844}
    with watched(browser, viewport=phone, has_touch=True, is_mobile=True) as page:
        opened(page, small_file, "panel=complete&lang=en")
        box = page.locator(".picture").bounding_box()
        assert box is not None
        touch = page.context.new_cdp_session(page)
        x, y = box["x"] + 60, box["y"] + box["height"] / 2 - 20
        for kind, to in (("Start", y), ("Move", y - 50), ("Move", y - 100), ("End", None)):
            points = [] if to is None else [{"x": x, "y": to}]
            touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
        assert levels_of(page).sum() > 6
        assert page.evaluate("scrollY") == 0
        press(page, COMPLETE)
        completed(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        small = page.locator("button:visible").evaluate_all(
            "all => all.filter((b) => b.offsetHeight < 44).map((b) => b.textContent)"
        )
        assert small == []
        press(page, "Copy link")
        expect(page.locator("#status")).to_be_in_viewport()


def test_files_that_are_no_pictures_are_told(page: Page, small_file: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    opened(page, small_file, "panel=complete&lang=zh")
    page.get_by_label("从文件载入").set_input_files(tmp_path / "notes.png")
    expect(page.locator("#status")).to_contain_text("notes.png")
    expect(page.locator("#status")).to_contain_text("PNG、JPEG")
    Image.fromarray(np.full((5, 40), 255, np.uint8)).save(tmp_path / "wide.png")
    page.get_by_label("从文件载入").set_input_files(tmp_path / "wide.png")
    assert (pixels(page, PICTURE)[:4] == 255).all()


def test_a_link_to_a_model_that_is_not_here(page: Page, small_file: Path) -> None:
    opened(page, small_file, "model=other&lang=en")
    expect(page.locator("#status")).to_contain_text("does not have the model other of the link")
    page.locator("#status").click()
    expect(page.locator("#status")).to_be_empty()
