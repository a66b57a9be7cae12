"""Numbers with their nouns and with their errors, and lists of names, for messages."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["count", "list_names", "with_error"]

LISTED = 20  # names in a message


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun: "1 image", "8 images", "60,000 images".

    Args:
        n: The number.
        noun: What is counted.
        plural: Its plural, if that is not the noun with an s.
    """
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def list_names(names: Sequence[str], limit: int = LISTED) -> str:
    """Lists names: the first ones, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def with_error(value: float, error: float, digits: int = 4) -> str:
    """Returns a number with its standard error, which is left out if it is NaN, as of one image.

    Args:
        value: The number.
        error: Its standard error.
        digits: Digits after the point, of both.
    """
    text = f"{value:.{digits}f}"
    return text if math.isnan(error) else f"{text} ± {error:.{digits}f}"
