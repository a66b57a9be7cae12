"""Numbers with their nouns, for messages."""

from __future__ import annotations

__all__ = ["count"]


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun: "1 image", "8 images", "60,000 images".

    Args:
        n: The number.
        noun: What is counted.
        plural: Its plural, if that is not the noun with an s.
    """
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"
