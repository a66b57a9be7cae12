"""Damages the content of a file, at random but repeatably."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (
    *(b"-1", b"0", b"0.5", b"65000", b"4294967295", b"9" * 5000, b"1e999", b"NaN"),
    *(b'"1"', b"null"),
)
HUGE = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x7f\xff\xff\xff")
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 65_000, 2**31, 2**63, 10**400, 0.5, -1e308, float("nan"), float("inf")),
    *("", "x", "é" * 100_000, "../../etc/passwd", "\0", "\ud800"),
    *([], {}, [[]], [None], {"": None}, [1] * 1000),
)
DEEP = 100_000  # brackets


def mutate(data: bytes, random: Random, text: bool) -> bytes:
    """Damages bytes one to three times.

    Args:
        data: The content of a file.
        random: Decides what is done.
        text: Whether numbers and nested values may be replaced, too.
    """
    kinds = (*BYTES, *TEXT) if text else BYTES
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(kinds)(data, random)
    return data


def flip_bit(data: bytes, random: Random) -> bytes:
    """Flips a bit."""
    if not data:
        return b"\0"
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def flip_early_bit(data: bytes, random: Random) -> bytes:
    """Flips a bit where headers are."""
    return flip_bit(data[:64], random) + data[64:]


def flip_late_bit(data: bytes, random: Random) -> bytes:
    """Flips a bit where an archive has its directory."""
    return data[:-200] + flip_bit(data[-200:], random)


def cut(data: bytes, random: Random) -> bytes:
    """Keeps the beginning."""
    return data[: random.randrange(len(data) + 1)]


def drop(data: bytes, random: Random) -> bytes:
    """Leaves out a part."""
    begin, end = sorted(random.randrange(len(data) + 1) for _ in "be")
    return data[:begin] + data[end:]


def repeat(data: bytes, random: Random) -> bytes:
    """Repeats a part."""
    begin, end = sorted(random.randrange(len(data) + 1) for _ in "be")
    return data[:end] + data[begin:]


def overwrite(data: bytes, random: Random) -> bytes:
    """Overwrites four bytes by a large or negative number."""
    at = random.randrange(max(1, min(len(data), random.choice((40, 400, len(data))))))
    return data[:at] + random.choice(HUGE) + data[at + 4 :]


def append(data: bytes, random: Random) -> bytes:
    """Adds bytes that do not belong there."""
    return data + random.randbytes(random.choice((1, 100, 10_000)))


def noise(data: bytes, random: Random) -> bytes:
    """Replaces everything."""
    return random.randbytes(random.choice((0, 1, 30, 1000)))


def replace_number(data: bytes, random: Random) -> bytes:
    """Replaces a number in a text."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return data
    one = random.choice(found)
    return data[: one.start()] + random.choice(NUMBERS) + data[one.end() :]


def replace_value(data: bytes, random: Random) -> bytes:
    """Replaces a value of JSON by one of another type or size."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return data
    places: list[tuple[Any, Any]] = []

    def find(value: Any) -> None:
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                places.append((value, key))
                find(value[key])

    find(whole)
    if not places:
        return json.dumps(random.choice(VALUES)).encode()
    container, key = random.choice(places)
    if random.random() < 0.2:
        del container[key]
    else:
        container[key] = random.choice(VALUES)
    return json.dumps(whole).encode()


def nest(data: bytes, random: Random) -> bytes:
    """Puts many brackets into a text."""
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice((b"[", b'{"a":', b"- ", b"&a [*a,")) * DEEP + data[at:]


def empty_value(data: bytes, random: Random) -> bytes:
    """Leaves out the value of a line of YAML."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    lines[at] = lines[at].split(b":")[0] + b":"
    return b"\n".join(lines)


Mutation = Callable[[bytes, Random], bytes]
BYTES: tuple[Mutation, ...] = (
    *(flip_bit, flip_early_bit, flip_late_bit, cut, drop, repeat, overwrite, append, noise),
)
TEXT: tuple[Mutation, ...] = (replace_number, replace_value, replace_value, nest, empty_value)
