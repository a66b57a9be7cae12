"""The commands as a user gives them: on real digits, from training to completion, and all mistakes.

A command runs as a process of its own where that is what is tested, and by `main` elsewhere.
"""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nextpixel import GatedPixelCNN, load, load_data
from nextpixel.cli import main as cli_main
from nextpixel.cli.main import main
from nextpixel.conditioning.regions import box_mask
from nextpixel.data import DataRecord
from nextpixel.evaluation.likelihood import classify, evaluate
from nextpixel.sampling.particles import complete_with_particles
from nextpixel.saving import Model
from nextpixel.viz import images as pictures

SMALL = "--data mnist --levels 4 --train.batch_size 8 --train.valid_images 16"
TINY = f"{SMALL} --model GatedPixelCNN --model.width 8 --model.blocks 2 --model.kernel_size 3"
BUFFERED = {**os.environ, "PYTHONUNBUFFERED": ""}  # what is printed waits for the end
MY_FILE = """
import torch
from nextpixel import AutoregressiveModel, Categorical

class MyNet(AutoregressiveModel):
    def __init__(self, *, shape, levels, classes=None, scale: float = 1.0):
        super().__init__(shape=shape, levels=levels, classes=classes, scale=scale)
        self.logits = torch.nn.Parameter(torch.zeros(*shape, levels))

    def forward(self, x, c=None):
        self.check(x)
        logits = self.logits * self.hyperparameters["scale"]
        return Categorical(logits.expand(len(x), *logits.shape))

class Narrow(MyNet):
    def __init__(self, *, shape, levels, classes=None, width: int = 9):
        if width > 5:
            raise ValueError("width is at most 5")
        super().__init__(shape=shape, levels=levels, classes=classes)

class NoClasses(MyNet):
    def __init__(self, *, shape, levels):
        super().__init__(shape=shape, levels=levels)
"""


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "nextpixel", *" ".join(map(str, words)).split()]


