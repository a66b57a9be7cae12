"""Receptive fields, measured against known ones, and bits against their definition."""

import math
from typing import cast

import pytest
import torch
from torch import Tensor

from nextpixel.evaluation import likelihood, receptive_field
from nextpixel.nn import Site, masks
from nextpixel.nn.masks import channel_mask
from tests.helpers import ConstantModel


def up_and_right(site: Site) -> tuple[Tensor, Tensor]:
    """Rows above the site and columns to its right, of every pixel."""
    rows, cols = torch.meshgrid(
        torch.arange(receptive_field.SIZE), torch.arange(receptive_field.SIZE), indexing="ij"
    )
    return site.row - rows, cols - site.col


# --- fields ---------------------------------------------------------------------------------------


def test_plain_pixel_cnn_has_its_blind_wedge() -> None:
    grown = receptive_field.growth("PixelCNN")
    up, right = up_and_right(receptive_field.SITE)
    # On the row d above the deepest network sees columns up to d + 2 to the right.
    assert torch.equal(grown.blind, (up > 0) & (right > up + 2))
    for blocks in (1, 2, 3):
        reach = 3 + blocks
        above = (up > 0) & (up <= reach) & (right <= up.clamp(max=blocks + 1) + 2)
        expected = (above | ((up == 0) & (right < 0))) & (right >= -reach)
        assert torch.equal(grown.fields[f"blocks={blocks}"], expected)


@pytest.mark.parametrize("kind", ["GatedPixelCNN", "PixelCNNPP", "PixelSNAIL"])
def test_others_have_no_blind_spot(kind: str) -> None:
    *_, deepest = receptive_field.growth(kind).fields.values()
    assert torch.equal(
        deepest,
        receptive_field.pixels_before(
            receptive_field.SITE, receptive_field.SIZE, receptive_field.SIZE
        ),
    )


def test_row_lstm_sees_a_triangle() -> None:
    grown = receptive_field.growth("RowLSTM")
    up, right = up_and_right(receptive_field.SITE)
    limit = torch.where(up > 0, up + 2, -1)
    expected = (up >= 0) & (right <= limit) & (right >= -4 - up)
    assert torch.equal(grown.fields["blocks=1"], expected)


def test_diagonal_bilstm_misses_one_pixel() -> None:
    # All layers miss it, see test_contract.
    assert receptive_field.growth("DiagonalBiLSTM").blind.nonzero().tolist() == [[14, 20]]


@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_kernel_field_is_the_mask(mask_type: masks.MaskType) -> None:
    field = receptive_field.kernel_field(mask_type, 5)
    before = (torch.arange(25) < 12).view(5, 5)
    centre = torch.zeros(5, 5, dtype=torch.bool)
    centre[2, 2] = True
    shown = channel_mask(mask_type, 3, 3, 3)
    assert torch.equal(field, before | (centre & shown[..., None, None]))
    assert bool(receptive_field.kernel_field(mask_type, groups=1)[..., 2, 2].all()) == (
        mask_type == "B"
    )


@pytest.mark.parametrize("kind", receptive_field.KINDS)
def test_colour_is_red_then_green_then_blue(kind: str) -> None:
    assert torch.equal(
        receptive_field.centre_channels(kind), torch.ones(3, 3, dtype=torch.bool).tril(-1)
    )


def test_receptive_field_leaves_the_model_alone() -> None:
    model = receptive_field.random_network("PixelCNN", (1, 5, 5), blocks=1)
    x = receptive_field.random_images(model, 2, seed=0)
    before = model.log_prob(x)
    receptive_field.receptive_field(model, Site(4, 4))
    assert torch.equal(model.log_prob(x), before)
    assert all(p.grad is None for p in model.parameters())


def test_given_images_go_to_the_device_of_the_model() -> None:
    model = receptive_field.random_network("PixelCNN", (1, 5, 5), blocks=1)
    x = receptive_field.random_images(model, 2, seed=0)

    class Elsewhere:
        """Images on another device: all that can be done with them is to move them."""

        def to(self, device: torch.device) -> Tensor:
            assert device == model.device
            return x

    seen = receptive_field.receptive_field(model, Site(4, 4), cast(Tensor, Elsewhere()))
    assert torch.equal(seen, receptive_field.receptive_field(model, Site(4, 4), x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_receptive_field_on_a_gpu() -> None:
    model = receptive_field.random_network("GatedPixelCNN", (1, 5, 5), blocks=1, classes=3).cuda()
    x, c = receptive_field.random_images(model, 2, seed=0).cpu(), torch.tensor([0, 2])
    on_gpu = receptive_field.receptive_field(model, Site(4, 4), x, c)
    assert torch.equal(on_gpu, receptive_field.receptive_field(model.cpu(), Site(4, 4), x, c))


def test_effective_field_is_the_mean_over_images() -> None:
    model = receptive_field.random_network("GatedPixelCNN", (1, 7, 7), blocks=2)
    x = receptive_field.random_images(model, 5, seed=0)
    heat = receptive_field.effective_field(model, x, row=4, col=3, batch_size=2)
    assert heat.shape == (7, 7)
    assert torch.equal(heat > 0, receptive_field.receptive_field(model, Site(4, 3))[0])
    each = [receptive_field.effective_field(model, one[None], row=4, col=3) for one in x]
    torch.testing.assert_close(heat, torch.stack(each).mean(0))


def test_effective_field_is_the_slope_of_the_log_probability() -> None:
    model = receptive_field.random_network("PixelCNN", (1, 5, 5), blocks=1)
    x = receptive_field.random_images(model, 1, seed=0)
    heat = receptive_field.effective_field(model, x, row=3, col=2)

    def log_prob(shift: float) -> float:
        with receptive_field.encoding_as_leaf(model, x) as encoded, torch.no_grad():
            encoded[0, 0, 2, 1] += shift
            return float(model(x).log_prob(x)[0, 0, 3, 2])

    slope = (log_prob(1e-5) - log_prob(-1e-5)) / 2e-5
    assert heat[2, 1].item() == pytest.approx(abs(slope), rel=1e-5)


# --- bits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_surprise_adds_up_to_the_code_length(channels: int) -> None:
    model = receptive_field.random_network("PixelCNNPP", (channels, 5, 6), blocks=1)
    x = receptive_field.random_images(model, 3, seed=0)
    bits = likelihood.surprisal(model, x)
    assert bits.shape == (3, 5, 6)
    torch.testing.assert_close(bits.sum((1, 2)), -model.log_prob(x).detach() / math.log(2))


@pytest.mark.parametrize("channels", [1, 3])
def test_entropy_of_known_probabilities(channels: int) -> None:
    model = ConstantModel(shape=(channels, 2, 3), levels=4)
    x = receptive_field.random_images(model, 2, seed=0)
    expected = torch.full((2, 2, 3), 1.75 * channels, dtype=torch.float64)
    torch.testing.assert_close(likelihood.entropy(model, x), expected)
