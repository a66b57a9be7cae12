"""`nextpixel score`: the table of scores it writes, AUROC, and mistakes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel import load_data
from nextpixel.cli.main import main
from nextpixel.data import Images
from nextpixel.data.user_data import load_unsplit
from nextpixel.evaluation.anomaly import auroc, fit_ordinary, mixture_bits, score_images
from tests.helpers import NOISE, pixels, refused, run, scoring_model


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
    out = run("score model splits", capsys)
    assert "Written: scores-2.csv, most-anomalous-2.png" in out  # nothing is overwritten
    names = [row["image"] for row in rows_of("scores-2.csv")]
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
    line = run("score model pictures --labels few.csv", capsys).splitlines()[3]
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


def test_broken_pictures_are_named_and_skipped(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, several of them, and folders; what can be read is scored."""
    (here / "broken.png").write_bytes((here / "pictures/noisy/0.png").read_bytes()[:60])
    (here / "mixed").mkdir()
    for i in range(2):
        shutil.copy(here / f"pictures/noisy/{i}.png", here / f"mixed/{i}.png")
    (here / "mixed" / "text.png").write_text("no picture")
    words = "score model mixed broken.png pictures/noisy/2.png missing.png"
    assert main(words.split()) == 1
    out, err = capsys.readouterr()
    assert [row["image"] for row in rows_of("scores.csv")] == [
        "mixed/0.png",
        "mixed/1.png",
        "pictures/noisy/2.png",
    ]
    expected = scoring_model().bits_per_dim(torch.from_numpy(NOISE)).tolist()
    found = column(rows_of("scores.csv"), "bits_per_dim")
    assert found == pytest.approx(expected, abs=2e-6)
    assert "resized" not in out
    lines = err.splitlines()
    assert [line.startswith("nextpixel: skipped: ") for line in lines] == [True] * 3
    for line, name in zip(lines, ("mixed/text.png", "broken.png", "missing.png"), strict=True):
        assert name in line
    (here / "scores.csv").unlink()
    (here / "most-anomalous.png").unlink()
    assert "mixed/text.png is corrupt" in refused(f"{words} --strict", capsys)
    assert "No picture can be read (and 1 other like it)" in refused(
        "score model broken.png missing.png", capsys
    )
    assert not (here / "scores.csv").exists()


@pytest.mark.usefixtures("here")
def test_broken_links_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("links").mkdir()
    Image.fromarray(NOISE[0, 0]).save("links/good.png")
    Path("links/gone.png").symlink_to("nowhere.png")
    assert main(["score", "model", "links"]) == 1
    assert "skipped: links/gone.png is a broken link" in capsys.readouterr().err
    assert "links/gone.png is a broken link" in refused("score model links --strict", capsys)


