"""`nextpixel inspect`: pictures of what models see, their numbers, and mistakes."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nextpixel.cli import inspection
from nextpixel.context import Context
from nextpixel.errors import UserError
from nextpixel.evaluation import receptive_field
from nextpixel.model_folders import find
from nextpixel.models import GatedPixelCNN
from tests.helpers import ROOT, ConstantModel, refused, run, succeed

PAGE = ROOT / "docs" / "receptive-fields.md"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved model and pictures."""
    folder = tmp_path_factory.mktemp("see")
    torch.manual_seed(0)
    GatedPixelCNN(shape=(1, 8, 8), levels=4, classes=2, width=4, blocks=2, kernel_size=3).save(
        folder / "model"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    images = np.random.default_rng(1).integers(0, 4, (60, 1, 8, 8), dtype=np.uint8)
    labels = np.arange(60) % 2
    np.savez(folder / "images.npz", x=images, y=labels, levels=4)
    return folder


def written(out: str) -> list[str]:
    """Checks that the files which a command named are pictures, and returns their names."""
    files = [Path(word) for word in out.split("Written: ")[1].strip().split(", ")]
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 100
    return sorted(file.name for file in files)


def test_a_kind_of_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    out = run(f"inspect PixelCNN --out {tmp_path / 'new'}", capsys)
    assert written(out) == ["blind-spot.png", "field.png", "masks.png", "slide.gif"]
    out = run(f"inspect --out {tmp_path}", capsys)
    assert written(out) == ["kinds.png"]


@pytest.mark.parametrize(
    "which", ["picture.png --class 1", "--data images.npz --index 2", "--data images.npz"]
)
def test_a_saved_model(
    which: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(trained)
    out = run(f"inspect model {which} --out {tmp_path}", capsys)
    assert "bits/dim" in out
    assert written(out) == ["effective.png", "slide.gif", "surprise.png"]


@pytest.mark.parametrize("index", [0, 1, 7, 18, 39])
def test_index_is_the_number_of_the_test_image(
    index: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = np.arange(40)
    digits = numbers[:, None] // 4 ** np.arange(8) % 4  # an image's number, in base 4, in each row
    images = np.broadcast_to(digits[:, None, None], (40, 1, 8, 8)).astype(np.uint8)
    file = tmp_path / "numbered.npz"
    np.savez(file, x_train=images, x_test=images, y_train=numbers % 2, y_test=numbers % 2, levels=4)
    looked: list[Any] = []

    def look(
        model: object, x: Tensor, c: Context, out: Path, **options: Any
    ) -> inspection.Inspection:
        looked.append((x, c, options["averaged"], options["what"]))
        return draw_model(model, x, c, out, **options)

    draw_model = inspection.draw_model
    monkeypatch.setattr(inspection, "draw_model", look)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = f"inspect {trained / 'model'} --data {file} --index {index} --out {tmp_path / 'out'}"
    succeed(words)
    ((x, c, (some, their), what),) = looked

    def read(x: Tensor) -> list[int]:
        return (x[:, 0, 3].long() @ 4 ** torch.arange(8)).tolist()

    assert (read(x), c.classes.argmax(1).tolist()) == ([index], [index % 2])
    assert what == f"test image {index}, class {index % 2}"
    few = np.linspace(0, 39, receptive_field.AVERAGED).round().astype(int)
    assert read(some) == few.tolist()
    assert their.classes.argmax(1).tolist() == (few % 2).tolist()


def test_sums_of_the_maps() -> None:
    bits = torch.full((8, 9), 0.001, dtype=torch.float64)
    bits[2, 3], bits[5, 0] = 7.5, 0.01
    heat, reach = torch.zeros(8, 9, dtype=torch.float64), torch.zeros(8, 9, dtype=torch.bool)
    heat[4, 2], heat[1, 0], heat[0, 8] = 6, 3, 1  # two, three and four pixels from the site
    reach[:3, :8] = True  # four columns a row lie further to the left than three pixels
    seen = inspection.Inspection([], bits, bits, (4, 4), reach, heat, 5)
    assert inspection.summary(seen) == (
        "70 of 72 pixels cost less than 0.01 bits each; the most surprising, row 2, column 3, "
        "costs 7.5 bits\n"
        "gradient at row 4, column 4, mean of 5 images: 60% within 3 pixels (58% of the receptive "
        "field), 100% within 6 (100%)"
    )


def test_the_page_shows_the_output_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    out = run(f"inspect mnist --index 0 --out {tmp_path}", capsys)
    printed = out.split("Written: ")[0]
    assert f"$ nextpixel inspect mnist --index 0\n{printed}" in PAGE.read_text()


def test_the_page_shows_the_score_of_the_card() -> None:
    card = json.loads((find("mnist") / "card.json").read_text())
    score = card["scores"]["test"]
    told = re.search(r"mean of ([\d.]+) bits/dim, ([\d.]+) nats", PAGE.read_text())
    assert told is not None
    assert told[1] == f"{score['bits_per_dim']:.4f}"
    assert told[2] == f"{score['nats']:.1f}"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("nothing", "Kinds of models are PixelCNN"),
        ("PixelCNN --out picture.png", "picture.png is a file"),
        ("PixelCNN --index 3", "random weights"),
        ("PixelCNN --data-dir .", "random weights"),
        ("PixelCNN --device cuda", "leave --device out"),
        ("model", "give --data"),
        ("model --device foo", "give auto, cpu, cuda or cuda:N.\n"),
        ("model picture.png", "give --class"),
        ("model nothing.png --class 0", "no picture nothing.png"),
        ("model picture.png --class 1 --index 1", "--index goes from 0 to 0"),
        ("model --data images.npz --index 1000", "--index goes from 0"),
        ("model --data images.npz --index -1", "--index"),
        ("model --data images.npz --class 1", "leave --class out"),
    ],
)
def test_mistakes(
    words: str,
    reason: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(trained)
    before = sorted(trained.rglob("*"))
    assert reason in refused(f"inspect {words}", capsys)
    assert sorted(trained.rglob("*")) == before


def test_a_model_without_encode_is_refused(tmp_path: Path) -> None:
    model = ConstantModel(shape=(1, 4, 4), levels=4)
    x = receptive_field.random_images(model, 1, seed=0)
    with pytest.raises(UserError, match="CausalNetwork"):
        inspection.draw_model(model, x, None, tmp_path)
