"""The combined anomaly score: features of images, and the distance to ordinary ones."""

import math

import numpy as np
import pytest

from nextpixel.errors import UserError
from nextpixel.evaluation.typicality import FEATURES, Ordinary, image_features


def test_features_by_hand() -> None:
    """A picture of 4 x 4: the last column 10, the others 0, with 8 bits in one pixel."""
    x = np.zeros((1, 1, 4, 4), np.uint8)
    x[..., 3:] = 10
    bits = np.zeros((1, 4, 4))
    bits[0, 1, 2] = 8
    found = dict(zip(FEATURES, image_features(x, bits, np.array([3.0]))[0], strict=True))
    assert found == pytest.approx(
        {
            "bits": 0.5,
            "file": 3,
            "spread of bits": math.sqrt(64 / 16 - 0.25),
            "most bits": 0.5,  # the only patch
            "high bits": 0,
            "gradient along rows": 10 / 3,
            "gradient along columns": 0,
            "change along rows": 5,  # over 2 pixels, half of the picture
            "change along columns": 0,
            "contrast": math.sqrt(18.75),
            "skewness": (2.5**3 * 12 - 7.5**3 * 4) / -16 / 18.75**1.5,
            "spread of rows": 0,
            "spread of columns": math.sqrt(18.75),
            "flat share": 2 / 3,
        }
    )


def test_changes_over_four_pixels() -> None:
    x = np.zeros((2, 1, 9, 8), np.uint8)
    x[0, 0] = np.arange(9)[:, None]
    x[1, 0] = 3 * np.arange(8)
    features = image_features(x, np.zeros((2, 9, 8)), np.zeros(2))
    assert features[:, FEATURES.index("change along columns")].tolist() == [4, 0]
    assert features[:, FEATURES.index("change along rows")].tolist() == [0, 12]
    flat = image_features(x * 0, np.zeros((2, 9, 8)), np.zeros(2))
    assert flat[:, FEATURES.index("skewness")].tolist() == [0, 0]


def test_the_patch_with_most_bits() -> None:
    bits = np.zeros((2, 9, 8))  # the last row fills no patch
    bits[0, 4:8, 4:8] = 2
    bits[1, 8] = 100
    features = image_features(np.zeros((2, 1, 9, 8), np.uint8), bits, np.zeros(2))
    assert features[:, FEATURES.index("most bits")].tolist() == [2, 0]


def ordinary(n: int = 300) -> tuple[Ordinary, np.ndarray]:
    features = np.random.default_rng(0).normal(size=(n, len(FEATURES)))
    features[:, 1] = features[:, 0] + 0.1 * features[:, 1]  # correlated
    return Ordinary(features), features


def test_both_sides_and_broken_correlations_are_anomalous() -> None:
    reference, _ = ordinary()
    middle = np.zeros(len(FEATURES))
    high, low, against = middle.copy(), middle.copy(), middle.copy()
    high[:2], low[:2] = 6, -6
    against[:2] = 1.5, -1.5  # each ordinary by itself
    along = middle.copy()
    along[:2] = 1.5, 1.5
    scores = reference.scores(np.stack([middle, along, high, low, against]))
    limit = reference.threshold(0.99)
    assert scores[0] < scores[1] < limit
    assert (scores[2:] > limit).all()


def test_scores_are_mahalanobis_distances() -> None:
    """To the five nearest, with a tenth of the way from the correlations to none."""
    random = np.random.default_rng(1)
    n = len(FEATURES)
    features = 3 + random.normal(size=(40, n)) @ random.normal(size=(n, n))
    others = 5 + 2 * random.normal(size=(450, n))
    inverse = np.linalg.inv(0.9 * np.corrcoef(features.T) + 0.1 * np.eye(n))
    expected = []
    for other in others:
        steps = (other - features) / features.std(0)
        squares = sorted(float(step @ inverse @ step) for step in steps)
        expected.append(math.sqrt(sum(squares[:5]) / 5))
    np.testing.assert_allclose(Ordinary(features).scores(others), expected, rtol=1e-9)


def test_scales_do_not_matter() -> None:
    reference, features = ordinary()
    scale = np.logspace(-3, 3, len(FEATURES))
    np.testing.assert_allclose(
        Ordinary(features * scale).scores(features[:9] * scale + 1),
        reference.scores(features[:9] + 1 / scale),
        rtol=1e-6,
    )


def test_own_scores_leave_the_image_itself_out() -> None:
    _, features = ordinary(60)
    found = Ordinary(features)
    np.testing.assert_allclose(found.own_scores, slow(found, features), rtol=1e-9)
    assert (found.scores(features) < found.own_scores).all()
    assert (found.own_scores > found.threshold(0.9)).sum() == 6


def slow(found: Ordinary, features: np.ndarray) -> list[float]:
    white = found._whitened(features)
    scores = []
    for i, z in enumerate(white):
        squares = sorted(((z - other) ** 2).sum() for j, other in enumerate(white) if j != i)
        scores.append(math.sqrt(sum(squares[:5]) / 5))
    return scores


def test_constant_features_and_few_images() -> None:
    _, features = ordinary(50)
    features[:, 3] = 7
    assert np.isfinite(Ordinary(features).own_scores).all()
    with pytest.raises(UserError, match="19 ordinary images are too few"):
        Ordinary(features[:19])
    with pytest.raises(UserError, match="between 0 and 1"):
        Ordinary(features).threshold(1.0)
