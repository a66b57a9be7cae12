"""Finds how the views of captured steps depend on the site: as affine functions of row and column.

A layer indexes its tensors by `row` and `col`, times something, plus something. So the offset and
the sizes of every view are affine in both, and three captured steps determine them at all sites.
With strided layers this holds for the sites of a kind, and rows and columns are those of periods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nextpixel.engine.capture import Call, Storage, View, replace_each
from nextpixel.nn import Site

__all__ = ["AffineView", "NotAffineError", "at_site", "constant", "fit", "views_in"]


class NotAffineError(Exception):
    """The captured steps differ by more than an affine function of the site."""


class AffineView(NamedTuple):
    """A view whose offset and sizes are affine functions of the site.

    Attributes:
        origin: The view at row 0 and column 0, extrapolated if no such step exists.
        per_row: What one row adds to the offset and to each of the sizes.
        per_col: What one column adds to them.
    """

    origin: View
    per_row: tuple[int, ...]
    per_col: tuple[int, ...]

    @property
    def storage(self) -> Storage:
        """The storage that holds it, the same at every site."""
        return self.origin.storage

    @property
    def resizes(self) -> bool:
        """Whether its shape depends on the site."""
        return any(self.per_row[1:]) or any(self.per_col[1:])

    @property
    def moves(self) -> bool:
        """Whether its offset or its shape depends on the site."""
        return any(self.per_row) or any(self.per_col)

    def at(self, site: Site) -> View:
        """Evaluates it at a site."""
        by_site = zip(numbers(self.origin), self.per_row, self.per_col, strict=True)
        offset, *sizes = (n + site.row * row + site.col * col for n, row, col in by_site)
        return self.origin._replace(offset=offset, sizes=tuple(sizes))


def at_site(x: Any, site: Site) -> Any:
    """Replaces every affine view in the arguments of calls by the view at a site."""
    return replace_each(AffineView, x, lambda view: view.at(site))


def views_in(x: Any) -> Iterator[AffineView]:
    """Iterates over the affine views in the arguments of calls."""
    if isinstance(x, AffineView):
        yield x
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from views_in(part)
    elif isinstance(x, dict):
        yield from views_in(list(x.values()))


def fit(captured: Sequence[Any], sites: Sequence[Site]) -> Any:
    """Replaces the views of captured calls by affine views that give them at their sites.

    Args:
        captured: The same calls, captured at three sites.
        sites: A site, one in another row (or the same site) and one in another column (or the same
            site).

    Raises:
        NotAffineError: The calls are not the same ones, or their views are not affine in the site.
    """
    first, by_row, by_col = captured
    if first == by_row == by_col:
        return replace_each(View, first, constant)
    if not type(first) is type(by_row) is type(by_col):
        raise NotAffineError(f"an argument changes its type: {captured}")
    if isinstance(first, View):
        return fit_view(first, by_row, by_col, sites)
    if isinstance(first, (tuple, list, dict)):
        return fit_parts(captured, sites)
    raise NotAffineError(f"an argument changes: {captured}")


def fit_parts(captured: Sequence[Any], sites: Sequence[Site]) -> Any:
    """Fits the parts of three tuples, lists, dicts or calls, see `fit`."""
    first, by_row, by_col = captured
    if not len(first) == len(by_row) == len(by_col):
        raise NotAffineError("the steps differ in their number of calls or arguments")
    if isinstance(first, dict):
        return {name: fit([step[name] for step in captured], sites) for name in first}
    parts = [fit(part, sites) for part in zip(*captured, strict=True)]
    return Call(*parts) if isinstance(first, Call) else type(first)(parts)


def fit_view(first: View, by_row: View, by_col: View, sites: Sequence[Site]) -> AffineView:
    """Fits three views, see `fit`."""
    per_row = slope(first, by_row, sites[1].row - sites[0].row)
    per_col = slope(first, by_col, sites[2].col - sites[0].col)
    by_number = zip(numbers(first), per_row, per_col, strict=True)
    offset, *sizes = (n - sites[0].row * row - sites[0].col * col for n, row, col in by_number)
    return AffineView(first._replace(offset=offset, sizes=tuple(sizes)), per_row, per_col)


def constant(view: View) -> AffineView:
    """Makes the affine view that is the same at every site."""
    zero = (0,) * (1 + len(view.sizes))
    return AffineView(view, zero, zero)


def slope(a: View, b: View, distance: int) -> tuple[int, ...]:
    """Computes what each step of a distance adds to the offset and the sizes of a view."""
    if fixed_part(a) != fixed_part(b):
        raise NotAffineError(f"a view changes by more than its offset and sizes: {a}, {b}")
    differences = [y - x for x, y in zip(numbers(a), numbers(b), strict=True)]
    if any(d % distance if distance else d for d in differences):
        raise NotAffineError(f"a view is not affine in the site: {a}, {b}")
    return tuple(d // distance if distance else 0 for d in differences)


def numbers(view: View) -> list[int]:
    """Lists the numbers of a view that may depend on the site: its offset and its sizes."""
    return [view.offset, *view.sizes]


def fixed_part(view: View) -> tuple[Any, ...]:
    """Lists what must be the same at every site."""
    return (view.storage, view.dtype, view.strides, len(view.sizes))
