"""What the tests of the programs in C share."""

from collections.abc import Iterator

import pytest
import torch

from nextpixel.nn import native_units
from nextpixel.nn.native_units import program
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
    """Lets the program be loaded again after a test without it, or with another one."""
    yield
    program.cache_clear()


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the program away, as if there were no compiler."""
    monkeypatch.setattr(native_units, "load_c_library", lambda *_: None)
    program.cache_clear()
    assert program() is None
