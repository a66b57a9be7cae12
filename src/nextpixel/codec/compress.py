"""Compresses images into a .npxz file, chunk by chunk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

from nextpixel.codec.chunks import (
    CHUNK,
    MOST_TILES,
    check_chunk,
    count_tiles,
    counts_of,
    encode_chunk,
)
from nextpixel.codec.container import (
    NOTHING,
    SIGNATURE,
    Counts,
    Reader,
    Record,
    Writer,
    pack_json,
)
from nextpixel.codec.head import HEAD, read_head
from nextpixel.codec.models import Coding, ModelLike, coding_of
from nextpixel.codec.packing import pack_program
from nextpixel.codec.parallel import Job, Tick, in_order
from nextpixel.codec.pictures import Item
from nextpixel.codec.programs import PROGRAM, find_plan
from nextpixel.codec.sources import ArraySource, ImagesLike, Source, source_of
from nextpixel.engine.program import processors
from nextpixel.errors import UserError
from nextpixel.utils.files import try_lock

__all__ = ["Settings", "Totals", "compress"]

MOST_IMAGES = 2048  # of a chunk
MOST_BYTES = 1 << 21  # of the images of a chunk, unless it has only one
LANES = 4  # of a chunk, coded at the same time: each costs two bytes
MANY_BYTES = 1 << 17  # of the images of a chunk that has lanes


@dataclass(frozen=True)
class Settings:
    """How images are compressed.

    Attributes:
        coding: The program that codes them; None to keep all as lossless files.
        embed: Whether the compressed file is to hold the program, too.
        verify: Whether each chunk is decoded again and compared before it counts.
        threads: Number of threads.
        orders: Orders of the pixels, of which each image takes the best.
    """

    coding: Coding | None
    embed: bool
    verify: bool = True
    threads: int = 1
    orders: int = 1

    @property
    def channels(self) -> int:
        """Channels of the images that are coded; 0 if none is."""
        return 0 if self.coding is None else self.coding.program.shape[0]

    def levels(self, source: Source) -> int:
        """Levels of the images."""
        if self.coding is not None:
            return self.coding.program.levels
        return source.images.levels if isinstance(source, ArraySource) else 256

    def head(self, source: Source) -> dict[str, object]:
        """What the file says about all images."""
        array = source.images if isinstance(source, ArraySource) else None
        coding = self.coding
        orders = {"orders": self.orders} if self.orders > 1 else {}
        return {
            "nextpixel": version("nextpixel"),
            "model": coding and coding.name,
            "program": coding and hashlib.sha256(coding.file).hexdigest(),
            "shape": coding.program.shape if coding else (0, 0, 0),
            "levels": self.levels(source),
            "context": coding.context if coding else (0, 0),
            "together": coding.together if coding else 1,
            "images": source.count,
            "verified": self.verify,
            "source": source.digest,
            "bytes": source.bytes,
            "array": None if array is None else array.x.shape[1:],
            "class_names": None if array is None else array.class_names,
            **orders,
        }


@dataclass
class Totals:
    """What a .npxz file holds.

    Attributes:
        images: Number of images.
        kept: How many of them are kept as files.
        levels: Levels that the model codes: height x width x channels of the other images.
        code: Bytes of their code.
        files: Bytes of the files.
        bytes: Bytes of the whole file.
        resumed: Images that an interrupted compression had already done.
    """

    images: int = 0
    kept: int = 0
    levels: int = 0
    code: int = 0
    files: int = 0
    bytes: int = 0
    resumed: int = 0

    def add(self, counts: Counts) -> None:
        """Counts a chunk."""
        self.images += counts.images
        self.kept += counts.kept
        self.levels += counts.levels
        self.code += counts.code
        self.files += counts.files


def compress(
    model: ModelLike | Coding | None,
    images: ImagesLike | Source,
    out: str | os.PathLike[str],
    *,
    embed: bool | None = None,
    all_orders: bool = False,
    verify: bool = True,
    threads: int | None = None,
    trust: bool = False,
    show: Callable[[float], None] | None = None,
) -> Totals:
    """Compresses images without loss, by a model that says how likely each value is.

    Images that the model cannot take, or that a WebP or their own file makes smaller, are kept as
    such a file. An interrupted compression of the same images goes on where it was.

    Args:
        model: The name of a pretrained model, a run folder, a .program, or a network; None to keep
            all images as lossless files.
        images: Picture files and folders of them; a .npz, .npy or IDX file; a split of a data set;
            or integers `(N, H, W)` or `(N, C, H, W)` below 256.
        out: The .npxz to write; it appears when all is done.
        embed: Whether the file is to hold the model's program, so that it decodes without the
            model; by default unless the model is a pretrained one. Of a run folder or a network it
            is a program with rounded weights, as coarse as the whole file's size demands.
        all_orders: Whether each image is coded in the order of its pixels, of those that the model
            learned, that needs the fewest bits (given its class, which is chosen before). Encoding
            takes a pass for each order, and one more.
        verify: Whether each chunk is decoded again and compared before it counts.
        threads: Number of threads; by default one for each processor.
        trust: See `nextpixel.load`.
        show: Called now and then with the number of images done.

    Raises:
        UserError: An image cannot be read, what was decoded differs, the model cannot code images
            or has one order only, or another process writes the same file.
        OSError: The file cannot be written.

    Example:
        >>> npx.compress("mnist", npx.load_data("mnist").test, "digits.npxz")
        >>> npx.decompress("digits.npxz", "digits.npz")
    """
    source = source_of(images)
    coding = (
        model if isinstance(model, Coding | None) else coding_of(model, source.sizes(), trust=trust)
    )
    if embed is None or coding is None:
        embed = coding is not None and not coding.shipped
    if coding is not None and embed and coding.network is not None:
        from nextpixel.codec.rounding import with_rounded_weights  # imports PyTorch

        coding = with_rounded_weights(coding, coding.network, source)
    orders = several_orders(coding) if all_orders else 1
    settings = Settings(coding, embed, verify, threads or processors(), orders)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    totals = Totals()
    with opened(part) as file, removed_if_empty(part, totals):
        writer = begin(file, part, source, settings, totals)
        write_chunks(writer, source, settings, totals, show)
        writer.add(HEAD, pack_json(settings.head(source)))  # the first one may be damaged
        writer.finish()
        file.flush()
        os.fsync(file.fileno())
        totals.bytes = file.tell()
        if settings.verify:
            check_file(part, settings, totals)
    part.replace(path)
    return totals


def several_orders(coding: Coding | None) -> int:
    """Returns the number of orders that a model learned.

    Raises:
        UserError: It is one, or there is no model.
    """
    if coding is None:
        raise UserError("all_orders is for a model of several orders of the pixels: give one.")
    if coding.program.orders == 1:
        raise UserError(
            f"{coding.name} knows one order of the pixels: leave --all-orders out, or train a "
            "model with --model.orders 8."
        )
    return coding.program.orders


@contextmanager
def opened(part: Path) -> Iterator[BinaryIO]:
    """Opens the unfinished file, for this process alone.

    Raises:
        UserError: It is no file, or another process writes it.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(part, flags, 0o666), "r+b")
    except IsADirectoryError:
        raise UserError(f"{part} is a folder: remove it.") from None
    with file:
        if not try_lock(file):
            raise UserError(f"Another process writes {part}: wait for it.")
        yield file


