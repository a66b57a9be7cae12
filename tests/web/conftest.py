"""A browser, and pages in it that fail where something goes wrong."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright

import nextpixel as npx
from nextpixel.codec.programs import shipped_programs
from nextpixel.engine import Program
from nextpixel.web import write_page
from tests.helpers import needs
from tests.web.helpers import NAME, watched


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    needs("chromium", "chromium")
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox"],
            timeout=180_000,  # milliseconds: a busy machine takes its time
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test where something goes wrong in it, or it asks for something."""
    with watched(browser, viewport={"width": 1200, "height": 900}) as page:
        yield page


@pytest.fixture(scope="session")
def program() -> Program:
    return Program(shipped_programs(NAME)[28, 28])


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page([NAME], path)
    return path


@pytest.fixture(scope="session")
def small() -> npx.GatedPixelCNN:
    """A model that a page opens at once: three classes, four levels."""
    torch.manual_seed(0)
    model = npx.GatedPixelCNN(shape=(1, 8, 8), levels=4, width=8, blocks=1, classes=3)
    for parameter in model.parameters():
        parameter.data.mul_(3)  # or every level is as likely as the others
    return model.eval()


@pytest.fixture(scope="session")
def small_file(small: npx.GatedPixelCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    small.save(folder / "small")
    write_page([str(folder / "small")], folder / "page.html")
    return folder / "page.html"
