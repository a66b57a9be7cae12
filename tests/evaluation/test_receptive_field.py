"""What models see: measured fields against known ones, bits against the definition, the command."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nextpixel import errors as see
from nextpixel.cli import inspection
from nextpixel.cli.main import main
from nextpixel.context import Context
from nextpixel.distributions import Categorical, Distribution
from nextpixel.evaluation import likelihood, receptive_field
from nextpixel.models import GatedPixelCNN
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.nn import Site, masks
from nextpixel.nn.masks import channel_mask
from nextpixel.saving import find
from nextpixel.viz import field_figures

PAGE = Path(__file__).parents[2] / "docs" / "seeing.md"


class Fixed(AutoregressiveModel):
    """A model that sees nothing: every pixel has the same probabilities."""

    def __init__(self, *, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__(shape=shape, levels=levels)

    def forward(self, x: Tensor, c: object = None) -> Distribution:
        p = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
        return Categorical(p.log().expand(*x.shape, 4))


def up_and_right(site: Site) -> tuple[Tensor, Tensor]:
    """Rows above the site and columns to its right, of every pixel."""
    rows, cols = torch.meshgrid(
        torch.arange(receptive_field.SIZE), torch.arange(receptive_field.SIZE), indexing="ij"
    )
    return site.row - rows, cols - site.col


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


# --- fields ---------------------------------------------------------------------------------------


def test_plain_pixel_cnn_has_its_blind_wedge() -> None:
    grown = receptive_field.growth("PixelCNN")
    up, right = up_and_right(receptive_field.SITE)
    # On the row d above the deepest network sees columns up to d + 2 to the right.
    assert torch.equal(grown.blind, (up > 0) & (right > up + 2))
    for blocks in (1, 2, 3):
        reach = 3 + blocks
        above = (up > 0) & (up <= reach) & (right <= up.clamp(max=blocks + 1) + 2)
        expected = (above | ((up == 0) & (right < 0))) & (right >= -reach)
        assert torch.equal(grown.fields[f"blocks={blocks}"], expected)


@pytest.mark.parametrize("kind", ["GatedPixelCNN", "PixelCNNPP", "PixelSNAIL"])
def test_others_have_no_blind_spot(kind: str) -> None:
    *_, deepest = receptive_field.growth(kind).fields.values()
    assert torch.equal(
        deepest,
        receptive_field.pixels_before(
            receptive_field.SITE, receptive_field.SIZE, receptive_field.SIZE
        ),
    )


def test_row_lstm_sees_a_triangle() -> None:
    grown = receptive_field.growth("RowLSTM")
    up, right = up_and_right(receptive_field.SITE)
    limit = torch.where(up > 0, up + 2, -1)
    expected = (up >= 0) & (right <= limit) & (right >= -4 - up)
    assert torch.equal(grown.fields["blocks=1"], expected)


def test_diagonal_bilstm_misses_one_pixel() -> None:
    # All layers miss it, see test_contract.
    assert receptive_field.growth("DiagonalBiLSTM").blind.nonzero().tolist() == [[14, 20]]


@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_kernel_field_is_the_mask(mask_type: masks.MaskType) -> None:
    field = receptive_field.kernel_field(mask_type, 5)
    before = (torch.arange(25) < 12).view(5, 5)
    centre = torch.zeros(5, 5, dtype=torch.bool)
    centre[2, 2] = True
    shown = channel_mask(mask_type, 3, 3, 3)
    assert torch.equal(field, before | (centre & shown[..., None, None]))
    assert bool(receptive_field.kernel_field(mask_type, groups=1)[..., 2, 2].all()) == (
        mask_type == "B"
    )


@pytest.mark.parametrize("kind", receptive_field.KINDS)
def test_colour_is_red_then_green_then_blue(kind: str) -> None:
    assert torch.equal(
        receptive_field.centre_channels(kind), torch.ones(3, 3, dtype=torch.bool).tril(-1)
    )


def test_receptive_field_leaves_the_model_alone() -> None:
    model = receptive_field.random_network("PixelCNN", (1, 5, 5), blocks=1)
    x = receptive_field.random_images(model, 2, seed=0)
    before = model.log_prob(x)
    receptive_field.receptive_field(model, Site(4, 4))
    assert torch.equal(model.log_prob(x), before)
    assert all(p.grad is None for p in model.parameters())


def test_given_images_go_to_the_device_of_the_model() -> None:
    model = receptive_field.random_network("PixelCNN", (1, 5, 5), blocks=1)
    x = receptive_field.random_images(model, 2, seed=0)

    class Elsewhere:
        """Images on another device: all that can be done with them is to move them."""

        def to(self, device: torch.device) -> Tensor:
            assert device == model.device
            return x

    seen = receptive_field.receptive_field(model, Site(4, 4), cast(Tensor, Elsewhere()))
    assert torch.equal(seen, receptive_field.receptive_field(model, Site(4, 4), x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_receptive_field_on_a_gpu() -> None:
    model = receptive_field.random_network("GatedPixelCNN", (1, 5, 5), blocks=1, classes=3).cuda()
    x, c = receptive_field.random_images(model, 2, seed=0).cpu(), torch.tensor([0, 2])
    on_gpu = receptive_field.receptive_field(model, Site(4, 4), x, c)
    assert torch.equal(on_gpu, receptive_field.receptive_field(model.cpu(), Site(4, 4), x, c))


def test_effective_field_is_the_mean_over_images() -> None:
    model = receptive_field.random_network("GatedPixelCNN", (1, 7, 7), blocks=2)
    x = receptive_field.random_images(model, 5, seed=0)
    heat = receptive_field.effective_field(model, x, row=4, col=3, batch_size=2)
    assert heat.shape == (7, 7)
    assert torch.equal(heat > 0, receptive_field.receptive_field(model, Site(4, 3))[0])
    each = [receptive_field.effective_field(model, one[None], row=4, col=3) for one in x]
    torch.testing.assert_close(heat, torch.stack(each).mean(0))


def test_effective_field_is_the_slope_of_the_log_probability() -> None:
    model = receptive_field.random_network("PixelCNN", (1, 5, 5), blocks=1)
    x = receptive_field.random_images(model, 1, seed=0)
    heat = receptive_field.effective_field(model, x, row=3, col=2)

    def log_prob(shift: float) -> float:
        with receptive_field.watched(model, x) as encoded, torch.no_grad():
            encoded[0, 0, 2, 1] += shift
            return float(model(x).log_prob(x)[0, 0, 3, 2])

    slope = (log_prob(1e-5) - log_prob(-1e-5)) / 2e-5
    assert heat[2, 1].item() == pytest.approx(abs(slope), rel=1e-5)


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_surprise_adds_up_to_the_code_length(channels: int) -> None:
    model = receptive_field.random_network("PixelCNNPP", (channels, 5, 6), blocks=1)
    x = receptive_field.random_images(model, 3, seed=0)
    bits = likelihood.surprise(model, x)
    assert bits.shape == (3, 5, 6)
    torch.testing.assert_close(bits.sum((1, 2)), -model.log_prob(x).detach() / math.log(2))


@pytest.mark.parametrize("channels", [1, 3])
def test_entropy_of_known_probabilities(channels: int) -> None:
    model = Fixed(shape=(channels, 2, 3), levels=4)
    x = receptive_field.random_images(model, 2, seed=0)
    expected = torch.full((2, 2, 3), 1.75 * channels, dtype=torch.float64)
    torch.testing.assert_close(likelihood.entropy(model, x), expected)


# --- pictures -------------------------------------------------------------------------------------


def test_sliding_shows_what_the_kernel_sees() -> None:
    white = np.full((1, 5, 5), 255, dtype=np.uint8)
    kernels = {"A": (torch.arange(9) < 4).view(3, 3), "B": (torch.arange(9) < 5).view(3, 3)}
    frames = list(field_figures.sliding(white, kernels))
    assert len(frames) == 50
    assert len({frame.size for frame in frames}) == 1
    width = field_figures.SIDE // 5 * 5 + 2 * field_figures.GAP
    cell = field_figures.SIDE // 3

    def tap(frame: Image.Image, row: int, col: int) -> object:
        """A colour inside the cell, where there is no line, and no digit for the padding."""
        return frame.getpixel((width + col * cell + 12, field_figures.TOP + row * cell + 12))

    white_pixel, black = (255, 255, 255), (0, 0, 0)
    middle, first = 12, 0
    assert tap(frames[middle], 0, 0) == tap(frames[middle], 1, 0) == white_pixel
    assert tap(frames[25 + middle], 1, 1) == white_pixel
    assert tap(frames[middle], 1, 1) not in (white_pixel, black)  # hidden
    assert tap(frames[first], 0, 1) == black  # padding


def run(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must succeed, and returns what it prints."""
    status = main(words.split())
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def written(out: str) -> list[str]:
    """Checks that the files which a command named are pictures, and returns their names."""
    files = [Path(word) for word in out.split("Written: ")[1].strip().split(", ")]
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 100
    return sorted(file.name for file in files)


def test_see_a_kind(
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
def test_see_a_model(
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
    assert main(words.split()) == 0
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


def test_the_page_says_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    out = run(f"inspect mnist-gated --index 0 --out {tmp_path}", capsys)
    printed = out.split("Written: ")[0]
    assert f"$ nextpixel inspect mnist-gated --index 0\n{printed}" in PAGE.read_text()


def test_the_page_says_what_the_card_says() -> None:
    card = json.loads((find("mnist-gated") / "card.json").read_text())
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
    assert main(["inspect", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nextpixel: ")
    assert err.count("\n") == 1
    assert reason in err
    assert sorted(trained.rglob("*")) == before


def test_a_model_without_encode_is_refused(tmp_path: Path) -> None:
    model = Fixed(shape=(1, 4, 4), levels=4)
    x = receptive_field.random_images(model, 1, seed=0)
    with pytest.raises(see.UserError, match="CausalNetwork"):
        inspection.draw_model(model, x, None, tmp_path)