@contextmanager
def removed_if_empty(part: Path, totals: Totals) -> Iterator[None]:
    """Removes an unfinished file that holds no image yet, if the block ends with an error."""
    try:
        yield
    except BaseException:
        if not totals.images:
            with suppress(OSError):  # Windows removes no open file
                part.unlink()
        raise


def begin(file: BinaryIO, part: Path, source: Source, settings: Settings, totals: Totals) -> Writer:
    """Begins the file, after the whole chunks of an interrupted compression of the same images."""
    head = pack_json(settings.head(source))
    writer = Writer(file)
    for record, counts in list(records_left(part, head, settings.channels)):
        writer.keep(record, counts)
        totals.add(counts)
    totals.resumed = totals.images
    if not writer.lines:
        writer.add(HEAD, head)
    file.truncate()
    return writer


def records_left(part: Path, head: bytes, channels: int) -> Iterator[tuple[Record, Counts]]:
    """Yields the records that an interrupted compression left, if it began with this head."""
    if part.stat().st_size <= len(SIGNATURE):
        return
    try:
        with Reader(part, salvage=True) as reader:
            images = 0
            for number, record in enumerate(reader.whole_records()):
                body = reader.body(record)
                if number == 0 and (record.kind, body) != (HEAD, head):
                    return
                if record.kind != CHUNK:
                    if number and record.kind != PROGRAM:  # the end, of an unfinished file
                        return
                    yield record, NOTHING
                    continue
                counts = counts_of(body, channels)
                if counts.first != images:
                    return
                images += counts.images
                yield record, counts
    except UserError:  # damaged from here on
        return


