"""`nextpixel vary` and `nextpixel invert`, of models trained on the features of a classifier."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nextpixel import load
from nextpixel.models import GatedPixelCNN
from nextpixel.tasks.variations import vary
from tests.helpers import context_of, dark_and_light, refused, run, size, succeed

TRAIN = "--model GatedPixelCNN --model.width 4 --model.blocks 2 --model.kernel_size 3 --threads 1"
STEPS = "--train.batch_size 8 --train.lr 0.02 --train.warmup 5 --train.valid_images 8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a classifier, and models conditioned on its layers."""
    folder = tmp_path_factory.mktemp("features")
    x = dark_and_light(120)
    np.savez(folder / "own.npz", x=x.numpy(), y=np.arange(120) % 2)
    succeed(f"classifier --data {folder}/own.npz --out {folder}/classifier --steps 40 --width 4")
    own = f"train --data {folder}/own.npz --conditional false {TRAIN} {STEPS} --train.steps 50"
    for layer in ("embedding", "conv1"):
        succeed(f"{own} --features {folder}/classifier --layer {layer} --out {folder}/{layer}")
    succeed(f"{own} --out {folder}/nothing")
    return folder


def test_variations_are_of_the_same_kind(folder: Path) -> None:
    model = load(folder / "embedding")
    assert isinstance(model, GatedPixelCNN)
    x = dark_and_light(40)
    light = vary(model, context_of(model, x), draws=2).double().mean((0, 2, 3, 4))
    assert light[1::2].mean() - light[::2].mean() > 0.3  # 0.7 in the originals
    config = yaml.safe_load((folder / "embedding" / "config.yaml").read_text())
    assert (config["features"], config["layer"]) == (f"{folder}/classifier", "embedding")
    assert {"vector", "image"}.isdisjoint(config["model"]["init_args"])


def test_vary(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, pixels in enumerate(dark_and_light(2)[:, 0].numpy()):
        Image.fromarray(pixels * 255).save(tmp_path / f"{i}.png")
    out = tmp_path / "new.png"
    words = f"vary {folder}/embedding {tmp_path}/0.png {tmp_path}/1.png --draws 3 --out {out}"
    printed = run(words, capsys)
    assert "given their embedding" in printed
    assert printed.count("bits/dim") == 2
    succeed(f"vary {folder}/embedding -n 3 --draws 2 --interpolate --columns 4 --out {out}")
    wide, high = size(out)
    assert wide > 1.2 * high  # 4 rows of 6
    assert "given a classifier's features of the image (conv1)" in run(
        f"eval {folder}/conv1", capsys
    )


def test_invert_measures_the_information_of_each_layer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "inversion.png"
    models = f"{folder}/embedding {folder}/nothing {folder}/conv1"
    printed = run(f"invert {models} -n 3 --draws 2 --out {out}", capsys)
    lines = [line.split() for line in printed.splitlines()[1:4]]
    assert [line[:2] for line in lines] == [
        ["nothing", "0"],
        ["conv1", "64"],
        ["embedding", "64"],
    ]
    bits = {line[0]: float(line[2]) for line in lines}
    assert bits["embedding"] < bits["nothing"]
    for line in lines:
        assert float(line[5]) == pytest.approx(64 * float(line[2]), abs=0.1)
    wide, high = size(out)
    assert wide > high  # 3 rows of 5


def test_a_run_is_resumed_with_the_order_by_layer(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "embedding", tmp_path / "run")
    succeed(f"train --resume {tmp_path}/run --train.steps 52")
    assert load(tmp_path / "run" / "last").conditioner is not None
    weights = (load(folder / "embedding"), load(tmp_path / "run" / "last"))
    states = [model.conditioner.state_dict() for model in weights]  # type: ignore[union-attr]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--features {run}/classifier", "Give --layer, a layer of the classifier: conv1, conv2"),
        ("--features {run}/classifier --layer conv7", "no layer conv7: its layers are conv1"),
        ("--layer conv1", "name its folder with --features"),
        ("--features {run}/nowhere --layer conv1", "does not exist"),
        ("--features {run}/embedding --layer conv1", "not a classifier"),
        ("--features {run}/classifier --layer conv1 --task denoise", "give one of them"),
        ("--features {run}/classifier --layer conv1 --data mnist", "images (1, 8, 8) with 2"),
        (
            "--features {run}/classifier --layer conv1 "
            "--model tests.conditioning.test_features.Own",
            "because it takes no image",
        ),
        ("--model tests.conditioning.test_features.Own", "give your Sequential another name"),
    ],
)
def test_mistakes_of_training(
    words: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"train --data {folder}/own.npz --conditional false --out {tmp_path}/x"
    base += " --model GatedPixelCNN"
    assert message in refused(f"{base} {words.format(run=folder)}", capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample {run}/embedding", "use nextpixel vary"),
        ("vary {run}/nothing", "not conditioned on a classifier"),
        ("vary {run}/embedding -n 1 --interpolate", "at least two images"),
        ("vary {run}/embedding x.png --data mnist", "leave --data out"),
        ("vary {run}/embedding x.png", "no picture x.png"),
        ("invert", "required: MODEL; see"),
        ("invert {run}/nothing", "None of these models"),
        ("invert {run}/conv1 {run}/conv1", "different layers: these are conv1, conv1"),
    ],
)
def test_mistakes(
    words: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(words.format(run=folder), capsys)
