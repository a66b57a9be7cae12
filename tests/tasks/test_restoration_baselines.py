"""The baselines of restoration: they improve what is degraded, and keep what is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import gaussian
from torch import Tensor

from nextpixel.conditioning.degradation import Degraded, Task
from nextpixel.data.readers import read_bytes, read_idx
from nextpixel.errors import UserError
from nextpixel.evaluation.image_quality import quality
from nextpixel.tasks import restoration_baselines
from nextpixel.tasks.restoration_baselines import baseline, baseline_name
from tests.helpers import ROOT, TASKS, drawn, hidden, words_of

MNIST = ROOT / "data" / "mnist" / "t10k-images-idx3-ubyte.gz"
Pixels = NDArray[np.integer]


@pytest.fixture(scope="module")
def digits() -> Pixels:
    return read_idx(read_bytes(MNIST), MNIST)[:40, None]


@pytest.fixture
def photographs(shared_data: Path) -> Pixels:
    files = sorted((shared_data / "kodak").glob("*.png"))
    if not files:
        pytest.skip("the Kodak pictures are not beside this checkout (../shared/data/kodak)")
    pictures = [np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files]
    corners = [(200, 200), (100, 350)]
    return np.stack([p[:, r : r + 64, c : c + 64] for p in pictures for r, c in corners])


def plain_guess(task: Task, x: Pixels, degraded: Degraded) -> Tensor:
    """What the baseline has to beat: the degraded image, enlarged, or grey."""
    picture = degraded.picture
    if task.name == "super-resolution":
        return picture.repeat_interleave(4, 2).repeat_interleave(4, 3)
    if task.name == "colourise":
        return torch.full(x.shape, 127.5)
    return picture


@pytest.mark.parametrize("task", [t for t in TASKS if t.name != "colourise"], ids=words_of)
def test_baselines_restore_digits(task: Task, digits: Pixels) -> None:
    degraded = task.degrade(digits, 256, range(40))
    restored = quality(digits, baseline(task, degraded, 256), 256)
    assert restored.psnr > quality(digits, plain_guess(task, digits, degraded), 256).psnr + 0.4


@pytest.mark.parametrize("task", TASKS, ids=words_of)
def test_baselines_restore_photographs(task: Task, photographs: Pixels) -> None:
    degraded = task.degrade(photographs, 256, range(10))
    restored = quality(photographs, baseline(task, degraded, 256), 256)
    assert (
        restored.psnr
        > quality(photographs, plain_guess(task, photographs, degraded), 256).psnr + 0.4
    )


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.6])
def test_noise_is_removed_better_than_by_smoothing_alone(digits: Pixels, noise: float) -> None:
    task = Task("denoise", noise=noise)
    degraded = task.degrade(digits, 256, range(40))

    def smooth(width: float) -> Tensor:
        sigmas = (0, 0, width, width)
        return torch.from_numpy(gaussian(degraded.picture.numpy(), sigmas, preserve_range=True))

    best = max(quality(digits, smooth(width), 256).psnr for width in (0.3, 0.5, 0.7, 1, 1.4, 2))
    assert quality(digits, baseline(task, degraded, 256), 256).psnr > best + 1


@pytest.mark.parametrize("grey", [0, 1, 3, 4])
def test_the_bias_of_clipping_is_undone(grey: int) -> None:
    task = Task("denoise", noise=0.3)
    x = np.full((5, 1, 32, 32), grey)
    degraded = task.degrade(x, 5, range(5))
    restored = baseline(task, degraded, 5)
    error = abs(degraded.picture.double().mean() / 255 * 4 - grey)
    assert abs(restored.mean() - grey) < error / 3


@pytest.mark.parametrize("size", [(7, 8), (28, 28), (28, 9)])
def test_a_little_blur_is_undone_up_to_the_edges(digits: Pixels, size: tuple[int, int]) -> None:
    task, x = Task("deblur", sigma=0.7), digits[:10, :, 10 : 10 + size[0], 10 : 10 + size[1]]
    degraded = task.degrade(x, 256, range(10))
    before, after = (
        np.abs(np.asarray(y) - x)[..., [0, -1]].mean()
        for y in (degraded.picture, baseline(task, degraded, 256))
    )
    assert after < before / 5


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("kind", ["digits", "photographs"])
def test_a_blur_is_undone_nearly_as_well_as_one_can(
    kind: str, sigma: float, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much to smooth is found out for each image, though 100 times as much for photographs."""
    x = request.getfixturevalue(kind)[:20]
    task = Task("deblur", sigma=sigma)
    degraded = task.degrade(x, 256, range(len(x)))
    found = quality(x, baseline(task, degraded, 256), 256).psnr
    fixed = []
    for exponent in (-6, -5, -4, -3, -2):
        monkeypatch.setattr(restoration_baselines, "_BALANCES", (10.0**exponent,))
        fixed.append(quality(x, baseline(task, degraded, 256), 256).psnr)
    assert found > max(fixed) - 2


@pytest.mark.parametrize("levels", [50, 256])
def test_known_pixels_stay_where_holes_are_filled_in(digits: Pixels, levels: int) -> None:
    task, x = Task("inpaint"), digits.astype(np.int64) * levels // 256
    degraded = task.degrade(x, levels, range(40))
    known = ~hidden(degraded)
    restored = baseline(task, degraded, levels)[:, 0].numpy()
    np.testing.assert_allclose(restored[known], x[:, 0][known], rtol=0, atol=1e-3)


def test_a_picture_that_is_hidden_altogether_is_filled_with_grey() -> None:
    nothing = Degraded(
        torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    )
    assert (baseline(Task("inpaint"), nothing, 5) == 2).all()


def test_the_grey_picture_is_the_baseline_of_colouring_in() -> None:
    task = Task("colourise")
    degraded = task.degrade(drawn(2, 3, 4, 5), 256, [0, 1])
    restored = baseline(task, degraded, 256)
    torch.testing.assert_close(restored, degraded.picture.expand(2, 3, 4, 5).float())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("task", TASKS, ids=words_of)
def test_a_restored_image_has_the_shape_and_the_levels_of_the_true_one(
    task: Task, channels: int
) -> None:
    channels = 3 if task.name == "colourise" else channels
    x = torch.from_numpy(drawn(2, channels, 8, 12, levels=50))
    restored = baseline(task, task.degrade(x, 50, [0, 1]), 50)
    assert restored.dtype == torch.float32
    assert restored.shape == x.shape
    assert 0 <= restored.min() <= restored.max() <= 49
    assert baseline_name(task)


def test_values_of_hidden_pixels_are_ignored() -> None:
    task, known = Task("inpaint"), np.ones((8, 8), bool)
    known[2:5, 3:7] = False
    pictures = drawn(1, 3, 8, 8).astype(np.uint8)
    some = task.from_pictures(pictures, (3, 8, 8), 256, known)
    other = task.from_pictures(np.where(known, pictures, 7), (3, 8, 8), 256, known)
    assert not torch.equal(some.picture, other.picture)
    assert torch.equal(baseline(task, some, 256), baseline(task, other, 256))


def test_degraded_images_that_do_not_fit() -> None:
    degraded = Task("denoise").degrade(drawn(2, 1, 8, 8), 256, [0, 1])
    with pytest.raises(UserError, match="belong to the task inpaint"):
        baseline(Task("inpaint"), degraded, 256)
    with pytest.raises(UserError, match="2 levels or more"):
        baseline(Task("denoise"), degraded, 1)
