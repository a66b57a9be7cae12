"""Classes of images and of models are compared by their names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel import GatedPixelCNN, evaluate, fit
from nextpixel.data import DataRecord, Dataset, Images, load
from nextpixel.data.classes import list_classes, match_classes, sort_names
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import classify
from nextpixel.models.base.image_model import load as load_model
from nextpixel.training.trainer import Run

SHAPE = (1, 4, 4)
DARK, BRIGHT = 0, 3
TRAIN = {
    "steps": 2,
    "batch_size": 4,
    "warmup": 1,
    "valid_every": 2,
    "save_every": 1,
    "precision": "float32",
}


def images(levels: list[int], y: list[int] | None) -> Images:
    x = np.zeros((len(levels), *SHAPE), np.uint8) + np.array(levels, np.uint8)[:, None, None, None]
    return Images(x, None if y is None else np.array(y, np.int64), 4)


def dataset(names: tuple[str, ...] | None, unnamed: bool = False) -> Dataset:
    """Twelve dark images of the first class and twelve bright ones of the second, per split."""
    split = images([DARK, BRIGHT] * 12, None if names is None else [0, 1] * 12)
    return Dataset("tones", split, split, split, 4, names, "made", unnamed=unnamed)


def trained(names: tuple[str, ...], out: Path) -> GatedPixelCNN:
    """A model that classifies these images, trained for a few steps."""
    torch.manual_seed(0)
    model = GatedPixelCNN(shape=SHAPE, levels=4, classes=len(names), width=8, blocks=1)
    fit(model, dataset(names), out=out, **{**TRAIN, "steps": 40, "lr": 0.02, "valid_every": 40})
    return model


def test_classes_are_matched_by_their_names() -> None:
    assert match_classes(("a", "b"), ("a", "b")) is None
    assert match_classes(None, ("a", "b")) is None
    table = match_classes(("b", "c"), ("a", "b", "c"))
    assert table is not None
    assert table.tolist() == [1, 2]
    with pytest.raises(UserError, match=r"The class d of my images is none of the model's \(0 \(a"):
        match_classes(("a", "d"), ("a", "b"), "my images")


def test_a_data_set_takes_the_ids_of_a_model() -> None:
    data = dataset(("dark", "light")).with_class_names(("light", "grey", "dark"))
    assert data.class_names == ("light", "grey", "dark")
    assert data.test.y is not None
    assert data.test.y[:2].tolist() == [2, 0]
    with pytest.raises(UserError, match="The class light of tones"):
        dataset(("dark", "light")).with_class_names(("dark", "grey"))


def test_ids_of_an_array_are_those_of_the_model() -> None:
    data = dataset(("0", "1"), unnamed=True).with_class_names(("dark", "light", "grey"))
    assert data.class_names == ("dark", "light", "grey")
    assert data.test.y is not None
    assert data.test.y[:2].tolist() == [0, 1]
    with pytest.raises(UserError, match="The class 1 of tones"):
        dataset(("0", "1"), unnamed=True).with_class_names(("dark",))


def test_scores_and_accuracies_do_not_depend_on_the_order_of_classes(tmp_path: Path) -> None:
    model = trained(("dark", "light"), tmp_path / "run")
    reference = evaluate(model, dataset(("dark", "light")).test)
    split = images([BRIGHT, DARK] * 12, [0, 1] * 12)
    swapped = Dataset("tones", split, split, split, 4, ("light", "dark"), "made")
    assert evaluate(model, swapped.test).nats == pytest.approx(reference.nats)
    for data in (dataset(("dark", "light")), swapped):
        assert classify(model, data.test).accuracy == 1
    other = dataset(("dark", "black"))
    for score in (evaluate, classify):
        with pytest.raises(UserError, match="The class black of these images is none of the"):
            score(model, other.test)
    with pytest.raises(UserError, match="The class black of tones"):
        model.check_dataset(other)


def test_a_begun_run_keeps_its_classes(tmp_path: Path) -> None:
    def resume(names: tuple[str, ...], swap: bool = False) -> None:
        torch.manual_seed(0)
        split = images([DARK, BRIGHT] * 12, [1, 0] * 12 if swap else [0, 1] * 12)
        data = Dataset("tones", split, split, split, 4, names, "made")
        fit(
            GatedPixelCNN(shape=SHAPE, levels=4, classes=2, width=8, blocks=1),
            data,
            out=tmp_path / "run",
            resume=True,
            **{**TRAIN, "steps": 4, "valid_every": 4},
        )

    torch.manual_seed(0)
    model = GatedPixelCNN(shape=SHAPE, levels=4, classes=2, width=8, blocks=1)
    fit(model, dataset(("dark", "light")), out=tmp_path / "run", **TRAIN)
    with pytest.raises(UserError, match=r"The class black of tones|is not what .* was begun with"):
        resume(("dark", "black"))
    assert load_model(tmp_path / "run").data_record.class_names == ("dark", "light")
    resume(("light", "dark"), swap=True)  # the same images, in the other order of ids
    assert load_model(tmp_path / "run" / "last").data_record.class_names == ("dark", "light")


def test_a_resumed_run_trains_with_the_ids_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("nextpixel.training.fitting.report_run", lambda *_: None)
    monkeypatch.setattr(Run, "train", lambda run, *_: seen.append(run.data.train.y[:2].tolist()))
    model = GatedPixelCNN(shape=SHAPE, levels=4, classes=2, width=8, blocks=1)
    model.data_record = DataRecord(("light", "dark"))
    fit(model, dataset(("dark", "light")), out=tmp_path / "run", **TRAIN)
    assert seen == [[1, 0]]
    assert model.data_record.class_names == ("light", "dark")


def test_names_that_are_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    assert sort_names(["10", "2", "1", "2"]) == ["1", "2", "10"]
    assert sort_names(["10", "2", "a"]) == ["10", "2", "a"]
    for name in range(12):
        for number in range(10):
            file = tmp_path / str(name) / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4), 20 * name, np.uint8)).save(file)
    data = load(tmp_path)
    assert data.class_names == tuple(map(str, range(12)))
    assert data.train.y is not None
    assert np.array_equal(data.train.x[:, 0, 0, 0], 20 * data.train.y)


def test_classes_in_a_message_have_their_ids() -> None:
    assert list_classes(["0", "1"]) == "0, 1"
    assert list_classes(["cat", "10"]) == "0 (cat), 1 (10)"
    assert list_classes([str(i) for i in range(25)]).endswith("19 and 5 more")


def test_classes_without_training_images_are_recorded(tmp_path: Path) -> None:
    split = images([DARK, BRIGHT] * 12, [1, 2] * 12)
    data = Dataset("tones", split, split, split, 4, ("0", "1", "2"), "made", unnamed=True)
    assert data.classes_without_images() == (0,)
    model = GatedPixelCNN(shape=SHAPE, levels=4, classes=3, width=8, blocks=1)
    with pytest.warns(UserWarning, match=r"no training images of 1 of the 3 classes \(0\)"):
        fit(model, data, out=tmp_path / "run", **TRAIN)
    assert load_model(tmp_path / "run").data_record.untrained == (0,)


def test_unlabelled_images_of_a_model_with_classes() -> None:
    model = GatedPixelCNN(shape=SHAPE, levels=4, classes=2, width=8, blocks=1)
    with pytest.raises(UserError, match=r"has no classes: .* nextpixel score") as caught:
        model.check_dataset(dataset(None))
    assert "classes=None" not in str(caught.value)


def test_a_pretrained_model_knows_the_names_of_its_classes() -> None:
    assert load_model("mnist").data_record.class_names == tuple("0123456789")
