"""Anomaly scores: the scores themselves, their AUROC, and labels."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel.data import Images
from nextpixel.errors import UserError
from nextpixel.evaluation.anomaly import (
    CODECS,
    auroc,
    complexity_bits,
    fit_ordinary,
    mixture_bits,
    read_labels,
    score_images,
    site_bits,
)
from tests.helpers import NOISE, scoring_model

# --- AUROC ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ordinary", "odd", "area"),
    [
        ([1, 2, 3], [2, 4], 4.5 / 6),  # 2 > 1, 2 = 2, 4 > 1, 2, 3
        ([1, 2], [3, 4], 1),
        ([3, 4], [1, 2], 0),
        ([5, 5, 5], [5, 5], 0.5),
        ([0, 1, 1], [1], 2 / 3),
    ],
)
def test_auroc_by_hand(ordinary: list[float], odd: list[float], area: float) -> None:
    assert auroc(np.array(ordinary, float), np.array(odd, float))[0] == pytest.approx(area)


def test_error_of_an_auroc_by_hand() -> None:
    """The odd 2 and 4 lie above 1/2 and 1 of the ordinary ones, these below 1, 3/4 and 1/2."""
    _, error = auroc(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0]))
    assert error == pytest.approx(math.sqrt(0.125 / 2 + 0.0625 / 3))
    assert math.isnan(auroc(np.array([1.0, 2.0]), np.array([3.0]))[1])


def test_error_of_an_auroc_is_how_much_it_varies() -> None:
    random = np.random.default_rng(0)
    draws = [auroc(random.normal(size=60), random.normal(1, 1, size=40)) for _ in range(400)]
    areas, errors = np.array(draws).T
    assert areas.mean() == pytest.approx(0.7602, abs=0.01)  # Phi(1 / sqrt 2)
    assert errors.mean() == pytest.approx(areas.std(), rel=0.1)


# --- scores ---------------------------------------------------------------------------------------


def test_scores_are_the_models_own() -> None:
    model, background = scoring_model(), scoring_model(inputs="embedded")
    images, x = Images(NOISE, None, 256), torch.from_numpy(NOISE)
    scores = score_images(model, images, complexity=True, background=background, batch_size=2)
    plain = model.bits_per_dim(x).detach().numpy()
    behind = background.bits_per_dim(x).detach().numpy()
    sizes = np.array([complexity_bits(image) / 64 for image in NOISE])
    assert np.abs(plain - behind).max() > 0.05
    expected = {
        "bits_per_dim": plain,
        "complexity_bits_per_dim": sizes,
        "complexity_score": plain - sizes,
        "background_bits_per_dim": behind,
        "likelihood_ratio": plain - behind,
    }
    assert list(scores) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values, atol=2e-6, err_msg=name)


def test_a_mixture_over_classes_by_hand() -> None:
    x = torch.from_numpy(NOISE[:, :, :2, :2])
    model = scoring_model(classes=3, shape=(1, 2, 2)).double()
    with torch.no_grad():
        p = torch.stack([model.log_prob(x, c).exp() for c in range(3)])  # of 4 pixels: no underflow
        assert (p.max(0).values / p.min(0).values > 1.05).all()
        torch.testing.assert_close(mixture_bits(model, x), -torch.log2(p.mean(0)))


@pytest.mark.parametrize("classes", [None, 3])
def test_bits_of_sites_add_up_and_look_at_no_later_site(classes: int | None) -> None:
    x = torch.from_numpy(NOISE)
    model = scoring_model(classes=classes).double()
    with torch.no_grad():
        bits = site_bits(model, x)
        assert bits.shape == x.shape
        torch.testing.assert_close(bits.sum((1, 2, 3)), mixture_bits(model, x))
        changed = x.clone()
        changed[:, :, 5:] = 255 - changed[:, :, 5:]
        torch.testing.assert_close(site_bits(model, changed)[:, :, :5], bits[:, :, :5])


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="levels"):
        score_images(scoring_model(), Images(NOISE // 64, None, 4))
    with pytest.raises(UserError, match="fit the model"):
        score_images(scoring_model(), Images(NOISE[:, :, :4], None, 256))
    with pytest.raises(UserError, match="fit the model"):
        score_images(
            scoring_model(), Images(NOISE, None, 256), background=scoring_model(shape=(1, 4, 4))
        )
    with pytest.raises(UserError, match="nothing to score"):
        score_images(scoring_model(), Images(NOISE[:0], None, 256))


def test_the_combined_score_is_for_pictures() -> None:
    model = scoring_model(shape=(2, 8, 8))
    with pytest.raises(UserError, match="for grey or colour pictures"):
        fit_ordinary(model, Images(np.zeros((30, 2, 8, 8), np.uint8), None, 256))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_codecs_lose_nothing_and_see_complexity(channels: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (channels, 16, 16)).astype(np.uint8)
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8) * 16, noise.shape).copy()
    sizes = []
    for options in CODECS:
        file = io.BytesIO()
        pixels = noise.transpose(1, 2, 0)
        Image.fromarray(pixels if channels == 3 else noise[0]).save(file, **options)
        sizes.append(8 * len(file.getvalue()))
        mode = "RGB" if channels == 3 else "L"
        decoded = np.asarray(Image.open(file).convert(mode)).reshape(pixels.shape)
        np.testing.assert_array_equal(decoded, pixels)
    assert len(set(sizes)) == len(CODECS) == 3
    assert complexity_bits(noise) == min(sizes)
    assert complexity_bits(noise) > 8 * noise.size  # noise cannot be compressed
    assert complexity_bits(np.zeros_like(noise)) < complexity_bits(ramp) < min(sizes)


# --- images and labels ----------------------------------------------------------------------------


def test_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("file,label\nb,1\na, 0\n\n")
    odd = read_labels(path, ["a", "b", "c"])
    assert odd[:2] == [0, 1]
    assert math.isnan(odd[2])
    path.write_text("a,0\nb,1\n")
    assert read_labels(path, ["b", "a"]) == [1, 0]
