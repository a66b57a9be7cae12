"""Decompresses .npxz files: all images, some of them, or what damage has left."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from nextpixel.codec.chunks import CHUNK, Decoded, decode_chunk, has_code
from nextpixel.codec.coding import Levels, Plan
from nextpixel.codec.compress import LANES, Totals
from nextpixel.codec.container import ADVICE, NOTHING, Reader, Record, unpack_json
from nextpixel.codec.head import HEAD, read_head
from nextpixel.codec.names import check_name
from nextpixel.codec.parallel import Job, Tick, in_order
from nextpixel.codec.pictures import levels_of_webp, opened, picture_of, png_of
from nextpixel.codec.programs import find_plan
from nextpixel.data.levels import level_type
from nextpixel.engine.program import processors
from nextpixel.errors import UserError
from nextpixel.utils.files import PART, atomic_write
from nextpixel.utils.words import count

__all__ = ["Compressed", "Restored", "decompress"]

LARGE = 1 << 30  # bytes of an array that a small file may restore
SPARSE = 1000  # times as many bytes as the file has


class Compressed:
    """A compressed file that is open.

    Args:
        path: The file.
        salvage: Whether to go on after damage.
        program: A .program, for a file that holds none and whose model is not here.

    Attributes:
        head: What the file says about all images.
        faults: What is damaged, in sentences; empty without `salvage`.

    Raises:
        UserError: It is no such file, or damaged where `salvage` does not help.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, salvage: bool = False, program: str | None = None
    ) -> None:
        self.reader = Reader(path, salvage=salvage)
        self.salvage, self.given = salvage, program
        self._plan: Plan | None = None
        self._lock = threading.Lock()
        try:
            self.head = read_head(self.reader)
        except BaseException:
            self.reader.close()
            raise
        self.faults = self.reader.faults

    def __enter__(self) -> Compressed:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    @property
    def chunks(self) -> list[Record]:
        """The records of chunks."""
        return [record for record in self.reader.records if record.kind == CHUNK]

    def totals(self) -> Totals:
        """Counts what the file holds, by its index alone; nothing where that is damaged."""
        totals = Totals(bytes=self.reader.size)
        for record in self.chunks:
            totals.add(record.counts or NOTHING)
        return totals

    def images(
        self, threads: int = 1, show: Callable[[float], None] | None = None
    ) -> Iterator[list[Decoded]]:
        """Decodes the images, chunk by chunk, in order; checks that they are all there.

        Args:
            threads: Chunks, or parts of a large picture, that are decoded at once.
            show: Called now and then with the number of images done.

        Raises:
            UserError: A chunk is damaged, and `salvage` is false.
        """
        images = 0
        for found in self._decoded(self.chunks, threads, show, 0):
            images += len(found)
            yield found
        missing = self.head["images"] - images
        if missing and not self.salvage:
            raise UserError(f"{self.reader.path}: {count(missing, 'image')} missing. {ADVICE}")

    def check_records(self) -> None:
        """Checks the records that decoding does not need: the program, and the second description.

        Raises:
            UserError: One is damaged, or the descriptions differ.
        """
        try:
            for record in self.reader.records:
                if record.kind == HEAD and unpack_json(self.reader.body(record)) != self.head:
                    raise UserError("it describes its images in two ways.")
                if record.kind not in (HEAD, CHUNK):
                    self.reader.body(record)
        except UserError as error:
            raise UserError(f"{self.reader.path}: {error} {ADVICE}") from None

    def image(self, number: int) -> Decoded:
        """Decodes the chunk of one image, and returns that image.

        Args:
            number: Its number in the file, from 0 on.

        Raises:
            UserError: There is no such image, or it is damaged.
        """
        for record in self.chunks:
            counts = record.counts or NOTHING
            if counts.first <= number < counts.first + counts.images:
                for image in chain.from_iterable(self._decoded([record], 1)):
                    if image.number == number:
                        return image
        raise UserError(f"{self.reader.path} has no image {number}, or it is damaged.")

    def _decoded(
        self,
        chunks: list[Record],
        threads: int,
        show: Callable[[float], None] | None = None,
        following: int | None = None,
    ) -> Iterator[list[Decoded]]:
        """Decodes some chunks, the first of which begins with this image, if that is known."""

        def decoded(body: bytes | UserError, tick: Tick) -> list[Decoded] | UserError:
            if isinstance(body, UserError):
                return body
            with ThreadPoolExecutor(min(threads, LANES)) as lanes:
                try:
                    plan = self._find_plan() if has_code(body) else None
                    return decode_chunk(plan and replace(plan, pool=lanes), body, tick)
                except UserError as error:
                    return error

        def jobs() -> Iterator[Job[list[Decoded] | UserError]]:
            for record in chunks:
                body: bytes | UserError
                try:
                    body = self.reader.body(record)
                except UserError as error:
                    body = error
                yield (record.counts or NOTHING).images, partial(decoded, body)

        for record, found in zip(chunks, in_order(jobs(), threads, show), strict=True):
            if not isinstance(found, UserError):
                fault = self._check(record, found, following)
                if fault is None:
                    following = found[-1].number + 1 if found else following
                    yield found
                    continue
                found = UserError(fault)
            self._note(record, found)

    def _find_plan(self) -> Plan | None:
        """Finds the program, once; without it, files that are kept can be decoded nevertheless."""
        with self._lock:
            if self._plan is None:
                self._plan = find_plan(self.reader, self.head, self.given)
            return self._plan

    def _check(self, record: Record, found: list[Decoded], following: int | None) -> str | None:
        """Says what is wrong with the numbers of a chunk's images."""
        first = found[0].number if found else 0
        counts = record.counts
        if counts is not None and (counts.first, counts.images) != (first, len(found)):
            return "a chunk has other images than the index says."
        if first + len(found) > self.head["images"]:
            return "a chunk has more images than the file says."
        gap = 0 if following is None else first - following
        if gap < 0 or (gap > 0 and not self.salvage):
            return "a chunk does not follow the one before."
        return None

    def _note(self, record: Record, error: UserError) -> None:
        """Notes damage, or raises it."""
        if not self.salvage:
            raise UserError(f"{self.reader.path}: {error} {ADVICE}")
        lost = "some images" if record.counts is None else count(record.counts.images, "image")
        self.faults.append(f"{lost} lost: {error}")


