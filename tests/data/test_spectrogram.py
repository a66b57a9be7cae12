"""Sounds become images and sounds again; padding carries no bits."""

import io
import json
import math
import wave as wav_files
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from nextpixel import AutoregressiveModel, Categorical
from nextpixel.cli.commands.data import report
from nextpixel.cli.main import main
from nextpixel.conditioning.degradation import Task
from nextpixel.data import Dataset, Images, load
from nextpixel.data.sound_files import read_wav, resample, write_wav
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.errors import UserError
from nextpixel.evaluation.anomaly import score_images
from nextpixel.evaluation.likelihood import Score, classify, evaluate
from nextpixel.models import GatedPixelCNN
from nextpixel.training import fit
from nextpixel.viz.images import upright
from tests.helpers import scoring_model

RATE = 8000
SMALL = Spectrogram(window=256, hop=128, bands=16, frames=16)


def sine(frequency: float, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def peak(wave: np.ndarray, rate: int = RATE) -> float:
    """The frequency of the highest peak, in Hz."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 1 << 16))
    return float(spectrum.argmax() * rate / (1 << 16))


def distance(spectrogram: Spectrogram, wave: np.ndarray, again: np.ndarray) -> float:
    """The log-spectral distance in dB."""
    difference = spectrogram.decibels(wave) - spectrogram.decibels(again)
    return float(np.sqrt((difference**2).mean()))


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "b.flac", "C.WAV"])
def test_written_sounds_are_read_back(tmp_path: Path, name: str) -> None:
    wave = sine(440)
    write_wav(tmp_path / name, wave, RATE)
    again, rate = read_wav(tmp_path / name)
    assert rate == RATE
    np.testing.assert_allclose(again, wave, atol=2**-15)


def test_too_loud_is_cut_off(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([-3.0, 0.0, 3.0]), RATE)
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav")[0], [-1, 0, 1], atol=2**-14)


def test_channels_are_averaged(tmp_path: Path) -> None:
    with wav_files.open(str(tmp_path / "two.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.array([[16384, 0], [-16384, -16384]], "<i2").tobytes())
    np.testing.assert_array_equal(read_wav(tmp_path / "two.wav")[0], [0.25, -0.5])


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_sound_that_was_cut_off_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    write_wav(path, np.random.default_rng(0).uniform(-1, 1, 40_000), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"a\.{ending} is (cut off|truncated)"):
        read_wav(path)
    path.write_bytes(whole)
    assert len(read_wav(path)[0]) == 40_000


def test_a_wav_of_unknown_length_is_read(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", sine(440), RATE)
    raw = bytearray((tmp_path / "a.wav").read_bytes())
    raw[40:44] = b"\xff" * 4  # as a program writes it into a pipe
    (tmp_path / "piped.wav").write_bytes(raw)
    np.testing.assert_array_equal(
        *(read_wav(tmp_path / f"{name}.wav")[0] for name in ("a", "piped"))
    )


def test_loud_floats_are_clipped_with_a_warning(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", np.array([0.5, -3.0]), RATE, "FLOAT")
    with pytest.warns(UserWarning, match=r"loud\.wav has samples up to 3, which are clipped"):
        np.testing.assert_array_equal(read_wav(tmp_path / "loud.wav")[0], [0.5, -1])


def test_channels_that_cancel_each_other_are_refused(tmp_path: Path) -> None:
    wave = sine(440)
    soundfile.write(tmp_path / "anti.wav", np.stack([wave, -wave], 1), RATE, "PCM_16")
    with pytest.raises(UserError, match=r"The channels of .*anti\.wav cancel each other"):
        read_wav(tmp_path / "anti.wav")
    soundfile.write(tmp_path / "left.wav", np.stack([wave, 0 * wave], 1), RATE, "PCM_16")
    assert np.abs(read_wav(tmp_path / "left.wav")[0]).max() > 0
    soundfile.write(tmp_path / "silent.wav", np.zeros((9, 2)), RATE, "PCM_16")
    assert not read_wav(tmp_path / "silent.wav")[0].any()


def test_files_that_are_no_sounds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sound file"):
        read_wav(tmp_path / "none.wav")
    (tmp_path / "bad.wav").write_bytes(b"RIFF and no more")
    with pytest.raises(UserError, match=r"bad\.wav is truncated, corrupt or no sound"):
        read_wav(tmp_path / "bad.wav")
    with wav_files.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
    with pytest.raises(UserError, match="without any samples"):
        read_wav(tmp_path / "empty.wav")
    with pytest.raises(UserError, match=r"written as \.wav or \.flac"):
        write_wav(tmp_path / "a.mp3", sine(440), RATE)
    for wave in (np.zeros(0), np.zeros((2, 2)), np.zeros(3, int), np.array([np.nan])):
        with pytest.raises(UserError, match="A sound"):
            SMALL.analyse(wave)


def test_resampling_keeps_audible_frequencies() -> None:
    wave = sine(1000, rate=44_100) + sine(9000, rate=44_100)
    again = resample(wave, 44_100, RATE)
    assert len(again) == math.ceil(len(wave) * RATE / 44_100)
    inside = slice(200, -200)
    np.testing.assert_allclose(again[inside], sine(1000)[: len(again)][inside], atol=5e-3)
    assert resample(wave, 44_100, 44_100) is not wave
    with pytest.raises(UserError, match="1 sample a second"):
        resample(wave, 0, RATE)


# --- spectrograms ---------------------------------------------------------------------------------


def test_settings_are_json() -> None:
    assert Spectrogram(**json.loads(json.dumps(SMALL.settings()))) == SMALL
    assert Spectrogram().shape == (1, 96, 40)
    assert Spectrogram().longest >= 18_262  # the longest spoken digit


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"hop": 100}, "window 2, 3"),
        ({"hop": 127, "window": 254}, "hop is even"),
        ({"levels": 1}, "2 to 256 levels"),
        ({"levels": 257}, "2 to 256 levels"),
        ({"floor": 0.0}, "below 0"),
        ({"highest": 5000.0}, "4000 Hz at most"),
        ({"bands": 200}, "too narrow"),
        ({"frames": 0}, "frames is a whole number"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Spectrogram(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_levels_have_equal_parts_of_the_range(levels: int) -> None:
    spectrogram = Spectrogram(levels=levels)
    edges = -80 + 80 * np.arange(levels) / levels
    np.testing.assert_array_equal(spectrogram.quantise(edges + 1e-9), np.arange(levels))
    np.testing.assert_array_equal(
        spectrogram.quantise(edges - 1e-9), np.maximum(np.arange(levels) - 1, 0)
    )
    assert spectrogram.quantise(np.array([-200.0, 0.0, 7.0])).tolist() == [
        0,
        levels - 1,
        levels - 1,
    ]
    middles = spectrogram.magnitudes(np.arange(levels))
    assert middles[0] == 0
    np.testing.assert_allclose(20 * np.log10(middles[1:]), edges[1:] + 40 / levels)


def test_rows_and_padding() -> None:
    for samples, rows in ((1, 1), (128, 1), (129, 2), (16 * 128, 16)):
        image, real = SMALL.analyse(0.5 * np.cos(np.arange(samples)))
        assert real == rows
        assert image.shape == SMALL.shape
        assert not image[0, rows:].any()
        assert image[0, :rows].any(1).all()
        assert SMALL.synthesise(image, real, 2).shape == (rows * 128,)
    with pytest.raises(UserError, match=r"too long for a spectrogram of 0\.26 s"):
        SMALL.analyse(np.zeros(16 * 128 + 1))


def test_time_runs_down_and_frequency_to_the_right() -> None:
    image, rows = Spectrogram().analyse(np.concatenate([sine(300), sine(3000)]))
    columns = image[0, :rows].argmax(1)
    assert len(set(columns[: rows // 2 - 1])) == len(set(columns[rows // 2 + 1 :])) == 1
    assert columns[0] < columns[-1]
    shown = upright(image[None])[0, 0]
    assert shown.shape == (40, 96)
    assert shown[:, 0].argmax() == 39 - columns[0]  # frequency upward
    assert shown[:, rows - 1].argmax() == 39 - columns[-1]  # time to the right


def test_a_full_sine_is_near_the_top() -> None:
    loud = Spectrogram().decibels(2 * sine(1000))[2:-2].max(1)
    soft = Spectrogram().decibels(0.02 * sine(1000))[2:-2].max(1)
    assert (loud > -10).all()  # the mean over a band, which is wider than the sine
    assert (loud <= 0).all()
    np.testing.assert_allclose(loud - soft, 40, atol=1e-6)


@pytest.mark.parametrize("frequency", [200.0, 440.0, 1000.0, 2500.0])
def test_the_frequency_of_a_sine_survives(frequency: float) -> None:
    spectrogram = Spectrogram()
    image, rows = spectrogram.analyse(sine(frequency))
    again = spectrogram.synthesise(image, rows)
    # A band's centre is what is known of a sine, and bands are 20 Hz to 240 Hz wide.
    assert peak(again) == pytest.approx(frequency, rel=0.03)
    bands = [spectrogram.decibels(each)[2:-2].mean(0) for each in (sine(frequency), again)]
    assert bands[1].max() == pytest.approx(bands[0].max(), abs=1)


def test_silence_and_the_end_of_a_sound() -> None:
    spectrogram = Spectrogram()
    silence = spectrogram.synthesise(np.zeros(spectrogram.shape, np.uint8))
    assert not silence.any()
    image, rows = spectrogram.analyse(sine(440))
    np.testing.assert_array_equal(
        spectrogram.synthesise(image), spectrogram.synthesise(image, rows)
    )


def test_images_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match="integers of shape"):
        SMALL.synthesise(np.zeros((1, 16, 15), np.uint8))
    with pytest.raises(UserError, match="integers of shape"):
        SMALL.synthesise(np.zeros((1, 16, 16)))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="0 to 255, not from -1"):
        SMALL.synthesise(np.full((1, 16, 16), -1))
    with pytest.raises(UserError, match="1 to 16 real rows, not 17"):
        SMALL.synthesise(np.zeros((1, 16, 16), int), 17)
    with pytest.raises(UserError, match="0 iterations"):
        SMALL.synthesise(np.zeros((1, 16, 16), int), 1, -1)


def test_fewer_levels_are_those_of_a_coarser_spectrogram() -> None:
    wave = sine(440) * np.linspace(0, 1, 4000)
    fine, coarse = Spectrogram(), Spectrogram(levels=16)
    np.testing.assert_array_equal(fine.analyse(wave)[0] // 16, coarse.analyse(wave)[0])


# --- real recordings ------------------------------------------------------------------------------


def recordings(shared_data: Path, *names: str) -> list[np.ndarray]:
    with zipfile.ZipFile(
        shared_data / "fsdd" / "free-spoken-digit-dataset-recordings.zip"
    ) as archive:
        contents = [archive.read(f"recordings/{name}.wav") for name in names]
    return [read_wav(name, io.BytesIO(c))[0] for name, c in zip(names, contents, strict=True)]


def test_recordings_go_there_and_back(shared_data: Path) -> None:
    spectrogram = Spectrogram()
    found, random = [], []
    for wave in recordings(shared_data, "0_george_5", "3_theo_5", "6_lucas_5", "7_yweweler_5"):
        image, rows = spectrogram.analyse(wave)
        again = spectrogram.synthesise(image, rows)
        np.testing.assert_array_equal(again, spectrogram.synthesise(image, rows))
        found.append(distance(spectrogram, wave, again))
        random.append(distance(spectrogram, wave, spectrogram.synthesise(image, rows, 0)))
    assert np.mean(found) < 1.4  # measured: 1.23; with 2 iterations 1.92
    assert min(random) > 3.5  # so that a Griffin-Lim that does nothing would be seen


def test_the_spoken_digits(shared_data: Path, tmp_path: Path, capsys) -> None:
    digits = load("spoken-digits", data_dir=shared_data)
    assert digits.shape == digits.spectrogram.shape == (1, 96, 40)
    assert [len(s) for s in (digits.train, digits.valid, digits.test)] == [2400, 300, 300]
    assert digits.classes == 60
    for split, each in ((digits.train, 40), (digits.valid, 5), (digits.test, 5)):
        assert (np.bincount(split.y, minlength=60) == each).all()
    total = sum(s.rows.sum() for s in (digits.train, digits.valid, digits.test))
    assert 10_498_424 / 192 <= total <= 10_498_424 / 192 + 3000 * 8  # rounded up for each
    assert (digits.train.rows % 8 == 0).all()
    assert digits.class_names[3 * 6 + 4] == "3 theo"
    (wave,) = recordings(shared_data, "3_theo_7")
    number = np.flatnonzero(digits.valid.y == 22)[2]
    image, rows = digits.spectrogram.analyse(wave)
    np.testing.assert_array_equal(digits.valid.x[number], image)
    assert rows <= digits.valid.rows[number] < rows + 8
    assert not digits.valid.x[number, 0, rows:].any()

    report(digits, tmp_path / "grid.png")
    printed = capsys.readouterr().out
    assert "CC BY-SA 4.0" in printed
    assert "2.30 s of sound at 8000 Hz, 40 bands" in printed
    assert "rows real" in printed
    few = digits.requantised(16)
    assert few.spectrogram == Spectrogram(levels=16)
    np.testing.assert_array_equal(few.test.rows, digits.test.rows)


# --- a folder of one's own ------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, frequency in (("high", 2000), ("low", 300)):
        for i in range(20):
            (tmp_path / "own" / label).mkdir(parents=True, exist_ok=True)
            wave = sine(frequency + i, 0.1 + 0.01 * i, 16_000)
            write_wav(tmp_path / "own" / label / f"{i}.{'flac' if i % 2 else 'wav'}", wave, 16_000)
    return tmp_path / "own"


def test_a_folder_of_sounds(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    found = load(f"wavs:{folder}")
    assert found.class_names == ("high", "low")
    splits = found.train, found.valid, found.test
    assert sum(map(len, splits)) == 40
    for split in splits:
        assert split.x.shape[1:] == (1, 96, 40)
        brightest = split.x[:, 0, 1].argmax(1)
        assert (brightest[split.y == 0] > 20).all()
        assert (brightest[split.y == 1] < 15).all()
    seconds = [round(8000 * (0.1 + 0.01 * i)) for i in range(20)]
    expected = sorted(2 * [8 * math.ceil(s / 192 / 8) for s in seconds])
    assert sorted(np.concatenate([s.rows for s in splits])) == expected
    # What was decoded is kept.
    monkeypatch.setattr("nextpixel.data.sound_files.read_wav", None)
    np.testing.assert_array_equal(load(f"wavs:{folder}").train.rows, found.train.rows)
    main(["data", f"wavs:{folder}", "--out", str(tmp_path / "own.png")])
    assert "classes in train: high" in capsys.readouterr().out
    scoring_model(shape=(1, 96, 40), levels=found.levels).save(tmp_path / "model")
    scored = ["eval", str(tmp_path / "model"), "--data", f"wavs:{folder}"]
    main(scored)
    assert f"Scored {len(found.test)} of 40 images of" in capsys.readouterr().out
    main([*scored, "--split", "all"])
    assert "(40 images)" in capsys.readouterr().out


def test_long_sounds_are_cut_with_a_warning(folder: Path) -> None:
    write_wav(folder / "low" / "long.wav", sine(300, 3), RATE)
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 of the 41 sounds"):
            found = load(f"wavs:{folder}")
    assert max(s.rows.max() for s in (found.train, found.valid, found.test)) == 96


def test_folders_without_sounds_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        load(f"wavs:{tmp_path}/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no sounds: expected WAV"):
        load(f"wavs:{tmp_path}/empty")
    with pytest.raises(UserError, match="are for pictures"):
        load(f"wavs:{folder}", resize=8)
    (folder / "low" / "3.flac").write_bytes(b"no sound")
    with pytest.raises(UserError, match=r"3\.flac is truncated, corrupt or no sound"):
        load(f"wavs:{folder}")


# --- padding --------------------------------------------------------------------------------------


class Above(AutoregressiveModel):
    """Likes a pixel to be that above it, and looks at no later rows."""

    def forward(self, x: Tensor, c: object = None) -> Categorical:
        above = torch.nn.functional.pad(x, (0, 0, 1, 0))[..., :-1, :]
        logits = 1.5 * torch.nn.functional.one_hot(above.long(), self.levels).double()
        return Categorical(logits)


def padded(n: int = 12, levels: int = 4) -> Images:
    random = np.random.default_rng(0)
    rows = random.integers(1, 7, n)
    x = random.integers(0, levels, (n, 1, 6, 3), dtype=np.uint8)
    x *= (np.arange(6) < rows[:, None])[:, None, :, None].astype(np.uint8)
    return Images(x, np.arange(n) % 2, levels, rows=rows)


def test_padding_carries_no_bits() -> None:
    images, model = padded(), Above(shape=(1, 6, 3), levels=4)
    nats, sites = [], []
    for x, rows in zip(images.x, images.rows, strict=True):
        short = Above(shape=(1, int(rows), 3), levels=4)
        nats.append(-short.log_prob(torch.from_numpy(x[None, :, :rows])).item())
        sites.append(rows * 3)
    score = evaluate(model, images, batch_size=5)
    ratio = sum(nats) / sum(sites)
    assert score.nats == pytest.approx(np.mean(nats), rel=1e-9)
    assert score.bits_per_dim == pytest.approx(ratio / math.log(2), rel=1e-9)
    # One image is the same with its padding and without.
    alone = evaluate(model, Images(images.x[:1], None, 4, rows=images.rows[:1]))
    cut = Images(images.x[:1, :, : images.rows[0]], None, 4)
    without = evaluate(Above(shape=cut.x.shape[1:], levels=4), cut)
    assert alone.bits_per_dim == pytest.approx(without.bits_per_dim, rel=1e-9)
    # What stands in the padding does not matter.
    noise = np.where(images.padding(np.arange(12)), 3, images.x).astype(np.uint8)
    again = evaluate(model, Images(noise, None, 4, rows=images.rows))
    assert again.nats == pytest.approx(score.nats, rel=1e-9)


def test_the_error_of_a_ratio() -> None:
    random = np.random.default_rng(1)
    scores = []
    for _ in range(400):
        sites = random.integers(10, 100, 200)
        nats = sites * math.log(2) * (1 + 0.1 * random.standard_normal(200))
        scores.append(Score.of(torch.from_numpy(nats), sites))
    spread = np.std([s.bits_per_dim for s in scores])
    told_error = np.mean([s.bits_per_dim_error for s in scores])
    assert told_error == pytest.approx(spread, rel=0.1)
    # That of the nats alone, which vary with the length, would be far larger.
    assert told_error < 0.5 * np.mean([s.nats_error / s.nats for s in scores])


def test_padding_and_known_pixels_add_up() -> None:
    images = padded()
    model = Above(shape=(1, 6, 3), levels=4)
    model.conditioner = Task("inpaint", holes="scattered")
    model.context_spec = model.context_spec._replace(image=(2, 6, 3))
    numbers = np.arange(12)
    _, given = model.inputs(images, numbers)
    known = model.conditioner.degrade(images.x, 4, numbers.tolist()).mask
    expected = known | torch.tensor(images.padding(numbers))
    assert torch.equal(given.mask, expected)
    assert not torch.equal(given.mask, known)


def test_training_counts_real_sites_only(tmp_path: Path) -> None:
    images = padded(40)
    data = Dataset("padded", images, images, images, 4, None, "made up")
    losses = []
    for x in (images.x, np.where(images.padding(np.arange(40)), 3, images.x).astype(np.uint8)):
        torch.manual_seed(0)
        model = GatedPixelCNN(shape=(1, 6, 3), levels=4, width=4, blocks=1, kernel_size=3)
        split = Images(x, None, 4, rows=images.rows)
        noisy = Dataset("padded", split, split, split, 4, None, "made up")
        out = fit(
            model,
            noisy,
            out=tmp_path / str(len(losses)),
            steps=2,
            batch_size=40,
            precision="float32",
            accumulate=2,
        )
        lines = (out / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] == pytest.approx(2, abs=0.5)  # 4 levels, nothing learned: 2 bits/dim
    with pytest.raises(UserError, match=r"train\.mutate counts all pixels"):
        fit(model, data, out=tmp_path / "mutated", **{"mutate": 0.1, "steps": 1})


def test_rows_go_along() -> None:
    images = padded(12)
    few = images.subset(4)
    np.testing.assert_array_equal(few.rows, images.rows[[0, 4, 7, 11]])
    where = images.padding(np.array([3, 3, 0]))
    assert where.shape == (3, 1, 6, 3)
    assert where[0].sum() == 3 * (6 - images.rows[3])
    assert not where[:, :, 0].any()
    assert Images(images.x, None, 4).padding(np.arange(2)) is None
    assert Images(images.x, None, 4).sites().tolist() == [18] * 12
    for rows in (np.zeros(12, np.int64), np.full(12, 7), np.ones(3, np.int64), np.ones(12)):
        with pytest.raises(UserError, match="rows"):
            Images(images.x, None, 4, rows=rows)


class Favourite(AutoregressiveModel):
    """Class c likes level c everywhere."""

    def forward(self, x: Tensor, c: object = None) -> Categorical:
        context = self.context(c, len(x))
        logits = context.classes.double()[:, None, None, None, :]
        return Categorical(logits.expand(*x.shape, self.levels))


def test_padding_does_not_sway_the_class() -> None:
    x = np.zeros((2, 1, 6, 3), np.uint8)
    x[:, :, :2] = 1
    images = Images(x, np.ones(2, np.int64), 2, rows=np.array([2, 2]))
    model = Favourite(shape=(1, 6, 3), levels=2, classes=2)
    assert classify(model, images).accuracy == 1
    assert classify(model, Images(x, images.y, 2)).accuracy == 0
    with pytest.raises(UserError, match="rows of padding"):
        score_images(model, images)
