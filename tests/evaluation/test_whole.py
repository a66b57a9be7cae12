"""Whole pictures are scored, and sampled, at their own sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nextpixel as npx
from nextpixel.evaluation import whole
from tests.helpers import refused, run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    npx.PixelCNN(shape=(1, 8, 8), levels=4, width=8, blocks=2).save(tmp_path / "model")
    return tmp_path / "model"


def picture(path: Path, height: int, width: int) -> np.ndarray:
    x = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
    Image.fromarray(x).save(path)
    return x


def test_each_picture_is_scored_at_its_own_size(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / "pictures").mkdir()
    bits, dims = 0.0, 0
    for k, size in enumerate([(5, 9), (12, 3), (1, 1)]):
        x = torch.from_numpy(picture(folder / f"{k}.png", *size).astype(int) // 64)[None, None]
        network = npx.load(model, shape=(1, *size))
        bits -= float(network.log_prob(x).detach()) / math.log(2)
        dims += x.numel()
    found = json.loads(run(f"eval {model} --whole {folder} --json", capsys))
    assert found["bits_per_dim"] == pytest.approx(bits / dims, rel=1e-6)
    assert len(found["pictures"]) == 3
    out = run(f"eval {model} --whole {folder / '0.png'}", capsys)
    assert "0.png: 9 x 5, " in out
    assert f"{model} on 1 whole picture: " in out


def test_what_cannot_be_scored_whole_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(path := tmp_path / "a.png", 8, 8)
    for option in ("--limit 100", "--split train", "--batch-size 7", "--classify", "--top x"):
        named = f"{option.split()[0]} is for data sets"
        assert named in refused(f"eval {model} --whole {path} {option}", capsys)
    (empty := tmp_path / "empty").mkdir()
    assert "There are no pictures" in refused(f"eval {model} --whole {empty}", capsys)
    npx.PixelCNN(shape=(1, 8, 8), levels=4, width=8, blocks=2, classes=3).save(tmp_path / "c")
    assert "conditioned on classes" in refused(f"eval {tmp_path / 'c'} --whole {path}", capsys)
    npx.PixelSNAIL(shape=(1, 8, 8), levels=4, width=8, blocks=1).save(tmp_path / "s")
    picture(other := tmp_path / "b.png", 8, 9)
    assert "cannot be used on" in refused(f"eval {tmp_path / 's'} --whole {other}", capsys)
    npx.VAE(shape=(1, 8, 8), levels=4, width=8).save(tmp_path / "v")
    assert "an autoregressive model" in refused(f"eval {tmp_path / 'v'} --whole {path}", capsys)
    assert "--size is for" in refused(f"sample {tmp_path / 'v'} --size 6 11", capsys)
    npx.PixelCNN(shape=(1, 8, 8), levels=4, width=8, blocks=2, orders=8).save(tmp_path / "o")
    assert "eight orders" in refused(f"eval {tmp_path / 'o'} --whole {other}", capsys)
    monkeypatch.setattr(whole, "MOST_PIXELS", 60)
    assert "has 64 pixels" in refused(f"eval {model} --whole {path}", capsys)


def test_textures_of_any_size_are_sampled(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"sample {model} -n 2 --out {tmp_path / 'a.png'} --npz {tmp_path / 'a.npz'}"
    run(f"{words} --size 6 11 --seed 3", capsys)
    expected = npx.load(model, shape=(1, 6, 11)).sample(2, seed=3).numpy()
    assert np.array_equal(np.load(tmp_path / "a.npz")["x"], expected)
    npx.load(model).save_program(tmp_path / "a.program")
    assert "--size is for" in refused(f"sample {tmp_path / 'a.program'} --size 6 11", capsys)
