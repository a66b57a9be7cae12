"""The classifier: it learns real digits, and its features of an image depend on no other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nextpixel import load, load_data
from nextpixel.conditioning.classifier import Classifier, fit_classifier, load_classifier
from nextpixel.data import Dataset, Images
from nextpixel.data.classes import match_classes
from nextpixel.errors import UserError
from nextpixel.evaluation.sample_quality import classify_images, name_words
from nextpixel.models import GatedPixelCNN
from nextpixel.models.base.image_model import find_class
from tests.helpers import refused, run

LAYERS = ["conv1", "conv2", "conv3", "embedding", "logits"]


def small(**options: int) -> Classifier:
    torch.manual_seed(0)
    return Classifier(shape=(1, 28, 28), levels=4, classes=10, **{"width": 8, **options})


def drawn(classifier: Classifier, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(classifier.levels, (n, *classifier.shape), generator=generator)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    mnist = load_data("mnist", levels=4)
    splits = (mnist.train.subset(1000), mnist.valid.subset(10), mnist.test.subset(300))
    return Dataset("digits", *splits, 4, mnist.class_names, "MNIST, some of it")


def test_it_learns_real_digits(digits: Dataset, tmp_path: Path) -> None:
    classifier, seen = small(), []
    before = classifier.accuracy(digits.test)
    losses = fit_classifier(classifier, digits, out=tmp_path, steps=60, progress=seen.append)
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert before < 0.3
    assert classifier.accuracy(digits.test, batch_size=77) > 0.7
    assert (len(seen), seen[-1], classifier.training) == (60, 1.0, False)


def test_training_is_deterministic(digits: Dataset, tmp_path: Path) -> None:
    runs = [small(width=2) for _ in range(2)]
    losses = [
        fit_classifier(one, digits, out=tmp_path / str(i), steps=3) for i, one in enumerate(runs)
    ]
    other = fit_classifier(small(width=2), digits, out=tmp_path / "other", steps=3, seed=1)
    assert losses[0] == losses[1] != other
    states = [one.state_dict() for one in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("layer", LAYERS)
def test_features_do_not_depend_on_the_batch(layer: str) -> None:
    classifier = small().double()
    x = drawn(classifier, 5)
    together = classifier.features(x, layer)
    assert torch.equal(together, classifier.features(x, layer))
    assert together.shape == (5, *classifier.layer_shape(layer))
    for i in range(5):
        alone = classifier.features(x[i : i + 1], layer)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-12)


def test_embeddings_lie_on_a_sphere_and_logits_are_linear_in_them() -> None:
    classifier = small(embedding=7).double()
    x = drawn(classifier, 4)
    embedding = classifier.features(x, "embedding")
    torch.testing.assert_close(embedding.norm(dim=1), torch.full((4,), 7.0).double().sqrt())
    last = classifier.stages["logits"]
    torch.testing.assert_close(classifier(x), last(embedding))
    torch.testing.assert_close(classifier(x), classifier.features(x, "logits"))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 30), (2, 64, 17)])
def test_images_of_any_shape(shape: tuple[int, int, int], tmp_path: Path) -> None:
    classifier = Classifier(shape=shape, levels=256, classes=3, width=4, embedding=5)
    assert classifier.layers == LAYERS
    assert [len(classifier.layer_shape(layer)) for layer in LAYERS] == [3, 3, 3, 1, 1]
    x = drawn(classifier, 2)
    for layer in LAYERS:
        assert classifier.features(x, layer).shape[1:] == classifier.layer_shape(layer)
    classifier.save(tmp_path)
    loaded = load_classifier(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(x), classifier(x))


def test_it_is_no_model_of_images_and_they_are_no_classifiers(tmp_path: Path) -> None:
    small().save(tmp_path / "classifier")
    config = json.loads((tmp_path / "classifier" / "config.json").read_text())
    assert config["model"] == "nextpixel.conditioning.classifier.Classifier"
    with pytest.raises(UserError, match="classifier holds a classifier, not a model of images"):
        load(tmp_path / "classifier")
    model = GatedPixelCNN(shape=(1, 8, 8), width=4, blocks=1)
    model.save(tmp_path / "model")
    with pytest.raises(UserError, match="model holds a model of images, not a classifier"):
        load_classifier(tmp_path / "model")
    assert find_class("GatedPixelCNN") is GatedPixelCNN


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1, 7, 8)}, "8x8 or more"),
        ({"levels": 1}, "2 levels"),
        ({"classes": 1}, "2 classes"),
        ({"width": 0}, "a width"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, object], message: str) -> None:
    whole = {"shape": (1, 8, 8), "levels": 2, "classes": 2, **options}
    with pytest.raises(UserError, match=message):
        Classifier(**whole)  # type: ignore[arg-type]


def test_mistakes(digits: Dataset, tmp_path: Path) -> None:
    classifier = small()
    with pytest.raises(UserError, match=r"no layer conv9: its layers are conv1, .*, logits"):
        classifier.features(drawn(classifier, 1), "conv9")
    with pytest.raises(UserError, match="must lie in"):
        classifier(drawn(classifier, 1) + 3)
    with pytest.raises(UserError, match="with classes"):
        classifier.accuracy(Images(digits.test.x, None, 4))
    fewer = Classifier(shape=(1, 28, 28), levels=4, classes=9, width=2)
    with pytest.raises(UserError, match=r"and 9 classes, but digits has .* and 10"):
        fit_classifier(fewer, digits, out=tmp_path)
    classifier.save(tmp_path)
    with pytest.raises(UserError, match="already holds a model"):
        fit_classifier(classifier, digits, out=tmp_path)


def test_the_command_prints_its_test_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = (rng.random((60, 1, 8, 8)) < np.where(y, 0.8, 0.2)[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "own.npz", x=x, y=y)
    options = "--steps 30 --width 4 --batch-size 16 --threads 1"
    words = f"classifier --data {tmp_path}/own.npz --out {tmp_path}/run {options}"
    out = run(words, capsys)
    assert "Test accuracy: 100.00% ± 0.00% of 6 images of own" in out
    assert load_classifier(tmp_path / "run").classes == 2
    assert "already holds a model" in refused(words, capsys)
    np.savez(tmp_path / "own.npz", x=x)
    assert "has no classes" in refused(f"{words} --out {tmp_path}/other", capsys)


def test_a_classifier_knows_its_classes_by_name(digits: Dataset, tmp_path: Path) -> None:
    """The order of ids in the data does not matter, and other names are refused."""
    fit_classifier(small(), digits, out=tmp_path / "judge", steps=30)
    loaded = load_classifier(tmp_path / "judge")
    assert loaded.class_names == digits.class_names
    assert digits.class_names is not None
    reordered = digits.with_class_names(digits.class_names[::-1])
    accuracy = loaded.accuracy(digits.test)
    assert loaded.accuracy(reordered.test) == accuracy
    assert accuracy > 0.5
    words = name_words(digits.class_names)
    order = match_classes(reordered.class_names, loaded.class_names)
    whole, _ = classify_images(loaded, reordered.test, words, order)
    assert whole.accuracy == accuracy
    renamed = replace(digits, class_names=tuple("abcdefghij"))
    with pytest.raises(UserError, match="The class a of these images is none of the model's"):
        loaded.accuracy(renamed.test)


def test_a_pretrained_classifier_knows_its_classes() -> None:
    assert load_classifier("judge-mnist").class_names == tuple("0123456789")
