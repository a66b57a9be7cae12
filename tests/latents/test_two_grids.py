"""Two grids of codes as data, a prior for each, all together, and their commands."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nextpixel.data import Dataset, Images
from nextpixel.errors import UserError
from nextpixel.latents.codes import load_codes, load_data
from nextpixel.latents.generator import LatentGenerator, part_seed
from nextpixel.models import VQVAE2
from nextpixel.models.base.image_model import load
from nextpixel.sampling.config import site_noise
from nextpixel.training import fit
from tests.helpers import refused, run, save_tiny_images, succeed, working_in

# --- the commands ---------------------------------------------------------------------------------

TRAIN = "--train.batch_size 16 --train.warmup 5 --train.valid_images 8 --train.steps"
VQ = "--model VQVAE2 --model.width 4 --model.codes 6 --model.code_size 3 --model.components 2"
PRIOR = "--model GatedPixelCNN --model.width 8 --model.blocks 2 --model.kernel_size 3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny images, a trained VQ-VAE-2, its two priors, and all in one folder."""
    folder = tmp_path_factory.mktemp("codes")
    save_tiny_images(folder / "tiny.npz")
    with working_in(folder):
        for words in (
            f"train {VQ} --data tiny.npz --conditional false --out vq {TRAIN} 40 --train.lr 0.01",
            f"train {PRIOR} --data codes:vq --out top {TRAIN} 40 --train.lr 0.02",
            f"train {PRIOR} --data codes:vq#bottom --out bottom {TRAIN} 40 --train.lr 0.02",
            "bundle vq top bottom --out all",
        ):
            succeed(words)
    return folder


def test_codes_as_data(here: Path) -> None:
    model, tiny = load("vq"), load_data("tiny.npz")
    assert isinstance(model, VQVAE2)
    top, bottom = load_data("codes:vq"), load_data("codes:vq#bottom")
    assert (top.shape, top.levels, top.classes, top.coarse_codes) == ((1, 2, 2), 6, 3, None)
    assert (bottom.shape, bottom.levels, bottom.coarse_codes) == ((1, 4, 4), 6, (6, 2, 2))
    assert (top.codes_of, bottom.codes_of) == (f"{model.digest()}/top", f"{model.digest()}/bottom")
    for split in ("train", "valid", "test"):
        grids = model.split(model.codes(torch.from_numpy(getattr(tiny, split).x)))
        ours = getattr(bottom, split)
        assert np.array_equal(getattr(top, split).x[:, 0], grids[0].numpy())
        assert np.array_equal(ours.x[:, 0], grids[1].numpy())
        assert np.array_equal(ours.coarse_codes.x[:, 0], grids[0].numpy())
        assert np.array_equal(ours.y, getattr(tiny, split).y)
        for x in (ours.x, ours.coarse_codes.x):
            assert isinstance(x, np.memmap)
            assert not x.flags.owndata


def test_padding_is_refused(here: Path, tmp_path: Path) -> None:
    model = load("vq")
    x, rows = np.zeros((8, 1, 8, 8), np.uint8), np.full(8, 5)
    split = Images(x, None, 6, rows=rows)
    data = Dataset("short", split, split, split, 6, None, "made up")
    with pytest.raises(UserError, match="cannot tell where an image ends"):
        fit(model, data, out=tmp_path / "run", steps=1)


def test_eval_adds_up_all_parts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decoder, top, bottom = load("vq"), load("top"), load("bottom")
    assert isinstance(decoder, VQVAE2)
    tiny = load_data("tiny.npz").test
    x, y = torch.from_numpy(tiny.x), tiny.y
    with torch.no_grad():
        grids = decoder.split(decoder.codes(x))
        nats = [
            -top.score(grids[0][:, None], y),
            -bottom.score(grids[1][:, None], {"classes": y, "image": grids[0]}),
            -decoder.score(x),
        ]
    bits = [one.mean().item() / math.log(2) for one in nats]
    found = json.loads(run("eval bottom --top top --json", capsys))
    assert found["top_codes_bits_per_image"] == pytest.approx(bits[0], rel=1e-4)
    assert found["codes_bits_per_image"] == pytest.approx(bits[1], rel=1e-4)
    assert found["bits_per_code"] == pytest.approx(bits[1] / 16, rel=1e-4)
    assert found["residual_bits_per_image"] == pytest.approx(bits[2], rel=1e-4)
    assert found["description_length_bits_per_dim"] == pytest.approx(sum(bits) / 64, rel=1e-4)
    assert "given the class and the top codes" in run("eval bottom --top top", capsys)
    for words in ("eval top", "eval bottom"):
        alone = run(words, capsys)
        assert "not included" in alone
        assert "Description length" not in alone
        assert "description_length_bits_per_dim" not in json.loads(run(f"{words} --json", capsys))


