"""A trained run that the tests of commands share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel import load_data
from tests.helpers import TINY, process

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


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, some pictures and masks, and models in a file."""
    folder = tmp_path_factory.mktemp("cli")
    process(f"train {TINY} --train.steps 8 --out run", cwd=folder)
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
    (folder / "no-model.yaml").write_text("data: mnist\nlevels: 4")
    (folder / "empty-train.yaml").write_text("model: PixelCNN\ndata: mnist\ntrain:")
    (folder / "number-train.yaml").write_text("model: PixelCNN\ndata: mnist\ntrain: 3")
    return folder
