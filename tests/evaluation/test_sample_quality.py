"""Sample quality: the measures against other ways to compute them, and the command."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from nextpixel import LatentGenerator, load_data
from nextpixel.cli.describe import explain, overview
from nextpixel.conditioning.classifier import Classifier, load_classifier
from nextpixel.data import DataRecord, Dataset, Images
from nextpixel.data.spectrogram import Spectrogram
from nextpixel.errors import UserError
from nextpixel.evaluation.distances import frechet_distance, nearest_neighbours
from nextpixel.evaluation.sample_quality import (
    ImageSetQuality,
    SampleQuality,
    balanced,
    classify_images,
    draw_neighbours,
    evaluate_samples,
    griffin_lim_round_trip,
    name_words,
    reconstruct,
)
from nextpixel.model_folders import judges, shipped
from nextpixel.models import VQVAE, GatedPixelCNN
from nextpixel.models.base.image_model import load
from tests.helpers import refused, run, succeed, working_in

# --- the Frechet distance -------------------------------------------------------------------------


def exactly(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Makes points that have this mean and this covariance exactly."""
    points = np.random.default_rng(0).normal(size=(40, len(mean)))
    points -= points.mean(0)
    whitened = points @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(points.T)))).T
    made: NDArray[np.float64] = whitened @ np.linalg.cholesky(covariance).T + mean
    return made


def test_frechet_distance_of_known_gaussians() -> None:
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(2, 5, 5))
    means, covariances = rng.normal(size=(2, 5)), roots @ roots.mT + 0.1 * np.eye(5)
    a, b = (exactly(m, s) for m, s in zip(means, covariances, strict=True))
    product = sqrtm(covariances[0] @ covariances[1])
    expected = np.square(means[0] - means[1]).sum() + np.trace(sum(covariances) - 2 * product.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, a + 3) == pytest.approx(5 * 9)
    # Along one axis it is (m_a - m_b)^2 + (s_a - s_b)^2.
    line = exactly(np.zeros(1), np.ones((1, 1)))
    assert frechet_distance(line, 3 * line + 2) == pytest.approx(4 + 4)


def test_frechet_distance_of_the_same_set_is_zero() -> None:
    points = np.random.default_rng(0).normal(size=(9, 20))  # the covariance is singular
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(points, points[::-1]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match="at least 2 images"):
        frechet_distance(points, points[:1])


def test_fewer_images_make_the_frechet_distance_larger() -> None:
    points = np.random.default_rng(0).normal(size=(4000, 8))
    many = frechet_distance(points[:2000], points[2000:])
    few = frechet_distance(points[:50], points[2000:2050])
    assert few > 10 * many


# --- neighbours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
def test_neighbours_are_those_found_by_brute_force(padded: bool) -> None:
    rng = np.random.default_rng(0)
    sets = []
    for n in (130, 40):
        x, rows = rng.integers(0, 256, (n, 2, 6, 5), np.uint8), None
        if padded:
            rows = rng.integers(1, 7, n)
            x[np.broadcast_to(np.arange(6)[:, None] >= rows[:, None, None, None], x.shape)] = 0
        sets.append(Images(x, None, 256, rows=rows))
    images, train = sets
    done: list[float] = []
    distances, chosen = nearest_neighbours(images, train, done.append)
    assert done == [100 / 130, 1]
    lengths = [np.full(len(one), 6) if one.rows is None else one.rows for one in sets]
    for i, x in enumerate(images.x.astype(float)):
        every = []
        for j, other in enumerate(train.x.astype(float)):
            real = max(lengths[0][i], lengths[1][j])
            every.append(math.sqrt(np.square(x[:, :real] - other[:, :real]).mean()))
        assert distances[i] == pytest.approx(min(every))
        assert every[chosen[i]] == pytest.approx(min(every))


def test_a_copy_is_found_at_no_distance() -> None:
    train = Images(np.full((3, 1, 60, 60), 255, np.uint8), None, 256)
    train.x[1, 0, 5, 5] = 254
    distances, chosen = nearest_neighbours(Images(train.x[1:2].copy(), None, 256), train)
    assert (distances.tolist(), chosen.tolist()) == ([0.0], [1])


