"""The entropy coder by itself; tests/codec has it with programs."""

import numpy as np
import pytest

from nextpixel.engine import Coder
from nextpixel.errors import UserError


def test_numbers_are_coded_and_decoded() -> None:
    numbers = np.random.default_rng(0).integers(0, 1000, 500)
    coder = Coder.encoder(4 * 500 + 8)
    assert not coder.decodes
    coder.code_numbers(numbers, 1000)
    data = coder.finish()
    assert len(data) == pytest.approx(500 * np.log2(1000) / 8, abs=12)
    found = np.zeros(500, np.int64)
    decoder = Coder.decoder(data)
    assert decoder.decodes
    decoder.code_numbers(found, 1000)
    np.testing.assert_array_equal(found, numbers)


def test_what_cannot_be_coded_is_refused() -> None:
    with pytest.raises(UserError, match="The engine stopped: "):
        Coder.encoder(100).code_numbers(np.array([7]), 7)
    with pytest.raises(UserError, match="no room for the bits"):
        Coder.encoder(4).code_numbers(np.zeros(500, np.int64), 1000)
    with pytest.raises(UserError, match="no room for the bits"):
        Coder.encoder(0).finish()