def write_chunks(
    writer: Writer,
    source: Source,
    settings: Settings,
    totals: Totals,
    show: Callable[[float], None] | None,
) -> None:
    """Encodes the images that are left, several chunks at once, and writes them in order."""
    coding = settings.coding

    def encoded(some: list[Item], first: int, tick: Tick) -> bytes:
        lanes = LANES if sum(map(size_of, some)) > MANY_BYTES else 1
        with ThreadPoolExecutor(min(lanes, settings.threads)) as pool:
            plan = None
            if coding is not None:
                plan = coding.plan(lanes, pool, settings.orders)
            share = 0.5 if settings.verify else 1.0
            levels = settings.levels(source)
            body = encode_chunk(plan, some, first, levels, lambda done: tick(share * done))
            if settings.verify:
                check_chunk(plan, body, some, levels, lambda done: tick(0.5 + 0.5 * done))
        return body

    def jobs() -> Iterator[Job[bytes]]:
        first = totals.images
        for some in chunks_of(source.items(coding, first), coding):
            yield len(some), partial(encoded, some, first)
            first += len(some)

    for body in in_order(jobs(), settings.threads, show, totals.images):
        counts = counts_of(body, settings.channels)
        if counts.code:
            embed_program(writer, settings)
        writer.add(CHUNK, body, counts)
        writer.file.flush()
        totals.add(counts)
    if totals.code:
        embed_program(writer, settings)  # which an interrupted compression may have left out


def embed_program(writer: Writer, settings: Settings) -> None:
    """Writes the program, if it is to be in the file and is not yet."""
    if settings.coding is not None and settings.embed and not writer.has(PROGRAM):
        writer.add(PROGRAM, pack_program(settings.coding.file))


def chunks_of(items: Iterable[Item], coding: Coding | None) -> Iterator[list[Item]]:
    """Gathers images into chunks; images that are too large for one lose their levels.

    Raises:
        UserError: An image without a file is too large.
    """
    some, total, tiles = list[Item](), 0, 0
    for item in items:
        size, parts = size_of(item), tiles_of(item, coding)
        if parts > MOST_TILES:
            if item.file is None:
                raise UserError(f"An image of {parts:,} tiles is too large for this model.")
            item, parts = replace(item, levels=None), 0
        full = total + size > MOST_BYTES or tiles + parts > MOST_TILES
        if some and (len(some) == MOST_IMAGES or full):
            yield some
            some, total, tiles = [], 0, 0
        some.append(item)
        total += size
        tiles += parts
    if some:
        yield some


def tiles_of(item: Item, coding: Coding | None) -> int:
    """Counts the tiles in which an image is coded."""
    if item.levels is None or coding is None:
        return 0
    _, height, width = item.levels.shape
    return count_tiles(coding.program.shape, coding.context, (height, width))


def size_of(item: Item) -> int:
    """Returns the bytes that an image takes in memory."""
    of_file = 0 if item.file is None else len(item.file[0])
    return max(of_file, 0 if item.levels is None else item.levels.nbytes)


def check_file(path: Path, settings: Settings, totals: Totals) -> None:
    """Reads a finished file once more: all its records, and the program if it is to hold one.

    Raises:
        UserError: It is not what was written.
    """
    with Reader(path) as reader:
        for record in reader.records:
            reader.body(record)
        head = read_head(reader)
        if settings.embed and totals.code:
            find_plan(reader, head)