# --- classes and words ----------------------------------------------------------------------------


def test_words_that_classes_share() -> None:
    found = name_words(["0 theo", "0 lucas", "1 theo", "1 lucas"])
    assert {name: number.tolist() for name, number in found.items()} == {
        "0..1": [0, 0, 1, 1],
        "theo..lucas": [0, 1, 0, 1],
    }
    assert name_words(["cat", "dog"]) == {}
    assert name_words(["ankle boot", "bag"]) == {}
    assert list(name_words(["big cat", "big dog", "wee cat"])) == ["big..wee", "cat..dog"]
    assert name_words(["a cat", "a dog"]) == {}  # one word for all, and one for each


def test_accuracy_of_words_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeliest class has the wrong digit, but all classes of the right one weigh more."""
    probabilities = torch.tensor([[0.3, 0.3, 0.4, 0.0], [0.1, 0.5, 0.0, 0.4], [0.0, 0.9, 0.1, 0.0]])
    classifier = Classifier(shape=(1, 8, 8), levels=2, classes=4, width=2)
    monkeypatch.setattr(classifier, "forward", lambda x: (probabilities + 1e-9).log())
    images = Images(np.zeros((3, 1, 8, 8), np.uint8), np.array([0, 3, 1]), 2)
    whole, by_word = classify_images(
        classifier, images, name_words(["0 theo", "0 lucas", "1 theo", "1 lucas"])
    )
    assert whole.accuracy == pytest.approx(1 / 3)  # 2, 1 and 1 are chosen
    assert by_word["0..1"].accuracy == pytest.approx(
        2 / 3
    )  # 0 (0.6), 0 (0.6), which is wrong, 0 (0.9)
    assert by_word["theo..lucas"].accuracy == 1  # theo (0.7), lucas (0.9), lucas (0.9)
    assert whole.accuracy_error == pytest.approx(math.sqrt(1 / 3 * 2 / 3 / 2))


def test_the_table_in_words() -> None:
    train = ImageSetQuality("training images", 1234, 0.9, 0.05, 0.5, {}, 0.25)
    samples = ImageSetQuality("samples", 20, 0.45, 0.001, 0.25, {}, 3, 7.125, 0.015)
    x = np.zeros((1, 1, 1, 1), np.uint8)
    quality = SampleQuality([train, samples], 2, Images(x, None, 2), np.zeros(1), x)
    assert [" ".join(line.split()) for line in quality.table().splitlines()[1:]] == [
        "training images 1,234 90.00 ± 5.00 % 50.0 % 0.2500 - -",
        "samples 20 45.00 ± 0.10 % 25.0 % 3.0000 7.12 1.50 %",
    ]


def test_as_many_of_each_class() -> None:
    y = np.array([1, 0, 0, 0, 1, 2, 0, 2, 1])
    images = Images(np.zeros((9, 1, 2, 2), np.uint8), y, 2)
    assert balanced(images, 2).tolist() == [1, 6, 0, 8, 5, 7]


# --- sounds ---------------------------------------------------------------------------------------


def test_sounds_go_through_griffin_lim() -> None:
    spectrogram = Spectrogram(frames=24)
    time = np.arange(12 * spectrogram.hop) / spectrogram.rate
    waves = [np.sin(2 * np.pi * pitch * time) for pitch in (440, 1000)]
    x = np.stack([spectrogram.analyse(wave)[0] for wave in waves])
    known = griffin_lim_round_trip(spectrogram, Images(x, None, 256, rows=np.array([12, 7])))
    assert known.rows is not None
    assert known.rows.tolist() == [12, 7]
    assert not known.x[1, 0, 7:].any()
    wave = spectrogram.synthesise(x[0], 12)
    assert np.array_equal(known.x[0], spectrogram.analyse(wave)[0])
    done: list[float] = []
    found = griffin_lim_round_trip(spectrogram, Images(x, None, 256), done.append)
    assert done == [0.5, 1]
    assert found.rows is not None
    assert found.rows.tolist() == [12, 12]  # up to the last row above level 0


def test_reconstructions_keep_padding_silent() -> None:
    torch.manual_seed(0)
    model = VQVAE(shape=(1, 12, 8), levels=256, width=4, codes=5).eval()
    x = np.random.default_rng(0).integers(1, 256, (3, 1, 12, 8), np.uint8)
    x[1, :, 5:] = 0
    images = Images(x, np.arange(3), 256, rows=np.array([12, 5, 12]))
    done: list[float] = []
    shown = reconstruct(model, images, done.append)
    assert done == [1]
    expected = model.picture(model.codes(torch.from_numpy(x))).round().numpy()
    assert np.array_equal(shown.x[0], expected[0])
    assert np.array_equal(shown.x[1, :, :5], expected[1, :, :5])
    assert not shown.x[1, :, 5:].any()
    assert expected[1, :, 5:].any()
    assert shown.rows is images.rows


# --- all together ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a bright half, left or right; a judge of them; a VQ-VAE with a prior."""
    folder = tmp_path_factory.mktemp("judging")
    rng, y = np.random.default_rng(0), np.arange(120) % 2
    bright = (np.arange(8) < 4) != y[:, None, None, None]
    x = np.where(bright, 3, 0) - rng.integers(0, 2, (120, 1, 8, 8)) * np.where(bright, 1, -1)
    np.savez(folder / "halves.npz", x=x.astype(np.uint8), y=y, levels=4)
    data = f"--data {folder}/halves.npz"
    few = "--train.batch_size 16 --train.valid_every 40 --train.lr 0.01 --train.steps"
    with working_in(folder):
        succeed(
            f"classifier {data} --out judge --steps 30 --width 4 --embedding 6 --batch-size 16",
            f"train --model VQVAE --model.width 4 --model.codes 4 --model.code_size 3 {data} "
            f"--conditional false --out vq {few} 20",
            "train --model GatedPixelCNN --model.width 4 --model.blocks 1 --model.kernel_size 3 "
            f"--data codes:vq --out prior {few} 20",
            "bundle vq prior --out both",
        )
    return folder


