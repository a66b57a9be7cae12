"""Previews of a model in training."""

import numpy as np
import pytest

from nextpixel.data import DataRecord, Dataset
from nextpixel.models import GatedPixelCNN
from nextpixel.training.previews import draw_preview
from tests.training.runs import make


def test_classes_without_training_images_are_left_out(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    real = GatedPixelCNN.sample

    def sample(model: GatedPixelCNN, n: int, c: np.ndarray) -> object:
        drawn.append(c)
        return real(model, n, c, sampler="cached")

    monkeypatch.setattr(GatedPixelCNN, "sample", sample)
    model = make().eval()
    model.data_record = DataRecord(tuple("abcdefghij"), untrained=(0, 3))
    draw_preview(model, data)
    assert [ids.tolist() for ids in drawn] == [[1, 2, 4, 5, 6, 7, 8, 9] * 4]
