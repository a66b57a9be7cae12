"""What the tests of the programs in C share."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from nextpixel.nn import native_lstm, native_units
from tests.helpers import needs


@pytest.fixture
def compiler() -> None:
    needs("cc", "gcc")


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n} threads")
def several_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def reloaded() -> Iterator[None]:
    """Lets the programs be loaded again after a test without them, or with others."""
    yield
    for module in (native_units, native_lstm):
        module.program.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch, module: ModuleType = native_units) -> None:
    """Takes a program away, as if there were no compiler."""
    monkeypatch.setattr(module, "load_c_library", lambda *_: None)
    module.program.cache_clear()
    assert module.program() is None
