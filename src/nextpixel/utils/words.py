"""Numbers with their nouns and with their errors, for messages."""

from __future__ import annotations

import math

__all__ = ["count", "with_error"]


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun: "1 image", "8 images", "60,000 images".

    Args:
        n: The number.
        noun: What is counted.
        plural: Its plural, if that is not the noun with an s.
    """
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def with_error(value: float, error: float, digits: int = 4) -> str:
    """Returns a number with its standard error, which is left out if it is NaN, as of one image.

    Args:
        value: The number.
        error: Its standard error.
        digits: Digits after the point, of both.
    """
    text = f"{value:.{digits}f}"
    return text if math.isnan(error) else f"{text} ± {error:.{digits}f}"
