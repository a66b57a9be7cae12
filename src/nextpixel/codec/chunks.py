"""Chunks: some images that are coded one after the other, with all that is needed to decode them.

The body of a record CHNK is the length of a description (4 bytes, the low one first), the
description (JSON, packed by zlib), the codes of the images that the model takes, and the files of
the others; docs/format.md specifies it.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nextpixel.codec.coding import Levels, Plan, count_parts, decode, encode
from nextpixel.codec.container import Counts, crc32c, pack_json, unpack_json
from nextpixel.codec.pictures import (
    MODES,
    Item,
    Kind,
    levels_of_webp,
    same_as_webp,
    smallest_file,
)
from nextpixel.errors import UserError

__all__ = [
    "CHUNK",
    "Decoded",
    "check_chunk",
    "counts_of",
    "decode_chunk",
    "encode_chunk",
    "has_code",
    "parse_chunk",
]

CHUNK = b"CHNK"
LENGTH = struct.Struct("<I")
MOST_LEVELS = 1 << 29  # of a chunk, so that a damaged file does not ask for all memory
MOST_IMAGES = 1 << 16  # likewise
MOST_SIDE = 1 << 20  # likewise
MOST_TILES = 1 << 18  # likewise
MOST_LANES = 64
NO_CLASS, CODED = -1, -2  # in place of an image's class: it has none, or the one that is coded


Show: TypeAlias = Callable[[float], None] | None  # called with the fraction done


class Entry(NamedTuple):
    """What a chunk says about an image.

    Attributes:
        name: Its name, or "".
        mode: Pillow's mode of the picture, or "".
        profile: The number of its ICC profile among those of the chunk, or -1.
        kind: How it is kept.
        size: `[H, W]` of an image that the model codes; `[bytes]` of another one's file.
        class_id: The class that it had, `NO_CLASS` or `CODED`.
    """

    name: str = ""
    mode: str = ""
    profile: int = -1
    kind: Kind = "model"
    size: Sequence[int] = ()
    class_id: int = NO_CLASS


class Description(NamedTuple):
    """What a chunk says about all its images.

    Attributes:
        first: The number of the first image in the whole file.
        entries: One for each image.
        profiles: The ICC profiles, in base64.
        codes: The bytes of each lane's code.
        crc: The CRC-32C of the levels that are coded.
    """

    first: int
    entries: list[Entry]
    profiles: list[str]
    codes: list[int]
    crc: int


@dataclass(frozen=True)
class Decoded:
    """An image of a chunk.

    Attributes:
        number: Its number in the whole file.
        name: Its name, or "".
        mode: Pillow's mode of the picture, or "".
        profile: Its ICC profile, or b"".
        kind: How it was kept.
        levels: `(C, H, W)`, if the model coded it.
        file: The bytes of its file, if it did not.
        class_id: The class that it had, or None.
    """

    number: int
    name: str
    mode: str
    profile: bytes
    kind: Kind
    levels: Levels | None
    file: bytes | None
    class_id: int | None


# --- encoding -------------------------------------------------------------------------------------


def encode_chunk(
    plan: Plan | None,
    items: Sequence[Item],
    first: int,
    levels: int,
    show: Show = None,
) -> bytes:
    """Encodes images; those that a lossless file makes smaller are kept as such files.

    Args:
        plan: How they are coded; None keeps all as files.
        items: The images.
        first: The number of the first one in the whole file.
        levels: The levels of the images.
        show: Called with the fraction done.

    Returns:
        The body of the chunk's record.

    Raises:
        UserError: There is neither a model nor another codec for an image.
    """
    files = [smallest_file(item, levels) for item in items]
    takes_classes = plan is not None and plan.program.classes > 0
    searched = 0.0
    if plan is not None:
        items, searched = with_choices(plan, items, show)
    coded = [k for k, item in enumerate(items) if item.levels is not None]
    while plan is not None and coded:
        images = [x for k in coded if (x := items[k].levels) is not None]
        codes, costs = encode_items(plan, [items[k] for k in coded], part_of(show, searched, 1))
        fits = [
            (file := files[k]) is None or cost <= 8 * len(file[0])
            for k, cost in zip(coded, costs, strict=True)
        ]
        if all(fits):
            break
        coded = [k for k, fit in zip(coded, fits, strict=True) if fit]
    else:
        codes, images, coded = [], [], []
    profiles = list(dict.fromkeys(item.profile for item in items if item.profile))
    entries, tail, by_model = list[Entry](), list[bytes](), set(coded)
    for k, item in enumerate(items):
        profile = profiles.index(item.profile) if item.profile else -1
        own = NO_CLASS if item.own_class is None else item.own_class
        if k in by_model and item.levels is not None:
            if takes_classes and own != NO_CLASS and own == item.class_id:
                own = CODED
            size = list(item.levels.shape[1:])
            entries.append(Entry(item.name, item.mode, profile, "model", size, own))
            continue
        file = files[k]
        if file is None:
            raise UserError("Without a model, images need at most 256 levels and 1 or 3 channels.")
        kept = item.file if file[1] == "file" else None
        name = item.name if kept is None else kept[1]
        entries.append(Entry(name, item.mode, profile, file[1], [len(file[0])], own))
        tail.append(file[0])
    packed = pack(
        Description(
            first,
            entries,
            [base64.b64encode(profile).decode() for profile in profiles],
            list(map(len, codes)),
            checksum_of(images),
        )
    )
    return b"".join([LENGTH.pack(len(packed)), packed, *codes, *tail])


def with_choices(plan: Plan, items: Sequence[Item], show: Show = None) -> tuple[list[Item], float]:
    """Gives images the classes, if they have none, and the orders that cost the fewest bits.

    Returns:
        The images, and the fraction done.
    """
    items, passes = list(items), 0
    taken = [k for k, item in enumerate(items) if item.levels is not None]
    unknown = [k for k in taken if items[k].class_id is None]
    searches = [("class_id", plan.program.classes, unknown), ("order", plan.orders, taken)]
    searches = [search for search in searches if search[1] > 1 and search[2]]
    in_all = sum(count for _, count, _ in searches) + 1
    for field, count, wanted in searches:
        costs = []
        for value in range(count):
            change: dict[str, Any] = {field: value}
            some = [replace(items[k], **change) for k in wanted]
            part = part_of(show, passes / in_all, (passes + 1) / in_all)
            costs.append(encode_items(plan, some, part)[1])
            passes += 1
        for k, best in zip(wanted, np.argmin(costs, 0).tolist(), strict=True):
            items[k] = replace(items[k], **{field: best})
    return items, passes / in_all


def encode_items(
    plan: Plan, items: Sequence[Item], show: Show
) -> tuple[list[bytes], NDArray[np.float64]]:
    """Encodes images that have levels, see `encode`."""
    images = [x for item in items if (x := item.levels) is not None]
    classes, order = [item.class_id or 0 for item in items], [item.order for item in items]
    return encode(plan, images, classes, order, show)


def part_of(show: Show, begin: float, end: float) -> Show:
    """Makes progress from 0 to 1 that from `begin` to `end` of another one."""
    return None if show is None else lambda done: show(begin + (end - begin) * done)


def check_chunk(
    plan: Plan | None,
    body: bytes,
    items: Sequence[Item],
    levels: int,
    show: Show = None,
) -> None:
    """Decodes a chunk and compares it with the images that it was made of, value by value.

    Raises:
        UserError: They differ, which is a fault of nextpixel or of this machine.
    """
    for item, found in zip(items, decode_chunk(plan, body, show), strict=True):
        x, y = item.levels, found.levels
        if found.kind == "webp" and item.file is None and x is not None:
            y = levels_of_webp(found.file or b"", len(x), levels)
        if found.kind == "file":
            same = item.file is not None and item.file[0] == found.file
        elif y is not None:
            same = x is not None and np.array_equal(x, y)
        else:
            same = same_as_webp(item, found.file or b"")
        if not same or found.class_id != item.own_class:
            raise UserError(
                f"{item.name or f'image {found.number}'} was decoded to other pixels than those "
                "that were encoded: the file is not written."
            )


def checksum_of(images: Sequence[Levels]) -> int:
    """Computes the CRC-32C of the levels of images, one after the other."""
    return crc32c(b"".join(x.tobytes() for x in images))


# --- decoding -------------------------------------------------------------------------------------


def decode_chunk(plan: Plan | None, body: bytes, show: Show = None) -> list[Decoded]:
    """Decodes the body of a chunk.

    Args:
        plan: As for `encode_chunk`, but for the lanes, which the chunk says.
        body: The body.
        show: Called with the fraction done.

    Raises:
        UserError: The body is not one that `encode_chunk` makes, or its pixels have another
            checksum.
    """
    about, codes, files = parse_chunk(body)
    sizes = [(entry.size[0], entry.size[1]) for entry in about.entries if entry.kind == "model"]
    images, classes, takes_classes = list[Levels](), np.zeros(0, np.int64), False
    if sizes:
        if plan is None:
            raise UserError("a chunk needs a program, but the file has none.")
        check_sizes(plan, sizes)
        plan = replace(plan, lanes=len(codes))
        images, classes = decode(plan, codes, sizes, show)
        takes_classes = plan.program.classes > 0
    if checksum_of(images) != about.crc:
        raise UserError("the pixels of a chunk are not those that were compressed.")
    profiles = [base64.b64decode(profile) for profile in about.profiles]
    found, at, of_model = list[Decoded](), 0, iter(zip(images, classes, strict=True))
    for number, entry in enumerate(about.entries, about.first):
        profile = b"" if entry.profile < 0 else profiles[entry.profile]
        x, file = None, None
        class_id = None if entry.class_id < 0 else entry.class_id
        if entry.kind == "model":
            x, of_image = next(of_model)
            if entry.class_id == CODED and takes_classes:
                class_id = int(of_image)
        else:
            file = files[at : at + entry.size[0]]
            at += entry.size[0]
        found.append(
            Decoded(number, entry.name, entry.mode, profile, entry.kind, x, file, class_id)
        )
    return found


def check_sizes(plan: Plan, sizes: Sequence[tuple[int, int]]) -> None:
    """Checks that images take no more memory than nextpixel gives to a chunk.

    Raises:
        UserError: They do.
    """
    tiles = sum(count_tiles(plan.program.shape, plan.context, size) for size in sizes)
    levels = plan.program.shape[0] * sum(h * w for h, w in sizes)
    if tiles > MOST_TILES or levels > MOST_LEVELS:
        raise UserError("a chunk says that it is larger than nextpixel makes any.")


def count_tiles(
    shape: tuple[int, int, int], context: tuple[int, int], size: tuple[int, int]
) -> int:
    """Counts the tiles of an image of this size, for a program of this shape."""
    (_, height, width), (above, beside), (h, w) = shape, context, size
    return count_parts(h, height, above, 0) * count_parts(w, width, beside, beside)


def has_code(body: bytes) -> bool:
    """Whether a program is needed to decode a chunk.

    Raises:
        UserError: It is not one that `encode_chunk` makes.
    """
    return bool(parse_chunk(body)[1])


def counts_of(body: bytes, channels: int) -> Counts:
    """Counts what the body of a chunk holds, for a program of so many channels.

    Raises:
        UserError: It is not one that `encode_chunk` makes.
    """
    about, codes, files = parse_chunk(body)
    coded = [entry.size for entry in about.entries if entry.kind == "model"]
    return Counts(
        about.first,
        len(about.entries),
        len(about.entries) - len(coded),
        channels * sum(height * width for height, width in coded),
        sum(map(len, codes)),
        len(files),
    )


def pack(about: Description) -> bytes:
    """Packs a description: of each column of the entries all values, or the one of all of them."""
    columns = {}
    for name, default in Entry._field_defaults.items():
        values = [getattr(entry, name) for entry in about.entries]
        same = all(value == values[0] for value in values)
        if values and not (same and values[0] == default):
            columns[name] = values[:1] if same else values
    return pack_json({**about._asdict(), "entries": columns, "images": len(about.entries)})


def parse_chunk(body: bytes) -> tuple[Description, list[bytes], bytes]:
    """Returns a chunk's description, the code of each lane, and the files; all checked.

    Raises:
        UserError: The body is not one that `encode_chunk` makes.
    """
    try:
        begin = LENGTH.size + LENGTH.unpack_from(body)[0]
        about = unpack(unpack_json(body[LENGTH.size : begin]))
        check_description(about)
    except (struct.error, TypeError, KeyError, ValueError, AttributeError):
        raise UserError("a chunk's description is not one that nextpixel writes.") from None
    codes = []
    for size in about.codes:
        codes.append(body[begin : begin + size])
        begin += size
    files = sum(entry.size[0] for entry in about.entries if entry.kind != "model")
    if begin + files != len(body):
        raise UserError("a chunk is longer or shorter than it says.")
    return about, codes, body[begin:]


def unpack(x: dict[str, Any]) -> Description:
    """Makes a description of what `pack` packed, which is not checked yet."""
    images, given = x["images"], x["entries"]
    if not is_count(images) or images > MOST_IMAGES:
        raise ValueError
    columns = []
    for name, default in Entry._field_defaults.items():
        values = given.get(name, [default])
        if type(values) is not list or len(values) not in (1, images):
            raise ValueError
        columns.append(values * images if len(values) == 1 else values)
    entries = [Entry(*values) for values in zip(*columns, strict=True)]
    return Description(x["first"], entries, x["profiles"], x["codes"], x["crc"])


def check_description(about: Description) -> None:
    """Raises a ValueError if a description says something impossible."""
    models = sum(entry.kind == "model" for entry in about.entries)
    right = (
        is_count(about.first)
        and is_count(about.crc)
        and type(about.codes) is list
        and len(about.codes) <= MOST_LANES
        and all(map(is_count, about.codes))
        and (models > 0) == (len(about.codes) > 0)
        and type(about.profiles) is list
        and all(type(profile) is str for profile in about.profiles)
        and all(is_right(entry, len(about.profiles)) for entry in about.entries)
    )
    if not right:
        raise ValueError
    for profile in about.profiles:
        base64.b64decode(profile, validate=True)


def is_right(entry: Entry, profiles: int) -> bool:
    """Checks what a description says about an image."""
    is_coded = entry.kind == "model"
    return (
        type(entry.name) is str
        and entry.mode in ("", *MODES)
        and type(entry.profile) is int
        and -1 <= entry.profile < profiles
        and entry.kind in ("model", "webp", "file")
        and type(entry.class_id) is int
        and CODED <= entry.class_id < 1 << 32
        and type(entry.size) is list
        and len(entry.size) == (2 if is_coded else 1)
        and all(map(is_count, entry.size))
        and not (is_coded and (min(entry.size) < 1 or max(entry.size) > MOST_SIDE))
    )


def is_count(x: Any) -> bool:
    """Whether this is a number that fits 32 bits."""
    return type(x) is int and 0 <= x < 1 << 32