COMMAND = "evaluate-samples both --data halves.npz --classifier judge"


def test_the_command_evaluates_a_bundle(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(f"{COMMAND} --per-class 7 --seed 3 --json --plot beside.png", capsys))
    assert (here / "beside.png").stat().st_size > 0
    names = ["test images", "validation images", "training images", "reconstructions", "samples"]
    rows = {row["name"]: row for row in told["rows"]}
    assert list(rows) == names
    test = load_data(here / "halves.npz").test
    assert rows["test images"]["images"] == rows["reconstructions"]["images"] == len(test)
    assert rows["samples"]["images"] == 14
    assert rows["test images"]["accuracy"] == rows["test images"]["of_real"] == 1
    assert rows["test images"]["frechet"] == pytest.approx(0, abs=1e-6)
    assert rows["training images"]["distance"] is rows["training images"]["close"] is None
    generator, judge = LatentGenerator.load(here / "both"), load_classifier(here / "judge")
    y = torch.arange(2).repeat(7)
    x = generator.sample(14, y, seed=3)
    assert rows["samples"]["accuracy"] == pytest.approx(
        (judge(x).argmax(1) == y).double().mean().item()
    )
    train = load_data(here / "halves.npz").train
    distances, _ = nearest_neighbours(Images(x.numpy().astype(np.uint8), None, 4), train)
    assert rows["samples"]["distance"] == pytest.approx(np.median(distances))
    assert (told["seed"], told["temperature"], told["guidance"]) == (3, 1, 1)
    table = run(f"{COMMAND} --per-class 2 --limit 9 --temperature 0.5", capsys)
    assert table.startswith("both, temperature 0.5, evaluated by judge on halves:")
    assert table.splitlines()[1].split() == [
        *("images", "accuracy", "vs.", "real", "Frechet", "nearest", "close")
    ]
    assert "classifier Frechet distance to the test images, 2 of each class" in table


