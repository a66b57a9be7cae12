"""Odd images: the scores, how they are judged, and the command that writes them."""

import csv
import io
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel import load_data
from nextpixel.cli.main import main
from nextpixel.data import Images, batch_indices, mutate
from nextpixel.data.own import load_unsplit
from nextpixel.errors import UserError
from nextpixel.evaluation.anomaly import (
    CODECS,
    auroc,
    complexity_bits,
    mixture_bits,
    read_labels,
    score_images,
)
from nextpixel.models import GatedPixelCNN
from nextpixel.training import TrainArgs, fit
from tests.training.test_trainer import (
    OPTIONS,
    assert_same_run,
    at_step,
    make,
    state_of,
    tiny_mnist,
)

NOISE = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8)).astype(np.uint8)


def model_of(classes: int | None = None, **arguments: Any) -> GatedPixelCNN:
    """A tiny model whose answers depend on the image and on the class."""
    torch.manual_seed(0)
    arguments = {"shape": (1, 8, 8), "levels": 256, "width": 4, "blocks": 1, **arguments}
    model = GatedPixelCNN(classes=classes, kernel_size=3, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and pictures of 8 x 8 pixels, their labels, and digits of MNIST's size."""
    folder = tmp_path_factory.mktemp("score")
    model_of().save(folder / "model")
    model_of(classes=3).save(folder / "classes")
    model_of(inputs="embedded").save(folder / "background")
    model_of(shape=(1, 28, 28)).save(folder / "digits")
    model_of(classes=3, image=(1, 2, 2)).save(folder / "restoring")
    (folder / "pictures" / "flat").mkdir(parents=True)
    (folder / "pictures" / "noisy").mkdir()
    for i, x in enumerate(NOISE):
        Image.fromarray(x[0]).save(folder / "pictures" / "noisy" / f"{i}.png")
        Image.fromarray(x[0] // 255 + 9 * i).save(folder / "pictures" / "flat" / f"{i}.png")
    Image.fromarray(NOISE[0, 0]).resize((20, 8)).save(folder / "pictures" / "flat" / "wide.png")
    np.savez(folder / "rows.npz", x=NOISE)
    lines = ["image,odd", *(f"noisy/{i}.png,1" for i in range(3)), "flat/0.png,0", "flat/2.png,0"]
    (folder / "labels.csv").write_text("\n".join(lines))
    (folder / "one-kind.csv").write_text("flat/0.png,0\nflat/1.png,0\n")
    (folder / "typo.csv").write_text("flat/0.png,0\nflat/7.png,1\n")
    (folder / "twice.csv").write_text("flat/0.png,0\nflat/1.png,1\nflat/0.png,1\n")
    (folder / "two.csv").write_text("flat/0.png,2\nflat/1.png,1\n")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00")
    return folder


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the current one, beside what the fixture `folder` holds."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def run(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    status = main(words.split())
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


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
    model, background = model_of(), model_of(inputs="embedded")
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
    model = model_of(classes=3, shape=(1, 2, 2)).double()
    with torch.no_grad():
        p = torch.stack([model.log_prob(x, c).exp() for c in range(3)])  # of 4 pixels: no underflow
        assert (p.max(0).values / p.min(0).values > 1.05).all()
        torch.testing.assert_close(mixture_bits(model, x), -torch.log2(p.mean(0)))


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="levels"):
        score_images(model_of(), Images(NOISE // 64, None, 4))
    with pytest.raises(UserError, match="fit each other"):
        score_images(model_of(), Images(NOISE[:, :, :4], None, 256))
    with pytest.raises(UserError, match="fit each other"):
        score_images(model_of(), Images(NOISE, None, 256), background=model_of(shape=(1, 4, 4)))
    with pytest.raises(UserError, match="nothing to score"):
        score_images(model_of(), Images(NOISE[:0], None, 256))


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


def test_all_images_of_a_folder_in_the_order_of_their_names(folder: Path) -> None:
    """However few they are: no splits are taken out of them."""
    found = load_unsplit(folder / "pictures", size=8, channels=1)
    flat = [f"flat/{i}" for i in (0, 1, 2, "wide")]
    assert found.names == [f"{name}.png" for name in [*flat, "noisy/0", "noisy/1", "noisy/2"]]
    np.testing.assert_array_equal(found.images.x[4:], NOISE)
    assert found.images.y is not None
    assert found.images.y.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert found.class_names == ("flat", "noisy")
    few = load_unsplit(folder / "pictures", size=8, channels=1, levels=4).images
    assert few.levels == 4
    np.testing.assert_array_equal(few.x[4:], NOISE // 64)


def test_all_images_of_a_file_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=NOISE, y=np.array([2, 0, 1]))
    found = load_unsplit(path, levels=4)
    np.testing.assert_array_equal(found.images.x, NOISE // 64)
    assert found.images.y is not None
    assert (found.names, found.images.y.tolist()) == (["0", "1", "2"], [2, 0, 1])
    assert found.class_names == ("0", "1", "2")
    np.savez(path, x_test=NOISE[:1], x_train=NOISE[1:])
    np.testing.assert_array_equal(load_unsplit(path).images.x, NOISE[[1, 2, 0]])


def test_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("file,label\nb,1\na, 0\n\n")
    odd = read_labels(path, ["a", "b", "c"])
    assert odd[:2] == [0, 1]
    assert math.isnan(odd[2])
    path.write_text("a,0\nb,1\n")
    assert read_labels(path, ["b", "a"]) == [1, 0]


# --- mutated training images ----------------------------------------------------------------------


def test_mutate_replaces_the_stated_share_uniformly() -> None:
    x = np.full((400, 1, 10, 10), 3, np.uint8)
    mutated = mutate(x, 0.3, 4, (5, 6))
    assert mutated.dtype == np.uint8
    counts = np.bincount(mutated.ravel(), minlength=4) / x.size
    # A quarter of what is replaced is 3 again; five standard deviations.
    expected = np.array([0.075, 0.075, 0.075, 0.775])
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected * (1 - expected) / x.size)).all()
    np.testing.assert_array_equal(mutate(x, 0.3, 4, (5, 6)), mutated)
    for other in ((5, 7), (6, 6)):
        assert (mutate(x, 0.3, 4, other) != mutated).mean() > 0.2
    assert (x == 3).all()  # what was given is left as it was
    np.testing.assert_array_equal(mutate(x, 0, 4, (5, 6)), x)
    assert set(np.unique(mutate(x, 1, 256, (0, 0)))) == set(range(256))


def test_training_images_are_mutated_and_those_of_the_validation_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = tiny_mnist(), []
    real = GatedPixelCNN.log_prob

    def log_prob(model: GatedPixelCNN, x: torch.Tensor, *given: object) -> torch.Tensor:
        seen.append((model.training, x.numpy().copy()))
        return real(model, x, *given)

    def is_of(images: Images, x: np.ndarray) -> bool:
        return any((x == other).all() for other in images.x)

    monkeypatch.setattr(GatedPixelCNN, "log_prob", log_prob)
    fit(make(), data, out=tmp_path / "run", **{**OPTIONS, "steps": 3, "mutate": 0.5})
    batches = [batch for training, batch in seen if training]
    for step, batch in enumerate(batches):  # each has noise of its own
        x, _ = data.train.batch(batch_indices(100, 8, step))
        np.testing.assert_array_equal(batch, mutate(x, 0.5, 4, (0, step)))
    trained = [x for batch in batches for x in batch]
    validated = [x for training, batch in seen if not training for x in batch]
    assert len(trained) == 24
    assert not any(is_of(data.train, x) for x in trained)
    assert len(validated) == 20
    assert all(is_of(data.valid, x) for x in validated)


def test_interrupted_and_resumed_with_mutation_is_bitwise_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, options = tiny_mnist(), {**OPTIONS, "mutate": 0.3}
    whole = fit(make(), data, out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda run: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            fit(make(), data, out=tmp_path / "run", **options)
    assert state_of(tmp_path / "run")["step"] == 3
    fit(make(), data, out=tmp_path / "run", resume=True, **options)
    assert_same_run(tmp_path / "run", whole)
    other = fit(make(), data, out=tmp_path / "other", **{**options, "mutate": 0.2})
    states = [state_of(out)["model"] for out in (whole, other)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(UserError, match=r"train\.mutate"):
        TrainArgs(mutate=share)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_a_folder_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    out = run("score model pictures --complexity --plot plot.png", capsys)
    rows = rows_of("scores.csv")
    names = ["data", "image", "label", "bits_per_dim", "complexity_bits_per_dim"]
    assert list(rows[0]) == [*names, "complexity_score"]
    assert [row["image"] for row in rows[4:]] == [f"noisy/{i}.png" for i in range(3)]
    assert [row["label"] for row in rows] == ["flat"] * 4 + ["noisy"] * 3
    expected = model_of().bits_per_dim(torch.from_numpy(NOISE)).tolist()
    assert column(rows, "bits_per_dim")[4:] == pytest.approx(expected, abs=2e-6)
    oddest = max(rows, key=lambda row: float(row["bits_per_dim"]))
    assert f"oddest by bits_per_dim: {oddest['image']} (" in out
    assert "AUROC" not in out
    with Image.open("plot.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_a_split_of_a_folder_keeps_the_names(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, order in (("train", [0]), ("valid", [1]), ("test", [2, 1])):
        (here / "splits" / split).mkdir(parents=True)
        for i in order:
            Image.fromarray(NOISE[i, 0]).save(here / "splits" / split / f"b{i}.png")
    run("score model splits --split test", capsys)
    rows = rows_of("scores.csv")
    assert [row["image"] for row in rows] == ["test/b1.png", "test/b2.png"]
    expected = model_of().bits_per_dim(torch.from_numpy(NOISE[1:])).tolist()
    assert column(rows, "bits_per_dim") == pytest.approx(expected, abs=2e-6)
    run("score model splits", capsys)
    names = [row["image"] for row in rows_of("scores.csv")]
    assert names == ["test/b1.png", "test/b2.png", "train/b0.png", "valid/b1.png"]


@pytest.mark.usefixtures("here")
def test_labels_give_an_auroc(capsys: pytest.CaptureFixture[str]) -> None:
    out = run("score model pictures --complexity --labels labels.csv --out my.csv", capsys)
    rows = rows_of("my.csv")
    assert [row["odd"] for row in rows] == ["0", "", "0", "", "1", "1", "1"]
    for score in ("bits_per_dim", "complexity_score"):
        kinds = [
            np.array([float(row[score]) for row in rows if row["odd"] == kind]) for kind in "01"
        ]
        area, error = auroc(*kinds)
        (line,) = [line for line in out.splitlines() if line.startswith(score)]
        assert line.endswith(f"{area:.4f} ± {error:.4f}")
        assert f"{kinds[1].mean():.4f} ± " in line


@pytest.mark.usefixtures("here")
def test_one_image_of_a_kind_has_no_standard_error(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "few.csv").write_text("flat/0.png,0\nnoisy/0.png,1\n")
    line = run("score model pictures --labels few.csv", capsys).splitlines()[2]
    values = [row["bits_per_dim"] for row in rows_of("scores.csv") if row["odd"]]
    area = "1.0000" if float(values[0]) < float(values[1]) else "0.0000"
    expected = [f"{float(value):.4f}" for value in values]
    assert line.split() == ["bits_per_dim", *expected, area]


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    try:
        Image.fromarray(NOISE[0, 0]).save(tmp_path / name)
    except OSError:
        pytest.skip("the file system has no such names")
    with pytest.raises(UserError, match="not UTF-8"):
        load_unsplit(tmp_path)


@pytest.mark.usefixtures("here")
def test_two_data_sets_with_a_background(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(
        "score model pictures --against rows.npz --background background --limit 3 --plot p.svg",
        capsys,
    )
    rows = rows_of("scores.csv")
    assert [row["odd"] for row in rows] == ["0"] * 3 + ["1"] * 3
    assert [row["image"] for row in rows[3:]] == ["0", "1", "2"]
    assert [row["data"] for row in rows] == ["pictures"] * 3 + ["rows.npz"] * 3
    x = torch.from_numpy(NOISE)
    bits = [model_of(**kind).bits_per_dim(x).detach() for kind in ({}, {"inputs": "embedded"})]
    ratio = column(rows, "likelihood_ratio")[3:]
    assert ratio == pytest.approx((bits[0] - bits[1]).tolist(), abs=2e-6)
    assert "AUROC" in out
    assert "ordinary: pictures" in Path("p.svg").read_text()


@pytest.mark.usefixtures("here")
def test_a_model_with_classes_scores_images_without(capsys: pytest.CaptureFixture[str]) -> None:
    run("score classes rows.npz", capsys)
    expected = mixture_bits(model_of(classes=3), torch.from_numpy(NOISE)).detach() / 64
    assert column(rows_of("scores.csv"), "bits_per_dim") == pytest.approx(
        expected.tolist(), abs=2e-6
    )


@pytest.mark.usefixtures("here")
def test_a_named_data_set_is_scored_by_its_test_images(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("score digits mnist --limit 3", capsys)
    rows = rows_of("scores.csv")
    test = load_data("mnist").test
    assert test.y is not None
    chosen = [0, 5000, 9999]
    assert [int(row["image"]) for row in rows] == chosen
    assert [row["label"] for row in rows] == [str(test.y[i]) for i in chosen]
    x = torch.from_numpy(test.x[chosen])
    expected = model_of(shape=(1, 28, 28)).bits_per_dim(x).tolist()
    assert column(rows, "bits_per_dim") == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("score", "required: MODEL"),
        ("score model nothing-here", "There is no data set, file or folder 'nothing-here'"),
        ("score nothing rows.npz", "nothing"),
        ("score model mnist --limit 2", "fit each other"),
        ("score digits rows.npz", "8 x 8 pixels, but the model's images are 28 x 28"),
        ("score model rows.npz --background digits", "fit each other"),
        ("score model rows.npz --background nothing", "nothing"),
        ("score model rows.npz --background digits", "The background model is for"),
        ("score restoring rows.npz", "The model is conditioned on more (image)"),
        ("score model pictures --labels twice.csv", "'flat/0.png' twice"),
        ("score model rows.npz --against nothing", "There is no data set"),
        ("score model rows.npz --split all", "invalid choice: 'all'"),
        ("score model pictures --labels nothing.csv", "nothing.csv cannot be read"),
        ("score model pictures --labels binary.csv", "binary.csv cannot be read"),
        ("score model pictures --labels typo.csv", "'flat/7.png' that is not among those"),
        ("score model pictures --labels two.csv", "'flat/0.png,2'"),
        ("score model pictures --labels one-kind.csv", "both kinds"),
        ("score model pictures --labels labels.csv --limit 2", "leave --limit out"),
        ("score model pictures --labels labels.csv --against rows.npz", "not allowed with"),
        ("score model rows.npz --out scores.txt", "must end in .csv"),
        ("score model rows.npz --plot scores.txt", "must end in .png, .svg"),
        ("score model rows.npz --limit 0", "whole number above 0"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    words: str, says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(words.split())
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("nextpixel: ")
    assert err.count("\n") == 1
    assert says in err
    assert not (here / "scores.csv").exists()
