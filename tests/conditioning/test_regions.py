"""Masks of regions."""

import pytest
import torch

from nextpixel.conditioning.regions import Half, box_mask, cell_mask, half_mask
from nextpixel.errors import UserError


@pytest.mark.parametrize(
    ("half", "expected"),
    [
        ("top", [[1, 1, 1], [0, 0, 0], [0, 0, 0]]),
        ("bottom", [[0, 0, 0], [1, 1, 1], [1, 1, 1]]),
        ("left", [[1, 0, 0], [1, 0, 0], [1, 0, 0]]),
        ("right", [[0, 1, 1], [0, 1, 1], [0, 1, 1]]),
    ],
)
def test_halves(half: Half, expected: list[list[int]]) -> None:
    assert half_mask(half, 3, 3).int().tolist() == expected


def test_boxes() -> None:
    assert box_mask(1, 0, 2, 1, (3, 2)).int().tolist() == [[0, 0], [1, 0], [1, 0]]


def test_a_cell_counts_as_known_where_all_of_its_pixels_are() -> None:
    known = torch.ones(4, 6, dtype=torch.bool)
    known[1, 2] = known[3, 5] = False
    assert cell_mask(known, (2, 3)).tolist() == [[True, False, True], [True, True, False]]
    assert cell_mask(known, (2, 1)).tolist() == [[False], [False]]
    assert torch.equal(cell_mask(known, (4, 6)), known)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="no half 'middle': choose top, bottom, left, right"):
        half_mask("middle", 4, 4)  # type: ignore[arg-type]
    for box in ((0, 0, 3, 1), (-1, 0, 1, 1), (0, 0, 0, 1)):
        with pytest.raises(UserError, match="does not lie within a picture of 2x2"):
            box_mask(*box, (2, 2))