@pytest.mark.usefixtures("here")
def test_it_says_what_was_turned_grey(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mixed").mkdir()
    grey = Image.fromarray(NOISE[0, 0])
    grey.save("mixed/grey.png")
    grey.convert("RGB").save("mixed/without-colour.png")
    Image.new("RGB", (8, 8), "red").save("mixed/red.png")
    assert "to fit the model's 8 x 8 pixels: turned grey 1\n" in run("score model mixed", capsys)


@pytest.mark.usefixtures("here")
def test_it_says_what_was_cropped_or_resized(capsys: pytest.CaptureFixture[str]) -> None:
    """One picture of the folder is 20 x 8: it is cropped, and then has the model's size."""
    out = run("score model pictures", capsys)
    assert "Of 7 pictures, to fit the model's 8 x 8 pixels: cropped 1\n" in out
    out = run("score digits pictures/flat/0.png", capsys)
    assert "Of 1 picture, to fit the model's 28 x 28 pixels: resized 1\n" in out
    assert "to fit" not in run("score model pictures/flat/0.png", capsys)


@pytest.mark.usefixtures("here")
def test_worse_than_a_uniform_guess(capsys: pytest.CaptureFixture[str]) -> None:
    out = run("score model pictures", capsys)
    bits = column(rows_of("scores.csv"), "bits_per_dim")
    worse = sum(value > 8 for value in bits)
    assert 0 < worse < 7
    assert f"Warning: {worse} of 7 images cost more than the 8 bits/dim of a uniform" in out


@pytest.mark.usefixtures("here")
def test_a_sheet_of_the_most_anomalous(capsys: pytest.CaptureFixture[str]) -> None:
    out = run("score model pictures --out tables/a.csv", capsys)
    assert "Written: tables/a.csv, tables/most-anomalous.png" in out
    run("score model pictures --out tables/a.csv --sheet s.png", capsys)
    rows = rows_of("tables/a.csv")
    assert pixels("s.png") == pixels("tables/most-anomalous.png")
    largest = max(rows, key=lambda row: float(row["bits_per_dim"]))["image"]
    with Image.open("s.png") as sheet, Image.open(f"pictures/{largest}") as first:
        side = sheet.convert("L").crop((8, 8, 8 + 120, 8 + 120)).resize((8, 8), 0)
        np.testing.assert_array_equal(np.asarray(side), np.asarray(first))


def test_the_combined_score_and_a_threshold(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ordinary images are noise; flat images cost fewer bits, and are anomalous all the same."""
    random = np.random.default_rng(5)
    noise = random.integers(0, 256, (80, 1, 8, 8)).astype(np.uint8)
    np.savez(here / "ordinary.npz", x=noise[:60])
    np.savez(here / "new.npz", x=np.concatenate([noise[60:], noise[:5] * 0 + 100]))
    fit = "--threshold fit --ordinary ordinary.npz --quantile 0.9"
    out = run(f"score model new.npz {fit} --save limit.json", capsys)
    assert "limit.json" in out.splitlines()[-1]
    assert "Only 60 ordinary images: the combined score is rough" in out
    ordinary = fit_ordinary(scoring_model(), Images(noise[:60], None, 256))
    expected = score_images(
        scoring_model(), load_unsplit(here / "new.npz").images, ordinary=ordinary
    )["combined_score"]
    rows = rows_of("scores.csv")
    assert column(rows, "combined_score") == pytest.approx(expected, abs=2e-6)
    limit = json.loads((here / "limit.json").read_text())["threshold"]
    assert limit == pytest.approx(np.quantile(ordinary.own_scores, 0.9))
    assert (ordinary.own_scores > limit).sum() == 6
    answers = ["yes" if score > limit else "no" for score in expected]
    assert [row["anomalous"] for row in rows] == answers
    assert answers[20:] == ["yes"] * 5
    assert 0 <= answers[:20].count("yes") < 10
    later = run("score model new.npz --threshold limit.json --out later.csv", capsys)
    assert rows_of("later.csv") == rows
    assert f"Anomalous: {answers.count('yes')} of 25 images" in later
    assert "which 0.1 of ordinary.npz exceed" in later
    run(f"score model new.npz {fit}", capsys)  # without a name, and twice
    assert "threshold-2.json" in run(f"score model new.npz {fit}", capsys)
    assert "fitted for another model" in refused(
        "score background new.npz --threshold limit.json", capsys
    )


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
        (
            "score model pictures --labels binary.csv",
            "corrupt or no CSV file",
        ),
        ("score model pictures --labels typo.csv", "'flat/7.png' that is not among those"),
        ("score model pictures --labels two.csv", "'flat/0.png,2'"),
        ("score model pictures --labels one-kind.csv", "both kinds"),
        ("score model pictures --labels labels.csv --limit 2", "leave --limit out"),
        ("score model pictures --labels labels.csv --against rows.npz", "not allowed with"),
        ("score model rows.npz --out scores.txt", "must end in .csv"),
        ("score model rows.npz --plot scores.txt", "must end in .png, .svg"),
        ("score model rows.npz --limit 0", "whole number above 0"),
        ("score model rows.npz --combined", "name ordinary images with --ordinary"),
        ("score model rows.npz --ordinary rows.npz", "3 ordinary images are too few"),
        ("score model rows.npz --threshold none.json", "no threshold none.json"),
        (
            "score model rows.npz --threshold typo.csv",
            "typo.csv is truncated, corrupt or no thr",
        ),
        ("score model rows.npz --quantile 0.9", "goes with --threshold fit"),
        ("score model rows.npz --threshold fit --quantile 0", "between 0 and 1, as 0.99, not 0.0"),
        ("score model rows.npz --threshold fit --quantile nan", "between 0 and 1"),
        ("score model rows.npz --combined --save a.json", "goes with --threshold fit"),
        ("score model rows.npz --sheet a.gif", "must end in"),
        ("score model rows.npz --threshold typo.csv --ordinary rows.npz", "leave --ordinary out"),
    ],
)
def test_mistakes(words: str, says: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(words, capsys)
    assert not (here / "scores.csv").exists()
    assert not (here / "most-anomalous.png").exists()


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
