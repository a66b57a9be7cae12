"""What is trained on: pictures in memory as a data set."""

import numpy as np
import pytest

from nextpixel.errors import UserError
from nextpixel.training.fitting import from_pictures
from tests.training.runs import make


def test_pictures_keep_their_classes() -> None:
    model = make(levels=256, classes=3)
    x = np.random.default_rng(0).integers(0, 256, (20, 7, 7), np.uint8)
    y = [int(picture.sum()) % 3 for picture in x]
    data = from_pictures(model, {"x": x, "y": y})
    splits = (data.train, data.valid, data.test)
    assert [len(images) for images in splits] == [16, 2, 2]
    found = np.concatenate([images.x for images in splits])
    assert found.shape == (20, 1, 7, 7)
    assert sorted(map(bytes, found)) == sorted(map(bytes, x))
    for images in splits:
        assert images.y is not None
        assert images.y.tolist() == [int(picture.sum()) % 3 for picture in images.x]
    alone = from_pictures(model, x)
    assert alone.train.y is None
    assert (alone.levels, len(alone.train)) == (256, 16)


def test_splits_of_pictures_stay_as_they_are() -> None:
    model = make(levels=256, classes=3)
    x = np.random.default_rng(0).integers(0, 256, (9, 7, 7), np.uint8)
    given = {"x_train": x[:4], "y_train": [0, 1, 2, 0], "x_valid": x[4:6], "y_valid": [1, 2]}
    given |= {"x_test": x[6:], "y_test": [0, 0, 1], "levels": 256}
    data = from_pictures(model, given)
    for name, images in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        assert np.array_equal(images.x[:, 0], given[f"x_{name}"])
        assert images.y is not None
        assert images.y.tolist() == given[f"y_{name}"]
    with pytest.raises(UserError, match="up to 256 levels, but the model has 257"):
        from_pictures(make(levels=257), x)
