"""Files that a crash or a full disk leaves whole, and a state from which nothing is executed."""

import io
import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextpixel.errors import UserError
from nextpixel.models import GatedPixelCNN
from nextpixel.models.base.image_model import load
from nextpixel.training.checkpoint import load_state, save_state
from nextpixel.utils.files import remove_parts, replace_file
from tests.helpers import no_space

STATE: dict[str, Any] = {
    "model": {"weight": torch.arange(6.0).view(2, 3)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
    "step": 3,
    "best": float("inf"),
    "seconds": 1.5,
}


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", STATE)
    state = load_state(tmp_path / "state.pt")
    assert torch.equal(state["model"].pop("weight"), STATE["model"]["weight"])
    assert state["model"] == {}
    assert {**state, "model": None} == {**STATE, "model": None}


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Anywhere in the file; also in one of before there were checksums, in any of its parts."""
    path, random = tmp_path / "state.pt", np.random.default_rng(0)
    save_state(path, STATE)
    good = path.read_bytes()
    for at in random.integers(len(good), size=100).tolist():
        data = bytearray(good)
        data[at] ^= 1 << random.integers(8)
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            load_state(path)
    old = io.BytesIO()
    torch.save(STATE, old)
    path.write_bytes(old.getvalue())
    assert load_state(path)["step"] == 3
    with zipfile.ZipFile(old) as parts:
        (weights,) = (part for part in parts.infolist() if part.filename.endswith("data/0"))
    numbers = old.getvalue().index(
        STATE["model"]["weight"].numpy().tobytes(), weights.header_offset
    )
    data = bytearray(old.getvalue())
    data[numbers + 5] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match="checksum"):
        load_state(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer", None),
        ("model", [1]),
        ("best", None),
        ("best", float("nan")),
        ("step", float("nan")),
        ("step", -1),
        ("step", True),
        ("stale", 1.5),
        ("seconds", "long"),
        ("pending", [1]),
        ("watch", {"average": "x"}),
    ],
)
def test_wrong_types_are_one_sentence(name: str, value: Any, tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", {**STATE, name: value})
    with pytest.raises(UserError, match=rf"damaged \({name} is .*\): the run cannot"):
        load_state(tmp_path / "state.pt")


def test_files_are_replaced_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / "plain").write_bytes(b"")
    for content in (b"one", b"another"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "plain"}


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(call, no_space)
        with pytest.raises(OSError, match="No space"):
            replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_full_disk_leaves_the_old_model(
    call: str, fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = GatedPixelCNN(shape=(1, 4, 4), levels=3, width=4, blocks=1)
    model.save(tmp_path)
    x = torch.randint(3, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    before = load(tmp_path).log_prob(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    real = os.fsync if call == "os.fsync" else Path.replace
    calls = 0

    def fails(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return no_space() if calls == fails_at else real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(call, fails)
        with pytest.raises(OSError, match="No space"):
            model.save(tmp_path)
    assert torch.equal(load(tmp_path).log_prob(x), before)
    model.save(tmp_path)
    assert not torch.equal(load(tmp_path).log_prob(x), before)
    assert len(list(tmp_path.iterdir())) == 2


def test_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    keep = [tmp_path / "state.pt", tmp_path / "best" / "config.json", tmp_path / ".hidden"]
    left = [tmp_path / ".state.pt.17.npx-part", tmp_path / "best" / ".config.json.4.npx-part"]
    for path in keep + left:
        path.write_bytes(b"")
    remove_parts(tmp_path)
    assert all(path.exists() for path in keep)
    assert not any(path.exists() for path in left)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def damaged_files(proof: Path) -> dict[str, bytes]:
    buffer, malicious, no_dictionary = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(STATE, buffer)
    torch.save({**STATE, "step": Malicious(proof)}, malicious)
    torch.save([1, 2], no_dictionary)
    good = buffer.getvalue()
    return {
        "empty": b"",
        "half": good[: len(good) // 2],
        "without its end": good[:-1],
        "text": b"not a checkpoint\n",
        "noise": bytes(range(256)) * 8,
        "pickle": pickle.dumps(STATE["step"]),
        "malicious": malicious.getvalue(),
        "malicious pickle": pickle.dumps(Malicious(proof)),
        "no dictionary": no_dictionary.getvalue(),
    }


@pytest.mark.parametrize("damage", damaged_files(Path()))
def test_a_damaged_state_is_one_sentence_and_runs_nothing(damage: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "executed", tmp_path / "state.pt"
    path.write_bytes(damaged_files(proof)[damage])
    with pytest.raises(UserError, match=r"state\.pt is damaged \(.+\): the run cannot") as error:
        load_state(path)
    assert "\n" not in str(error.value)
    assert not proof.exists()


def test_the_malicious_pickle_would_run_elsewhere(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    pickle.loads(damaged_files(proof)["malicious pickle"])
    assert proof.exists()


def test_no_state_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        load_state(tmp_path / "state.pt")
