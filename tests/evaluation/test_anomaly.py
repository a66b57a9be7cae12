"""Anomaly scores: the scores themselves, their AUROC, and labels."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel.data import Images
from nextpixel.data.images import Unsplit
from nextpixel.data.levels import level_type
from nextpixel.errors import UserError
from nextpixel.evaluation.anomaly import (
    CODECS,
    auroc,
    complexity_bits,
    fit_ordinary,
    groups,
    image_columns,
    mixture_bits,
    most_anomalous,
    primary,
    read_labels,
    score_images,
    site_bits,
    table,
    write_csv,
)
from tests.helpers import NOISE, scoring_model

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
    model, background = scoring_model(), scoring_model(inputs="embedded")
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
    model = scoring_model(classes=3, shape=(1, 2, 2)).double()
    with torch.no_grad():
        p = torch.stack([model.log_prob(x, c).exp() for c in range(3)])  # of 4 pixels: no underflow
        assert (p.max(0).values / p.min(0).values > 1.05).all()
        torch.testing.assert_close(mixture_bits(model, x), -torch.log2(p.mean(0)))


@pytest.mark.parametrize("classes", [None, 3])
def test_bits_of_sites_add_up_and_look_at_no_later_site(classes: int | None) -> None:
    x = torch.from_numpy(NOISE)
    model = scoring_model(classes=classes).double()
    with torch.no_grad():
        bits = site_bits(model, x)
        assert bits.shape == x.shape
        torch.testing.assert_close(bits.sum((1, 2, 3)), mixture_bits(model, x))
        changed = x.clone()
        changed[:, :, 5:] = 255 - changed[:, :, 5:]
        torch.testing.assert_close(site_bits(model, changed)[:, :, :5], bits[:, :, :5])


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="levels"):
        score_images(scoring_model(), Images(NOISE // 64, None, 4))
    with pytest.raises(UserError, match="fit the model"):
        score_images(scoring_model(), Images(NOISE[:, :, :4], None, 256))
    with pytest.raises(UserError, match="fit the model"):
        score_images(
            scoring_model(), Images(NOISE, None, 256), background=scoring_model(shape=(1, 4, 4))
        )
    with pytest.raises(UserError, match="nothing to score"):
        score_images(scoring_model(), Images(NOISE[:0], None, 256))


def test_the_combined_score_is_for_pictures() -> None:
    model = scoring_model(shape=(2, 8, 8))
    with pytest.raises(UserError, match="for grey or colour pictures"):
        fit_ordinary(model, Images(np.zeros((30, 2, 8, 8), np.uint8), None, 256))
    for shape, levels in (((1, 1, 8), 256), ((1, 8, 1), 256), ((1, 8, 8), 257)):
        images = Images(np.zeros((30, *shape), level_type(levels)), None, levels)
        with pytest.raises(UserError, match="for grey or colour pictures"):
            fit_ordinary(scoring_model(shape=shape, levels=levels), images)


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
        if options["format"] == "JPEG2000":
            assert file.getvalue().startswith(b"\xff\x4f")  # without a container, as in the paper
        mode = "RGB" if channels == 3 else "L"
        decoded = np.asarray(Image.open(file).convert(mode)).reshape(pixels.shape)
        np.testing.assert_array_equal(decoded, pixels)
    assert len(set(sizes)) == len(CODECS) == 3
    assert complexity_bits(noise) == min(sizes)
    assert complexity_bits(noise) > 8 * noise.size  # noise cannot be compressed
    assert complexity_bits(np.zeros_like(noise)) < complexity_bits(ramp) < min(sizes)


# --- images and labels ----------------------------------------------------------------------------


def test_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("file,label\nb,1\na, 0\n\n")
    odd = read_labels(path, ["a", "b", "c"])
    assert odd[:2] == [0, 1]
    assert math.isnan(odd[2])
    path.write_text("a,0\nb,1\n")
    assert read_labels(path, ["b", "a"]) == [1, 0]
    assert read_labels(path, ["b", "a", "c", "c"])[:2] == [1, 0]
    path.write_text("images\na,0\nb,1\n")  # a header of one column
    assert read_labels(path, ["a", "b"]) == [0, 1]
    path.write_text("1,0\n0,1\n")  # no header, although names look like labels
    assert read_labels(path, ["0", "1"]) == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,0\nb,2\n", "has a line 'b,2'"),
        ("a,0\nb,1,1\n", "has a line 'b,1,1'"),
        ("a,0\nb\n", "has a line 'b'"),
        ("a,0\na,1\n", "names the image 'a' twice"),
        ("a,0\nz,1\n", "image 'z' that is not among those to score: .* for example a"),
        ("a,0\nb,0\n", "both kinds"),
        ("", "both kinds"),
    ],
)
def test_wrong_labels_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_labels(path, ["a", "b"])
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_labels(tmp_path / "none.csv", ["a"])


# --- tables ---------------------------------------------------------------------------------------

NORMAL = Unsplit(Images(NOISE[:2], np.array([1, 0]), 256), ["a.png", "b.png"], ("cat", "dog"))
ODD = Unsplit(Images(NOISE[2:], None, 256), ["0"], None)


def test_columns_and_groups_of_one_set_and_of_two() -> None:
    one = image_columns([(NORMAL, "pets")])
    assert one == {"data": ["pets"] * 2, "image": ["a.png", "b.png"], "label": ["dog", "cat"]}
    assert {name: members.tolist() for name, members in groups(one).items()} == {
        "pets": [True, True]
    }
    labelled = groups({**one, "anomaly": [1, 0]})
    assert {name: members.tolist() for name, members in labelled.items()} == {
        "normal": [False, True],
        "anomalous": [True, False],
    }
    two = image_columns([(NORMAL, "pets"), (ODD, "cars")])
    assert two == {
        "data": ["pets", "pets", "cars"],
        "image": ["a.png", "b.png", "0"],
        "label": ["dog", "cat", ""],
        "anomaly": [0, 0, 1],
    }
    members = {name: members.tolist() for name, members in groups(two).items()}
    assert list(members) == ["normal: pets", "anomalous: cars"]  # anomalous ones come last
    assert list(members.values()) == [[True, True, False], [False, False, True]]
    assert "label" not in image_columns([(ODD, "cars")])
    unnamed = NORMAL._replace(class_names=None)
    assert "label" not in image_columns([(unnamed, "pets")])


def test_a_csv_of_scores(tmp_path: Path) -> None:
    columns = {"image": ["a, b", "c"], "anomaly": [0, 1], "score": np.array([1 / 3, math.nan])}
    write_csv(tmp_path / "scores.csv", columns)
    assert (tmp_path / "scores.csv").read_bytes() == (
        b'image,anomaly,score\n"a, b",0,0.333333\nc,1,\n'
    )


def test_a_table_of_scores() -> None:
    scores = {"bits_per_dim": np.array([1.0, 2.0, 3.0, 2.0]), "other": np.array([4.0, 4, 4, 0])}
    odd = np.array([False, False, True, True])
    assert table(scores, {"normal": ~odd, "anomalous": odd}) == (
        "mean          normal           anomalous        AUROC\n"
        "bits_per_dim  1.5000 ± 0.5000  2.5000 ± 0.5000  0.8750 ± 0.1768\n"
        "other         4.0000 ± 0.0000  2.0000 ± 2.0000  0.2500 ± 0.2500"
    )
    assert table({"other": scores["other"][:2]}, {"all": odd[:2] == 0}) == (
        "mean   all\nother  4.0000 ± 0.0000"
    )


def test_the_most_anomalous_five() -> None:
    values = np.array([1.0, 5, 2, 5, 3, 0, 4])
    assert most_anomalous({"a": values, "b": -values[:2]}, list("tuvwxyz")) == (
        "most anomalous by a: u (5.0000), w (5.0000), z (4.0000), x (3.0000), v (2.0000)\n"
        "most anomalous by b: t (-1.0000), u (-5.0000)"
    )


def test_the_score_to_rely_on() -> None:
    names = ["bits_per_dim", "likelihood_ratio", "complexity_score", "combined_score"]
    scores = {name: np.zeros(1) for name in names}
    while names:
        assert primary(scores) == names[-1]
        del scores[names.pop()]
