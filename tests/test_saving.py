"""Which saved models load, and which are refused."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

import nextpixel as npx
from nextpixel import saving
from nextpixel.cli.main import main
from nextpixel.conditioning.classifier import Classifier, load_classifier
from nextpixel.saving import check_images, model_name
from tests.helpers import refused, succeed

GOLDEN = Path(__file__).parent / "golden"
MODULE = """
from pathlib import Path

(Path(__file__).parent / "was-run").touch()

from nextpixel import PixelCNN


class Net(PixelCNN):
    pass
"""


def not_ours(folder: Path, kind: str) -> Path:
    """Makes a folder with a model whose class is in a module beside it."""
    shutil.copytree(GOLDEN / kind, folder / "model")
    (folder / "strangers.py").write_text(MODULE)
    file = folder / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "strangers.Net"}))
    return folder / "model"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strangers", raising=False)
    return tmp_path


def test_a_strangers_class_is_not_imported_unless_it_is_trusted(here: Path) -> None:
    folder = not_ours(here, "pixel-cnn")
    with pytest.raises(npx.UserError, match=r"strangers\.Net.*--trust"):
        npx.load(folder)
    assert not (here / "was-run").exists()
    assert type(npx.load(folder, trust=True)).__name__ == "Net"
    assert (here / "was-run").exists()


def test_no_command_or_loader_imports_a_strangers_class(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = not_ours(here, "pixel-cnn")
    for words in (
        "sample model",
        "eval model",
        "models model",
        "bundle model model --out x",
        "score pixel-cnn mnist --background model",
        "compare model --data mnist --out x",
        "data codes:model",
    ):
        assert main([*words.replace("pixel-cnn", str(GOLDEN / "pixel-cnn")).split()]) == 2, words
        assert not (here / "was-run").exists(), words
        assert capsys.readouterr().err.startswith("nextpixel: ")
    with pytest.raises(npx.UserError, match="--trust"):
        load_classifier(folder)
    assert not (here / "was-run").exists()
    succeed("sample model --trust -n 1")
    assert (here / "was-run").exists()


def test_a_strangers_run_is_not_resumed_unless_it_is_trusted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "strangers.py").write_text(MODULE)
    (here / "run").mkdir()
    (here / "run" / "config.yaml").write_text("model: {class_path: strangers.Net}")
    assert main(["train", "--resume", "run"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not (here / "was-run").exists()
    assert main(["train", "--resume", "run", "--trust"]) == 2  # there is nothing to resume
    assert (here / "was-run").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"model.class_path": "strangers.Net"},
        {"model": {"class_path": "PixelCNN", "init_args": {"class_path": "strangers.Net"}}},
        {"model": {"class_path": "PixelCNN", "init_args.class_path": "strangers.Net"}},
        {"model.help": "strangers.Net"},
        {"config": "other.yaml"},
        {"train": "strangers.Net"},
        {"train": {"class_path": "strangers.Net"}},
        {"train": "class.yaml"},
    ],
)
def test_a_run_names_no_second_class(
    options: dict[str, object], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "strangers.py").write_text(MODULE)
    (here / "other.yaml").write_text("model: {class_path: strangers.Net}")
    (here / "class.yaml").write_text("class_path: strangers.Net")
    (here / "run").mkdir()
    config = {"model": {"class_path": "PixelCNN"}} | options
    (here / "run" / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    assert main(["train", "--resume", "run"]) == 2
    assert "is not the configuration of a run" in capsys.readouterr().err
    assert not (here / "was-run").exists()


def test_the_program_itself_is_not_run_by_a_name(here: Path) -> None:
    folder = not_ours(here, "pixel-cnn")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "nextpixel.__main__.Net"}))
    with pytest.raises(npx.UserError, match="--trust"):
        npx.load(folder)


@pytest.mark.parametrize("name", ["PixelCNN", "nextpixel.models.PixelCNN"])
def test_our_own_classes_need_no_trust(name: str, here: Path) -> None:
    folder = not_ours(here, "pixel-cnn")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": name}))
    assert isinstance(npx.load(folder), npx.PixelCNN)


@pytest.mark.parametrize("name", [model_name(Classifier), "nextpixel.classifier.Classifier"])
def test_a_classifier_loads_under_its_old_path_too(name: str, here: Path) -> None:
    folder = not_ours(here, "classifier")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": name}))
    assert isinstance(load_classifier(folder), Classifier)


def test_a_models_own_part_called_features_is_loaded_as_it_is() -> None:
    """Only where the model has no such weights were they a classifier's before 0.2."""
    classifier = Classifier(shape=(1, 8, 8), levels=2, classes=2, width=1, embedding=2)
    model = npx.PixelCNN(shape=(1, 8, 8), levels=2, vector=2, width=2, blocks=1, head=2)
    model.conditioner = npx.Features(classifier, "embedding")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.features = torch.nn.Linear(1, 1)
    model.load_state_dict(model.state_dict())
    del model.features
    old = {name.replace("conditioner.", "features."): x for name, x in before.items()}
    for weight in model.parameters():
        weight.data.zero_()
    model.load_state_dict(old)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("entry", "value"),
    [("hyperparameters", [1]), ("hyperparameters", None), ("weights", 3), ("model", None)],
)
def test_a_damaged_configuration_is_refused(entry: str, value: object, tmp_path: Path) -> None:
    folder = not_ours(tmp_path, "pixel-cnn")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "PixelCNN", entry: value}))
    reason = r"no configuration of a model|There is no model None"
    with pytest.raises(npx.UserError, match=reason):
        npx.load(folder)


