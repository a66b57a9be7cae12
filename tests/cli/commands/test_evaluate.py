"""`nextpixel eval`: scores and classification of a trained run, damaged models, and mistakes."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel import load, load_data
from nextpixel.data.folders import PICTURE_FILES, find_files
from nextpixel.data.user_data import load_user_data
from nextpixel.evaluation.likelihood import classify, evaluate
from nextpixel.evaluation.scale import bits_on_scale, scale_in_words
from tests.helpers import assert_refused, process, refused, run, scoring_model, size


def test_eval_prints_nothing_but_json(folder: Path) -> None:
    done = process("eval run/best --limit 500 --json", cwd=folder)
    score = json.loads(done.stdout)
    assert done.stderr == ""
    assert (score["data"], score["split"], score["images"]) == ("mnist", "test", 500)
    assert score["nats"] == pytest.approx(score["bits_per_dim"] * 784 * math.log(2))
    assert 1.5 < score["bits_per_dim"] < 2.1  # 2 bits is what knowing nothing costs
    assert 0 < score["nats_error"] < 30


@pytest.mark.parametrize("name", ["run", "run/best", "run/last", "run/best/config.json"])
def test_a_run_and_its_models_are_found(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(f"eval {name} --limit 3", capsys)
    model = load(name)
    score = evaluate(model, load_data("mnist", levels=4).test, limit=3)
    line, scale, *_ = out.splitlines()
    assert line == f"{name} on mnist (test, given the class): {score}"
    assert f"this model {score.bits_per_dim:.4f}" in scale


def test_eval_of_one_image_is_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = json.loads(run("eval run --limit 1 --json", capsys), parse_constant=pytest.fail)
    assert (score["images"], score["nats_error"]) == (1, None)


def test_eval_classifies(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = classify(load("run"), load_data("mnist", levels=4).test, limit=12)
    out = run("eval run --limit 12 --classify --plot confusion.png", capsys)
    assert out.splitlines()[-1:] == [f"It {found}"]
    assert size("confusion.png") > (300, 300)
    score = json.loads(run("eval run --limit 12 --classify --json", capsys))
    assert score["accuracy"] == found.accuracy
    assert score["confusion"] == found.confusion.tolist()
    assert "bits_per_dim" in score
    one = run("eval run --limit 1 --classify --json", capsys)
    assert json.loads(one, parse_constant=pytest.fail)["accuracy_error"] is None


def damage_config(model: Path) -> None:
    (model / "config.json").write_text("{")


def damage_weights(model: Path) -> None:
    weights = next(model.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])


def remove_weights(model: Path) -> None:
    next(model.glob("*.safetensors")).unlink()


def widen_config(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["hyperparameters"]["width"] = 16
    (model / "config.json").write_text(json.dumps(config))


def test_eval_says_where_the_score_stands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_data("mnist", levels=4)
    scale = bits_on_scale(data.test.subset(3), data.train)
    found = json.loads(run("eval run --limit 3 --json", capsys))
    assert found["scale"] == scale
    assert list(scale) == ["uniform", "unigram", "png", "webp"]
    lines = run("eval run --limit 3", capsys).splitlines()[1:]
    assert "\n".join(lines) == scale_in_words(found["bits_per_dim"], scale, 3)


def test_eval_says_which_share_of_a_folder_it_scores(
    folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seven = np.asarray(load_data("mnist").test.x[0, 0])
    scoring_model(shape=(1, 28, 28)).save(here / "plain")
    (here / "pics").mkdir()
    for number in range(48):
        Image.fromarray(seven - number % 3).save(here / "pics" / f"{number}.png")
    count = sum(file.split == "test" for file in find_files(here / "pics", PICTURE_FILES))
    assert 0 < count < 12
    out = run("eval plain --data pics", capsys)
    assert f"Scored {count} of 48 images of pics; --split all scores all of them\n" in out
    found = json.loads(run("eval plain --data pics --json", capsys))
    assert (found["images"], found["out_of"]) == (count, 48)
    out = run("eval plain --data pics --split all", capsys)
    assert "(48 images)" in out
    assert "Scored" not in out
    every = load_user_data(here / "pics", resize=28, channels=1).all
    score = evaluate(load("plain"), every)
    assert f"{score}" in out
    assert sorted(every.x[:, 0, 7, 7]) == sorted(int(seven[7, 7] - n % 3) % 256 for n in range(48))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_config, "no configuration of a model"),
        (damage_weights, "wrong sha256"),
        (remove_weights, "is missing"),
        (widen_config, "do not fit"),
    ],
)
def test_damaged_models(
    damage, reason: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("run", tmp_path / "damaged")
    damage(tmp_path / "damaged" / "best")
    assert reason in refused(f"eval {tmp_path}/damaged", capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("eval", "required: MODEL"),
        ("eval nothing", "nothing does not exist"),
        ("eval my_file.py", "no saved model"),
        ("eval run --data nothing", "no data set, file or folder 'nothing'"),
        ("eval run --data binarized-mnist", "2 levels"),
        ("eval run --data corrupt.png", "IDX"),
        ("eval run --split every", "--split"),
        ("eval run --limit 0", "whole number above 0"),
        ("eval run --limit ²", "whole number above 0"),
        ("eval run --data-dir nothing", "nothing does not exist"),
        ("eval run --threads 0", "whole number above 0"),
        ("eval run --device gpu", "Unknown device gpu"),
        ("eval run --device meta", "Unknown device meta"),
        ("eval run --device cuda:99", "no device cuda:99"),
        ("eval run --bogus", "--bogus"),
        ("eval run --plot c.png", "give both"),
        ("eval run --classify --plot c.jpg", ".png"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(words, reason, here, capsys)
