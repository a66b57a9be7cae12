"""What the tests of the page share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, expect

from nextpixel.codec.container import crc32c

NAME = "mnist"
SLOW = 60_000  # milliseconds; the machine may be busy
expect.set_options(timeout=SLOW)


@contextmanager
def watched(browser: Browser, **options: Any) -> Iterator[Page]:
    """Opens a page that raises where something goes wrong in it, or it asks for something."""
    context = browser.new_context(**options)
    context.set_default_timeout(SLOW)
    wrong = list[str]()

    def said(text: str) -> None:
        if "willReadFrequently" not in text:  # it is the tests that read canvases so often
            wrong.append(text)

    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: said(message.text))
    page.on("request", lambda request: wrong.append(request.url) if outside(request.url) else None)
    yield page
    context.close()
    assert not wrong, wrong


def outside(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))


def opened(page: Page, file: Path, state: str) -> Page:
    page.goto("about:blank")
    page.goto(f"{file.as_uri()}#{state}")
    page.wait_for_selector("#panel")
    return page


def sum_of(levels: Any) -> str:
    return f"{crc32c(np.asarray(levels).astype(np.uint8).tobytes()):08x}"


def pixels(page: Page, selector: str) -> np.ndarray[Any, Any]:
    """Reads the red channel of a canvas."""
    read = """canvas => {
        const { width, height } = canvas;
        return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
    }"""
    width, height, data = page.locator(selector).evaluate(read)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., 0]


def stroke(page: Page, begin: tuple[int, int], end: tuple[int, int]) -> None:
    """Draws a line by the mouse, from a row and column of the picture to another."""
    box = page.locator(".picture").bounding_box()
    assert box is not None
    side = box["width"] / pixels(page, ".picture canvas").shape[1]
    (x, y), (to_x, to_y) = (
        (box["x"] + (col + 0.5) * side, box["y"] + (row + 0.5) * side) for row, col in (begin, end)
    )
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(to_x, to_y, steps=4)
    page.mouse.up()


def completed(page: Page) -> list[str]:
    """Waits for the completions, and returns their checksums."""
    page.wait_for_selector("[data-completed]")
    return (page.get_attribute("[data-completed]", "data-completed") or "").split()
