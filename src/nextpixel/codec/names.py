"""Names of files below a folder, as they are kept in a .npxz and restored from it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import PurePosixPath

from nextpixel.errors import UserError

__all__ = ["check_name", "png_name", "png_names"]

FORBIDDEN = set('<>:"|?*\\') | {chr(code) for code in range(32)}  # in names, on some systems
LONGEST, MOST_PARTS = 255, 64  # bytes of a part of a name; parts
RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)
}  # on Windows


def check_name(name: str) -> None:
    """Checks that a name leads to a file below a folder, on every system.

    Raises:
        UserError: It does not.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name!r} is not UTF-8: rename the file.") from None
    parts = name.split("/")
    wrong = len(parts) > MOST_PARTS or any(
        part in ("", ".", "..")
        or part[-1] in ". "
        or len(part.encode()) > LONGEST
        or FORBIDDEN & set(part)
        or part.split(".")[0].casefold() in RESERVED
        for part in parts
    )
    if wrong:
        raise UserError(f"{name!r} is no name that every system has: rename the file.")


def png_names(names: Sequence[str]) -> Mapping[str, str]:
    """Gives files that cannot have their `png_name` another name as a PNG, different from all.

    That is the whole name and .png, or with a number before it.

    Args:
        names: The names of all files; a file keeps its own one if its bytes are kept.
    """
    if all(png_name(name) == name for name in names):
        return {}  # most folders; the sets below take memory
    taken = {folded(name) for name in names}
    taken |= {folded(str(parent)) for name in names for parent in PurePosixPath(name).parents}
    chosen = {}
    for name in names:
        png = png_name(name)
        if folded(png) in taken and png != name:
            candidates = chain([f"{name}.png"], (f"{name}.{k}.png" for k in count(2)))
            png = chosen[name] = next(each for each in candidates if folded(each) not in taken)
        taken.add(folded(png))
    return chosen


def png_name(name: str) -> str:
    """Returns the name that a file gets as a PNG: that with the ending .png."""
    return name if folded(name).endswith(".png") else str(PurePosixPath(name).with_suffix(".png"))


def folded(name: str) -> str:
    """Returns what two names have in common that some systems take for the same."""
    return unicodedata.normalize("NFC", name).casefold()
