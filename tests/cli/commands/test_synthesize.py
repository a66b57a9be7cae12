"""`nextpixel synthesize`: a VQ-VAE of sounds, the prior over its codes, and their samples."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextpixel import LatentGenerator, load
from nextpixel.cli.commands.synthesize import labels_of
from nextpixel.data import DataRecord
from nextpixel.data import load as load_data
from nextpixel.data.sound_files import read_wav, write_wav
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.errors import UserError
from nextpixel.latents.codes import load_codes
from nextpixel.models import VQVAE
from nextpixel.models.base.latent import sum_unknown
from tests.helpers import refused, run, succeed, working_in

VQ = "--model VQVAE --model.width 4 --model.codes 6 --model.code_size 3 --model.components 2"
PRIOR = "--model GatedPixelCNN --model.width 8 --model.blocks 2 --model.kernel_size 3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with beeps, a VQ-VAE of them, its prior, and both in one folder."""
    folder = tmp_path_factory.mktemp("sounds")
    for label, frequency in (("high", 2000), ("low", 300)):
        for i in range(24):
            seconds = np.arange(round(8000 * (0.1 + 0.02 * i))) / 8000
            wave = 0.5 * np.sin(2 * np.pi * (frequency + i) * seconds)
            (folder / "beeps" / label).mkdir(parents=True, exist_ok=True)
            write_wav(folder / "beeps" / label / f"{i}.wav", wave, 8000)
    steps = "--train.batch_size 16 --train.steps 60 --train.warmup 5 --train.lr 0.01"
    with working_in(folder):
        words = f"train {VQ} --data wavs:beeps --conditional false --out vq {steps}"
        succeed(words)
        succeed(f"train {PRIOR} --data codes:vq --out prior {steps}")
        succeed("bundle vq prior --out both")
    return folder


def test_codes_mark_where_a_sound_ends(here: Path) -> None:
    codes, beeps, model = load_codes("vq"), load_data("wavs:beeps"), load("vq")
    assert isinstance(model, VQVAE)
    assert (codes.shape, codes.levels) == ((1, 24, 10), 7)
    assert codes.spectrogram is None
    assert codes.train.rows is not None
    assert beeps.train.rows is not None
    real = beeps.train.rows // 4
    assert (codes.train.rows == real + 1).all()  # and the row that says so
    ended = np.arange(24) >= real[:, None]
    assert ((codes.train.x[:, 0] == 6) == ended[:, :, None]).all()
    whole = model.codes(torch.tensor(beeps.train.x)).numpy()
    assert (codes.train.x[:, 0][~ended] == whole[~ended]).all()


def test_padding_stays_out_of_the_codebook(here: Path) -> None:
    """What is in the rows of padding changes neither the loss nor the codebook's averages."""
    beeps, model = load_data("wavs:beeps"), load("vq")
    assert isinstance(model, VQVAE)
    x = torch.tensor(beeps.train.x[:8])
    padding = torch.from_numpy(np.array(beeps.train.padding(np.arange(8))))
    real = model.has_unknown(x, padding, (24, 10))
    assert real.shape == (8, 24, 10)
    assert real.sum() == beeps.train.rows[:8].sum() // 4 * 10  # type: ignore[index]
    counts = []
    for known in (None, padding):
        again = load("vq")
        assert isinstance(again, VQVAE)
        again.quantizer.decay = 0.0
        again.after_step([(x, known)], lambda t: t[None], seed=0)
        counts.append(again.quantizer.counts.sum())
    assert counts == [8 * 240, real.sum()]
    of_sites = model.decode(model.codes(x)).log_prob(x)
    pull = [
        model.objective(x, None, known) - sum_unknown(of_sites, known) for known in (None, padding)
    ]
    quantized = model.quantizer(model.encoder(model.encode(x)))
    for found, mask in zip(pull, (torch.ones_like(real), real), strict=True):
        expected = -16 * (quantized.loss * mask).sum((1, 2))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    told = model.diagnose(x, padding)
    used = model.codes(x)[real].unique()
    assert told["usage"] == pytest.approx(len(used) / 6)


