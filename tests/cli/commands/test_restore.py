"""`nextpixel restore`: test images and files, and mistakes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nextpixel import GatedPixelCNN, load, load_data
from nextpixel.cli.train_options import train_settings
from nextpixel.conditioning.degradation import Task
from nextpixel.data import DataRecord
from nextpixel.viz import images as pictures
from tests.helpers import refused, run, succeed

TINY = (
    "train --data mnist --levels 4 --conditional false --model GatedPixelCNN --model.width 8 "
    "--model.blocks 2 --model.kernel_size 3 --train.batch_size 8 --train.valid_images 8"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restore")
    for what in ("inpaint --holes boxes", "super-resolution --factor 7"):
        name = what.split()[0]
        words = f"{TINY} --task {what} --train.steps 3 --out {folder / name}"
        succeed(words)
    digits = load_data("mnist").test.x[:2, 0]
    for number, digit in enumerate(digits):
        Image.fromarray(digit).save(folder / f"digit{number}.png")
        Image.fromarray(digit).resize((4, 4)).save(folder / f"small{number}.png")
    return folder


def test_restored_test_images_are_evaluated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((folder / "inpaint" / "config.yaml").read_text())
    assert (config["task"], config["holes"]) == ("inpaint", "boxes")
    saved = json.loads((folder / "inpaint" / "best" / "config.json").read_text())
    assert saved["task"] == {"name": "inpaint", "holes": "boxes"}
    out, npz = folder / "restored.png", folder / "restored.npz"
    said = run(f"restore {folder / 'inpaint'} -n 3 --draws 2 --out {out} --npz {npz}", capsys)
    assert "3 images" in said
    assert "biharmonic inpainting" in said
    assert "mean of 2 draws" in said
    x = np.load(npz)["x"]
    assert x.shape == (2, 3, 1, 28, 28)
    with Image.open(out) as picture:
        assert picture.width > picture.height
    # The score that is printed is exact: the same as by hand.
    model = load(folder / "inpaint")
    test = load_data("mnist", levels=4).test
    numbers = np.linspace(0, len(test) - 1, 3).round().astype(int)
    given = model.conditioning(torch.from_numpy(test.x[numbers]), None, numbers.tolist())
    nats = -model.score(torch.from_numpy(test.x[numbers]), given.context, given.mask).mean().item()
    assert f"{nats / math.log(2) / 784:.4f} ±" in said
    assert given.mask is not None
    kept = torch.from_numpy(x) == torch.from_numpy(test.x[numbers])
    assert bool((kept | ~given.mask).all())


def test_files_are_restored_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "files.png"
    files = f"{folder / 'digit0.png'} {folder / 'digit1.png'}"
    said = run(f"restore {folder / 'inpaint'} {files} --hide left --out {out}", capsys)
    assert "2 images" in said
    assert "PSNR" not in said
    said = run(f"restore {folder / 'inpaint'} {files} --degrade --hide left --out {out}", capsys)
    assert "hidden" in said
    assert "50.0%" in said
    assert "PSNR" in said
    small = f"{folder / 'small0.png'} {folder / 'small1.png'}"
    npz = folder / "large.npz"
    large = folder / "super-resolution"
    run(f"restore {large} {small} --draws 1 --npz {npz} --out {out}", capsys)
    assert np.load(npz)["x"].shape == (1, 2, 1, 28, 28)
    given = run(f"eval {large} --limit 4", capsys)
    assert "super-resolution" in given


@pytest.mark.parametrize(("draws", "shown"), [(8, 8), (18, 16)])
def test_the_picture_shows_the_draws(
    draws: int,
    shown: int,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns: list[str] = []

    def side_by_side(stacks: dict[str, np.ndarray], levels: int) -> Image.Image:
        columns.extend(stacks)
        return Image.new("L", (1, 1))

    monkeypatch.setattr(pictures, "side_by_side", side_by_side)
    words = f"restore {folder / 'super-resolution'} {folder / 'small0.png'} --draws {draws}"
    said = run(f"{words} --out {folder / 'd.png'}", capsys)
    restored = [f"restored {number}" for number in range(1, shown + 1)]
    assert columns == ["given", "bicubic enlargement", *restored, f"mean of {draws}", columns[-1]]
    assert (f"shows 16 of the {draws} draws" in said) == (draws > 16)


def test_a_task_leaves_the_classes_out_unless_asked(folder: Path) -> None:
    """The digits have classes, but a picture to restore comes without one."""
    base = TINY.replace("--conditional false ", "") + " --train.steps 1"
    succeed(f"{base} --task denoise --out {folder / 'plain'}")
    assert load(folder / "plain").classes is None
    succeed(f"{base} --task denoise --conditional true --out {folder / 'asked'}")
    assert load(folder / "asked").classes == 10
    succeed(f"{base} --out {folder / 'no-task'}")
    assert load(folder / "no-task").classes == 10
    succeed(f"train --resume {folder / 'asked'} --train.steps 2")
    assert load(folder / "asked").classes == 10


def test_a_class_is_given_by_its_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = GatedPixelCNN(
        shape=(1, 28, 28), levels=4, classes=2, image=(1, 4, 4), width=4, blocks=1, kernel_size=3
    )
    model.conditioner = Task("super-resolution", factor=7)
    model.data_record = DataRecord(("cat", "dog"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    model.save(folder / "animals")
    words = f"restore {folder}/animals {folder}/small0.png --draws 1 --out {folder}/a.png"
    drawn = {}
    for name in ("dog", "1", "cat"):
        said = run(f"{words} --class {name} --npz {folder}/a.npz", capsys)
        assert f"class {int(name != 'cat')}: {'cat' if name == 'cat' else 'dog'}\n" in said
        drawn[name] = np.load(folder / "a.npz")["x"]
    assert np.array_equal(drawn["dog"], drawn["1"])
    assert not np.array_equal(drawn["dog"], drawn["cat"])
    assert "There is no class cow" in refused(f"{words} --class cow", capsys)


def test_an_untrained_task_names_the_command_that_trains_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "nextpixel train --model GatedPixelCNN --data mnist --task inpaint --out runs/inpaint"
    assert f"by {command}." in refused("restore mnist --hide left", capsys)
    assert f"by {command}." in refused(f"restore {folder / 'super-resolution'} --hide top", capsys)
    settings = train_settings(command.split()[2:])
    assert (settings.task, settings.data) == ("inpaint", "mnist")


def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inpaint, large, digit = folder / "inpaint", folder / "super-resolution", folder / "digit0.png"
    for words, expected in (
        (f"restore {inpaint} {digit}", "Say which pixels are hidden"),
        (f"restore {large} --hide top", "does not fill in holes"),
        (f"restore {inpaint} --degrade", "picture files"),
        (f"restore {inpaint} {folder / 'none.png'} --hide top", "There is no picture"),
        (f"restore {large} {folder / 'digit0.png'} --data mnist", "leave --data out"),
        ("restore mnist", "was not trained with --task"),
        (f"sample {inpaint}", "use nextpixel restore"),
        (f"complete {inpaint}", "use nextpixel restore"),
        (f"{TINY} --task deblur --factor 2 --out {folder / 'x'}", "no option of --task deblur"),
        (f"{TINY} --sigma 2 --out {folder / 'x'}", "goes with a --task"),
        (f"{TINY} --task colourise --out {folder / 'x'}", "3 channels"),
        (f"{TINY} --task super-resolution --factor 5 --out {folder / 'x'}", "divides"),
    ):
        assert expected in refused(words, capsys)
    assert not (folder / "x").exists()
