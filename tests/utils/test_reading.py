"""Whatever a reader raises becomes a sentence, and sizes are checked before memory is taken."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from nextpixel.errors import UserError
from nextpixel.models import GatedPixelCNN
from nextpixel.training import recipes
from nextpixel.utils import reading
from nextpixel.utils.limits import at_most, check_sizes
from nextpixel.utils.reading import (
    dump_yaml,
    mapping,
    open_regular,
    parse_yaml,
    read_exactly,
    read_json,
    read_regular,
    refuse_more_than_memory,
    refusing_damage,
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("bad\n  magic."), "a.x is truncated, corrupt or no card (bad magic): mend it."),
        (KeyError("name"), "a.x is truncated, corrupt or no card (KeyError 'name'): mend it."),
        (RecursionError(), "a.x is truncated, corrupt or no card (RecursionError): mend it."),
        (OSError("no errno"), "a.x is truncated, corrupt or no card (no errno): mend it."),
        (PermissionError(13, "Permission denied"), "a.x cannot be read (Permission denied): check"),
        (MemoryError(), "a.x asks for more memory than there is: it is damaged, or too large"),
        (UserError("Something else."), "Something else."),
    ],
)
def test_whatever_is_raised_becomes_one_sentence(error: Exception, message: str) -> None:
    with pytest.raises(UserError) as found, refusing_damage("a.x", "card", "mend it"):
        raise error
    assert str(found.value).startswith(message)
    assert "\n" not in str(found.value)


def test_long_reasons_and_messages_are_cut() -> None:
    with pytest.raises(UserError) as found, refusing_damage("a", "card", "mend it"):
        raise ValueError("x" * 10_000)
    assert len(str(found.value)) < 300
    message = str(UserError("begin " + "x" * 10_000 + " end"))
    assert len(message) < 1000
    assert message.startswith("begin x")
    assert message.endswith("x end")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe, a device or a folder: give a file"):
        open_regular(tmp_path / "pipe")


def test_files_are_read_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"123")
    assert read_regular(tmp_path / "a", most=3) == b"123"
    with pytest.raises(UserError, match=r"a has 3 bytes, where at most 2 are expected"):
        read_regular(tmp_path / "a", most=2)
    monkeypatch.setattr(reading, "memory", lambda: 2)
    with pytest.raises(UserError, match=r"asks for 0\.0 GB of memory, and this machine has 0\.0"):
        read_regular(tmp_path / "a")
    refuse_more_than_memory("a", 2)
    with (
        (tmp_path / "a").open("rb") as file,
        pytest.raises(EOFError, match="4 bytes are promised, 3"),
    ):
        read_exactly(file, 4)


def test_yaml_is_small_and_shallow(tmp_path: Path) -> None:
    assert parse_yaml("a: {b: [1, null]}") == {"a": {"b": [1, None]}}
    with pytest.raises(ValueError, match="in line 2"):
        parse_yaml("a: 1\nb: [")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_yaml("[" * 51 + "]" * 51)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_yaml("[" * 5000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(7)]
    with pytest.raises(ValueError, match="more than 100,000 values"):
        parse_yaml("\n".join(lines))  # 10^8 letters in 400
    merged = "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(4))
    with pytest.raises(ValueError, match="more than 3 merge keys"):
        parse_yaml("a0: &a0 {b: c}\n" + merged)
    with pytest.raises(ValueError, match="131,073 characters"):
        parse_yaml(" " * (2**17 + 1))
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UnicodeDecodeError):
        read_json(tmp_path / "a.json")


def test_paths_that_are_not_utf8_survive_yaml() -> None:
    options = {"data": os.fsdecode(b"/my/pict\xffures"), "levels": 4, "none": None}
    assert parse_yaml(dump_yaml(options).decode()) == options


def test_a_mapping_has_names() -> None:
    assert mapping({"a": 1}) == {"a": 1}
    for wrong in ([1], None, 3, {1: 2}):
        with pytest.raises(TypeError):
            mapping(wrong)


# --- networks -------------------------------------------------------------------------------------


def test_a_network_is_stopped_while_it_is_made() -> None:
    with at_most(55, "It"):
        nn.Linear(10, 5)  # 55 parameters
    with (
        pytest.raises(UserError, match="It has more than 54 parameters, too many here"),
        at_most(54, "It"),
    ):
        nn.Linear(10, 5)
    with pytest.raises(UserError, match="more than 20 numbers in buffers"), at_most(20, "It"):
        nn.Module().register_buffer("mask", torch.zeros(3, 7))
    with pytest.raises(UserError, match="more than 5,000 layers"), at_most(10, "It"):
        nn.ModuleList(nn.Identity() for _ in range(5_001))
    nn.Linear(100, 100)  # there is no limit any more


def test_only_this_thread_is_limited() -> None:
    made = []
    with at_most(1, "It"):
        thread = threading.Thread(target=lambda: made.append(nn.Linear(10, 10)))
        thread.start()
        thread.join()
    assert made


def test_sizes_above_all_that_are_possible_are_refused() -> None:
    check_sizes({"width": 65_536, "shape": (3, 32, 32), "name": "x", "rate": 1e9}, "It")
    for wrong in ({"blocks": 65_537}, {"shape": [1, 10**9, 8]}):
        with pytest.raises(UserError, match=r"It has (blocks|shape) above 65,536"):
            check_sizes(wrong, "It")


def test_a_model_to_train_is_sized_before_its_layers_take_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine of 1 MiB, and with the weights of the same model on this one."""
    seen: set[str] = set()
    handle = register_module_parameter_registration_hook(lambda _, __, x: seen.add(x.device.type))
    sizes: dict[str, Any] = {"shape": (1, 8, 8), "levels": 4, "width": 32, "blocks": 9}
    try:
        monkeypatch.setattr(recipes, "memory", lambda: 2**20)
        with pytest.raises(UserError, match="GatedPixelCNN has more than 65,536 parameters"):
            recipes.make_of_class(GatedPixelCNN, **sizes)
        assert seen == {"meta"}
    finally:
        handle.remove()
    monkeypatch.undo()
    torch.manual_seed(0)
    made = recipes.make_of_class(GatedPixelCNN, **sizes).state_dict()
    torch.manual_seed(0)
    plain = GatedPixelCNN(**sizes).state_dict()
    assert all(torch.equal(made[name], plain[name]) for name in made.keys() | plain.keys())