def process(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command that must succeed, without a warning."""
    done = subprocess.run(command(*words), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, some pictures and masks, and models in a file."""
    folder = tmp_path_factory.mktemp("cli")
    process("train", TINY, "--train.steps 8 --out run", cwd=folder)
    (folder / "my_file.py").write_text(MY_FILE)
    seven = np.asarray(load_data("mnist").test.x[0, 0])
    Image.fromarray(seven).save(folder / "seven.png")
    Image.fromarray(seven).resize((40, 30)).save(folder / "wide.png")
    (folder / "corrupt.png").write_bytes((folder / "seven.png").read_bytes()[:100])
    mask = np.zeros((28, 28), np.uint8)
    Image.fromarray(mask).save(folder / "empty.png")
    mask[5:20, 8:20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "broken.yaml").write_text("{{")
    (folder / "text.yaml").write_text("hello")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    (folder / "typo.yaml").write_text("train: {stpes: 3}")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, as the current one."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


def size(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def pixels(path: str | Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def arrays(path: str | Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def run(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must succeed, and returns what it prints."""
    status = main(words.split())
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def refused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must be refused in one line, and returns that line."""
    status = main(words.split())
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("nextpixel: ")
    assert err.endswith(".\n")
    assert err.count("\n") == 1
    return err


def mean_bits(out: str) -> float:
    return float(out.split("mean:")[1].split("bits")[0])


# --- the way from training to completion ----------------------------------------------------------


def test_train_leaves_a_run(folder: Path) -> None:
    run = folder / "run"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))
    assert size(run / "samples" / "step-0000008.png") > (100, 100)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["width"] == 8
    assert load(run).hyperparameters["levels"] == 4


def test_eval_prints_nothing_but_json(folder: Path) -> None:
    done = process("eval run/best --json", cwd=folder)
    score = json.loads(done.stdout)
    assert done.stderr == ""
    assert (score["data"], score["split"], score["images"]) == ("mnist", "test", 10_000)
    assert score["nats"] == pytest.approx(score["bits_per_dim"] * 784 * math.log(2))
    assert 1.5 < score["bits_per_dim"] < 2.1  # 2 bits is what knowing nothing costs
    assert 0 < score["nats_error"] < 10


def test_sample_draws_what_python_draws(folder: Path) -> None:
    done = process(
        "sample run -n 6 --class 3 --seed 5 --out out/s.png --npz out/s.npz --gif out/s.gif",
        cwd=folder,
    )
    assert done.stdout == "Sampled 6 images: out/s.png, out/s.gif, out/s.npz\n"
    drawn = arrays(folder / "out" / "s.npz")
    expected = load(folder / "run").sample(6, torch.full((6,), 3), seed=5)
    np.testing.assert_array_equal(drawn["x"], expected.numpy())
    assert (drawn["y"].tolist(), drawn["levels"], drawn["x"].dtype) == ([3] * 6, 4, np.uint8)
    with Image.open(folder / "out" / "s.gif") as film:
        assert film.n_frames > 50
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["s.gif", "s.npz", "s.png"]


def test_complete_hides_the_bottom_of_test_images(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = process("complete run -n 2 --draws 3 --out halves.png", cwd=here)
    assert "The 392 hidden pixels" in done.stdout
    assert "raster order" in done.stdout
    one = run("complete run -n 2 --draws 1 --out one.png", capsys)
    assert one.replace("one.png", "halves.png") == done.stdout  # the bits are of the images
    (width, height), (other_width, other_height) = size("halves.png"), size("one.png")
    assert width > other_width
    assert height >= other_height


def test_complete_reports_how_the_particles_fared(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = "-n 2 --draws 2 --box 8,0,2,28 --out p.png"
    out = run(f"complete run {box} --particles 8", capsys)
    assert "The 56 hidden pixels" in out
    assert "of 8 particles" in out
    data = load_data("mnist", levels=4).test.spread(2)
    x, y = map(torch.from_numpy, data.batch(np.arange(2)))
    mask = ~box_mask(8, 0, 2, 28, (28, 28))
    x, y = x.repeat(2, 1, 1, 1), y.repeat(2)
    done = complete_with_particles(load("run"), x, mask, y, particles=8)
    evidence = done.log_evidence.view(2, 2).logsumexp(0) - math.log(2)
    for number, (size, nats) in enumerate(
        zip(done.least_effective.view(2, 2).amin(0), evidence, strict=True)
    ):
        assert f"  image {number}: {size:8.1f}, {nats:.2f} nats\n" in out
    assert ("Warning: for " in out) == bool((done.least_effective < 2).any())
    assert "Warning: for 2 of 2 images" in run(f"complete run {box} --particles 2", capsys)
    assert "particles" not in run(f"complete run {box}", capsys).replace("--particles 64", "")


# --- what the commands do -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help"], 0),
        (["smaple", "mnist-gated"], 2),
        (["complete", "run", "--particels", "2"], 2),
        (["sample", "--hepl"], 2),
        (["sample", "run", "--class"], 2),
    ],
)
def test_help_and_mistakes_need_no_torch(words: list[str], expected: int) -> None:
    code = (
        "import sys; from nextpixel.cli.main import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'PIL', 'jsonargparse'} & set(sys.modules); "
        "sys.exit(99 if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == expected, done.stderr


@pytest.mark.parametrize("name", [name for name in cli_main.COMMANDS if name != "train"])
def test_the_help_of_a_command_needs_no_torch(name: str) -> None:
    code = (
        "import atexit, os, sys; from nextpixel.cli.main import main; "
        "atexit.register(lambda: {'torch', 'numpy', 'PIL'} & set(sys.modules) and os._exit(99)); "
        "main(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, name, "--help"], capture_output=True)
    assert done.returncode == 0


def test_help_shows_all_commands_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    out = run("--help", capsys)
    modules = {
        path.stem for path in Path(cli_main.__file__).with_name("commands").glob("[a-z]*.py")
    }
    assert modules == {
        cli_main.MODULES.get(name, name).replace("-", "_") for name in cli_main.COMMANDS
    }
    for group, names in cli_main.GROUPS.items():
        assert f"\n{group}:\n  {names[0]} " in out
        for name in names:
            assert f"\n  {name} " in out


@pytest.mark.parametrize("name", cli_main.COMMANDS)
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: nextpixel {name}" in out
    assert f"nextpixel {name}" in out.split("xample")[1]


@pytest.mark.parametrize("name", [name for name in cli_main.COMMANDS if name != "train"])
def test_examples_can_be_read(name: str) -> None:
    for example in cli_main.command(name).EXAMPLES:
        program, of, *words = example.split()
        assert program == "nextpixel"
        assert of in cli_main.COMMANDS
        cli_main.read(of, cli_main.command(of), words)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version", capsys)[0].isdigit()


@pytest.mark.parametrize("name", ["run", "run/best", "run/last", "run/best/config.json"])
def test_a_run_and_its_models_are_found(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(f"eval {name} --limit 3", capsys)
    model = load(name)
    score = evaluate(model, load_data("mnist", levels=4).test, limit=3)
    assert out == f"{name} on mnist (test, given the class): {score}\n"


def test_eval_of_one_image_is_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = json.loads(run("eval run --limit 1 --json", capsys), parse_constant=pytest.fail)
    assert (score["images"], score["nats_error"]) == (1, None)


def test_eval_classifies(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = classify(load("run"), load_data("mnist", levels=4).test, limit=12)
    out = run("eval run --limit 12 --classify --plot confusion.png", capsys)
    assert out.splitlines()[1:] == [f"It {found}"]
    assert size("confusion.png") > (300, 300)
    score = json.loads(run("eval run --limit 12 --classify --json", capsys))
    assert score["accuracy"] == found.accuracy
    assert score["confusion"] == found.confusion.tolist()
    assert "bits_per_dim" in score
    one = run("eval run --limit 1 --classify --json", capsys)
    assert json.loads(one, parse_constant=pytest.fail)["accuracy_error"] is None


def test_sample_draws_a_class_a_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Sampled 80 images" in run("sample run --out rows.png --npz rows.npz", capsys)
    drawn = arrays("rows.npz")
    assert drawn["y"].tolist() == 8 * list(range(10))
    x = drawn["x"].reshape(8, 10, 1, 28, 28).swapaxes(0, 1).reshape(-1, 1, 28, 28)
    expected = pictures.grid(x, 4, columns=8, row_labels=list("0123456789"))
    assert pixels("rows.png") == expected.tobytes()
    run("sample run -n 5 --class 3,7 --out rows.png --npz rows.npz", capsys)
    expected = pictures.grid(
        arrays("rows.npz")["x"], 4, columns=3, places=[0, 3, 1, 4, 2], row_labels=["3", "7"]
    )
    assert pixels("rows.png") == expected.tobytes()
    run("sample run -n 2 --class 3,7,9 --out few.png --npz few.npz", capsys)
    assert pixels("few.png") == pictures.grid(arrays("few.npz")["x"], 4).tobytes()
    run("sample run -n 5 --class 3,7 --columns 5 --out row.png", capsys)
    assert pixels("row.png") == pictures.grid(arrays("rows.npz")["x"], 4, columns=5).tobytes()


def test_sample_names_the_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = GatedPixelCNN(shape=(1, 4, 4), levels=2, classes=10, width=2, blocks=1)
    model.save(tmp_path / "ids")
    model.data_record = DataRecord(tuple(f"number {i}" for i in range(10)))
    model.save(tmp_path / "names")
    for name in ("ids", "names"):
        run(f"sample {tmp_path / name} --class 0,9 -n 2 --out {tmp_path / name}.png", capsys)
    assert size(tmp_path / "names.png")[0] > size(tmp_path / "ids.png")[0] + 40


def test_interpolation_keeps_the_noise_in_a_row(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        "sample run --interpolate --class 3,8 -n 2 --columns 3 --seed 5 --out i.png --npz i.npz",
        capsys,
    )
    mixes = torch.zeros(3, 10)
    mixes[:, 3], mixes[:, 8] = torch.tensor([1, 0.5, 0]), torch.tensor([0, 0.5, 1])
    expected = [load("run").sample(1, c, seed=5, numbers=[row]) for row in (0, 1) for c in mixes]
    drawn = arrays("i.npz")["x"]
    np.testing.assert_array_equal(drawn, torch.cat(expected).numpy())
    grid = pictures.grid(drawn, 4, columns=3, column_labels=["3", "50 %", "8"])
    assert pixels("i.png") == grid.tobytes()


def test_sample_takes_classes_in_turn_and_mixed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sample run -n 4 --class 3,5 --out a.png --npz turn.npz", capsys)
    assert arrays("turn.npz")["y"].tolist() == [3, 5, 3, 5]
    run("sample run -n 4 --class 3=0.25,5=0.75 --out a.png --npz mix.npz", capsys)
    mix = torch.tensor([0, 0, 0, 0.25, 0, 0.75, 0, 0, 0, 0])
    drawn = arrays("mix.npz")
    np.testing.assert_array_equal(drawn["x"], load("run").sample(4, mix).numpy())
    assert "y" not in drawn


def test_all_at_once_is_shown_beside(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("sample run -n 2 --out right.png", capsys)
    run("sample run -n 2 --all-at-once --out both.png", capsys)
    assert size("both.png")[0] > 2 * size("right.png")[0]


@pytest.mark.parametrize(
    ("hidden", "count"),
    [
        ("--keep top", 392),
        ("--hide left", 392),
        ("--box 2,3,4,5", 20),
        ("--mask mask.png", 180),
    ],
)
def test_complete_a_picture(
    hidden: str, count: int, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(f"complete run seven.png --class 7 --draws 1 --out c.png {hidden}", capsys)
    assert f"The {count} hidden pixels" in out
    assert count < mean_bits(out) < 3 * count


def test_bits_are_those_of_the_hidden_half(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("complete run -n 1 --draws 1 --hide top --out c.png", capsys)
    x, y = map(torch.from_numpy, load_data("mnist", levels=4).test.batch(np.arange(1)))
    with torch.no_grad():
        bits = load("run")(x, y).log_prob(x)[..., :14, :].sum() / -math.log(2)
    assert mean_bits(out) == pytest.approx(bits.item(), abs=0.06)
    kept = run("complete run -n 1 --draws 1 --keep bottom --out c.png", capsys)
    assert kept == out


def test_a_wide_picture_is_cut_and_resized(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("complete run wide.png seven.png --class 7 --draws 1 --out c.png", capsys)
    assert size("c.png") > (100, 100)


def test_data_lists_what_is_present(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("data", capsys)
    for name in ("mnist", "fashion-mnist", "cifar10", "binarized-mnist", "mnist-dynamic"):
        assert f"\n{name} " in f"\n{out}"


def test_data_describes_a_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run("data mnist-dynamic --out shown/dynamic.png", capsys)
    assert "1 x 28 x 28, 2 levels" in out
    assert "train   55,000 images, mean 0.1307" in out
    assert "test    10,000 images, mean 0.132" in out
    assert "0 5434, 1 6212" in out
    with Image.open("shown/dynamic.png") as picture:
        assert set(np.unique(np.asarray(picture))) == {0, 244, 255}  # bits, and the paper


def test_data_describes_your_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = load_data("mnist").test
    np.savez("own.npz", x=test.x[:40], y=test.y[:40])
    assert "train       32 images" in run("data own.npz", capsys)
    assert size("own.png") > (100, 100)


def test_a_model_trained_on_a_folder_is_scored_on_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = load_data("mnist").test
    for number in range(60):
        path = Path("pictures/photos") / str(test.y[number] % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.x[number, 0]).save(path)
    words = "--data pictures/photos --size 14 --levels 4 --train.batch_size 2 --train.steps 1"
    model = "--model PixelCNN --model.width 8 --model.blocks 1"
    assert main(f"train --out own {model} {words}".split()) == 0
    capsys.readouterr()
    assert "own on photos (test, given the class)" in run("eval own", capsys)


def test_a_model_of_your_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--train.steps 2 --model my_file.MyNet --model.scale 2 --out mine"
    script = Path(sys.executable).with_name("nextpixel")  # Python itself does not look here then
    subprocess.run([script, "train", *f"{SMALL} {words}".split()], cwd=here, check=True)
    config = yaml.safe_load(Path("mine/config.yaml").read_text())
    assert config["model"] == {"class_path": "my_file.MyNet", "init_args": {"scale": 2.0}}
    assert (
        main(["train", "--resume", "mine", "--trust", "--train.steps", "3", "--data-dir", "."]) == 0
    )
    assert "nextpixel eval mine --trust, nextpixel sample mine --trust" in capsys.readouterr().out
    assert len(Path("mine/metrics.jsonl").read_text().splitlines()) == 3
    assert "my_file.MyNet" in run("models mine --trust", capsys)
    run("sample mine --trust -n 1 --out a.png", capsys)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("bogus", "no command bogus"),
        ("eval", "required: MODEL"),
        ("eval nothing", "nothing does not exist"),
        ("eval my_file.py", "no saved model"),
        ("eval run --data nothing", "no data set, file or folder 'nothing'"),
        ("eval run --data binarized-mnist", "2 levels"),
        ("eval run --data corrupt.png", "IDX"),
        ("eval run --split all", "--split"),
        ("eval run --limit 0", "whole number above 0"),
        ("eval run --limit ²", "whole number above 0"),
        ("eval run --data-dir nothing", "nothing does not exist"),
        ("eval run --threads 0", "whole number above 0"),
        ("eval run --device gpu", "Unknown device gpu"),
        ("eval run --device meta", "Unknown device meta"),
        ("eval run --device cuda:99", "no device cuda:99"),
        ("eval run --bogus", "--bogus"),
        ("sample run --class 10", "no class 10"),
        ("sample run --class=-1", "no class -1"),
        ("sample run --class x", "ids from 0 to 9"),
        ("sample run --class ²", "ids from 0 to 9"),
        ("sample run --class 3=x", "ids from 0 to 9"),
        ("sample run --class 3=nan", "ids from 0 to 9"),
        ("sample run --class=-1=1", "ids from 0 to 9"),
        ("sample run --class 3,4=1", "ids from 0 to 9"),
        ("sample run --class 3,10", "no class 10"),
        ("sample run --interpolate", "two classes"),
        ("sample run --interpolate --class 3", "two classes"),
        ("sample run --interpolate --class 3,8,5", "two classes"),
        ("sample run --interpolate --class 3=1,8=1", "two classes"),
        ("sample run --interpolate --class 3,10", "no class 10"),
        ("sample run --interpolate --class 3,8 --columns 1", "at least 2 columns"),
        ("sample run --interpolate --class 3,8 --all-at-once", "--all-at-once"),
        ("sample --hepl", "no option --hepl (did you mean --help?)"),
        ("sample judge-mnist", "is a classifier"),
        ("complete run --codes 3 --codse 3", "no option --codse (did you mean --codes?)"),
        ("sample run --gif g.gif --sampler fixed-point", "one pixel after another"),
        ("eval run --plot c.png", "give both"),
        ("eval run --classify --plot c.jpg", ".png"),
        ("sample run -n 0", "whole number above 0"),
        ("sample run --seed -1", "whole number from 0"),
        ("sample run --seed 9223372036854775808", "whole number from 0"),
        ("sample run --guidance 2", "trained without train.drop_context"),
        ("sample mnist-gated --guidance 2", "trained without train.drop_context"),
        ("sample run --temperature 0", "above 0"),
        ("sample run --temperature nan", "above 0"),
        ("sample run --temperature warm", "warm"),
        ("sample run --out grid", ".png"),
        ("sample run --out grid.txt", ".png"),
        ("sample run --out seven.png/grid.png", "no folder"),
        ("sample run --gif grid.png", "must end in .gif"),
        ("sample run --npz grid.png", "must end in .npz"),
        ("complete run nothing.png --class 7", "no picture nothing.png"),
        ("complete run nothing --class 7", "no data set, file or folder 'nothing'"),
        ("complete run mnist seven.png --class 7", "come alone"),
        ("complete run seven.png seven.png --split test", "come alone"),
        ("complete run --particels 2", "did you mean --particles"),
        ("sample mnist-gatd", "did you mean mnist-gated?"),
        ("smaple mnist-gated", "did you mean sample?"),
        ("models PixelCN", "did you mean PixelCNN?"),
        ("complete run corrupt.png --class 7", "corrupt.png is corrupt"),
        ("complete run seven.png", "give --class"),
        ("complete run seven.png --data mnist", "leave --data out"),
        ("complete run --class 7", "leave --class out"),
        ("complete run --keep middle", "middle"),
        ("complete run --keep top --hide top", "not allowed"),
        ("complete run --box 1,2,3", "4 whole numbers"),
        ("complete run --box 1,2,3,²", "4 whole numbers"),
        ("complete run --box 20,20,9,2", "does not lie within"),
        ("complete run --mask wide.png", "40 x 30"),
        ("complete run --mask empty.png", "Nothing is hidden"),
        ("complete run --mask nothing.png", "nothing.png"),
        ("complete run --draws 0", "whole number above 0"),
        ("complete run --particles 0", "whole number above 0"),
        ("complete run --particles 2 --temperature 0.5", "leave --temperature out"),
        ("models nothing", "nothing does not exist"),
        ("models my_file.Nothing", "no model my_file.Nothing"),
        ("models nothing.MyNet", "No module named 'nothing'"),
        ("models json.JSONEncoder", "not a subclass"),
        ("models PixelCNN --shape 1,28", "3 whole numbers"),
        ("models PixelCNN --shape 1,0,28", "(1, 0, 28)"),
        ("models PixelCNN --levels 1", "at least 2 levels"),
        ("data nothing", "no data set, file or folder 'nothing'"),
        ("data mnist --levels 300", "300"),
        ("data mnist --size 14", "size"),
        ("data mnist --channels 2", "channels"),
        ("data mnist --out x", ".png"),
    ],
)
def test_mistakes(words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    assert reason in refused(words, capsys)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--out x", "Say which model"),
        ("--model PixelCNN", "--out"),
        ("--model PixelCNN --out x --resume run", "--out"),
        ("--resume nothing", "no run in nothing"),
        ("--resume", "--resume"),
        ("--model PixelCNN --out x --model.wdth 3", "Option 'wdth' is not accepted by PixelCNN"),
        ("--model PixelCNN --out x --model.levels 3", "'levels' is not accepted by PixelCNN"),
        ("--model my_file.MyNet --out x --model.wdth 3", "not accepted by my_file.MyNet"),
        ("--model PixelCNN --out x --model.width wide", "--model.width takes a whole number, not"),
        ("--model PixelCNN --out x --model.inputs raw", "one of ['scaled', 'embedded'], not raw"),
        ("--model PixelCNN --out x --model.width -3", "width must be at least 1, not -3"),
        ("--model my_file.NoClasses --out x", "add --conditional false"),
        ("--model my_file.Narrow --out x", "Narrow cannot be made like this: width is at most 5."),
        ("--model.width 3 --out x", "Say which model"),
        ("--model Nothing --out x", "There is no model Nothing"),
        ("--model nothing.MyNet --out x", "No module named 'nothing'"),
        ("--model my_file.Nothing --out x", "no attribute 'Nothing'"),
        ("--model json.JSONEncoder --out x", "not a subclass"),
        ("--model PixelCNN --out x --train.steps many", "--train.steps takes a whole number, not"),
        ("--model PixelCNN --out x --train.steps 0", "train.steps must be at least 1"),
        ("--model PixelCNN --out x --train.schedule up", "['cosine', 'constant'], not up"),
        ("--model PixelCNN --out x --levels few", "--levels takes a whole number, not few"),
        ("--model PixelCNN --out x --levels 1", "levels"),
        ("--model PixelCNN --out x --conditional so", "--conditional takes true or false, not so"),
        ("--model PixelCNN --out x --bogus 3", "--bogus"),
        ("--modle PixelCNN --out x", "no option --modle (did you mean model?)"),
        ("--model PixelCNN --out x stray", "stray"),
        ("--model PixelCNN --out x --data nothing", "no data set, file or folder 'nothing'"),
        ("--model PixelCNN --out x --threads 0", "--threads must be at least 1"),
        ("--model PixelCNN --out x --device gpu", "Unknown device gpu"),
        ("--model PixelCNN --out run", "already holds a run"),
        ("--model PixelCNN --out seven.png", "seven.png"),
        ("--config nothing.yaml --out x", "nothing.yaml"),
        ("--config broken.yaml --out x", "broken.yaml is not YAML (line 1)"),
        ("--config text.yaml --out x", "hello"),
        ("--config binary.yaml --out x", "not text"),
        ("--config typo.yaml --out x", "no option --train.stpes (did you mean steps?)"),
        ("--model PixelCNN --out x --levels", "--levels takes a whole number, not nothing"),
        ("--model PixelCN --out x", "(did you mean PixelCNN?)"),
    ],
)
def test_mistakes_in_training(
    words: str, reason: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    small = "" if "--model PixelCNN" not in words else "--model.blocks 1 --model.width 4"
    error = refused(f"train {words.replace('PixelCNN', f'PixelCNN {small}')}", capsys)
    assert reason in error
    assert "class '" not in error
    assert sorted(p for p in here.rglob("*") if "__pycache__" not in p.parts) == [
        p for p in before if "__pycache__" not in p.parts
    ]


@pytest.mark.parametrize("recipe", ["", "--recipe recipes/nothing.yaml"])
def test_shipping_needs_a_recipe(recipe: str, here: Path) -> None:
    script = Path(__file__).parents[2] / "tools" / "ship_model.py"
    words = [sys.executable, script, "no-run", "no-name", *recipe.split()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no recipe" in done.stderr


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


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_config, "is not the configuration of a model"),
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


def test_a_class_for_an_unconditional_model(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nextpixel import PixelCNN

    PixelCNN(shape=(1, 6, 5), levels=4, width=4, blocks=1).save(tmp_path)
    assert "unconditional" in refused(f"sample {tmp_path} --class 3", capsys)
    assert "unconditional" in refused(f"sample {tmp_path} --interpolate --class 3,8", capsys)
    assert "not known which data" in refused(f"eval {tmp_path}", capsys)
    assert "(1, 6, 5)" in refused(f"eval {tmp_path} --data mnist", capsys)
    assert "28 x 28" in refused(f"complete {tmp_path} seven.png", capsys)


def no_space(*args: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_the_old_picture(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("sample run -n 1 --out kept.png", capsys)
    before = Path("kept.png").read_bytes()
    files = sorted(here.rglob("*"))
    monkeypatch.setattr(Image.Image, "save", no_space)
    assert "disk is full" in refused("sample run -n 2 --out kept.png", capsys)
    assert Path("kept.png").read_bytes() == before
    assert sorted(here.rglob("*")) == files


def test_a_full_disk_stops_training(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Model, "save", no_space)
    assert "disk is full" in refused(f"train {TINY} --train.steps 1 --out full", capsys)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_printed() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            command("--help"), stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "disk is full" in done.stderr


def test_output_that_nobody_reads() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command("--help"), stdout=write, stderr=subprocess.PIPE, text=True, env=BUFFERED
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def allocate_too_much(*args: object, **options: object) -> None:
    torch.empty(2**60, dtype=torch.uint8)


def run_out_of_gpu_memory(*args: object, **options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.")


def misuse_a_memory_format(*args: object, **options: object) -> None:
    torch.eye(2).to_sparse().clone(memory_format=torch.channels_last)


@pytest.mark.parametrize("fail", [allocate_too_much, run_out_of_gpu_memory])
def test_too_little_memory_is_told(
    fail, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nextpixel.cli.loading.load", fail)
    assert "not enough memory" in refused("sample run --out never.png", capsys)


def test_other_errors_that_speak_of_memory_are_raised(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextpixel.cli.loading.load", misuse_a_memory_format)
    with pytest.raises(RuntimeError, match="memory format"):
        main(["sample", "run", "--out", "never.png"])


def test_ctrl_c_ends_a_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nextpixel.cli.loading.load", interrupt)
    assert main(["sample", "run", "--out", "never.png"]) == 130
    assert capsys.readouterr().err == "nextpixel: interrupted.\n"
    assert not Path("never.png").exists()


def test_ctrl_c_saves_a_training_run(here: Path) -> None:
    words = command("train", TINY, "--train.steps 100000 --out stopped")
    with subprocess.Popen(words, cwd=here, stderr=subprocess.PIPE, text=True) as training:
        metrics = here / "stopped" / "metrics.jsonl"
        deadline = time.monotonic() + 60
        while not (metrics.exists() and metrics.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        training.send_signal(signal.SIGINT)
        _, err = training.communicate(timeout=60)
    assert training.returncode == 130
    assert "Traceback" not in err
    assert "nextpixel train --resume stopped" in err
    steps = len(metrics.read_text().splitlines())
    assert main(f"train --resume stopped --train.steps {steps + 1}".split()) == 0
    assert len(metrics.read_text().splitlines()) == steps + 1
