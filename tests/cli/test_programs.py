"""Sampling by programs, kept ones and files: the same pictures and messages as with PyTorch."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextpixel import GatedPixelCNN, PixelCNN
from nextpixel.cli import programs
from nextpixel.data import DataRecord
from nextpixel.utils import devices
from tests.helpers import ROOT, arrays, assert_refused, pixels, randomize, refused, run


def small(seed: int = 0, **arguments: Any) -> GatedPixelCNN:
    torch.manual_seed(seed)
    arguments = {"shape": (1, 6, 5), "levels": 8, "classes": 3, **arguments}
    model = GatedPixelCNN(width=6, blocks=2, kernel_size=3, **arguments)
    randomize(model)
    return model.eval()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in a folder with a saved model named `model`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(devices, "DRIVERS", ())  # of a GPU
    monkeypatch.chdir(tmp_path)
    small().save("model")
    return tmp_path / "cache" / "nextpixel" / "programs"


@pytest.fixture
def loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that PyTorch has loaded."""
    from nextpixel.cli import loading

    names: list[str] = []
    load = loading.load

    def note(name: str, **options: Any) -> Any:
        names.append(name)
        return load(name, **options)

    monkeypatch.setattr(loading, "load", note)
    return names


def results(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, bytes, bytes]:
    """Samples, and returns what was printed and the bytes of both files."""
    out = run(f"sample {words} --out a.png --npz a.npz", capsys)
    return out, Path("a.png").read_bytes(), Path("a.npz").read_bytes()