def test_samples_end_in_silence(here: Path) -> None:
    generator = LatentGenerator.load("both")
    assert generator.data_record.spectrogram == Spectrogram()
    assert generator.data_record.class_names == ("high", "low")
    assert generator.end_code == 6
    x = generator.sample(6, c=1, seed=1)
    codes = generator.prior.sample(6, 1, seed=1)[:, 0]
    for image, grid in zip(x, codes, strict=True):
        ends = [row for row in range(24) if (grid[row] == 6).any()]
        rows = 4 * ends[0] if ends else 96
        assert not image[0, rows:].any()
        assert rows == 0 or image[0, :rows].any()
    quiet = torch.ones(1, 1, 96, 40, dtype=torch.int64)
    quiet[:, :, 5:] = 0
    for rows, first in ((None, 2), (np.array([16]), 4), (np.array([96]), 24)):
        ends = (generator.codes(quiet, rows) == 6).any(3)[0, 0]
        assert ends.tolist() == [row >= first for row in range(24)]
    beeps = torch.tensor(load_data("wavs:beeps").test.x)
    assert np.array_equal(generator.codes(beeps).numpy(), load_codes("vq").test.x)
    kept = generator.complete(beeps, torch.ones(24, 10, dtype=torch.bool), [0] * len(beeps))
    rows = load_data("wavs:beeps").test.rows
    assert rows is not None
    for image, real in zip(kept, rows, strict=True):
        assert not image[0, real:].any()
        assert image[0, :real].any()


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (
            ["0 george", "0 theo", "1 george", "1 theo", "2 george", "2 theo"],
            {"columns": 2, "row_labels": ["0", "1", "2"], "column_labels": ["george", "theo"]},
        ),
        (["0 george", "0 theo", "1 george"], {}),
        (["0 george", "0 theo", "1 theo", "1 george"], {}),
        (["high", "low"], {}),
        (["3 theo"] * 2, {}),
    ],
)
def test_rows_are_words_and_columns_are_speakers(names: list[str], labels: dict[str, Any]) -> None:
    assert labels_of(names) == labels


def test_synthesize(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"synthesize both --word low -n 3 --seed 4 --iterations 2 --out {tmp_path}/low"
    assert "Sampled 3 sounds (low): " in run(words, capsys)
    generator = LatentGenerator.load("both")
    expected = generator.sounds(generator.sample(3, c=1, seed=4), 2)
    for i, wave in enumerate(expected):
        found, rate = read_wav(tmp_path / "low" / f"low-{i}.wav")
        assert rate == 8000
        np.testing.assert_allclose(found, wave.clip(-1, 1), atol=2**-14)
    page = (tmp_path / "low" / "index.html").read_text()
    assert page.count("<audio controls") == page.count("data:audio/wav;base64,") == 3
    assert (tmp_path / "low" / "spectrograms.png").is_file()
    succeed(f"synthesize both -n 4 --iterations 1 --out {tmp_path}/all")
    assert {file.name for file in (tmp_path / "all").glob("*.wav")} == {
        "high-0.wav",
        "low-1.wav",
        "high-2.wav",
        "low-3.wav",
    }


def test_classes_without_training_sounds_are_left_out(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = LatentGenerator.load("both")
    generator.data_record = replace(generator.data_record, untrained=(0,))
    monkeypatch.setattr(LatentGenerator, "load", lambda *_, **__: generator)
    words = f"synthesize both --iterations 1 --out {tmp_path}/some"
    assert "Sampled 2 sounds (low): " in run(f"{words} -n 2", capsys)
    assert "both was trained on no sounds of high" in refused(f"{words} --word high", capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("synthesize both --word loud", "choose from high, low"),
        ("synthesize both --word low --speaker theo", "no sounds of low theo"),
        ("synthesize nowhere --word low", "holds no VQ-VAE"),
        ("synthesize prior --word low", "holds no VQ-VAE"),
        ("synthesize both --word low --temperature -1", "temperature"),
    ],
)
def test_mistakes(
    words: str, reason: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in refused(f"{words} --out {tmp_path / 'out'}", capsys)
    assert not (tmp_path / "out").exists()


def test_a_model_of_images_synthesizes_nothing(here: Path) -> None:
    generator = LatentGenerator.load("both")
    generator.data_record = DataRecord()
    with pytest.raises(UserError, match="not on sounds"):
        generator.sounds(torch.zeros(1, 1, 96, 40, dtype=torch.int64))


def test_eval_counts_real_codes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run("eval prior --json", capsys))
    codes, beeps = load_codes("vq").test, load_data("wavs:beeps").test
    assert codes.rows is not None
    assert beeps.rows is not None
    bits = told["codes_bits_per_image"] / (codes.rows.mean() * 10)
    assert told["bits_per_code"] == pytest.approx(bits, rel=1e-4)
    total = told["codes_bits_per_image"] + told["residual_bits_per_image"]
    expected = total / (beeps.rows.mean() * 40)
    assert told["description_length_bits_per_dim"] == pytest.approx(expected, rel=1e-4)
    assert told["bits_per_code"] < told["baselines"]["unigram"] < told["baselines"]["uniform"]


def test_completion_counts_real_codes(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What comes after a sound's end carries no bits."""
    out = run(f"complete both --codes 10 -n 8 --draws 1 --out {tmp_path}/c.png", capsys)
    found = [line for line in out.splitlines() if "image" in line][1:]
    codes = load_codes("vq").test
    prior = load("prior")
    assert codes.rows is not None
    for number, (line, rows) in enumerate(zip(found, codes.rows, strict=True)):
        x = torch.tensor(codes.x[number : number + 1].astype(np.int64))
        known = torch.zeros(1, 1, 24, 10, dtype=torch.bool)
        known[:, :, 0] = True  # the first ten
        known[:, :, rows:] = True
        bits = -prior.score(x, codes.y[number : number + 1], known).item() / np.log(2)  # type: ignore[index]
        assert f"{bits:8.1f} bits" in line
        assert line.endswith(f", {10 * (rows - 1)} codes")
