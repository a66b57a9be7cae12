"""Views of captured steps as affine functions of the site."""

from typing import Any

import pytest
import torch

from nextpixel.engine.affine import AffineView, NotAffineError, at_site, constant, fit, views_in
from nextpixel.engine.capture import Call, Storage, View
from nextpixel.nn import Site

CACHE = Storage(False, 1000)
SITES = [Site(1, 2), Site(3, 2), Site(1, 5)]


def view(offset: int, *sizes: int, **others: Any) -> View:
    strides = (8,) * len(sizes)
    return View(CACHE, torch.float32, offset, sizes, strides)._replace(**others)


def at(site: Site) -> View:
    return view(5 + 7 * site.row + 2 * site.col, 3, 1 + 4 * site.col)


def test_three_views_determine_all_others() -> None:
    found = fit([at(site) for site in SITES], SITES)
    assert found == AffineView(view(5, 3, 1), (7, 0, 0), (2, 0, 4))
    assert found.storage == CACHE
    assert found.at(Site(4, 6)) == at(Site(4, 6))
    assert (found.moves, found.resizes) == (True, True)
    for per_row, per_col, moves, resizes in (
        ((0, 0, 0), (0, 0, 0), False, False),
        ((1, 0, 0), (0, 0, 0), True, False),
        ((0, 0, 0), (1, 0, 0), True, False),
        ((0, 1, 0), (0, 0, 0), True, True),
        ((0, 0, 0), (0, 0, 1), True, True),
    ):
        other = AffineView(view(5, 3, 1), per_row, per_col)
        assert (other.moves, other.resizes) == (moves, resizes)


def test_a_single_row_and_a_single_column() -> None:
    """Where there is no second one, nothing is added for it."""
    alone = [Site(1, 2)] * 3
    assert fit([at(alone[0])] * 3, alone) == constant(at(alone[0]))
    row = [Site(1, 2), Site(1, 2), Site(1, 5)]
    origin = view(5 + 7, 3, 1)
    assert fit([at(site) for site in row], row) == AffineView(origin, (0, 0, 0), (2, 0, 4))


def test_views_inside_calls() -> None:
    def call(site: Site) -> Call:
        return Call("add", (at(site), [2, (3, at(site))]), {"alpha": 1.5, "to": at(site)}, None)

    found = fit([call(site) for site in SITES], SITES)
    affine = AffineView(view(5, 3, 1), (7, 0, 0), (2, 0, 4))
    assert found == Call("add", (affine, [2, (3, affine)]), {"alpha": 1.5, "to": affine}, None)
    assert list(views_in(found)) == [affine] * 3
    assert at_site(found, Site(0, 9)) == call(Site(0, 9))
    same = fit([call(SITES[0])] * 3, SITES)
    assert same.args[0] == constant(at(SITES[0]))


@pytest.mark.parametrize(
    ("captured", "words"),
    [
        ([view(0), view(1), view(0)], "not affine"),  # one in two rows
        ([view(0), view(0), view(2)], "not affine"),  # two in three columns
        ([view(0, 4), view(0, 5), view(0, 4)], "not affine"),  # a size, not the offset
        ([view(0), view(2, dtype=torch.int64), view(0)], "more than its offset"),
        ([view(0), view(2), view(3, storage=Storage(True, 0))], "more than its offset"),
        ([view(0, 2), view(2, 2), view(3, 2, strides=(9,))], "more than its offset"),
        ([view(0), view(2, 1), view(3)], "more than its offset"),
        ([1, 2, 1], "an argument changes: "),
        ([1, 1.5, 1], "changes its type"),
        ([1, 1, None], "changes its type"),
        ([(1, 2), (1, 2), (1,)], "number of calls or arguments"),
        ([(1, 2), (1,), (1, 2)], "number of calls or arguments"),
    ],
)
def test_what_is_not_affine_is_refused(captured: list[Any], words: str) -> None:
    with pytest.raises(NotAffineError, match=words):
        fit(captured, SITES)


def test_a_step_without_a_second_site_may_not_differ() -> None:
    row = [Site(1, 2), Site(1, 2), Site(1, 5)]
    with pytest.raises(NotAffineError, match="not affine"):
        fit([view(0), view(1), view(3)], row)
