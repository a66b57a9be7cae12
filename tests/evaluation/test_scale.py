"""The scale of a score: uniform guess, frequencies of levels, PNG and WebP."""

import io
import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nextpixel.data import DataRecord, Images
from nextpixel.evaluation.scale import bits_on_scale, has_scale, scale_in_words


def images(x: np.ndarray, levels: int, rows: np.ndarray | None = None) -> Images:
    return Images(x.astype(np.uint8), None, levels, rows=rows)


def test_by_hand() -> None:
    """Three zeros and a one were seen, so 0 has frequency 4/8, 1 has 2/8, 2 and 3 have 1/8."""
    train = images(np.array([0, 0, 0, 1]).reshape(1, 1, 2, 2), 4)
    scale = bits_on_scale(images(np.array([0, 1, 2, 3]).reshape(1, 1, 2, 2), 4), train)
    assert scale["uniform"] == 2
    assert scale["unigram"] == pytest.approx((1 + 2 + 3 + 3) / 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_files_count_with_their_headers(channels: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, channels, 8, 8)).astype(np.uint8)
    scale = bits_on_scale(images(x, 256), images(x, 256))
    png, webp = {"optimize": True}, {"lossless": True, "quality": 100, "method": 4}
    for name, options in (("png", png), ("webp", webp)):
        sizes = []
        for image in x.transpose(0, 2, 3, 1):
            file = io.BytesIO()
            Image.fromarray(image.squeeze()).save(file, name, **options)
            sizes.append(len(file.getvalue()))
        assert scale[name] == 8 * sum(sizes) / x.size
        assert scale[name] > 8  # noise cannot be compressed, and headers count


def test_padding_costs_nothing() -> None:
    x = np.random.default_rng(0).integers(0, 4, (2, 1, 6, 5)).astype(np.uint8)
    x[:, :, 4:] = 0
    rows = np.array([4, 4])
    padded = bits_on_scale(images(x, 4, rows), images(x, 4, rows))
    assert padded == bits_on_scale(images(x[:, :, :4], 4), images(x[:, :, :4], 4))


def test_codes_are_no_pictures() -> None:
    for levels in (257, 512):
        codes = Images(np.arange(8, dtype=np.uint16).reshape(2, 1, 2, 2), None, levels)
        scale = bits_on_scale(codes, codes)
        unigram = pytest.approx(math.log2((levels + 8) / 2))
        assert scale == {"uniform": math.log2(levels), "unigram": unigram}


def test_which_scores_are_on_the_scale() -> None:
    """Likelihoods of pixels and bounds on them, not of codes and not given a condition."""
    for likelihood, bound, codes, conditioner in itertools.product([True, False], repeat=4):
        model: Any = SimpleNamespace(
            is_likelihood=likelihood,
            has_importance_bound=bound,
            data_record=DataRecord(codes_of="0123" if codes else None),
            conditioner=object() if conditioner else None,
        )
        assert has_scale(model) is ((likelihood or bound) and not codes and not conditioner)


def test_words_put_the_lowest_first_and_warn() -> None:
    scale = {"uniform": 2.0, "unigram": 1.5, "png": 3.0, "webp": 1.0}
    words = scale_in_words(1.25, scale, 1)
    order = ["WebP 1.0000", "this model 1.2500", "levels 1.5000", "guess 2.0000", "PNG 3.0000"]
    assert [words.index(each) for each in order] == sorted(words.index(each) for each in order)
    assert "(of 1 image;" in words
    assert "Warning" not in words
    assert "worse than a uniform guess" in scale_in_words(2.01, scale, 8)
