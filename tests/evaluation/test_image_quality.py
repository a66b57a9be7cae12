"""PSNR and SSIM, against their formulas."""

import numpy as np
import pytest
import torch

from nextpixel.errors import UserError
from nextpixel.evaluation.image_quality import quality
from tests.helpers import drawn


def test_psnr_is_the_mean_over_the_images() -> None:
    x = drawn(2, 3, 8, 9, levels=16)
    restored = torch.from_numpy(x).double()
    restored[0] += 0.5
    restored[1, 0] += 3
    both = quality(x, restored, 16)
    errors = np.array([0.25, 3**2 / 3])
    np.testing.assert_allclose(both.psnr, (10 * np.log10(15**2 / errors)).mean())
    ssims = [quality(x[i : i + 1], restored[i : i + 1], 16).ssim for i in range(2)]
    np.testing.assert_allclose(both.ssim, np.mean(ssims))
    assert ssims[1] < ssims[0] < 1


@pytest.mark.parametrize("channels", [1, 3])
def test_quality_of_identical_and_of_unrelated_images(channels: int) -> None:
    x = drawn(2, channels, 7, 7)
    same = quality(x, torch.from_numpy(x), 256)
    assert same.psnr == 100
    assert same.ssim == pytest.approx(1)
    assert quality(x, torch.from_numpy(x) + 1e-9, 256).psnr == 100
    other = quality(x, torch.from_numpy(x[::-1].copy()), 256)
    assert other.psnr < 10
    assert abs(other.ssim) < 0.3


def test_structural_similarity_of_two_flat_images_is_that_of_their_means() -> None:
    x = np.full((1, 1, 7, 7), 100)
    dark = quality(x, torch.full((1, 1, 7, 7), 50), 256).ssim
    small = (0.01 * 255) ** 2
    assert dark == pytest.approx((2 * 100 * 50 + small) / (100**2 + 50**2 + small))


def test_restored_images_that_do_not_fit() -> None:
    x = drawn(2, 1, 8, 8)
    with pytest.raises(UserError, match="the shape of the true ones"):
        quality(x, torch.from_numpy(x[:1]), 256)
    with pytest.raises(UserError, match="7x7 or more, not 8x6"):
        quality(x[..., :6], torch.from_numpy(x[..., :6]), 256)
