"""`nextpixel reconstruct`, and other commands, for models with a latent code."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel.models.base.image_model import load
from tests.helpers import refused, run, size, succeed, working_in

OPTIONS = {
    "Autoencoder": "--model.width 4 --model.latent 3",
    "VAE": "--model.width 4 --model.latent 2",
    "PixelCNNAutoencoder": "--model.encoder_width 4 --model.width 6 --model.blocks 2",
}
TINY = "--data tiny.npz --conditional false --train.batch_size 4"
every_name = pytest.mark.parametrize("name", OPTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny images and a run of each model."""
    folder = tmp_path_factory.mktemp("codes")
    random = np.random.default_rng(0)
    x = random.integers(0, 2, (80, 8, 8), dtype=np.uint8)
    np.savez(folder / "tiny.npz", x=x, y=random.integers(0, 3, 80))
    for k in range(2):
        Image.fromarray(x[k] * 255).save(folder / f"{k}.png")
    with working_in(folder):
        for name, options in OPTIONS.items():
            words = f"train --model {name} {options} {TINY} --out {name} --train.steps 2"
            succeed(words)
    return folder


@every_name
def test_training_writes_previews(name: str, here: Path) -> None:
    width, height = size(f"{name}/samples/step-0000002.png")
    assert (width < height) == (name != "VAE")  # rows of reconstructions, or a grid of samples


@every_name
def test_eval_names_its_score(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_likelihood = "given the code of the image itself: no likelihood"
    words = "ELBO, a bound on log p(x)" if name == "VAE" else no_likelihood
    assert words in run(f"eval {name}", capsys)
    assert words in json.loads(run(f"eval {name} --json", capsys))["score"]


def test_eval_of_the_importance_bound(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("eval VAE --importance 40", capsys)
    assert "importance-weighted bound on log p(x), 40 codes" in out
    elbo = json.loads(run("eval VAE --json", capsys))
    bound = json.loads(run("eval VAE --importance 40 --json", capsys))
    assert bound["nats"] < elbo["nats"]
    assert bound["nats_error"] > 0
    assert "VAE" in refused("eval Autoencoder --importance 40", capsys)


@every_name
def test_reconstruct(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"reconstruct {name} -n 3 --draws 2 --temperature 0.5 --seed 1 --out a.png", capsys)
    run(f"reconstruct {name} -n 3 --draws 1 --out b.png", capsys)
    assert size("a.png")[0] > size("b.png")[0]
    run(f"reconstruct {name} 0.png 1.png --interpolate --columns 4 --out c.png", capsys)
    run(f"reconstruct {name} --interpolate --columns 4 -n 4 --out d.png", capsys)
    assert size("c.png")[1] < size("d.png")[1]


def test_scatter(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("reconstruct VAE --draws 1 -n 2 --plot s.png --out r.png", capsys)
    assert "8 images of tiny (test)" in out
    assert size("s.png")[0] > 300
    assert Path("r.png").is_file()
    assert "have 3" in refused("reconstruct Autoencoder --plot s.png", capsys)


def test_sample_draws_from_the_prior(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("sample VAE -n 3 --seed 2 --npz s.npz --out s.png", capsys)
    with np.load("s.npz") as file:
        assert np.array_equal(file["x"], load("VAE").sample(3, seed=2).numpy())
    for name in ("Autoencoder", "PixelCNNAutoencoder"):
        assert "no prior" in refused(f"sample {name} -n 2", capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("sample VAE --gif x.gif", "without a code"),
        ("sample VAE --all-at-once", "without a code"),
        ("sample VAE --guidance 2", "without a code"),
        ("sample VAE --sampler full", "without a code"),
        ("sample VAE --class 1", "unconditional"),
        ("reconstruct mnist", "no codes"),
        ("reconstruct VAE 0.png --data tiny.npz", "leave --data out"),
        ("reconstruct VAE 0.png --interpolate --columns 3", "pairs"),
        ("reconstruct VAE --interpolate --columns 3 --draws 2", "with --interpolate"),
        ("train --model VAE --data tiny.npz --out x", "--conditional false"),
        (
            "train --model VAE --data tiny.npz --conditional false --task denoise --out x",
            "takes no image",
        ),
        ("eval mnist --importance 5", "leave it out"),
    ],
)
def test_refused(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason in refused(words, capsys)


@every_name
@pytest.mark.parametrize(
    "words",
    ["complete {}", "inspect {}", "score {} tiny.npz", "compare {} --data tiny.npz --out compared"],
)
def test_commands_that_need_an_order_of_the_pixels(
    words: str, name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "autoregressive" in refused(words.format(f"./{name}"), capsys)


@every_name
def test_models_explains_them(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "encoder" in run(f"models {name}", capsys)
    assert name in run("models", capsys)
