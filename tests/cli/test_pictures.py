"""The images that commands work on: all commands name, choose and limit them alike."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel import GatedPixelCNN
from nextpixel.cli import loading, picture_files, pictures
from nextpixel.conditioning.classifier import Classifier
from nextpixel.conditioning.degradation import Task
from nextpixel.conditioning.features import Features
from nextpixel.data import DataRecord
from nextpixel.errors import UserError
from nextpixel.models import VAE
from tests.helpers import refused, run, succeed

SHAPE = (1, 8, 8)
SMALL: dict[str, Any] = {"shape": SHAPE, "levels": 4, "width": 4, "blocks": 1}
RANDOM = np.random.default_rng(0).integers(0, 4, (60, *SHAPE)).astype(np.uint8)
TEST, VALID, TRAIN = RANDOM[:20], RANDOM[20:30], RANDOM[30:]
COMMANDS = {
    "score": "score plain",
    "complete": "complete plain --draws 1",
    "restore": "restore denoising --draws 1 --degrade",
    "vary": "vary varying --draws 1",
    "reconstruct": "reconstruct vae --draws 1",
    "invert": "invert varying --draws 1 --images",
    "inspect": "inspect plain",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained models of each kind, and the same images in files and in an array."""
    folder = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    GatedPixelCNN(**SMALL).save(folder / "plain")
    GatedPixelCNN(**SMALL, classes=2).save(folder / "classes")
    denoising = GatedPixelCNN(**SMALL, image=SHAPE)
    denoising.conditioner = Task("denoise")
    denoising.save(folder / "denoising")
    features = Features(Classifier(shape=SHAPE, levels=4, classes=2, width=4), "embedding")
    varying = GatedPixelCNN(**SMALL, vector=features.shape[0])
    varying.conditioner = features
    varying.save(folder / "varying")
    VAE(shape=SHAPE, levels=4, latent=2, width=4).save(folder / "vae")
    for split, images in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        (folder / "splits" / split).mkdir(parents=True)
        for number, image in enumerate(images):
            file = folder / "splits" / split / f"{number:02}.png"
            Image.fromarray(image[0] * 85).save(file)
    np.savez(folder / "all.npz", x_train=TRAIN, x_valid=VALID, x_test=TEST, levels=4)
    return folder


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Which images each `load_images` of a command found."""
    found: list[np.ndarray] = []

    def watch(module: ModuleType, name: str) -> None:
        load_images = getattr(module, name)

        def load(*args: Any, **options: Any) -> pictures.Pictures:
            pictures = load_images(*args, **options)
            found.append(pictures.images.x)
            return pictures

        monkeypatch.setattr(module, name, load)

    watch(pictures, "load_images")
    watch(picture_files, "load_readable")  # of score, which skips broken files
    return found


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("--data all.npz", TEST),
        ("--data all.npz --split valid", VALID),
        ("--data splits --split valid", VALID),
        ("all.npz --split valid", VALID),
        ("splits/valid", VALID),
        ("splits/test/03.png splits/test/01.png", TEST[[3, 1]]),
        ("splits/valid splits/test/00.png", np.concatenate([VALID, TEST[:1]])),
    ],
)
def test_all_commands_take_the_same_images(
    command: str, images: str, expected: np.ndarray, here: Path, taken: list[np.ndarray]
) -> None:
    words = COMMANDS[command].replace(" --images", "" if images.startswith("--") else " --images")
    if images.startswith("--") or "--split" in images:  # a data set is degraded anyway
        words = words.replace(" --degrade", "")
    if command == "restore":  # its degraded images have as many levels as files have
        images += " -n 2"
    options = "--limit 2" if command in ("score", "invert") else ""
    out = {"score": "scores.csv", "inspect": "seen"}.get(command, "out.png")
    model, *rest = words.split()[1:]
    succeed(f"{command} {model} {' '.join(rest)} {images} {options} --out {out}")
    np.testing.assert_array_equal(taken[0], expected)


@pytest.mark.parametrize("command", ["complete", "restore", "vary", "reconstruct", "invert"])
def test_n_is_how_many_are_shown(command: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[list[int]] = []
    numbers = pictures.Pictures.numbers

    def choose(self: pictures.Pictures, *args: Any) -> Any:
        chosen.append(numbers(self, *args).tolist())
        return numbers(self, *args)

    monkeypatch.setattr(pictures.Pictures, "numbers", choose)
    words = COMMANDS[command].replace(" --degrade", "").replace(" --images", "")
    succeed(f"{words} --data all.npz -n 3 --out out.png")
    assert chosen == [[0, 10, 19]]


def test_n_counts_named_files_and_samples_of_folders(here: Path) -> None:
    plain = loading.load_model("plain")
    files = [f"splits/test/{number:02}.png" for number in range(12)]
    named = pictures.load_model_images(plain, "plain", images=files)
    assert named.numbers(None, 8).tolist() == list(range(12))
    assert named.numbers(2, 8).tolist() == [0, 11]
    every = pictures.load_model_images(plain, "plain", images=["splits/test"])
    assert len(every.numbers(None, 8)) == 8


def test_limit_is_how_many_are_restored(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "restore denoising --data all.npz --limit 6 -n 2 --draws 1 --npz r.npz --out r.png"
    assert "6 images" in run(words, capsys)
    assert np.load("r.npz")["x"].shape == (1, 6, *SHAPE)
    with Image.open("r.png") as few:
        height = few.height
    succeed(words.replace("-n 2", "-n 6"))
    with Image.open("r.png") as all_six:
        assert all_six.height > 2 * height


def test_classes_of_folders_are_those_of_the_model(here: Path, tmp_path: Path) -> None:
    model = GatedPixelCNN(**SMALL, classes=2)
    model.data_record = DataRecord(("cat", "dog"))
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        Image.fromarray(TEST[0, 0] * 85).save(tmp_path / name / "one.png")
    (tmp_path / "dog" / "one.png").rename(tmp_path / "dog" / "two.png")
    found = pictures.load_model_images(model, "classes", images=[str(tmp_path)])
    by_name = dict(zip(found.names, found.images.y, strict=True))
    assert by_name == {"cat/one.png": 0, "dog/two.png": 1}
    only = pictures.load_model_images(model, "classes", images=[str(tmp_path / "dog")], classes="1")
    assert only.images.y.tolist() == [1]
    (tmp_path / "dog").rename(tmp_path / "cow")
    with pytest.raises(UserError, match=r"The class cow of .* is none of the model's"):
        pictures.load_model_images(model, "classes", images=[str(tmp_path)])
    x, given = pictures.load_model_images(
        model, "classes", images=[str(tmp_path)], classes="0=0.5,1=0.5"
    ).inputs(model, np.arange(2))
    assert given.context.classes.tolist() == [[0.5, 0.5]] * 2
    assert x.shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("complete classes splits/test", "needs the class of test: give --class"),
        ("complete classes splits/test --class 2", "no class 2"),
        ("complete plain splits/test --data all.npz", "leave --data out"),
        ("complete plain all.npz mnist", "come alone"),
        ("invert varying --data all.npz --class 1", "leave --class out"),
        ("complete plain nothing.png", "no picture nothing.png"),
        ("complete plain nothing", "no data set, file or folder 'nothing'"),
        ("complete plain", "not known which data"),
        ("complete plain mnist", "The model is for images"),
        ("restore denoising mnist --degrade", "degraded anyway"),
        ("vary varying --columns 3", "--columns is for --interpolate"),
        ("reconstruct vae --columns 3", "--columns is for --interpolate"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason in refused(words, capsys)
