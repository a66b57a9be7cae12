"""VQ-VAE: codes, their decoder, a prior over them, and both together."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nextpixel.data import Images
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import evaluate as score_images
from nextpixel.latents.codes import baselines, load_codes, load_data
from nextpixel.latents.generator import LatentGenerator, part_seed
from nextpixel.models import VQVAE
from nextpixel.models.base.image_model import load
from nextpixel.tasks.reconstruction import draw_reconstructions
from tests.helpers import (
    random_images,
    randomize,
    refused,
    run,
    save_tiny_images,
    succeed,
    working_in,
)

pytestmark = pytest.mark.usefixtures("no_replayed_steps")

VARIANTS: list[dict[str, Any]] = [
    {"downsampling": 2, "shape": (1, 6, 10)},
    {"shape": (3, 8, 12), "levels": 5, "likelihood": "categorical"},
    {"downsampling": 8, "shape": (3, 16, 8), "levels": 256, "codebook": "loss"},
]
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: str(v["shape"]))


def make(**arguments: Any) -> VQVAE:
    """A small model with random weights everywhere, in float64."""
    torch.manual_seed(0)
    defaults = {"shape": (1, 8, 12), "levels": 2, "width": 4, "codes": 7, "code_size": 3}
    model = VQVAE(**{**defaults, **arguments}).double()
    randomize(model)
    model.quantizer.codebook.data.mul_(0.3)
    return model.eval()


# --- the model ------------------------------------------------------------------------------------


@every_variant
def test_shapes_and_gradients(variant: dict[str, Any]) -> None:
    model = make(**variant)
    x = random_images(model)
    codes = model.codes(x)
    size = tuple(side // variant.get("downsampling", 4) for side in model.shape[1:])
    assert (codes.shape, codes.dtype) == ((4, *size), torch.int64)
    assert 0 <= codes.min() < codes.max() < 7
    assert model.latent == math.prod(size)
    assert model.score(x).shape == (4,)
    model.objective(x).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    drawn = model.reconstruct(x, draws=2, seed=3)
    assert (drawn.shape, drawn.dtype) == ((2, *x.shape), torch.int64)
    shown = model.picture(codes)
    assert shown.shape == x.shape
    assert 0 <= shown.min() <= shown.max() <= model.levels - 1
    assert draw_reconstructions(model, x, draws=1).height > 0


@every_variant
def test_score_is_that_of_the_pixels_given_the_codes(variant: dict[str, Any]) -> None:
    model = make(**variant)
    x = random_images(model)
    of_sites = model.decode(model.codes(x)).log_prob(x)
    assert of_sites.shape == x.shape
    torch.testing.assert_close(model.score(x), of_sites.flatten(1).sum(1))
    known = torch.zeros(1, 1, *model.shape[1:], dtype=torch.bool)
    known[..., 0] = True  # no code is known to its last pixel
    rest = of_sites[..., 1:].flatten(1).sum(1)
    torch.testing.assert_close(model.score(x, mask=known), rest)


def test_known_parts_are_decoded_from_codes_of_silence() -> None:
    """Who decodes a sound knows where it ends, and nothing of the encoder's codes from there on."""
    model = make()
    x = random_images(model)
    side = model.shape[1] // model.code_shape[0]
    known = torch.zeros(1, 1, *model.shape[1:], dtype=torch.bool)
    known[:, :, side:] = True
    codes = model.codes(x)
    codes[:, 1:] = model.codes(torch.zeros_like(x))[:, 1:]
    assert not torch.equal(codes, model.codes(x))
    expected = model.decode(codes).log_prob(x)[:, :, :side].flatten(1).sum(1)
    torch.testing.assert_close(model.score(x, mask=known), expected)


def test_objective_is_the_score_less_the_commitment() -> None:
    model = make(commitment=2.0)
    x = random_images(model)
    z = model.encoder(model.encode(x))
    off = z - model.quantizer.vectors(model.codes(x))
    expected = model.score(x) - 96 * 2 * off.square().flatten(1).mean(1)
    torch.testing.assert_close(model.objective(x), expected)


def test_a_code_is_decoded_where_it_stands() -> None:
    """Far away pixels do not know it, and those of its place do."""
    model = make(shape=(1, 96, 16))
    codes = torch.zeros(1, 24, 4, dtype=torch.int64)
    other = codes.clone()
    other[0, 2, 1] = 3
    changed = (model.picture(codes) - model.picture(other)).abs()[0, 0]
    assert (changed[8:12, 4:8] > 0).sum() > 8
    assert (changed[60:] == 0).all()


