"""`nextpixel score`: the table of scores it writes, AUROC, and mistakes."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel import load_data
from nextpixel.data.user_data import load_unsplit
from nextpixel.evaluation.anomaly import (
    auroc,
    mixture_bits,
)
from tests.helpers import NOISE, refused, run, scoring_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and pictures of 8 x 8 pixels, their labels, and digits of MNIST's size."""
    folder = tmp_path_factory.mktemp("score")
    scoring_model().save(folder / "model")
    scoring_model(classes=3).save(folder / "classes")
    scoring_model(inputs="embedded").save(folder / "background")
    scoring_model(shape=(1, 28, 28)).save(folder / "digits")
    scoring_model(classes=3, image=(1, 2, 2)).save(folder / "restoring")
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


@pytest.mark.usefixtures("here")
def test_a_folder_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    out = run("score model pictures --complexity --plot plot.png", capsys)
    rows = rows_of("scores.csv")
    names = ["data", "image", "label", "bits_per_dim", "complexity_bits_per_dim"]
    assert list(rows[0]) == [*names, "complexity_score"]
    assert [row["image"] for row in rows[4:]] == [f"noisy/{i}.png" for i in range(3)]
    assert [row["label"] for row in rows] == ["flat"] * 4 + ["noisy"] * 3
    expected = scoring_model().bits_per_dim(torch.from_numpy(NOISE)).tolist()
    assert column(rows, "bits_per_dim")[4:] == pytest.approx(expected, abs=2e-6)
    oddest = max(rows, key=lambda row: float(row["bits_per_dim"]))
    assert f"most anomalous by bits_per_dim: {oddest['image']} (" in out
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
    expected = scoring_model().bits_per_dim(torch.from_numpy(NOISE[1:])).tolist()
    assert column(rows, "bits_per_dim") == pytest.approx(expected, abs=2e-6)
    run("score model splits --out scores.csv", capsys)
    names = [row["image"] for row in rows_of("scores.csv")]
    assert names == ["test/b1.png", "test/b2.png", "train/b0.png", "valid/b1.png"]


@pytest.mark.usefixtures("here")
def test_labels_give_an_auroc(capsys: pytest.CaptureFixture[str]) -> None:
    out = run("score model pictures --complexity --labels labels.csv --out my.csv", capsys)
    rows = rows_of("my.csv")
    assert [row["anomaly"] for row in rows] == ["0", "", "0", "", "1", "1", "1"]
    for score in ("bits_per_dim", "complexity_score"):
        kinds = [
            np.array([float(row[score]) for row in rows if row["anomaly"] == kind]) for kind in "01"
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
    values = [row["bits_per_dim"] for row in rows_of("scores.csv") if row["anomaly"]]
    area = "1.0000" if float(values[0]) < float(values[1]) else "0.0000"
    expected = [f"{float(value):.4f}" for value in values]
    assert line.split() == ["bits_per_dim", *expected, area]


@pytest.mark.usefixtures("here")
def test_two_data_sets_with_a_background(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(
        "score model pictures --against rows.npz --background background --limit 3 --plot p.svg",
        capsys,
    )
    rows = rows_of("scores.csv")
    assert [row["anomaly"] for row in rows] == ["0"] * 3 + ["1"] * 3
    assert [row["image"] for row in rows[3:]] == ["0", "1", "2"]
    assert [row["data"] for row in rows] == ["pictures"] * 3 + ["rows.npz"] * 3
    x = torch.from_numpy(NOISE)
    bits = [scoring_model(**kind).bits_per_dim(x).detach() for kind in ({}, {"inputs": "embedded"})]
    ratio = column(rows, "likelihood_ratio")[3:]
    assert ratio == pytest.approx((bits[0] - bits[1]).tolist(), abs=2e-6)
    assert "AUROC" in out
    assert "normal: pictures" in Path("p.svg").read_text()


@pytest.mark.usefixtures("here")
def test_a_model_with_classes_scores_images_without(capsys: pytest.CaptureFixture[str]) -> None:
    run("score classes rows.npz", capsys)
    expected = mixture_bits(scoring_model(classes=3), torch.from_numpy(NOISE)).detach() / 64
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
    expected = scoring_model(shape=(1, 28, 28)).bits_per_dim(x).tolist()
    assert column(rows, "bits_per_dim") == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("score", "required: MODEL"),
        ("score model nothing-here", "There is no data set, file or folder 'nothing-here'"),
        ("score nothing rows.npz", "nothing"),
        ("score model mnist --limit 2", "fit the model"),
        ("score digits rows.npz", "8 x 8 pixels, but the model's images are 28 x 28"),
        ("score model rows.npz --background digits", "fit the model"),
        ("score model rows.npz --background nothing", "nothing"),
        ("score model rows.npz --background digits", "The background model is for"),
        ("score restoring rows.npz", "The model needs a context (image)"),
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
def test_mistakes(words: str, says: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(words, capsys)
    assert not (here / "scores.csv").exists()


def test_all_images_of_a_folder_in_the_order_of_their_names(folder: Path) -> None:
    """However few they are: no splits are taken out of them."""
    found = load_unsplit(folder / "pictures", resize=8, channels=1)
    flat = [f"flat/{i}" for i in (0, 1, 2, "wide")]
    assert found.names == [f"{name}.png" for name in [*flat, "noisy/0", "noisy/1", "noisy/2"]]
    np.testing.assert_array_equal(found.images.x[4:], NOISE)
    assert found.images.y is not None
    assert found.images.y.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert found.class_names == ("flat", "noisy")
    few = load_unsplit(folder / "pictures", resize=8, channels=1, levels=4).images
    assert few.levels == 4
    np.testing.assert_array_equal(few.x[4:], NOISE // 64)
