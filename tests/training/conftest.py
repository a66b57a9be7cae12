"""Fixtures of the tests of training."""

import pytest

from nextpixel.data import Dataset
from tests.training.runs import tiny_mnist


@pytest.fixture(scope="session")
def data() -> Dataset:
    """Real digits, 7 x 7 pixels with 4 levels."""
    return tiny_mnist()