@dataclass
class Restored:
    """What was decompressed.

    Attributes:
        images: Number of images.
        path: The folder, or the file of an array.
        faults: What is damaged, in sentences.
    """

    images: int
    path: Path
    faults: list[str]


def decompress(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    salvage: bool = False,
    program: str | None = None,
    threads: int | None = None,
    show: Callable[[float], None] | None = None,
) -> Restored:
    """Decompresses a file: pictures into a new folder, the images of an array into a new .npz.

    Args:
        file: The .npxz.
        out: The folder, or the .npz; it appears when all is done.
        salvage: Whether to go on after damage; what is lost is in the result.
        program: A .program, for a file that holds none and whose model is not here.
        threads: Number of threads; by default one for each processor.
        show: Called now and then with the number of images done.

    Raises:
        UserError: The file is damaged, or `out` exists.
        OSError: The files cannot be written.
    """
    out, done = Path(out), 0
    with Compressed(file, salvage=salvage, program=program) as compressed:
        write = write_files if compressed.head["array"] is None else write_array
        for written in write(compressed, out, threads or processors(), show):
            done += written
        images = compressed.head["images"]
        if done < images:
            compressed.faults.append(f"in all, {images - done} of {images} images are lost.")
        return Restored(done, out, compressed.faults)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Makes a folder that gets its name when the block ends without an error.

    Raises:
        UserError: There is such a folder already, and it is not empty.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists: name a new folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.", suffix=PART, dir=path.parent, ignore_cleanup_errors=True
    ) as part:
        inside = Path(part) / "files"
        inside.mkdir()
        yield inside
        if path.exists():  # empty
            path.rmdir()
        inside.replace(path)


