"""tools/sound_variants.py: variants of the spoken digits, and the splits they must not cross."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from nextpixel.data import load
from nextpixel.data.spectrogram import Spectrogram
from tests.helpers import ROOT

SCRIPT = str(ROOT / "tools" / "sound_variants.py")


def test_variants_are_the_recording_a_little_louder_later_and_faster() -> None:
    variant = runpy.run_path(SCRIPT)["variant"]
    spectrogram, generator = Spectrogram(), np.random.default_rng(0)
    tone = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    found = [variant(tone, spectrogram, generator) for _ in range(40)]
    lengths = [len(wave) for wave in found]
    assert 8000 / 1.05 - 192 <= min(lengths) < 7800
    assert 8000 < max(lengths) <= 8000 / 0.95
    loud = 20 * np.log10([np.abs(wave[1000:2000]).max() / 0.1 for wave in found])
    assert -3.1 < loud.min() < -2
    assert 2 < loud.max() < 3.1
    turns = np.array([np.diff(np.signbit(wave[1000:5001])).sum() for wave in found])
    pitches = turns / 2 * 8000 / 4000  # Hz, to about 1
    speeds = np.array([950, 975, 1000, 1025, 1050])
    nearest = np.abs(pitches[:, None] - speeds).argmin(1)
    assert np.abs(pitches - speeds[nearest]).max() <= 2
    assert set(nearest) == {0, 1, 2, 3, 4}


def test_splits_of_the_data_set_stay(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "sounds.npz"
    monkeypatch.setattr(
        sys, "argv", [SCRIPT, str(shared_data / "fsdd"), str(out), "--copies", "1", "--rows", "24"]
    )
    runpy.run_path(SCRIPT, run_name="__main__")
    found, plain = load(out), load("spoken-digits", data_dir=shared_data)
    assert found.shape == (1, 24, 40)
    assert len(found.train) == len(plain.train)
    assert np.array_equal(found.test.x, plain.test.x[:, :, :24])
    assert np.array_equal(found.valid.x, plain.valid.x[:, :, :24])
    assert (found.train.x != plain.train.x[:, :, :24]).any()
    with pytest.raises(SystemExit):
        runpy.run_path(SCRIPT, run_name="__main__")  # the file exists
