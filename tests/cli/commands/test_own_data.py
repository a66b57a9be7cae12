"""Your own data with commands: classes by name, moved runs, changed data, and no lost files."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from nextpixel import GatedPixelCNN, fit, load, load_data
from nextpixel.cli.main import main
from nextpixel.data import DataRecord
from nextpixel.errors import UserError
from tests.helpers import arrays, assert_refused, refused, run

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TRAIN = (
    "train --model GatedPixelCNN --model.width 4 --model.blocks 1 --model.kernel_size 3 "
    "--train.steps 2 --train.warmup 1 --train.valid_every 2 --train.batch_size 4 --device cpu "
)
MORE = "--train.steps 4 --train.valid_every 4"
TONES = {"dark": 70, "light": 200}


def save_tones(folder: Path, tones: dict[str, int], count: int = 12) -> None:
    """Saves pictures of one tone, nearly, for each class."""
    noise = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        for name, tone in tones.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                x = tone + noise.integers(0, 20, (6, 6))
                Image.fromarray(x.astype(np.uint8)).save(folder / split / name / f"{number}.png")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures of two tones, and a run on them."""
    monkeypatch.chdir(tmp_path)
    save_tones(tmp_path / "pics", TONES)
    assert main([*TRAIN.split(), "--data", "pics", "--levels", "4", "--out", "run"]) == 0
    return tmp_path


# --- classes --------------------------------------------------------------------------------------


def test_digits_in_folders_of_other_names_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    test = load_data("mnist").test
    assert test.y is not None
    for names, where in ((WORDS, "words"), ("0123456789", "digits")):
        for k in range(150):
            file = tmp_path / where / names[test.y[k]] / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(test.x[k, 0]).save(file)
    error = refused("eval mnist --data words --classify", capsys)
    assert "The class eight of words is none of the model's (0, 1, 2," in error
    shutil.rmtree(tmp_path / "digits" / "7")  # data need not have all classes
    out = run("eval mnist --data digits --classify --limit 6", capsys)
    assert "classifies 83.33 ± 16.67 %" in out  # with other ids none or one of the six were right


def test_renamed_classes_do_not_resume(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "valid", "test"):
        (place / "pics" / split / "dark").rename(place / "pics" / split / "shade")
    error = refused("train --resume run --train.steps 4", capsys)
    assert "The class shade of pics is none of the model's (0 (dark), 1 (light))" in error
    assert load("run").data_record.class_names == ("dark", "light")
    for command in ("eval run --data pics", "compare run --data pics --levels 4 --out both"):
        assert "The class shade of pics" in refused(command, capsys)


def test_a_run_resumes_without_one_of_its_classes(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "valid", "test"):
        shutil.rmtree(place / "pics" / split / "dark")
    assert "the data have changed" in refused("train --resume run --train.steps 4", capsys)
    options = "--accept-changed-data --train.steps 4 --train.valid_every 4"
    assert main(f"train --resume run {options}".split()) == 0
    record = load("run/last").data_record
    assert (record.class_names, record.untrained) == (("dark", "light"), ())


def test_a_run_with_names_of_classes_resumes_on_an_array(place: Path) -> None:
    """Its ids are taken for those of the model; the images are the same as before."""
    x = np.random.default_rng(0).integers(0, 4, (30, 1, 6, 6)).astype(np.int64)
    np.savez("ids.npz", x=x, y=np.arange(30) % 2, levels=4)
    fit(load("run"), "ids.npz", out="more", steps=2, batch_size=4, device="cpu")
    assert main(f"train --resume more {MORE}".split()) == 0
    assert load("more/last").data_record.class_names == ("dark", "light")


def test_classes_are_chosen_by_id_or_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = GatedPixelCNN(shape=(1, 4, 4), levels=2, classes=3, width=2, blocks=1)
    model.data_record = DataRecord(("0", "1", "10"))
    model.save(tmp_path / "numbers")
    model.data_record = DataRecord(("cat", "big dog", "a,b"), untrained=(1,))
    model.save(tmp_path / "names")
    to = f"-n 2 --out {tmp_path}/x.png --npz {tmp_path}/x.npz"

    def ids(name: str, choice: str) -> tuple[list[int], str]:
        capsys.readouterr()
        assert main(["sample", f"{tmp_path}/{name}", *to.split(), "--class", choice]) == 0
        y = arrays(tmp_path / "x.npz")["y"].tolist()
        return y, capsys.readouterr().out.split("\n")[0]

    assert ids("numbers", "2") == ([2, 2], "class 2: 10")
    assert ids("numbers", "10") == ([2, 2], "class 2: 10")
    assert ids("numbers", "1")[0] == [1, 1]
    assert ids("names", "cat") == ([0, 0], "class 0: cat")
    assert ids("names", "a,b") == ([2, 2], "class 2: a,b")
    assert ids("names", "cat,2")[0] == [0, 2]
    for choice, reason in (
        ("dog", "There is no class dog"),
        ("3", "of the classes 0 (cat), 1 (big dog), 2 (a,b)"),
        ("cta", "(did you mean cat?)"),
        ("1", "The class big dog had no training images"),
        ("0=5,2=5", "weights of a mix sum to 1"),
        ("0=0", "weights of a mix sum to 1"),
        ("0=2,2=-1", "weights of a mix sum to 1"),
        ("0=nan", "weights of a mix sum to 1"),
    ):
        assert reason in refused(f"sample {tmp_path}/names {to} --class {choice}", capsys)
    run(f"sample {tmp_path}/names {to} --class cat=0.5,2=0.5", capsys)
    run(f"sample {tmp_path}/numbers {to} --class 0=0.333,1=0.333,2=0.333", capsys)