OPTIONS = [
    "",
    "-n 5",
    "-n 5 --class 2,0 --seed 3",
    "-n 5 --class 2,0 --columns 3 --batch-size 2",
    "-n 3 --class 1 --temperature 0.7 --threads 2",
    "-n 3 --class 0=0.25,2=0.75",
    "-n 2 --guidance 2.5 --sampler engine --device cpu",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_kept_program_gives_the_same_files(
    options: str, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    by_pytorch = results(f"model {options} --sampler cached", capsys)
    assert loaded == ["model"]
    first = results(f"model {options}", capsys)
    assert loaded == ["model"] * 2
    assert first == results(f"model {options}", capsys)
    assert loaded == ["model"] * 2
    assert first[:2] == by_pytorch[:2]


def test_other_models(loaded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    named = small()
    named.data_record = DataRecord(("cat", "dog", "owl"), untrained=(1,))
    named.save("named")
    small(classes=None).save("plain")
    small(shape=(3, 4, 4)).save("colour")
    for name in ("named", "named --class owl -n 2", "plain -n 3", "colour -n 2"):
        first = results(name, capsys)
        loaded.clear()
        assert results(name, capsys) == first
        assert loaded == []
    assert "class 2: owl" in results("named --class owl -n 2", capsys)[0]


def test_mistakes_with_a_kept_program(
    loaded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    record = DataRecord(("cat", "dog", "owl"), untrained=(1,))
    for name, classes in (("named", 3), ("plain", None)):
        model = small(classes=classes)
        model.data_record = record if classes else DataRecord()
        model.save(name)
    mistakes = [
        "named --class cow",
        "named --class dog",
        "named --class cat=0.5",
        "named --temperature 0",
        "named --guidance -1",
        "named --pixels mean",
        "named --device cuda:9",
        "plain --class 1",
        "plain --guidance 2",
    ]
    with monkeypatch.context() as patch:
        patch.setenv("NEXTPIXEL_ENGINE", "0")
        before = [refused(f"sample {words}", capsys) for words in mistakes]
    run("sample named -n 1", capsys)
    run("sample plain -n 1", capsys)
    loaded.clear()
    files = sorted(tmp_path.rglob("*"))
    assert [refused(f"sample {words}", capsys) for words in mistakes] == before
    assert sorted(tmp_path.rglob("*")) == files
    assert loaded == []


def test_the_second_time_nothing_slow_is_imported(cache: Path) -> None:
    code = (
        "import sys; from nextpixel.cli.main import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'scipy', 'matplotlib', 'rich', 'yaml'} & set(sys.modules); "
        "sys.exit(f'{heavy} {status}' if heavy or status else 0)"
    )
    words = ["sample", "mnist", "-n", "1", "--device", "cpu"]
    done = [subprocess.run([sys.executable, "-c", code, *words], capture_output=True) for _ in "12"]
    assert b"torch" in done[0].stderr
    assert (done[1].returncode, done[1].stderr) == (0, b"")
    assert (done[0].stdout, done[1].stdout) == (
        b"Sampled 1 image: samples.png\n",
        b"Sampled 1 image: samples-2.png\n",
    )
    assert Path("samples.png").read_bytes() == Path("samples-2.png").read_bytes()


def test_the_engine_can_be_switched_off(
    cache: Path,
    loaded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("NEXTPIXEL_ENGINE", "0")
        run("sample model -n 1", capsys)
        assert not cache.exists()
    run("sample model -n 1", capsys)
    assert len(list(cache.iterdir())) == 1
    loaded.clear()
    monkeypatch.setenv("NEXTPIXEL_ENGINE", "0")
    run("sample model -n 1", capsys)
    assert loaded == ["model"]


@pytest.mark.parametrize(
    "options",
    ["--gif a.gif", "--all-at-once", "--interpolate --class 0,1", "--sampler full"],
)
def test_special_options_take_pytorch(
    options: str, cache: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run("sample model -n 1", capsys)
    run(f"sample model -n 1 {options}", capsys)
    assert loaded == ["model"] * 2
    assert len(list(cache.iterdir())) == 1


def test_where_there_may_be_a_gpu_pytorch_chooses(
    cache: Path,
    loaded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(devices, "DRIVERS", (Path("none"), Path("model")))
    run("sample model -n 1", capsys)
    assert not cache.exists()
    for _ in range(2):
        run("sample model -n 1 --device cpu", capsys)
    assert loaded == ["model"] * 2


def test_other_weights_give_other_pictures(
    cache: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    old = results("model", capsys)
    small(seed=1).save("model")
    new = results("model", capsys)
    assert new != old
    assert loaded == ["model"] * 2
    assert results("model", capsys) == new
    assert len(list(cache.iterdir())) == 2
    (weights,) = Path("model").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert "wrong sha256" in refused("sample model", capsys)


def test_other_hyperparameters_or_sources_give_another_program(
    cache: Path,
    loaded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("sample model -n 1", capsys)
    config = json.loads(Path("model/config.json").read_text())
    config["hyperparameters"]["levels"] = 7  # does not fit the weights
    Path("model/config.json").write_text(json.dumps(config))
    assert "do not fit" in refused("sample model -n 1", capsys)
    small().save("model")
    Path("source.py").write_text("# changed")
    monkeypatch.setattr(programs, "sources", lambda: [Path("source.py")])
    loaded.clear()
    run("sample model -n 1", capsys)
    assert loaded == ["model"]
    assert len(list(cache.iterdir())) == 2


def test_sources_hold_what_a_program_is_made_of() -> None:
    names = {f"{path.parent.name}/{path.name}" for path in programs.sources()}
    assert {
        "engine/lowering.py",
        "nn/causal_conv.py",
        "models/pixel_cnn.py",
        "base/autoregressive.py",
        "nextpixel/context.py",
        "torch/version.py",
    } <= names


@pytest.mark.parametrize("damage", [b"", b"NPX", None])
def test_a_damaged_program_is_made_again(
    damage: bytes | None, cache: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = results("model -n 3", capsys)
    (path,) = cache.iterdir()
    good = path.read_bytes()
    path.write_bytes(good[:-100] + bytes(100) if damage is None else damage)
    assert results("model -n 3", capsys) == expected
    assert loaded == ["model"] * 2
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", "file")
    for _ in range(2):
        run("sample model -n 1", capsys)
    assert loaded == ["model"] * 2


def test_a_model_that_the_engine_cannot_run_is_sampled_by_pytorch(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = GatedPixelCNN.network
    monkeypatch.setattr(GatedPixelCNN, "network", lambda *a: network(*a).sinc())
    with pytest.warns(UserWarning, match="without the engine"):
        run("sample model -n 1", capsys)
    assert not cache.exists()


def test_the_oldest_programs_are_removed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        small(seed).save("model")
        if seed == 2:
            kept = sorted(cache.iterdir(), key=lambda path: path.stat().st_size)
            for age, path in enumerate(kept):
                os.utime(path, (age, age))
            monkeypatch.setattr(programs, "MOST_BYTES", int(2.5 * kept[-1].stat().st_size))
        run("sample model -n 1", capsys)
    assert not kept[0].exists()
    assert kept[1].exists()
    assert len(list(cache.iterdir())) == 2


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
def test_a_program_file_is_a_model(
    options: str, cache: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    named = small()
    named.data_record = DataRecord(("cat", "2", "owl"))
    named.save("model")
    run("export model --program digits.program", capsys)
    expected = results(f"model {options}", capsys)
    loaded.clear()
    assert results(f"digits.program {options}", capsys) == expected
    assert loaded == []


def test_numpy_and_pillow_are_enough(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after `pip install --no-deps . && pip install numpy pillow`."""
    run("export model --program digits.program", capsys)
    run("sample digits.program --npz expected.npz", capsys)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[>=<]", each)[0] for each in needed} - {"numpy", "pillow"}
    modules = {"lightning-fabric": "lightning_fabric", "pyyaml": "yaml", "scikit-image": "skimage"}
    missing = dict.fromkeys(modules.get(name, name) for name in names)
    assert "matplotlib" in missing
    code = (
        f"import sys; sys.modules |= {missing}; from nextpixel.cli.main import main; "
        "sys.exit(main())"
    )
    for options in ("--npz found.npz", "-n 4 --class 1"):
        words = [sys.executable, "-c", code, "sample", "digits.program", *options.split()]
        done = subprocess.run(words, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    with np.load("expected.npz") as expected, np.load("found.npz") as found:
        assert np.array_equal(found["x"], expected["x"])


def test_a_program_without_classes(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PixelCNN(shape=(3, 4, 4), levels=4, width=6, blocks=1).save("plain")
    run("export plain --program plain.program", capsys)
    run("sample plain -n 2 --out a.png --npz a.npz", capsys)
    run("sample plain.program -n 2 --out b.png --npz b.npz", capsys)
    assert pixels("a.png") == pixels("b.png")
    assert "y" not in arrays("b.npz")
    assert "unconditional" in refused("sample plain.program --class 1", capsys)
    assert "guidance needs a context" in refused("sample plain.program --guidance 2", capsys)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("digits.program --gif a.gif", "--gif is for models in folders, and digits.program is a"),
        ("digits.program --all-at-once", "--all-at-once is for models in folders"),
        ("digits.program --interpolate --class 0,1", "--interpolate is for models in folders"),
        ("digits.program --sampler cached", "--sampler is for models in folders"),
        ("digits.program --pixels mean", "--pixels is for a VQ-VAE"),
        ("digits.program --device cuda", "Programs run on the CPU"),
        ("digits.program --class 3", "There is no class 3"),
        ("vector.program", "takes vector, and was given nothing"),
        ("image.program", "sample from the model itself"),
        ("damaged.program", "damaged.program: This is no program"),
        ("missing.program", "missing.program does not exist"),
    ],
)
def test_mistakes_with_a_program_file(
    words: str, reason: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("export model --program digits.program", capsys)
    for name, context in (("vector", {"vector": 2}), ("image", {"image": (1, 6, 5)})):
        small(classes=None, **context).save_program(f"{name}.program")
    Path("damaged.program").write_bytes(b"no program")
    assert_refused(f"sample {words}", reason, tmp_path, capsys)


def test_no_program_is_kept_that_needs_features(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes with spatial=True become features by PyTorch, so a program alone cannot sample."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "new-cache"))
    GatedPixelCNN(shape=(1, 4, 4), levels=2, classes=3, spatial=True, width=4, blocks=1).save(
        "spatial"
    )
    for name in ("a", "b"):
        run(f"sample spatial -n 2 --class 1 --out {name}.png --device cpu", capsys)
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert not list(Path("new-cache").rglob("*.program"))