def test_eval_refuses_a_wrong_top_before_it_scores(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scored: list[object] = []
    monkeypatch.setattr(
        "nextpixel.evaluation.likelihood.evaluate", lambda *_, **__: scored.append(0)
    )
    assert "does not exist" in refused("eval bottom --top nowhere", capsys)
    assert "the top's first" in refused("eval bottom --top bottom", capsys)
    assert scored == []


def test_sampling_draws_the_top_then_the_bottom_then_pixels(here: Path) -> None:
    generator, decoder, top, bottom = (
        LatentGenerator.load("all"),
        load("vq"),
        load("top"),
        load("bottom"),
    )
    assert isinstance(decoder, VQVAE2)
    told_done: list[float] = []
    seeds: list[int] = []
    real = generator.priors[1].sample

    def watched(*args: Any, seed: int, **how: Any) -> Tensor:
        seeds.append(seed)
        return real(*args, seed=seed, **how)

    generator.priors[1].sample = watched  # type: ignore[method-assign]
    means = generator.sample(5, c=1, seed=3, progress=told_done.append)
    first = top.sample(5, 1, seed=3)[:, 0]
    second = bottom.sample(5, {"classes": torch.tensor(1), "image": first}, seed=seeds[0])[:, 0]
    expected = decoder.picture(decoder.join([first, second])).round().long()
    assert torch.equal(means, expected)
    # The same uniform numbers for both would draw codes that depend on each other.
    noise = [site_noise((1, 2, 2), seed, [0]) for seed in (3, seeds[0])]
    assert (noise[0] - noise[1]).abs().min() > 1e-3
    assert told_done == sorted(told_done)
    assert told_done[-1] == 1
    assert 0.2 in told_done
    assert torch.equal(generator.sample(5, c=1, seed=3, batch_size=2), means)
    assert torch.equal(generator.sample(1, c=1, seed=3, numbers=[4])[0], means[4])
    drawn = generator.sample(5, c=1, seed=3, pixels="draw")
    codes = decoder.join([first, second])
    assert torch.equal(drawn, decoder.sample(5, codes, seed=part_seed(3, 2)))
    with pytest.raises(UserError, match="has two"):
        generator.complete(drawn, torch.ones(4, 4, dtype=torch.bool), c=1)


def test_commands_of_a_bundle(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("sample all -n 6 --seed 2 --npz s.npz --out s.png", capsys)
    with np.load("s.npz") as file:
        expected = LatentGenerator.load("all").sample(6, torch.arange(6) % 3, seed=2)
        assert np.array_equal(file["x"], expected.numpy())
    assert "20 codes per image" in run("reconstruct vq -n 2 --draws 1 --out r.png", capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("bundle vq bottom top --out x", "the top's first"),
        ("bundle vq top --out x", "takes two priors"),
        ("bundle vq top top --out x", "the top's first"),
        ("sample bottom", "conditioned on the top codes"),
        ("sample vq", "no prior"),
        ("eval top --data codes:vq#bottom", "has (1, 4, 4)"),
        ("compare bottom --data codes:vq#bottom --out x", "priors over the top codes"),
        ("eval top --top top", "leave it out"),
        ("eval bottom --top bottom", "the top's first"),
        (f"train {PRIOR} --data codes:vq#middle --out x", "does not exist"),
        (
            f"train {PRIOR} --data codes:vq#bottom --task denoise --out x",
            "leave --task and",
        ),
    ],
)
def test_refused(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason in refused(words, capsys)


def test_another_codebook_is_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("vq", "all"):
        shutil.copytree(name, tmp_path / name)
    model = load("vq")
    assert isinstance(model, VQVAE2)
    model.bottom_quantizer.codebook.copy_(model.bottom_quantizer.codebook.roll(1, 0))
    model.save(tmp_path / "vq" / "best")
    words = f"bundle {tmp_path}/vq top bottom --out {tmp_path}/x"
    assert "another model" in refused(words, capsys)
    words = f"eval bottom --data codes:{tmp_path}/vq#bottom"
    assert "not of the same codebook" in refused(words, capsys)
    model.save(tmp_path / "all" / "decoder")
    assert "do not belong together" in refused(f"sample {tmp_path}/all", capsys)


def test_one_grid_has_no_bottom(here: Path, tmp_path: Path) -> None:
    words = f"train {VQ.replace('VQVAE2', 'VQVAE')} --data tiny.npz --conditional false"
    succeed(f"{words} --out {tmp_path}/one {TRAIN} 1")
    with pytest.raises(UserError, match="no bottom"):
        load_codes(f"{tmp_path}/one#bottom")