@pytest.mark.parametrize(
    ("entry", "value", "reason"),
    [
        ("class_names", ["a", "b"], "2 class_names for 3 classes"),
        ("class_names", "abc", "class_names is a list of texts in UTF-8"),
        ("class_names", ["a", "b", "\ud800"], "class_names is a list of texts in UTF-8"),
        ("class_names", ["a", "b", 3], "class_names is a list of texts|are text"),
        ("untrained_classes", [0, 1, 2], "untrained_classes are some of the classes"),
        ("untrained_classes", [3], "untrained_classes are some of the classes"),
        ("untrained_classes", ["0"], "are text, their ids whole numbers"),
        ("format", "1", "format is '1'"),
        ("spectrogram", {"rate": "8000"}, "rate is a whole number from 1 to"),
    ],
)
def test_what_is_recorded_of_the_data_is_checked(
    entry: str, value: object, reason: str, tmp_path: Path
) -> None:
    model = npx.PixelCNN(shape=(1, 4, 4), levels=2, classes=3, width=4, blocks=1)
    model.save(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {entry: value}))
    with pytest.raises(npx.UserError, match=reason):
        npx.load(tmp_path / "m")


@pytest.mark.parametrize(("entry", "value"), [("data", 5), ("data", ["mnist"]), ("data_dir", 7)])
def test_a_card_of_other_types_is_refused(
    entry: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npx.PixelCNN(shape=(1, 28, 28), levels=2, width=4, blocks=1).save(tmp_path / "m")
    (tmp_path / "m" / "card.json").write_text(json.dumps({"data": "mnist", entry: value}))
    message = refused(f"eval {tmp_path}/m", capsys)
    assert f"card.json is truncated, corrupt or no card ({entry} is" in message


class OnAccelerator(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


def test_pixels_out_of_range_are_refused_on_an_accelerator_too() -> None:
    x = torch.full((1, 1, 2, 2), 255).as_subclass(OnAccelerator)
    with torch.no_grad(), pytest.raises(npx.UserError, match=r"\[0, 2\), but these go from 255"):
        check_images(x, (1, 2, 2), 2)
    check_images(x, (1, 2, 2), 2)  # in a training step nobody waits for the accelerator


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(
    value: float, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that has such is neither saved nor loaded: everything that it says is wrong."""
    model = npx.models.PixelCNN(shape=(1, 4, 4), levels=2, width=4, blocks=1)
    model.save("model")
    good = {path.name: path.read_bytes() for path in Path("model").iterdir()}
    with torch.no_grad():
        list(model.parameters())[2].view(-1)[1] = value
    with pytest.raises(npx.UserError, match=r"cannot be saved.*infinity or no number"):
        model.save("model")
    assert {path.name: path.read_bytes() for path in Path("model").iterdir()} == good
    monkeypatch.setattr(saving, "check_finite", lambda tensors, what: None)
    model.save("damaged")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    for command in ("sample damaged", "eval damaged --data x.npz"):
        assert "infinity or no number" in refused(command, capsys)