@pytest.mark.parametrize("codebook", ["ema", "loss"])
def test_save_and_load(codebook: Any, tmp_path: Path) -> None:
    model = make(levels=5, codebook=codebook).float()
    model.save(tmp_path)
    again = load(tmp_path)
    x = random_images(model)
    assert isinstance(again, VQVAE)
    assert torch.equal(again.codes(x), model.codes(x))
    assert torch.equal(again.score(x), model.score(x))


def test_after_step_takes_the_parts_as_a_whole() -> None:
    models = [make() for _ in range(2)]
    x = random_images(models[0], 8)
    for model, parts in zip(models, ([x], x.tensor_split(3)), strict=True):
        model.after_step([(part, None) for part in parts], lambda t: t[None], seed=1)
    states = [model.quantizer.state_dict() for model in models]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor)
    assert states[0]["counts"].sum() > 0


def test_diagnosis() -> None:
    model = make(levels=4)
    x = random_images(model, 20)
    told = model.diagnose(x)
    codes, counts = np.unique(model.codes(x).numpy(), return_counts=True)
    shares = counts / counts.sum()
    assert told["usage"] == pytest.approx(len(codes) / 7)
    assert told["perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    means = model.picture(model.codes(x)).detach().numpy()
    error = ((means - x.numpy()) / 3) ** 2
    assert told["reconstruction_error"] == pytest.approx(error.mean())


def test_an_image_depends_on_seed_and_number_only() -> None:
    model = make(levels=3)
    codes = model.codes(random_images(model, 5))
    together = model.sample(5, codes, seed=7)
    assert torch.equal(model.sample(5, codes, seed=7, batch_size=2), together)
    assert torch.equal(model.sample(1, codes[3], seed=7, numbers=[3])[0], together[3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"downsampling": 3}, "2, 4 or 8"),
        ({"downsampling": 8}, "divisible"),
        ({"width": 0}, "width"),
        ({"codes": 1}, "at least 2 codes"),
        ({"components": 0}, "component"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**arguments)


def test_wrong_codes() -> None:
    model = make()
    with pytest.raises(UserError, match="no prior"):
        model.sample(2)
    with pytest.raises(UserError, match="integers of shape"):
        model.sample(2, torch.zeros(2, 2, 3))
    with pytest.raises(UserError, match="integers of shape"):
        model.sample(2, torch.zeros(2, 3, 3, dtype=torch.int64))
    with pytest.raises(UserError, match="made of numbers, not str"):
        model.sample(2, "null")
    with pytest.raises(UserError, match="another codebook"):
        model.sample(2, torch.full((2, 2, 3), 7))
    with pytest.raises(UserError, match="Images are integers"):
        model.codes(random_images(model).float())


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
    states = [torch.load(f"{run}/state.pt", weights_only=True) for run in ("part", "whole")]
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
    assert "4 codes an image" in run("reconstruct vq -n 2 --draws 1 --out r.png", capsys)
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
        succeed(f"train {PRIOR} --data codes:vq --out prior {options}")
        succeed("bundle vq prior --out both")
    return folder


def test_data_shows_codes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("data codes:vq", capsys)
    codes = load_codes("vq")
    assert "grids of codes of 1 x 2 x 2, 6 levels" in out
    assert f"{len(np.unique(codes.train.x))} different codes occur" in out
    assert Path("codes-vq.png").is_file()


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
    assert "bits a code" in words
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
        ("bundle vq mnist-gated --out x", "not trained on codes"),
        ("bundle vq vq --out x", "autoregressive"),
        ("sample both --gif x.gif", "samples codes"),
        ("sample both --interpolate --class 0,1", "samples codes"),
        ("sample both --guidance 2", "samples codes"),
        ("sample mnist-gated --pixels draw", "leave it out"),
        ("reconstruct both", "decoder or prior"),
        ("train --model VQVAE --data codes:vq --conditional false --out x", "autoregressive"),
        (f"train {PRIOR} --data codes:prior --out x", "no codebook"),
        (f"train {PRIOR} --data codes:vq --levels 4 --out x", "leave levels"),
        (f"train {PRIOR} --data codes:vq --size 4 --out x", "leave levels"),
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
    assert "damaged" in refused(f"sample {tmp_path}/both", capsys)