def test_classes_without_training_images_are_not_sampled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = GatedPixelCNN(shape=(1, 4, 4), levels=2, classes=3, width=2, blocks=1)
    model.data_record = DataRecord(("0", "1", "2"), untrained=(0,))
    model.save(tmp_path / "model")
    to = f"--out {tmp_path}/x.png --npz {tmp_path}/x.npz"
    run(f"sample {tmp_path}/model -n 4 {to}", capsys)
    assert arrays(tmp_path / "x.npz")["y"].tolist() == [1, 2, 1, 2]


def test_an_array_that_needed_channels_needs_them_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Grey images 3 pixels wide look like one picture in colour; the model knows better."""
    monkeypatch.chdir(tmp_path)
    np.save("narrow.npy", np.random.default_rng(0).integers(0, 4, (30, 6, 3)).astype(np.uint8))
    words = "--data narrow.npy --levels 256 --channels 1 --out run"
    assert main([*TRAIN.split(), *words.split()]) == 0
    assert "(3 images)" in run("eval run", capsys)
    assert "Written: scores.csv" in run("score run narrow.npy", capsys)
    fit(load("run"), "narrow.npy", out="more", steps=1, batch_size=4, device="cpu")


def test_own_samples_are_evaluated_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("sample run --class dark -n 12 --out s.png --npz s.npz", capsys)
    assert "Anomaly scores by run" in run("score run s.npz", capsys)
    assert "(1 image)" in run("eval run --data s.npz", capsys)
    assert "Written: c.png" in run("complete run s.npz --out c.png", capsys)


def test_unlabelled_pictures_point_to_score(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        (place / "plain").mkdir(exist_ok=True)
        shutil.copy(place / "pics/train/dark/0.png", place / "plain" / f"{number}.png")
    assert "nextpixel score" in refused("eval run --data plain", capsys)
    assert "nextpixel score" in refused("complete run plain --out x.png", capsys)
    assert "plain" in run("score run plain", capsys)


# --- moved runs -----------------------------------------------------------------------------------


def test_a_run_finds_its_data_from_any_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = yaml.safe_load((place / "run" / "config.yaml").read_text())
    assert saved["data"] == str(place / "pics")
    here = run("eval run", capsys).partition(": ")[2]
    (place / "else").mkdir()
    save_tones(place / "else" / "pics", {"dark": 90, "light": 10})
    monkeypatch.chdir(place / "else")
    assert run("eval ../run", capsys).partition(": ")[2] == here
    assert (
        main(["train", "--resume", "../run", "--train.steps", "4", "--train.valid_every", "4"]) == 0
    )
    other = yaml.safe_load((place / "run" / "config.yaml").read_text())
    assert other["data"] == str(place / "pics")


def test_data_that_are_gone_are_asked_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "pics").rename(place / "moved")
    for words in ("eval run", "train --resume run --train.steps 4", "score run"):
        assert f"The data of run are not at {place}/pics: name " in refused(words, capsys)
    run("eval run --data moved", capsys)


def test_scores_of_the_data_of_a_run_have_file_names(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("score run --out a.csv", capsys)
    assert "pics (test),test/dark/0.png,dark," in Path("a.csv").read_text()


def test_commands_to_go_on_quote_the_folder(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN.split(), "--data", "pics", "--out", "my run"]) == 0
    assert "try nextpixel eval 'my run', nextpixel sample 'my run'" in capsys.readouterr().out
    assert main([*TRAIN.split(), "--data", "pics", "--out", "my run"]) == 2
    assert "--resume 'my run'" in capsys.readouterr().err


def test_other_data_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "pics").rename(place / "old")
    save_tones(place / "pics", {"dark": 90, "light": 10})
    error = refused("eval run", capsys)
    assert "have changed since" in error
    assert "--data" in error
    run("eval run --data pics", capsys)
    error = refused("train --resume run --train.steps 4", capsys)
    assert "the data have changed" in error
    assert "--accept-changed-data" in error
    # The same pictures in another place, written at another time, are the same.
    shutil.copytree(place / "old", place / "moved", copy_function=shutil.copyfile)
    options = "--data moved --train.steps 4 --train.valid_every 4"
    assert main(f"train --resume run {options}".split()) == 0


def test_a_run_on_data_made_in_python_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that happens to have the name of the data is not taken for them."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(0, 4, (30, 1, 6, 6)).astype(np.int64)
    model = GatedPixelCNN(shape=(1, 6, 6), levels=4, width=4, blocks=1)
    fit(model, x, out="run", steps=2, batch_size=4, device="cpu")
    save_tones(tmp_path / "pictures", TONES)
    for command in ("eval run", "score run", "score run --combined", "complete run"):
        assert "It is not known which data run was trained on" in refused(command, capsys)
    for command in (f"--resume run {MORE}", "--config run/config.yaml --out other"):
        assert "trained on data made in Python" in refused(f"train {command}", capsys)
    np.savez("same.npz", x=x, levels=4)
    assert "(3 images)" in run("eval run --data same.npz", capsys)
    assert main(f"train --resume run --data same.npz {MORE}".split()) == 0
    assert "(3 images)" in run("eval run", capsys)


def test_a_run_on_data_loaded_in_python_finds_them(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = GatedPixelCNN(shape=(1, 6, 6), levels=4, classes=2, width=4, blocks=1)
    data = load_data("pics", levels=4)
    with pytest.raises(UserError, match="among the data"):
        fit(model, data, out="pics/run", steps=2)
    fit(model, data, out="loaded", steps=2, batch_size=4, device="cpu")
    (place / "else").mkdir()
    monkeypatch.chdir(place / "else")
    assert f"({len(data.test)} images)" in run("eval ../loaded", capsys)
    assert main(f"train --resume ../loaded {MORE}".split()) == 0


# --- files of the user ----------------------------------------------------------------------------


def test_files_that_were_not_named_are_not_overwritten(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pics.png", "samples.png", "scores.csv", "completions.png"):
        (place / name).write_text("mine")
    assert "some of them: pics-2.png" in run("data pics", capsys)
    assert "some of them: pics-3.png" in run("data pics", capsys)
    assert "samples-2.png" in run("sample run --class dark -n 1", capsys)
    assert "scores-2.csv" in run("score run pics/test", capsys)
    assert "completions-2.png" in run("complete run pics/test -n 1", capsys)
    for name in ("pics.png", "samples.png", "scores.csv", "completions.png"):
        assert (place / name).read_text() == "mine"
    assert "samples.png" in run("sample run --class dark -n 1 --out samples.png", capsys)
    assert (place / "samples.png").read_bytes()[:4] == b"\x89PNG"  # it was named


@pytest.mark.parametrize(
    "words",
    [
        "data .",
        "data . --out sheet.png",
        f"{TRAIN} --data . --out run",
        "start .",
        "complete ../run .",
        "complete ../run",
        "sample ../run",
        "score ../run",
        "score ../run ../more --ordinary .",
        "score ../run ../more --against .",
        "score ../run ../more --threshold fit --out scores.csv --sheet ../s.png",
        "score ../run --data .",
        "score ../run test",
    ],
)
def test_nothing_is_written_into_the_data(
    words: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tones(place / "more", TONES, 1)
    monkeypatch.chdir(place / "pics")
    if words.endswith(" test"):  # beside the images, not among them
        run(f"{words} --out ../scores.csv", capsys)
        return
    assert_refused(words, "among the data", place, capsys)


def test_data_counts_doubles(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no image occurs twice" in run("data pics", capsys)
    shutil.copy(place / "pics/train/dark/3.png", place / "pics/test/dark/copy.png")
    out = run("data pics", capsys)
    assert "doubles of earlier images: 1 (1 in another split)" in out
    assert "train/dark/3.png = test/dark/copy.png" in out


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 on this system")
def test_a_path_that_is_not_utf8_can_be_trained_from_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data, x = os.fsdecode(b"dig\xffits.npz"), np.random.default_rng(0).integers(0, 256, (30, 5, 5))
    np.savez("a.npz", x=x.astype(np.uint8))
    Path("a.npz").rename(data)
    assert main([*TRAIN.split(), "--data", data, "--out", "run"]) == 0
    monkeypatch.chdir("run")
    assert main(["train", "--resume", ".", "--train.steps", "3"]) == 0
    assert main(["eval", ".", "--limit", "2"]) == 0
    assert "(2 images)" in capsys.readouterr().out
    assert main([*TRAIN.split(), "--data", "../" + data, "--out", data]) == 2
    assert "is not UTF-8: name another run folder." in capsys.readouterr().err


def test_sizes_are_checked_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save("a.png")
    Path("pictures").mkdir()
    for i in range(12):
        shutil.copy("a.png", f"pictures/{i}.png")
    train = "train --data pictures --out run --yes"
    assert "resize is 1000000: give the side" in refused(f"{train} --resize 1000000", capsys)
    error = refused(f"{train} --model PixelCNN --model.blocks 10000000", capsys)
    assert "PixelCNN has blocks above 65,536: make it smaller." in error
    error = refused(f"{train} --model PixelCNN --model.width 20000", capsys)
    assert "parameters, too many here: make it smaller." in error
    error = refused(f"{train} --model PixelCNN --model.width 1 --model.blocks 60000", capsys)
    assert "PixelCNN has more than 5,000 layers, too many here: make it smaller." in error
    assert not Path("run").exists()
    os.mkfifo("pipe.png")
    assert "pipe.png is a pipe, a device or a folder: give a file" in refused(
        "complete mnist pipe.png --keep top --out x.png", capsys
    )