def write_files(
    compressed: Compressed, path: Path, threads: int, show: Callable[[float], None] | None
) -> Iterator[int]:
    """Writes pictures into a new folder; yields how many, chunk by chunk."""
    levels = compressed.head["levels"]
    with new_folder(path) as folder, ThreadPoolExecutor(threads) as pool:

        def write(image: Decoded) -> bool:
            try:
                write_file(folder, image, levels)
            except UserError as error:
                if not compressed.salvage:
                    raise
                compressed.faults.append(str(error))
                return False
            return True

        for images in compressed.images(threads, show):
            yield sum(pool.map(write, images))


def write_file(folder: Path, image: Decoded, levels: int) -> None:
    """Writes a picture below a folder.

    Raises:
        UserError: Its name leads out of the folder, there is such a file, or it is damaged.
    """
    check_name(image.name)
    path = folder / image.name
    data = image.file or b""
    try:
        if image.levels is not None:
            data = png_of(picture_of(image.levels, image.mode, levels), image.profile)
        elif image.kind == "webp":
            with opened(data, ("WEBP",)) as picture:
                data = png_of(picture.convert(image.mode), image.profile)
    except Exception as error:  # whatever a decoder may raise
        raise UserError(f"{image.name!r} is damaged: {error}.") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"Two images are called {image.name!r}, or nearly so.") from None
    except OSError as error:
        raise UserError(f"{image.name!r} cannot be written: {error.strerror}.") from None


def write_array(
    compressed: Compressed, path: Path, threads: int, show: Callable[[float], None] | None
) -> Iterator[int]:
    """Writes the images of an array as x of a new .npz; yields how many, chunk by chunk.

    Lost images are zeros. y holds the classes if all images had one, and rows the real rows if
    images have padding.
    """
    if path.exists():
        raise UserError(f"{path} exists: name a new .npz.")
    head = compressed.head
    (channels, height, width), kind = head["array"], level_type(head["levels"])
    path.parent.mkdir(parents=True, exist_ok=True)
    classes, rows = dict[int, int](), dict[int, int]()
    with tempfile.TemporaryFile(dir=path.parent) as values:
        size, number = channels * height * width * kind.itemsize, 0
        room = max(LARGE, SPARSE * compressed.reader.size)  # damaged numbers fill no disk
        for images in compressed.images(threads, show):
            for image in images:
                if image.number * size > room:
                    raise UserError(f"Image {image.number} is too far from those before it.")
                x = array_of(image, (channels, height, width), head["levels"])
                values.seek(image.number * size)
                values.write(x.astype(kind).tobytes())
                if image.levels is not None and image.levels.shape[1] < height:
                    rows[image.number] = image.levels.shape[1]
                number = image.number + 1
                if image.class_id is not None:
                    classes[image.number] = image.class_id
            yield len(images)
        shape = (number, channels, height, width)
        parts = {"levels": np.array(head["levels"])}
        if len(classes) == number > 0:
            parts["y"] = np.array([classes[k] for k in range(number)], np.int64)
        elif classes:
            compressed.faults.append("The classes of some images are lost, and so y is left out.")
        if rows:
            parts["rows"] = np.array([rows.get(k, height) for k in range(number)], np.int64)
        write_npz(path, values, shape, kind, parts)


def array_of(image: Decoded, shape: tuple[int, int, int], levels: int) -> Levels:
    """Returns an image of an array, with the rows that are padding.

    Raises:
        UserError: It is damaged, or has another size.
    """
    x = image.levels
    if x is None:
        x = levels_of_webp(image.file or b"", shape[0], levels)
    if x.shape[0::2] != shape[0::2] or x.shape[1] > shape[1]:
        raise UserError(f"Image {image.number} has another size than the array.")
    return np.pad(x, ((0, 0), (0, shape[1] - x.shape[1]), (0, 0)))


def write_npz(
    path: Path,
    values: io.BufferedRandom | tempfile._TemporaryFileWrapper[bytes],
    shape: tuple[int, ...],
    kind: np.dtype[np.generic],
    parts: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
) -> None:
    """Writes an .npz, x from an open file, block by block."""
    descr = np.lib.format.dtype_to_descr(kind)
    with atomic_write(path) as out, zipfile.ZipFile(out, "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as file:
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            values.seek(0)
            while block := values.read(1 << 20):
                file.write(block)
        for name, array in parts.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
