"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Tests run in several processes; more threads than cores only get in each other's way.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("nextpixel", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("nextpixel")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shared_data() -> Path:
    """The folder of larger data sets, beside the checkout; not everybody has it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the larger data sets are not beside this checkout (../shared/data)")
    return folder
