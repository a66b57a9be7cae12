"""What is trained on: pictures in memory as a data set, and classes that keep their names."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from nextpixel.data import Dataset, Images
from nextpixel.errors import UserError
from nextpixel.models import VQVAE
from nextpixel.models.base.image_model import load
from nextpixel.training import TrainArgs, fit
from nextpixel.training.fitting import from_pictures, prepare
from tests.helpers import save_tiny_images, small_mnist
from tests.training.runs import OPTIONS, assert_same_run, make


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
    opened = from_pictures(model, [Image.fromarray(picture) for picture in x])
    assert np.array_equal(opened.train.x, alone.train.x)


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


class OwnVQVAE(VQVAE):
    """A user's own class, which no order of the pixels applies to."""


def test_autoencoders_are_not_searched_for_leaks(tmp_path: Path) -> None:
    data = small_mnist(slice(None, None, 7), 20, 10, 10)  # 4 x 4 pixels
    own = OwnVQVAE(shape=data.shape, levels=data.levels, width=4, codes=7, code_size=3)
    fit(own, data, out=tmp_path / "run", **OPTIONS | {"steps": 1, "batch_size": 2})
    assert (tmp_path / "run" / "last").exists()


def test_only_models_with_contexts_drop_them(data: Dataset) -> None:
    assert prepare(make(classes=None), data, TrainArgs()).train is data.train
    prepare(make(), data, TrainArgs(drop_context=0.1))
    with pytest.raises(UserError, match="unconditional"):
        prepare(make(classes=None), data, TrainArgs(drop_context=0.1))


def test_classes_keep_their_names_and_ids_on_resuming(data: Dataset, tmp_path: Path) -> None:
    """The same images, whose classes come in the opposite order."""

    def turned(images: Images) -> Images:
        assert images.y is not None
        return replace(images, y=9 - images.y)

    assert data.class_names is not None
    splits = {name: turned(getattr(data, name)) for name in ("train", "valid", "test")}
    other = replace(data, class_names=data.class_names[::-1], **splits)
    for name, second in (("same", data), ("turned", other)):
        fit(make(), data, out=tmp_path / name, **{**OPTIONS, "steps": 2})
        fit(make(), second, out=tmp_path / name, resume=True, **OPTIONS)
    assert load(tmp_path / "turned" / "last").data_record.class_names == data.class_names
    assert_same_run(tmp_path / "turned", tmp_path / "same")


def test_where_the_data_are_is_written_beside_other_settings(tmp_path: Path) -> None:
    save_tiny_images(tmp_path / "tiny.npz")
    model = make(shape=(1, 8, 8), levels=6, classes=3)
    options = {**OPTIONS, "steps": 1, "settings": {"threads": 1}}
    out = fit(model, tmp_path / "tiny.npz", out=tmp_path / "run", **options)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["data"], config["threads"]) == (str(tmp_path / "tiny.npz"), 1)
