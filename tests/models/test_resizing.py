"""The weights of a network apply to images of another size, or it says why not."""

from pathlib import Path

import pytest
import torch

import nextpixel as npx
from nextpixel.errors import UserError
from nextpixel.models.base.image_model import ImageModel

SMALL = {"shape": (1, 8, 8), "levels": 4, "width": 8}
NETWORKS = {
    "PixelCNN": {"width": 16, "blocks": 2},
    "GatedPixelCNN": {"blocks": 2, "classes": 3},
    "RowLSTM": {"blocks": 2},
    "DiagonalBiLSTM": {"blocks": 2},
    "PixelCNNPP": {"blocks": 1},
}


def network(name: str, **more: object) -> ImageModel:
    torch.manual_seed(0)
    model: ImageModel = getattr(npx, name)(**{**SMALL, **NETWORKS.get(name, {}), **more}).eval()
    for p in model.parameters():  # some begin with 0
        torch.nn.init.normal_(p, 0, 0.2)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_rows_are_as_likely_in_a_higher_image(name: str, tmp_path: Path) -> None:
    model = network(name)
    model.save(tmp_path)
    high = npx.load(tmp_path, shape=(1, 12, 8))
    assert high.shape == (1, 12, 8)
    assert not high.training
    x = torch.randint(0, 4, (2, 1, 12, 8), generator=torch.Generator().manual_seed(0))
    c = 1 if model.classes else None
    nats = high(x, c).log_prob(x)[:, :, :8]
    assert torch.allclose(nats, model(x[:, :, :8], c).log_prob(x[:, :, :8]), atol=1e-5)
    assert high.sample(2, c, seed=0).shape == (2, 1, 12, 8)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_wider_image_is_scored(name: str) -> None:
    wide = network(name).resized((1, 8, 20))
    c = 1 if wide.classes else None
    assert torch.isfinite(wide.score(wide.sample(2, c, seed=0), c)).all()


def test_models_that_know_their_size_say_why() -> None:
    with pytest.raises(UserError, match="attention"):
        network("PixelSNAIL", blocks=1, layers=1).resized((1, 12, 8))
    with pytest.raises(UserError, match="belong to places"):
        network("Autoencoder").resized((1, 12, 8))
    with pytest.raises(UserError, match="given an image"):
        network("PixelCNN", image=(1, 8, 8)).resized((1, 12, 8))
    with pytest.raises(UserError, match="shape is"):
        network("PixelCNN").resized((3, 8, 8))
