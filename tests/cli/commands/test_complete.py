"""`nextpixel complete`: hidden parts of test images and pictures, and mistakes."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel import load, load_data
from nextpixel.conditioning.regions import box_mask
from nextpixel.sampling.particles import complete_with_particles
from tests.helpers import assert_refused, process, run, scoring_model, size


def mean_bits(out: str) -> float:
    return float(out.split("mean:")[1].split("bits")[0])


def test_complete_hides_the_bottom_of_test_images(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = process("complete run -n 2 --draws 3 --out halves.png", cwd=here)
    assert "The 392 hidden pixels" in done.stdout
    assert "raster order" in done.stdout
    one = run("complete run -n 2 --draws 1 --out one.png", capsys)
    assert one.replace("one.png", "halves.png") == done.stdout  # the bits are of the images
    (width, height), (other_width, other_height) = size("halves.png"), size("one.png")
    assert width > other_width
    assert height >= other_height


def test_complete_prints_the_effective_number_of_particles(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = "-n 2 --draws 2 --box 8,0,2,28 --out p.png"
    out = run(f"complete run {box} --particles 8", capsys)
    assert "The 56 hidden pixels" in out
    assert "of 8 particles" in out
    data = load_data("mnist", levels=4).test.subset(2)
    x, y = map(torch.from_numpy, data.batch(np.arange(2)))
    mask = ~box_mask(8, 0, 2, 28, (28, 28))
    x, y = x.repeat(2, 1, 1, 1), y.repeat(2)
    done = complete_with_particles(load("run"), x, mask, y, particles=8)
    evidence = done.log_evidence.view(2, 2).logsumexp(0) - math.log(2)
    for number, (effective, nats) in enumerate(
        zip(done.least_effective.view(2, 2).amin(0), evidence, strict=True)
    ):
        assert f"  image {number}: {effective:8.1f}, {nats:.2f} nats\n" in out
    assert ("Warning: for " in out) == bool((done.least_effective < 2).any())
    assert "Warning: for 2 of 2 images" in run(f"complete run {box} --particles 2", capsys)
    assert "particles" not in run(f"complete run {box}", capsys).replace("--particles 64", "")


@pytest.mark.parametrize(
    ("hidden", "count"),
    [
        ("--keep top", 392),
        ("--hide left", 392),
        ("--box 2,3,4,5", 20),
        ("--mask mask.png", 180),
    ],
)
def test_complete_a_picture(
    hidden: str, count: int, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(f"complete run seven.png --class 7 --draws 1 --out c.png {hidden}", capsys)
    assert f"The {count} hidden pixels" in out
    assert count < mean_bits(out) < 3 * count


def test_bits_are_those_of_the_hidden_half(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("complete run -n 1 --draws 1 --hide top --out c.png", capsys)
    x, y = map(torch.from_numpy, load_data("mnist", levels=4).test.batch(np.arange(1)))
    with torch.no_grad():
        bits = load("run")(x, y).log_prob(x)[..., :14, :].sum() / -math.log(2)
    assert mean_bits(out) == pytest.approx(bits.item(), abs=0.06)
    kept = run("complete run -n 1 --draws 1 --keep bottom --out c.png", capsys)
    assert kept == out


@pytest.mark.parametrize(
    ("hidden", "later"),
    [
        ("--keep top", False),
        ("--hide bottom", False),
        ("--hide top", True),
        ("--box 2,0,5,8", True),
    ],
)
def test_pixels_not_channels_are_counted_and_the_note_fits(
    hidden: str, later: bool, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the hidden part comes last, there is nothing that particles could help with."""
    scoring_model(shape=(3, 8, 8)).save(here / "colour")
    noise = np.random.default_rng(3).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).save(here / "noise.png")
    out = run(f"complete colour noise.png --draws 1 --out c.png {hidden}", capsys)
    count = 40 if "box" in hidden else 32
    assert f"The {count} hidden pixels of each image take" in out
    total, mean = re.findall(r"mean: +([\d.]+) bits, ([\d.]+) a pixel", out)[0]
    assert float(mean) == pytest.approx(float(total) / count, abs=0.01)
    assert ("--particles" in out) == later


def test_one_hidden_pixel_is_singular(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("complete run -n 1 --draws 1 --box 3,3,1,1 --out c.png", capsys)
    assert "The 1 hidden pixel of each image takes, given the true pixels before it:" in out


def test_a_wide_picture_is_cut_and_resized(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="1 of 2 pictures had another size: .* 28 x 28 pixels"):
        run("complete run wide.png seven.png --class 7 --draws 1 --out c.png", capsys)
    assert size("c.png") > (100, 100)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("complete run nothing.png --class 7", "no picture nothing.png"),
        ("complete run nothing --class 7", "no data set, file or folder 'nothing'"),
        ("complete run mnist seven.png --class 7", "come alone"),
        ("complete run seven.png seven.png --split test", "come alone"),
        ("complete run --particels 2", "did you mean --particles"),
        ("complete run corrupt.png --class 7", "corrupt.png is corrupt"),
        ("complete run seven.png", "give --class"),
        ("complete run seven.png --data mnist", "leave --data out"),
        ("complete run --class 7", "leave --class out"),
        ("complete run --keep middle", "middle"),
        ("complete run --keep top --hide top", "not allowed"),
        ("complete run --box 1,2,3", "4 whole numbers"),
        ("complete run --box 1,2,3,²", "4 whole numbers"),
        ("complete run --box 20,20,9,2", "does not lie within"),
        ("complete run --mask wide.png", "40 x 30"),
        ("complete run --mask empty.png", "Nothing is hidden"),
        ("complete run --mask nothing.png", "no picture nothing.png"),
        (
            "complete run --out c.gif",
            "must end in .png, .webp, .jpg, .jpeg, .bmp; --gif of nextpixel",
        ),
        ("complete run --draws 0", "whole number above 0"),
        ("complete run --particles 0", "whole number above 0"),
        ("complete run --particles 2 --temperature 0.5", "leave --temperature out"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(words, reason, here, capsys)
