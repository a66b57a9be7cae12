"""Pictures of all kinds become the same integers."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from nextpixel import UserError, to_images, to_pil
from nextpixel.data import Images

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)  # H, W, C
GREY = RNG.integers(0, 256, (5, 7)).astype(np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def first(x: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.int64))


@pytest.mark.parametrize("shape", [None, (3, 5, 7)])
def test_every_kind_gives_the_same(file: Path, shape: Any) -> None:
    picture = Image.fromarray(COLOUR)
    np.save(file.with_name("b.npy"), COLOUR[None])
    (file.parent / "only").mkdir()
    picture.save(file.parent / "only" / "a.png")
    kinds: list[Any] = [
        picture,
        file,
        str(file),
        file.with_name("b.npy"),
        file.parent / "only",
        COLOUR,
        COLOUR[None],
        COLOUR.transpose(2, 0, 1),
        COLOUR.transpose(2, 0, 1)[None],
        COLOUR.astype(np.int32),
        torch.from_numpy(COLOUR.transpose(2, 0, 1).copy()),
        Images(np.ascontiguousarray(COLOUR.transpose(2, 0, 1)[None]), None, 256),
    ]
    for kind in kinds:
        x = to_images(kind, shape)
        assert x.dtype == torch.int64
        assert torch.equal(x, first(COLOUR)), kind
        assert torch.equal(to_images([kind, kind], shape), first(COLOUR).repeat(2, 1, 1, 1))


def test_grey_arrays() -> None:
    expected = torch.from_numpy(GREY.astype(np.int64))[None, None]
    for kind in (GREY, GREY[None], GREY[..., None], GREY[None, None], Image.fromarray(GREY)):
        assert torch.equal(to_images(kind, (1, 5, 7)), expected)
    many = np.stack([GREY] * 4)  # (N, H, W)
    assert torch.equal(to_images(many, (1, 5, 7)), expected.repeat(4, 1, 1, 1))


def test_levels_are_reduced_as_in_data_sets() -> None:
    assert torch.equal(to_images(COLOUR, None, 4), first(COLOUR) * 4 // 256)
    white = np.ones((5, 7), bool)
    assert to_images(white, None, 8).unique().tolist() == [7]
    assert to_images(np.zeros((5, 7), np.uint8), None, 8).unique().tolist() == [0]
    binary = (GREY > 99).astype(np.uint8)
    assert torch.equal(to_images(binary, None, 2)[0, 0], torch.from_numpy(binary.astype(np.int64)))


def test_levels_stay_as_they_are() -> None:
    levels = GREY // 64
    right = torch.from_numpy(levels.astype(np.int64))[None, None]
    assert torch.equal(to_images(levels.astype(np.int64), None, 4), right)
    assert torch.equal(to_images(torch.from_numpy(levels)[None, None], None, 4), right)
    assert torch.equal(to_images(levels, None, 4, from_levels=4), right)
    assert torch.equal(to_images(levels, None, 4, from_levels=256), right * 4 // 256)


def test_bytes_that_may_be_levels_are_refused() -> None:
    with pytest.raises(UserError, match="may be 32 levels already, or dark pictures of 256"):
        to_images(GREY // 8, None, 32)


def test_pictures_are_cropped_resized_and_converted() -> None:
    wide = Image.fromarray(np.repeat(COLOUR, 3, 1)).resize((30, 12))
    right = wide.convert("L").crop((9, 0, 21, 12)).resize((4, 4), Image.Resampling.LANCZOS)
    for kind in (wide, np.asarray(wide), np.asarray(wide).transpose(2, 0, 1)[None]):
        assert np.array_equal(to_images(kind, (1, 4, 4))[0, 0].numpy(), np.asarray(right))
    transparent = np.dstack([COLOUR, np.zeros((5, 7), np.uint8)])
    assert to_images(transparent).unique().tolist() == [255]


def test_grey_and_coloured_pictures_together_are_in_colour() -> None:
    both = to_images([Image.fromarray(GREY), Image.fromarray(COLOUR)])
    assert both.shape == (2, 3, 5, 7)
    assert torch.equal(both[0, 0], both[0, 2])


@pytest.mark.parametrize(
    ("pictures", "shape", "message"),
    [
        ([], None, "the list is empty"),
        (Path("nowhere.png"), None, "There are no images nowhere.png"),
        (0.5, None, "not float"),
        ([[0, 1], [1, 0]], None, "not int"),
        (torch.utils.data.DataLoader([0]), None, "not DataLoader"),  # type: ignore[arg-type]
        (GREY / 255, None, "Images are integers, not float64"),
        (torch.rand(1, 1, 5, 7), None, "Images are integers, not float32"),
        (np.full((1, 5, 7), 300), None, "values go from 300 to 300"),
        (np.full((1, 5, 7), -1), None, "values go from -1 to -1"),
        (np.zeros((3, 9, 3), np.uint8), None, "could come first or last"),
        (np.zeros((2, 5, 7, 2), np.uint8), None, "neither first nor last"),
        (np.zeros(7, np.uint8), None, "2 to 4 dimensions"),
        (COLOUR, (3, 5, 8), "An array is 7 x 5 pixels"),
        (Image.fromarray(COLOUR), (2, 4, 4), "has 1 or 3 channels, but the images have 2"),
        (Image.new("I;16", (4, 4)), (1, 4, 4), "more than 8 bits"),
        ([GREY, GREY[:4]], None, "different shapes"),
    ],
)
def test_what_is_no_picture_is_refused(pictures: Any, shape: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        to_images(pictures, shape)


def test_pictures_come_out() -> None:
    one = to_pil(first(COLOUR)[0], 256)
    assert np.array_equal(np.asarray(one), COLOUR)
    several = to_pil(torch.tensor([[[[0, 1], [2, 3]]]] * 2), 4)
    assert [np.asarray(each).tolist() for each in several] == [[[0, 85], [170, 255]]] * 2
    assert torch.equal(to_images(to_pil(first(COLOUR), 256)), first(COLOUR))
    with pytest.raises(UserError, match="give the levels"):
        to_pil(first(COLOUR), 4)
    with pytest.raises(UserError, match="1 or 3 channels"):
        to_pil(torch.zeros(1, 2, 4, 4, dtype=torch.int64), 2)
