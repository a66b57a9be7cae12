"""Degradations: what is random in them, what they do to images, and what they refuse."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nextpixel.conditioning.degradation import Task
from nextpixel.errors import UserError
from nextpixel.sampling.config import site_noise
from tests.helpers import TASKS, drawn, hidden, words_of

RANDOM = [task for task in TASKS if task.name in ("denoise", "inpaint")]


# What is random


@pytest.mark.parametrize("task", TASKS, ids=words_of)
def test_an_image_is_degraded_the_same_in_any_batch(task: Task) -> None:
    x, numbers = drawn(5, 3, 8, 12), [7, 0, 3, 2**40, 4]
    together = task.degrade(x, 256, numbers, seed=5)
    for i in (3, 1):
        alone = task.degrade(x[i : i + 1], 256, [numbers[i]], seed=5)
        assert torch.equal(alone.image[0], together.image[i])
        if task.name == "inpaint":
            assert np.array_equal(hidden(alone)[0], hidden(together)[i])


@pytest.mark.parametrize("task", RANDOM, ids=words_of)
def test_another_seed_or_number_degrades_in_another_way(task: Task) -> None:
    x = drawn(1, 1, 16, 16).repeat(8, 0)
    image = task.degrade(x, 256, range(8)).image
    assert not torch.equal(task.degrade(x, 256, range(8), seed=1).image, image)
    assert not torch.equal(task.degrade(x, 256, range(8, 16)).image, image)
    assert any(not torch.equal(image[0], other) for other in image[1:])


def test_noise_of_degradation_is_independent_of_noise_of_sampling() -> None:
    """With one stream for both, pixels would be hidden where low levels are about to be drawn."""
    x = np.zeros((20, 1, 28, 28), np.int64)
    holes = hidden(Task("inpaint", holes="scattered").degrade(x, 2, range(20))).ravel()
    noise = site_noise((1, 28, 28), 0, range(20)).numpy().ravel()
    for shift in range(3):
        here = slice(shift, len(noise) - 2 + shift)
        assert abs(np.corrcoef(holes[:-2], noise[here])[0, 1]) < 0.05
        assert abs(np.corrcoef(holes[here], noise[:-2])[0, 1]) < 0.05


# What is done to the images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("task", TASKS, ids=words_of)
def test_shapes(task: Task, channels: int) -> None:
    channels = 3 if task.name == "colourise" else channels
    x = torch.from_numpy(drawn(2, channels, 8, 12, levels=50))
    degraded = task.degrade(x, 50, [0, 1])
    context = {"super-resolution": (channels, 2, 3), "colourise": (1, 8, 12)}
    default = (channels + (task.name == "inpaint"), 8, 12)
    assert task.context_shape((channels, 8, 12)) == context.get(task.name, default)
    assert degraded.image.shape == (2, *task.context_shape((channels, 8, 12)))
    assert degraded.image.dtype == torch.float32
    assert (degraded.mask is not None) == (task.name == "inpaint")
    assert degraded.picture.dtype == torch.uint8
    assert degraded.picture.shape == (2, *context.get(task.name, (channels, 8, 12)))
    pixels = degraded.pixels(50)
    assert pixels.dtype == torch.int64
    assert 0 <= pixels.min() < pixels.max() <= 49


def test_super_resolution_averages_blocks() -> None:
    x = drawn(3, 2, 6, 9)
    picture = Task("super-resolution", factor=3).degrade(x, 256, range(3)).picture
    for row, col in np.ndindex(2, 3):
        block = x[:, :, 3 * row : 3 * row + 3, 3 * col : 3 * col + 3]
        sums = block.reshape(3, 2, 9).sum(2)
        assert np.array_equal(picture[:, :, row, col], (sums + 4) // 9)
    halves = Task("super-resolution", factor=2).degrade(
        np.array([[[[0, 1, 1, 2], [0, 1, 1, 2]]]]), 256, [0]
    )
    assert halves.picture.tolist() == [[[[0, 2]]]]  # to even


@pytest.mark.parametrize("levels", [2, 50, 256])
@pytest.mark.parametrize("name", ["super-resolution", "colourise", "deblur", "inpaint"])
def test_black_is_minus_one_and_white_one(name: str, levels: int) -> None:
    x = np.zeros((2, 3, 8, 8), np.int64)
    x[1] = levels - 1
    degraded = Task(name).degrade(x, levels, [0, 1])  # type: ignore[arg-type]
    image = degraded.image[:, : degraded.picture.shape[1]]
    if degraded.mask is not None:
        image = torch.where(degraded.mask, image, torch.tensor([-1.0, 1])[:, None, None, None])
    assert (image[0] == -1).all()
    assert (image[1] == 1).all()


def test_grey_is_the_luminance() -> None:
    x = drawn(20, 3, 32, 32)
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    picture = Task("colourise").degrade(x, 256, range(20)).picture
    whole, rest = np.divmod(299 * red + 587 * green + 114 * blue, 1000)
    assert (rest == 500).any()
    assert np.array_equal(picture[:, 0], whole + (rest + whole % 2 > 500))


def test_gaussian_noise_has_the_stated_deviation_and_is_cut_off() -> None:
    task = Task("denoise", noise=0.1)
    noisy = task.degrade(np.full((20, 1, 32, 32), 3), 7, range(20)).picture.double() / 255
    # The standard error of each figure is below 0.001.
    assert abs(noisy.std() - 0.1) < 0.005
    assert abs(noisy.mean() - 0.5) < 0.005
    ends = np.zeros((20, 1, 32, 32), np.int64)
    ends[10:] = 6
    noisy = task.degrade(ends, 7, range(20)).picture.double() / 255
    for part in (noisy[:10], 1 - noisy[10:]):
        assert abs((part == 0).double().mean() - 0.5) < 0.03  # and a byte's half a level
        assert abs(part.mean() - 0.1 / np.sqrt(2 * np.pi)) < 0.003


def test_salt_and_pepper_replace_whole_pixels() -> None:
    x = np.full((20, 3, 32, 32), 2)
    task = Task("denoise", noise=0.4, noise_kind="salt-and-pepper")
    picture = task.degrade(x, 5, range(20)).picture
    assert (picture == picture[:, :1]).all()
    parts = [(picture == value).double().mean() for value in (0, 128, 255)]
    np.testing.assert_allclose(parts, [0.2, 0.6, 0.2], atol=0.02)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 4.0])
def test_a_blurred_edge_is_the_sum_of_a_gaussian(sigma: float) -> None:
    x = np.zeros((1, 1, 64, 64), np.int64)
    x[..., 32:] = 255
    task = Task("deblur", sigma=sigma)
    weights = np.exp(-((np.arange(64) - 32) ** 2) / (2 * sigma**2))
    expected = 255 * weights.cumsum() / weights.sum()
    for turned in (x, x.swapaxes(2, 3)):
        picture = task.degrade(turned, 256, [0]).picture[0, 0]
        edge = picture if turned is x else picture.T
        # Half a level of rounding, and the little that the kernel lacks beyond four deviations.
        np.testing.assert_allclose(edge, np.tile(expected, (64, 1)), rtol=0, atol=0.52)


def test_a_blurred_picture_is_mirrored_at_its_edges() -> None:
    x = drawn(1, 1, 12, 12)
    task = Task("deblur", sigma=2.0)
    alone = task.degrade(x, 256, [0]).picture
    # A picture and its mirror image, side by side, are blurred as the picture alone.
    for axis in (2, 3):
        both = task.degrade(np.concatenate([x, np.flip(x, axis)], axis), 256, [0]).picture
        assert torch.equal(both[..., :12, :12], alone)


# Pictures from files


@pytest.mark.parametrize("levels", [2, 50, 256])
@pytest.mark.parametrize("task", TASKS, ids=words_of)
def test_a_picture_that_was_written_and_read_is_the_same(task: Task, levels: int) -> None:
    degraded = task.degrade(drawn(2, 3, 8, 12, levels=levels), levels, [0, 1])
    read = task.from_pictures(degraded.picture.numpy(), (3, 8, 12), levels, degraded.mask)
    assert torch.equal(read.image, degraded.image)


def test_known_pixels_of_a_file_have_the_nearest_level() -> None:
    pictures = drawn(2, 1, 4, 5).astype(np.uint8)
    known = torch.from_numpy(drawn(4, 5, levels=2) == 1)
    read = Task("inpaint").from_pictures(pictures, (1, 4, 5), 5, known)
    nearest = np.abs(pictures[..., None] - np.linspace(0, 255, 5)).argmin(-1)
    assert read.mask is not None
    assert torch.equal(read.mask, known.expand(2, 1, 4, 5))
    where = read.mask.numpy()
    assert np.array_equal(read.pixels(5).numpy()[where], nearest[where])
    # Bytes are 127.5 a unit, and rounded.
    scaled = read.image[:, :1].numpy()[where]
    np.testing.assert_allclose(scaled, nearest[where] / 2 - 1, rtol=0, atol=0.5 / 127.5 + 1e-6)


def test_values_of_hidden_pixels_are_ignored() -> None:
    task, known = Task("inpaint"), np.ones((8, 8), bool)
    known[2:5, 3:7] = False
    pictures = drawn(1, 3, 8, 8).astype(np.uint8)
    some = task.from_pictures(pictures, (3, 8, 8), 256, known)
    other = task.from_pictures(np.where(known, pictures, 7), (3, 8, 8), 256, known)
    assert not torch.equal(some.picture, other.picture)
    assert torch.equal(some.image, other.image)


# What is hidden


@pytest.mark.parametrize("holes", ["boxes", "halves", "scattered", "mixed"])
def test_known_pixels_are_kept_and_hidden_ones_are_zero(holes: str) -> None:
    x = drawn(6, 3, 9, 10)
    degraded = Task("inpaint", holes=holes).degrade(x, 256, range(6))  # type: ignore[arg-type]
    known = ~hidden(degraded)[:, None].repeat(3, 1)
    scaled = (x / 255 * 2 - 1).astype(np.float32)
    assert known.any(axis=(1, 2, 3)).all()
    assert (~known).any(axis=(1, 2, 3)).all()
    assert np.array_equal(degraded.image[:, :3].numpy()[known], scaled[known])
    assert (degraded.image[:, :3].numpy()[~known] == 0).all()
    assert np.array_equal(degraded.image[:, 3:].numpy(), known[:, :1])
    assert (degraded.picture.numpy()[~known] == 128).all()


@pytest.mark.parametrize("levels", [2, 3, 28, 100, 199, 255, 256])
def test_the_context_holds_the_exact_levels_of_known_pixels(levels: int) -> None:
    x = np.arange(levels).repeat(10)[None, None, None].repeat(2, 2)
    degraded = Task("inpaint", holes="scattered").degrade(x, levels, [0])
    known = ~hidden(degraded)[:, None]
    assert np.array_equal(degraded.pixels(levels).numpy()[known], x[known])


def is_a_half(hole: NDArray[np.bool_]) -> str | None:
    for turned, names in ((hole, ("top", "bottom")), (hole.T, ("left", "right"))):
        middle = len(turned) // 2
        for name, rows in zip(names, (slice(middle), slice(middle, None)), strict=True):
            half = np.zeros_like(turned)
            half[rows] = True
            if np.array_equal(half, turned):
                return name
    return None


def box_sides(hole: NDArray[np.bool_]) -> tuple[int, int] | None:
    rows, cols = hole.any(1).nonzero()[0], hole.any(0).nonzero()[0]
    inside = hole[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return inside.shape if inside.all() else None


def test_halves_are_all_four() -> None:
    x = np.zeros((80, 1, 9, 12), np.int64)
    names = [
        is_a_half(hole) for hole in hidden(Task("inpaint", holes="halves").degrade(x, 2, range(80)))
    ]
    assert set(names) == {"top", "bottom", "left", "right"}
    assert max(names.count(name) for name in set(names)) < 35


def test_boxes_are_between_a_quarter_and_two_thirds_of_each_side() -> None:
    x = np.zeros((400, 1, 9, 12), np.int64)
    holes = hidden(Task("inpaint", holes="boxes").degrade(x, 2, range(400)))
    sides = [box_sides(hole) for hole in holes]
    assert {side[0] for side in sides if side} == {3, 4, 5, 6}
    assert {side[1] for side in sides if side} == {3, 4, 5, 6, 7, 8}
    assert None not in sides
    assert holes.any(0).all()  # they can be anywhere


def test_scattered_pixels_are_hidden_with_a_probability_of_the_image() -> None:
    x = np.zeros((200, 1, 40, 40), np.int64)
    holes = hidden(Task("inpaint", holes="scattered").degrade(x, 2, range(200)))
    parts = holes.mean((1, 2))
    assert 0.45 < parts.min() < 0.55
    assert 0.85 < parts.max() < 0.95
    assert abs(parts.mean() - 0.7) < 0.03
    neighbours = (holes[:, :, 1:] & holes[:, :, :-1]).mean((1, 2))
    assert abs((neighbours - parts**2).mean()) < 0.01


def test_mixed_holes_are_of_each_kind_equally_often() -> None:
    x = np.zeros((300, 1, 20, 20), np.int64)
    holes = hidden(Task("inpaint").degrade(x, 2, range(300)))
    halves = sum(is_a_half(hole) is not None for hole in holes)
    boxes = sum(box_sides(hole) is not None and not is_a_half(hole) for hole in holes)
    for count in (halves, boxes, 300 - halves - boxes):
        assert 70 < count < 130  # 100, with a deviation of 8


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sharpen"}, "no restoration task 'sharpen'"),
        ({"name": "denoise", "noise_kind": "pink"}, "no kind of noise 'pink'"),
        ({"name": "inpaint", "holes": "round"}, "no kind of holes 'round'"),
        ({"name": "super-resolution", "factor": 1}, "2 or more, not 1"),
        ({"name": "super-resolution", "factor": 2.5}, "integer of 2"),
        ({"name": "denoise", "noise": 0.0}, "noise must be a number above 0"),
        ({"name": "denoise", "noise": float("nan")}, "noise must be a number above 0"),
        ({"name": "denoise", "noise": 1.5, "noise_kind": "salt-and-pepper"}, "up to 1, not 1.5"),
        ({"name": "deblur", "sigma": float("inf")}, "sigma, in pixels"),
    ],
)
def test_unknown_tasks_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Task(**options)  # type: ignore[arg-type]


def test_noise_of_more_than_the_range_may_be_gaussian() -> None:
    assert Task("denoise", noise=1.5).noise == 1.5


def test_images_that_do_not_fit_the_task() -> None:
    with pytest.raises(UserError, match="divides, not 8x10"):
        Task("super-resolution").degrade(drawn(1, 1, 8, 10), 256, [0])
    with pytest.raises(UserError, match="divides, not 10x8"):
        Task("super-resolution").context_shape((1, 10, 8))
    with pytest.raises(UserError, match="3 channels"):
        Task("colourise").context_shape((1, 8, 8))
    with pytest.raises(UserError, match="2x2 or more, not 1x8"):
        Task("inpaint").degrade(drawn(1, 1, 1, 8), 256, [0])


def test_wrong_images_are_refused() -> None:
    task, x = Task("denoise"), drawn(2, 1, 8, 8)
    with pytest.raises(UserError, match="integers from 0 to 15"):
        task.degrade(x, 16, [0, 1])
    with pytest.raises(UserError, match="integers from 0 to 255"):
        task.degrade(x - 1, 256, [0, 1])
    with pytest.raises(UserError, match="2 levels or more"):
        task.degrade(x * 0, 1, [0, 1])
    with pytest.raises(UserError, match="2 levels or more"):
        task.degrade(x, 256, [0, 1]).pixels(1)
    with pytest.raises(UserError, match="up to 256 levels"):
        task.degrade(x, 512, [0, 1])
    with pytest.raises(UserError, match="not float64"):
        task.degrade(x.astype(float), 256, [0, 1])
    with pytest.raises(UserError, match=r"shape \(B, C, H, W\)"):
        task.degrade(torch.from_numpy(x[0]), 256, [0])
    with pytest.raises(UserError, match="at least one"):
        task.degrade(x[:0], 256, [])
    with pytest.raises(UserError, match="have 2 numbers, not 3"):
        task.degrade(x, 256, [0, 1, 2])
    with pytest.raises(UserError, match="numbers from 0"):
        task.degrade(x, 256, [0, -1])
    with pytest.raises(UserError, match="seed lies"):
        task.degrade(x, 256, [0, 1], seed=-1)


def test_pictures_that_do_not_fit() -> None:
    x = drawn(2, 3, 8, 8).astype(np.uint8)
    known = np.ones((8, 8), bool)
    task = Task("super-resolution")
    with pytest.raises(UserError, match=r"bytes \(B, 3, 2, 2\), not torch.uint8 \(2, 3, 8, 8\)"):
        task.from_pictures(x, (3, 8, 8), 256)
    with pytest.raises(UserError, match=r"not torch.int64 \(2, 3, 8, 8\)"):
        Task("denoise").from_pictures(x.astype(np.int64), (3, 8, 8), 256)
    with pytest.raises(UserError, match="goes with inpaint"):
        Task("denoise").from_pictures(x, (3, 8, 8), 256, known)
    with pytest.raises(UserError, match="goes with inpaint"):
        Task("inpaint").from_pictures(x, (3, 8, 8), 256)
    with pytest.raises(UserError, match=r"booleans \(8, 8\) or \(2, 1, 8, 8\), not torch.bool"):
        Task("inpaint").from_pictures(x, (3, 8, 8), 256, known[:4])
    with pytest.raises(UserError, match=r"not torch.uint8 \(8, 8\)"):
        Task("inpaint").from_pictures(x, (3, 8, 8), 256, known.astype(np.uint8))


def test_importing_is_quick() -> None:
    """Loading scikit-image takes long, and neither models nor their training need it."""
    code = "import sys, nextpixel.conditioning.degradation; sys.exit('skimage' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