def test_samples_are_found_to_be_copies(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, judge = load_data(here / "halves.npz"), load_classifier(here / "judge")
    generator = LatentGenerator.load(here / "both")
    copies = torch.from_numpy(data.train.x[:20]).long()
    monkeypatch.setattr(generator, "sample", lambda n, c, **_: copies[:n])
    found = evaluate_samples(generator, data, judge, per_class=4)
    samples = found.sets[-1]
    assert (samples.distance, samples.close) == (0, 1)
    assert np.array_equal(found.neighbours, found.samples.x)
    assert found.sets[0].close is not None
    assert found.sets[0].close < 0.3
    assert draw_neighbours(found, data).height > 0


def test_a_model_of_pixels_is_evaluated_too(here: Path) -> None:
    data, judge = load_data(here / "halves.npz"), load_classifier(here / "judge")
    torch.manual_seed(0)
    model = GatedPixelCNN(shape=(1, 8, 8), levels=4, classes=2, width=4, blocks=1, kernel_size=3)
    found = evaluate_samples(model.eval(), data, judge, per_class=3)
    names = [row.name for row in found.sets]
    assert names == ["test images", "validation images", "training images", "samples"]
    assert found.sets[-1].frechet > found.sets[1].frechet


def test_samples_are_drawn_with_a_temperature_and_guidance(here: Path) -> None:
    data, judge = load_data(here / "halves.npz"), load_classifier(here / "judge")
    torch.manual_seed(0)
    model = GatedPixelCNN(shape=(1, 8, 8), levels=4, classes=2, width=4, blocks=1, kernel_size=3)
    how: dict[str, Any] = {"seed": 5, "temperature": 0.6, "guidance": 3.0}
    found = evaluate_samples(model.eval(), data, judge, per_class=3, **how)
    drawn = model.sample(6, torch.arange(2).repeat(3), **how)
    assert np.array_equal(found.samples.x, drawn.numpy())
    plain = evaluate_samples(model, data, judge, per_class=3, seed=5)
    assert not np.array_equal(plain.samples.x, drawn.numpy())


def test_classes_are_matched_by_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model and judge know them in another order than the data."""
    data = replace(
        load_data(here / "halves.npz"), class_names=("left", "right"), unnamed=False
    ).with_class_names(("right", "left"))
    judge = load_classifier(here / "judge")
    model = GatedPixelCNN(shape=(1, 8, 8), levels=4, classes=2, width=4, blocks=1, kernel_size=3)
    judge.class_names = ("left", "right")
    model.data_record = DataRecord(("left", "right"))
    left = torch.from_numpy(data.train.x[data.train.y == 1][:1]).long()

    def sample(n: int, c: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.cat([left, left.flip(3)])[c]

    monkeypatch.setattr(model, "sample", sample)
    found = {row.name: row.accuracy for row in evaluate_samples(model, data, judge).sets}
    assert found["test images"] == found["samples"] == 1


def test_sounds_get_a_row_of_griffin_lim() -> None:
    """Tones that are high or low, and a model that has learned nothing."""
    spectrogram, rng = Spectrogram(frames=8), np.random.default_rng(0)
    y = np.arange(8) % 4
    time = np.arange(5 * spectrogram.hop) / spectrogram.rate
    waves = [np.sin(2 * np.pi * (500 + 400 * c + rng.normal()) * time) * 0.3 for c in y]
    x = np.stack([spectrogram.analyse(wave)[0] for wave in waves])
    images = Images(x, y, 256, rows=np.full(8, 5))
    names = ("low a", "low b", "high a", "high b")
    data = Dataset("tones", images, images, images, 256, names, "made", spectrogram=spectrogram)
    torch.manual_seed(0)
    judge = Classifier(shape=data.shape, levels=256, classes=4, width=4, embedding=3).eval()
    with torch.no_grad():  # a judge that has learned each sound by heart
        vectors = judge.features(torch.from_numpy(x[:4]), "embedding")
        last = judge.stages["logits"]
        assert isinstance(last, torch.nn.Linear)
        last.weight.copy_(100 * vectors)
        last.bias.zero_()
    model = GatedPixelCNN(
        shape=data.shape, levels=256, classes=4, width=2, blocks=1, kernel_size=3
    ).eval()
    found = evaluate_samples(model, data, judge, per_class=1, limit=4)
    assert [row.name for row in found.sets][3:] == [
        *("test images by Griffin-Lim", "samples by Griffin-Lim")
    ]
    assert list(found.sets[0].words) == ["low..high", "a..b"]
    again = found.sets[3]
    assert again.distance is not None
    assert 0 < again.distance < 20  # not the spectrograms themselves, but near to them
    assert draw_neighbours(found, data).width > 0


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("evaluate-samples both --data halves.npz", "no pretrained classifier for halves.npz"),
        ("evaluate-samples both --data mnst", "for mnst (did you mean mnist?)"),
        ("evaluate-samples both --data halves.npz --classifier vq", "not a classifier"),
        (
            "evaluate-samples both --data halves.npz --classifier judge-mnist",
            "The classifier is for images",
        ),
        ("evaluate-samples mnist --data halves.npz --classifier judge", "requantise|levels"),
        ("evaluate-samples vq --data halves.npz --classifier judge", "VQVAE"),
        (f"{COMMAND} --guidance 2", "not for a LatentGenerator"),
        (
            "evaluate-samples mnist-four-levels --data mnist --guidance 2",
            "no unconditional prediction",
        ),
        (f"{COMMAND} --limit 1", "Every split needs an image of class"),
        (f"{COMMAND} --per-class 0", "above 0"),
        (f"{COMMAND} --plot x.txt", "must end in"),
        ("evaluate-samples both --classifier judge", "--data"),
    ],
)
@pytest.mark.usefixtures("here")
def test_refused(command: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(command, capsys)
    assert any(part in said for part in reason.split("|")), said


# --- the judges that come along -------------------------------------------------------------------

every_judge = pytest.mark.parametrize("name", sorted(judges()))


def card_of(name: str) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((judges()[name] / "card.json").read_text())
    return card


def test_judges_are_not_models_of_images() -> None:
    assert set(judges()) == {"judge-fashion-mnist", "judge-mnist", "judge-spoken-digits"}
    assert not judges().keys() & shipped().keys()
    with pytest.raises(UserError, match="not a model of images"):
        load("judge-mnist")


@every_judge
def test_a_judge_matches_its_card(name: str) -> None:
    card, judge = card_of(name), load_classifier(name)
    (weights,) = judges()[name].glob("*.safetensors")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == card["sha256"]
    assert weights.stat().st_size == card["bytes"] < 1_000_000
    assert sum(p.numel() for p in judge.parameters()) == card["parameters"]
    assert [list(judge.shape), judge.levels] == [card["shape"], card["levels"]]
    assert (judge.classes, name) == (card["classes"], f"judge-{card['data']}")
    assert ("MIT" if card["data"] == "fashion-mnist" else "CC BY-SA") in card["source"]
    line = next(line for line in overview().splitlines() if line.startswith(f"  {name} "))
    assert card["data"] in line.split()
    assert f"{100 * card['accuracy']['test']:.2f}" in line.split()
    assert card["sha256"] in explain(name, (1, 28, 28), 256, None)


def check(data: Dataset, limit: int) -> None:
    card = card_of(f"judge-{data.name}")["accuracy"]
    images = data.test.subset(limit)
    whole, by_word = classify_images(
        load_classifier(f"judge-{data.name}"), images, name_words(data.class_names or ())
    )
    assert list(by_word) == list(card["words"])
    told = [card, *card["words"].values()]
    for found, said in zip([whole, *by_word.values()], told, strict=True):
        # Some of the whole test set's images: they differ by chance alone.
        error = said["test_error"] * math.sqrt(card["images"] / len(images))
        assert abs(found.accuracy - said["test"]) < 4 * error


def test_the_accuracy_on_digits_matches_the_card() -> None:
    check(load_data("mnist"), 1000)


def test_the_accuracy_on_garments_matches_the_card(shared_data: Path) -> None:
    check(load_data("fashion-mnist", data_dir=shared_data), 1000)


def test_the_accuracy_on_spoken_digits_matches_the_card(shared_data: Path) -> None:
    check(load_data("spoken-digits", data_dir=shared_data), 150)
