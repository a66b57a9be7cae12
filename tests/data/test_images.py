import numpy as np
import pytest

from nextpixel.data import Dataset, Images, requantise
from nextpixel.errors import UserError
from nextpixel.viz.images import to_uint8

ALL = np.arange(256, dtype=np.uint8)


def dataset(x, levels=256):
    images = Images(x.astype(np.uint8), None, levels)
    return Dataset("some", images, images, images, levels, None, "made here")


@pytest.mark.parametrize("levels", [2, 3, 4, 16, 255, 256])
def test_requantise_spreads_256_levels_evenly(levels):
    q = requantise(ALL, 256, levels)
    assert q.dtype == np.uint8
    assert q.tolist() == [x * levels // 256 for x in range(256)]
    assert set(np.bincount(q)) <= {256 // levels, -(-256 // levels)}


def test_requantise_from_other_than_256_levels():
    assert requantise(np.array([[0, 1], [2, 4]]), 5, 3).tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize(("source", "levels"), [(256, 1), (2, 3), (300, 4)])
def test_requantise_refuses_levels_out_of_range(source, levels):
    with pytest.raises(UserError, match=f"{source} levels cannot be turned into {levels}"):
        requantise(np.zeros(1, np.uint8), source, levels)


@pytest.mark.parametrize("levels", [2, 3, 7, 16, 256])
def test_display_greys_requantise_back_to_their_levels(levels):
    x = np.arange(levels)
    assert requantise(to_uint8(x, levels), 256, levels).tolist() == x.tolist()


def test_dataset_is_requantised_in_every_split():
    data = dataset(ALL.reshape(4, 1, 8, 8)).requantised(4)
    assert data.levels == 4
    for split in (data.train, data.valid, data.test):
        assert split.levels == 4
        assert np.array_equal(split.x.ravel(), ALL // 64)
    assert data.requantised(4) is data


@pytest.mark.parametrize("levels", [0, 1, 5, 256])
def test_dataset_refuses_levels_it_does_not_have(levels):
    with pytest.raises(UserError, match=f"some has 4 levels, which cannot be turned into {levels}"):
        dataset(np.zeros((1, 1, 2, 2)), 4).requantised(levels)


def test_batch_gives_copies_of_the_chosen_images():
    x = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2)
    images = Images(x, np.arange(6), 256)
    batch, ids = images.batch(np.array([5, 0, 5]))
    assert ids.tolist() == [5, 0, 5]
    assert np.array_equal(batch, x[[5, 0, 5]])
    batch[:] = 0
    assert x[5].sum() > 0
    assert len(images) == 6
    assert Images(x, None, 256).batch(np.array([1]))[1] is None


@pytest.mark.parametrize(
    ("x", "y", "levels", "message"),
    [
        (np.zeros((2, 2, 2), np.uint8), None, 2, r"shape \(N, C, H, W\)"),
        (np.zeros((2, 1, 2, 2), np.float32), None, 2, "uint8"),
        (np.full((2, 1, 2, 2), 2, np.uint8), None, 2, "integers from 0 to 1"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(3, np.int64), 2, "one class id per image"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int32), 2, "int64"),
    ],
)
def test_images_refuse_wrong_arrays(x, y, levels, message):
    with pytest.raises(UserError, match=message):
        Images(x, y, levels)


def test_redrawn_bits_have_the_probability_of_their_intensity():
    x = np.repeat(np.array([0, 51, 128, 254, 255], np.uint8), 40_000).reshape(1, 1, 5, -1)
    images = Images(x, None, 2, redraw=True)
    bits, _ = images.batch(np.array([0]), key=(3, 7))
    assert bits.dtype == np.uint8
    p = np.array([0, 51, 128, 254, 255]) / 255
    share = bits[0, 0].mean(axis=1)
    assert share[0] == 0
    assert share[-1] == 1
    assert np.all(np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / 40_000))


def test_redrawn_bits_depend_on_the_draw_only():
    images = Images(np.full((2, 1, 16, 16), 128, np.uint8), None, 2, redraw=True)

    def draw(*key):
        return images.batch(np.array([0, 1]), key=key)[0]

    first = draw(3, 7)
    np.random.default_rng(0).random(5)
    assert np.array_equal(first, draw(3, 7))
    for other in ((3, 8), (4, 7), (7, 3)):
        assert 0.3 < (first != draw(*other)).mean() < 0.7
    assert 0.3 < (first[0] != first[1]).mean() < 0.7


def test_spread_takes_images_of_all_kinds() -> None:
    x = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    images = Images(x, np.arange(10), levels=10)
    few = images.subset(4)
    assert few.x.ravel().tolist() == [0, 3, 6, 9]
    assert few.y is not None
    assert few.y.tolist() == [0, 3, 6, 9]
    assert images.subset(None) is images
    assert images.subset(10) is images
