"""Codes of a VQ-VAE as data, a prior over them, both together, and their commands."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from nextpixel.data import Images
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import evaluate as score_images
from nextpixel.latents.codes import baselines, load_codes, load_data
from nextpixel.latents.generator import LatentGenerator, part_seed
from nextpixel.models import VQVAE
from nextpixel.models.base.image_model import load
from nextpixel.training.checkpoint import load_state
from tests.helpers import refused, run, save_tiny_images, succeed, working_in

# --- the commands ---------------------------------------------------------------------------------

TRAIN = "--conditional false --train.batch_size 16 --train.steps"
VQ = "--model VQVAE --model.width 4 --model.codes 6 --model.code_size 3 --model.components 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny images and a trained VQ-VAE."""
    folder = tmp_path_factory.mktemp("codes")
    save_tiny_images(folder / "tiny.npz")
    with working_in(folder):
        words = f"train {VQ} --data tiny.npz --out vq {TRAIN} 60 --train.warmup 5 --train.lr 0.01"
        succeed(words)
    return folder


def test_training_learns_and_logs_the_codebook(here: Path) -> None:
    lines = [json.loads(line) for line in Path("vq/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-5:]) < np.mean(losses[5:10]) - 0.1
    assert 1 < lines[-1]["perplexity"] <= 6
    assert 0 < lines[-1]["usage"] <= 1
    assert 0 < lines[-1]["reconstruction_error"] < 0.2
    assert Path("vq/samples/step-0000060.png").exists()


def test_a_resumed_run_is_bitwise_equal(here: Path) -> None:
    """The codebook's averages and what places codes anew are part of the state."""
    command = f"train {VQ} --data tiny.npz {TRAIN}"
    for words in (
        "3 --train.schedule constant --out part",
        "6 --train.schedule constant --out whole",
    ):
        succeed(f"{command} {words}")
    succeed("train --resume part --train.steps 6")
    states = [load_state(Path(run) / "state.pt") for run in ("part", "whole")]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name


def test_eval_and_reconstruct_without_a_prior(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = run("eval vq", capsys)
    assert "the residual: no likelihood" in words
    assert "perplexity" in words
    told = json.loads(run("eval vq --split valid --json", capsys))
    last = json.loads(Path("vq/metrics.jsonl").read_text().splitlines()[-1])
    for name in ("perplexity", "usage", "reconstruction_error"):
        assert told[name] == pytest.approx(last[name])
    assert "4 codes per image" in run("reconstruct vq -n 2 --draws 1 --out r.png", capsys)
    assert "no prior" in refused("sample vq", capsys)
    assert "interpolated" in refused("reconstruct vq --interpolate", capsys)
    assert "or plotted" in refused("reconstruct vq --plot s.png", capsys)


# --- codes as data --------------------------------------------------------------------------------

PRIOR = "--model GatedPixelCNN --model.width 8 --model.blocks 2 --model.kernel_size 3"


@pytest.fixture(scope="module")
def prior(folder: Path) -> Path:
    """A prior of the trained VQ-VAE, and both in one folder."""
    with working_in(folder):
        options = "--train.batch_size 16 --train.steps 80 --train.warmup 5 --train.lr 0.02"
        options += " --train.optimizer adamw"  # by Muon it is certain, and draws the same each time
        succeed(f"train {PRIOR} --data codes:vq --out prior {options}")
        succeed("bundle vq prior --out both")
    return folder


def test_data_shows_codes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("data codes:vq", capsys)
    codes = load_codes("vq")
    assert "grids of codes of 1 x 2 x 2, 6 levels" in out
    assert f"{len(np.unique(codes.train.x))} different codes occur" in out
    assert Path("codes-vq.png").is_file()


def test_codes_of_a_class_of_ones_own_need_trust(
    prior: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `--resume` and all commands do, `codes:RUN` imports the class only if it is trusted."""
    Path("my_codes.py").write_text("import nextpixel\n\nclass Own(nextpixel.VQVAE):\n    pass\n")
    monkeypatch.syspath_prepend(str(here))
    shutil.copytree("vq", "own")
    for config in Path("own").glob("*/config.json"):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model": "my_codes.Own"}))
    words = "data codes:own"
    assert "my_codes.Own" in refused(words, capsys)
    assert "grids of codes of 1 x 2 x 2" in run(f"{words} --trust", capsys)
    train = f"train {PRIOR} --data codes:own --out own-prior --train.steps 1 --train.batch_size 4"
    assert "--trust" in refused(train, capsys)
    succeed(f"{train} --trust")
    assert "/own (test" in run("eval own-prior --limit 2 --trust", capsys)
    assert "--trust" in refused("complete own-prior codes:own", capsys)
    run("complete own-prior codes:own --trust -n 1 --draws 1 --out c.png", capsys)


def test_complete_takes_codes(prior: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (2, 2)).save("grey.png")
    words = "complete prior --keep left -n 2 --draws 1 --out c.png"
    assert run(f"{words} codes:vq", capsys) == run(words, capsys)
    assert "models codes, not pixels" in refused(f"{words} grey.png", capsys)


def test_compare_takes_codes(prior: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "compare prior new=PixelCNN --data codes:vq --steps 2 --batch-size 2 --limit 5 --out c"
    succeed(words)
    results = json.loads(Path("c/compare.json").read_text())
    expected = score_images(load("prior"), load_codes("vq").test, limit=5)
    assert results["data"] == "codes:vq"
    assert results["models"][0]["score"]["bits_per_dim"] == expected.bits_per_dim
    assert load("c/new").data_record.codes_of == load("prior").data_record.codes_of


def test_codes_as_data(here: Path) -> None:
    codes, tiny, model = load_codes("vq"), load_data("tiny.npz"), load("vq")
    assert isinstance(model, VQVAE)
    assert (codes.shape, codes.levels, codes.classes) == ((1, 2, 2), 6, 3)
    assert (
        codes.codes_of
        == model.digest()
        == json.loads((here / "vq" / "best" / "config.json").read_text())["sha256"]
    )
    for split in ("train", "valid", "test"):
        ours, theirs = getattr(codes, split), getattr(tiny, split)
        assert np.array_equal(ours.y, theirs.y)
        assert np.array_equal(ours.x[:, 0], model.codes(torch.from_numpy(theirs.x)).numpy())
        assert isinstance(ours.x, np.memmap)


def test_codes_are_kept_until_model_or_data_change(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("vq", tmp_path / "vq")
    shutil.copy("tiny.npz", tmp_path)
    monkeypatch.chdir(tmp_path)
    encoded: list[int] = []
    real = VQVAE.codes

    def codes(model: VQVAE, x: Tensor) -> Tensor:
        encoded.append(len(x))
        return real(model, x)

    monkeypatch.setattr(VQVAE, "codes", codes)
    config = yaml.safe_load(Path("vq/config.yaml").read_text())
    Path("vq/config.yaml").write_text(yaml.safe_dump(config | {"data": str(tmp_path / "tiny.npz")}))
    first = load_codes("vq")
    assert sum(encoded) == 80
    assert np.array_equal(load_codes("vq").train.x, first.train.x)
    assert sum(encoded) == 80
    model = load("vq")
    assert isinstance(model, VQVAE)
    model.quantizer.codebook.copy_(model.quantizer.codebook.roll(1, 0))
    model.save("vq/best")
    second = load_codes("vq")
    assert sum(encoded) == 160
    assert np.array_equal(second.train.x, (first.train.x + 1) % 6)
    assert second.codes_of != first.codes_of
    with np.load("tiny.npz") as file:
        np.savez("tiny.npz", x=5 - file["x"], y=file["y"], levels=6)
    assert not np.array_equal(load_codes("vq").train.x, second.train.x)
    assert sum(encoded) == 240


def test_a_cache_that_cannot_be_written_is_done_without(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_codes("vq").test.x
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert np.array_equal(load_codes("vq").test.x, expected)


def test_more_than_256_codes(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = VQVAE(shape=(1, 8, 8), levels=6, width=4, codes=700, code_size=3)
    z = model.encoder(model.encode(torch.from_numpy(load_data("tiny.npz").train.x)))
    book = model.quantizer.codebook
    book.copy_(z.detach().mean((0, 2, 3)) + z.detach().std((0, 2, 3)) * torch.randn(700, 3))
    model.save(tmp_path / "vq" / "best")
    (tmp_path / "vq" / "config.yaml").write_text("data: tiny.npz\n")
    codes = load_codes(tmp_path / "vq")
    assert codes.train.x.dtype == np.uint16
    assert isinstance(codes.train.x, np.memmap)
    x, _ = codes.train.batch(np.arange(64))
    assert x.dtype == np.int32
    assert 256 < x.max() < 700
    pixels = torch.from_numpy(load_data("tiny.npz").train.x)
    assert torch.equal(torch.from_numpy(x)[:, 0].long(), model.eval().codes(pixels))
    words = f"train {PRIOR} --data codes:{tmp_path}/vq --out {tmp_path}/prior --train.steps 2"
    succeed(f"{words} --train.mutate 0.1")
    capsys.readouterr()
    assert "uniform 9.4512" in run(f"eval {tmp_path}/prior", capsys)
    with pytest.raises(UserError, match="uint16"):
        Images(codes.train.x.astype(np.uint8), None, 700)


def test_baselines_by_hand() -> None:
    random = np.random.default_rng(0)
    train = random.integers(0, 3, (50, 1, 2, 2), np.uint8)
    test = random.integers(0, 4, (20, 1, 2, 2), np.uint8)
    scores = baselines(Images(train, None, 4), Images(test, None, 4))
    assert scores["uniform"] == 2
    flat, count = train.reshape(-1, 4), 4
    unigram = [(1 + (flat == k).sum()) / (flat.size + count) for k in range(4)]
    expected = -np.mean([np.log2(unigram[k]) for k in test.flatten()])
    assert scores["unigram"] == pytest.approx(expected)
    bits = [
        -np.log2((1 + (flat[:, site] == image[site]).sum()) / (50 + count))
        for image in test.reshape(-1, 4)
        for site in range(4)
    ]
    assert scores["unigram of each position"] == pytest.approx(np.mean(bits))


# --- the prior ------------------------------------------------------------------------------------


def test_a_prior_treats_codes_as_categories(prior: Path, here: Path) -> None:
    model = load("prior")
    assert model.hyperparameters["inputs"] == "embedded"
    assert (model.shape, model.levels, model.classes) == ((1, 2, 2), 6, 3)
    assert model.data_record.codes_of == load("vq").digest()


def test_eval_of_a_prior(prior: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run("eval prior --json", capsys))
    model, decoder, tiny = load("prior"), load("vq"), load_data("tiny.npz").test
    assert isinstance(decoder, VQVAE)
    x = torch.from_numpy(tiny.x)
    with torch.no_grad():
        codes = -model.score(decoder.codes(x)[:, None], tiny.y).mean().item() / math.log(2)
        residual = -decoder.score(x).mean().item() / math.log(2)
    assert told["bits_per_code"] == pytest.approx(codes / 4, rel=1e-4)
    assert told["codes_bits_per_image"] == pytest.approx(codes, rel=1e-4)
    assert told["residual_bits_per_image"] == pytest.approx(residual, rel=1e-4)
    total = told["description_length_bits_per_dim"]
    assert total == pytest.approx((codes + residual) / 64, rel=1e-4)
    assert told["baselines"]["uniform"] == pytest.approx(math.log2(6))
    assert told["bits_per_code"] < told["baselines"]["uniform"]
    bundled = json.loads(run("eval both --json", capsys))
    different = {name for name, what in told.items() if bundled[name] != what}
    assert different == {"model", "data"}
    words = run("eval prior", capsys)
    assert "bits per code" in words
    assert "upper bound on -log p(x)" in words


# --- both together --------------------------------------------------------------------------------


def test_generator_draws_codes_and_decodes_them(prior: Path, here: Path) -> None:
    generator, model, decoder = LatentGenerator.load("both"), load("prior"), load("vq")
    assert isinstance(decoder, VQVAE)
    codes = model.sample(5, 1, seed=3)[:, 0]
    means = generator.sample(5, c=1, seed=3)
    assert torch.equal(means, decoder.picture(codes).round().long())
    assert torch.equal(generator.sample(5, c=1, seed=3, batch_size=2), means)
    drawn = generator.sample(5, c=1, seed=3, pixels="draw")
    assert torch.equal(drawn, decoder.sample(5, codes, seed=part_seed(3, 1)))
    assert torch.equal(generator.sample(1, c=1, seed=3, pixels="draw", numbers=[4])[0], drawn[4])
    full = generator.sample(5, c=1, seed=3, sampler="full")
    assert torch.equal(full, means)


def test_completion_keeps_codes(prior: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = LatentGenerator.load("both")
    x = torch.from_numpy(load_data("tiny.npz").test.x)
    codes = generator.decoder.codes(x)
    seen: list[Tensor] = []
    real = generator.decoder.picture
    monkeypatch.setattr(generator.decoder, "picture", lambda z: (seen.append(z), real(z))[1])
    mask = torch.tensor([[True, True], [False, False]])
    outputs = [generator.complete(x, mask, c=[0] * 8, seed=seed) for seed in range(3)]
    assert outputs[0].shape == x.shape
    for drawn in seen:
        assert torch.equal(drawn[:, 0], codes[:, 0])
    assert not torch.equal(seen[0], seen[1])
    with pytest.raises(UserError, match="mask of the codes"):
        generator.complete(x, torch.ones(3, 3, dtype=torch.bool), c=[0] * 8)


def test_commands_of_a_bundle(prior: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("sample both -n 6 --seed 2 --npz s.npz --out s.png", capsys)
    with np.load("s.npz") as file:
        expected = LatentGenerator.load("both").sample(6, torch.arange(6) % 3, seed=2)
        assert np.array_equal(file["x"], expected.numpy())
        assert file["y"].tolist() == [0, 1, 2, 0, 1, 2]
    run("sample both -n 2 --class 1 --pixels draw --temperature 0.5 --out s.png", capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("bundle prior vq --out x", "VQ-VAE first"),
        ("bundle vq mnist --out x", "not trained on codes"),
        ("bundle vq vq --out x", "autoregressive"),
        ("sample both --gif x.gif", "samples codes"),
        ("sample both --interpolate --class 0,1", "samples codes"),
        ("sample both --guidance 2", "samples codes"),
        ("sample mnist --pixels draw", "leave it out"),
        ("reconstruct both", "decoder or prior"),
        ("train --model VQVAE --data codes:vq --conditional false --out x", "autoregressive"),
        (f"train {PRIOR} --data codes:prior --out x", "no codebook"),
        (f"train {PRIOR} --data codes:vq --levels 4 --out x", "leave levels"),
        (f"train {PRIOR} --data codes:vq --resize 4 --out x", "leave levels"),
        (f"train {PRIOR} --data codes:nowhere --out x", "does not exist"),
        ("eval prior --data tiny.npz", "images"),
    ],
)
def test_refused(
    words: str, reason: str, prior: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in refused(words, capsys)


def test_another_codebook_is_refused(
    prior: Path, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("vq", "prior", "both"):
        shutil.copytree(name, tmp_path / name)
    model = load("vq")
    assert isinstance(model, VQVAE)
    model.quantizer.codebook.copy_(model.quantizer.codebook.roll(1, 0))
    model.save(tmp_path / "vq" / "best")
    assert "another model" in refused(f"bundle {tmp_path}/vq prior --out {tmp_path}/x", capsys)
    data = f"--data codes:{tmp_path}/vq"
    assert "not of the same codebook" in refused(f"eval prior {data}", capsys)
    resume = f"train --resume {tmp_path}/prior {data} --train.steps 100"
    assert "another model" in refused(resume, capsys)
    model.save(tmp_path / "both" / "decoder")
    assert "do not belong together" in refused(f"sample {tmp_path}/both", capsys)
    (tmp_path / "both" / "bundle.json").write_text("{")
    assert "corrupt or no record of a bundle" in refused(f"sample {tmp_path}/both", capsys)
