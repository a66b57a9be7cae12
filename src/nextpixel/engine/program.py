"""Runs programs: draws and scores pictures in C, with NumPy alone.

Example:
    >>> from nextpixel.engine import Program
    >>> program = Program.load("digits.program")
    >>> pictures = program.sample(4, classes=[3, 1, 4, 1], seed=0)  # (4, 1, 28, 28)
    >>> nats = program.log_prob(pictures, classes=[3, 1, 4, 1])  # (4,)
"""

from __future__ import annotations

import ctypes
import math
import operator
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nextpixel.engine.coder import Coder
from nextpixel.engine.file import HEADER, INPUTS, orders_of, read_description
from nextpixel.engine.library import Job, aligned, failed, load_library
from nextpixel.errors import MIX_ERROR, UserError
from nextpixel.noise import site_noise
from nextpixel.orders import with_orders

__all__ = ["TOTAL", "Images", "Program", "Session"]

TOTAL = 2**30  # of the integer CDF
MOST_TOGETHER = 64  # images that a thread takes through the picture side by side
TICK = 0.05  # seconds between two reports of progress
NAP = 0.0005  # seconds that a helper sleeps when there was nothing to do

Inputs = Mapping[str, NDArray[np.float32]]


class Program:
    """A model's whole way from the context to the levels, as instructions for the engine.

    Every number is rounded at the same places on every machine: the pictures, and the scores to the
    last bit, depend neither on the processor nor on the threads, nor on what else is drawn.

    Args:
        file: The bytes of a program. They are copied.

    Attributes:
        shape: `(C, H, W)` of a picture.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes.
        orders: Number of orders of the pixels that it knows; it is given raster order.
        inputs: How many numbers each image needs of the context: of "classes" (weights of the
            classes and the orders), "vector", "present" (0 for the null context, else 1) and "map"
            (the features of a context's image, which PyTorch computes beforehand).
        description: What the file says about itself.

    Raises:
        UserError: The bytes are no program, or damaged; or there is no engine for this machine.
    """

    def __init__(self, file: bytes | NDArray[np.uint8]) -> None:
        self.library = load_library()
        data = aligned(len(file))
        data[:] = np.frombuffer(file, np.uint8)
        size = self.library.np_memory(data.ctypes.data, len(data))
        if size < 0:
            raise failed(size, "This is no program")
        self._memory = aligned(size)
        self._address = self.library.np_open(data.ctypes.data, len(data), self._memory.ctypes.data)
        header = np.frombuffer(data[: HEADER.itemsize].tobytes(), HEADER)[0]
        self.shape = int(header["channels"]), int(header["height"]), int(header["width"])
        self.levels, self.parameters = int(header["levels"]), int(header["parameters"])
        self.inputs = {
            name: int(count)
            for name, count in zip(INPUTS, header["input_counts"], strict=True)
            if count
        }
        begin, count = int(header["description"]), int(header["description_size"])
        self.description = read_description(data[begin : begin + count].tobytes())
        self.orders = orders_of(self.description, choices := self.inputs.get("classes", 0))
        self.classes = choices - (self.orders if self.orders > 1 else 0)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Program:
        """Loads a program from a file.

        Raises:
            UserError: The file cannot be read, or is no program.
        """
        try:
            return cls(np.fromfile(path, np.uint8))
        except OSError as error:
            raise UserError(f"{os.fspath(path)} cannot be read: {error.strerror}.") from None
        except UserError as error:
            raise UserError(f"{os.fspath(path)}: {error}") from None

    def sample(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        temperature: float = 1.0,
        guidance: float = 1.0,
        threads: int | None = None,
        progress: Callable[[float], None] | None = None,
        **context: ArrayLike,
    ) -> NDArray[np.int64]:
        """Samples n pictures.

        Args:
            n: Number of pictures.
            seed: Together with a picture's number decides its noise.
            numbers: The number of each picture; 0 to n - 1 if None.
            temperature: Divides the logits.
            guidance: Scales the step from the null context to the given one.
            threads: Number of threads; by default one for each processor.
            progress: Called with the fraction done, between 0 and 1.
            context: `classes`, ids `(n,)` or weights `(n, classes)`; `vector`, `(n, D)`.

        Returns:
            Integers in `[0, levels)`, `(n, C, H, W)`.

        Raises:
            UserError: An argument does not fit the program.
        """
        if n < 1:
            raise UserError(f"Draw at least one picture, not {n}.")
        numbers = range(n) if numbers is None else numbers
        if len(numbers) != n:
            raise UserError(f"{n} pictures need {n} numbers, not {len(numbers)}.")
        noise = site_noise(self.shape, seed, numbers)
        inputs = self._inputs(n, context)
        if guidance != 1 and not inputs:
            raise UserError("guidance needs a context, and this model is unconditional.")
        if guidance != 1:
            null = {name: np.zeros_like(values) for name, values in inputs.items()}
            if self.orders > 1:  # the null context is in raster order, too
                null["classes"][:, self.classes] = 1
            inputs = {name: np.concatenate([inputs[name], null[name]]) for name in inputs}
        images = Images(np.zeros((n, *self.shape), np.int64), inputs, noise=noise)
        self.run(images, temperature=temperature, guidance=guidance, threads=threads, show=progress)
        return images.levels

    def log_prob(
        self, x: ArrayLike, *, threads: int | None = None, **context: ArrayLike
    ) -> NDArray[np.float64]:
        """Computes log p(x | c) in nats, `(n,)`, of the integer CDF.

        Args:
            x: Integers in `[0, levels)`, `(n, C, H, W)`.
            threads: Number of threads; by default one for each processor.
            context: As for `sample`.

        Raises:
            UserError: An argument does not fit the program.
        """
        levels = np.ascontiguousarray(x)
        if levels.dtype.kind not in "iu" or levels.shape[1:] != self.shape:
            raise UserError(
                f"Pictures are integers of shape (n, {', '.join(map(str, self.shape))})"
                f", not {levels.dtype} of shape {levels.shape}."
            )
        levels = levels.astype(np.int64)
        widths = np.empty((*levels.shape, 2), np.uint32)
        images = Images(levels, self._inputs(len(levels), context), intervals=widths)
        self.run(images, threads=threads)
        nats: NDArray[np.float64] = np.log(widths[..., 1].astype(np.float64)) - math.log(TOTAL)
        return np.asarray(nats.sum((1, 2, 3)))

    def run(
        self,
        images: Images,
        *,
        temperature: float = 1.0,
        guidance: float = 1.0,
        threads: int | None = None,
        show: Callable[[float], None] | None = None,
    ) -> None:
        """Runs all sites of images: draws levels where there is noise, else scores them.

        A thread takes some images through the whole picture. Where there are twice as many threads
        as images, each image has a second one, which helps with large products. No thread waits
        for another that the system has stopped.

        Args:
            images: The images.
            temperature: Divides the logits.
            guidance: Scales the step from the null context to the given one; if it is not 1, the
                inputs hold those of the null context after the others.
            threads: Number of threads; by default one for each processor.
            show: Called with the fraction done, between 0 and 1.

        Raises:
            UserError: A level does not exist, or the model computes infinity or no number.
        """
        threads = processors() if threads is None else threads
        if threads < 1:
            raise UserError(f"Use at least one thread, not {threads}.")
        n, rows = len(images.levels), self.shape[1]
        if n == 0:
            return None
        together = -(-n // (threads * -(-n // (threads * MOST_TOGETHER))))  # shared evenly
        parts = [slice(begin, min(begin + together, n)) for begin in range(0, n, together)]
        stop = threading.Event()
        done = [0] * len(parts)  # rows of each part

        def run_part(number: int) -> None:
            if stop.is_set():
                return
            session = self.begin(images.part(parts[number]), temperature, guidance)
            with session.helper() if threads >= 2 * len(parts) else nullcontext():
                for row in range(rows):
                    if stop.is_set():
                        return
                    session.run_rows(row, row + 1)
                    done[number] = row + 1
                    if len(parts) == 1:
                        report()

        def report() -> None:
            if show is not None:
                counts = (part.stop - part.start for part in parts)
                show(sum(map(operator.mul, done, counts)) / (rows * n))

        if len(parts) == 1:
            return run_part(0)
        with ThreadPoolExecutor(min(threads, len(parts))) as pool:
            try:
                waiting = {pool.submit(run_part, number) for number in range(len(parts))}
                while waiting:
                    finished, waiting = wait(waiting, TICK, "FIRST_COMPLETED")
                    report()
                    for future in finished:
                        future.result()
            finally:
                stop.set()

    def state_bytes(self, images: int) -> int:
        """Counts the bytes of memory that images take which go through the program together."""
        return int(self.library.np_state_bytes(self._address, images))

    def begin(self, images: Images, temperature: float = 1.0, guidance: float = 1.0) -> Session:
        """Begins images, to go through them site by site."""
        return Session(self, images, temperature, guidance)

    def _inputs(self, n: int, context: Mapping[str, ArrayLike]) -> Inputs:
        """Checks a context and makes the inputs of n images."""
        sizes = {"classes": self.classes, "vector": self.inputs.get("vector", 0)}
        wanted = [name for name, size in sizes.items() if size]
        if "map" in self.inputs:
            raise UserError(
                "This program needs the features of a context's image, which PyTorch computes: "
                "sample from the model itself."
            )
        if sorted(context) != sorted(wanted):
            raise UserError(
                f"This program takes {' and '.join(wanted) or 'no context'}, "
                f"and was given {' and '.join(sorted(context)) or 'nothing'}."
            )
        inputs = {"present": np.ones((n, 1), np.float32)} if self.inputs else {}
        for name, given in context.items():
            values, size = np.asarray(given), sizes[name]
            if name == "classes" and values.dtype.kind in "iu":
                if values.shape not in ((), (n,)):
                    raise UserError(f"Give one class, or {n} of them, not {values.shape}.")
                if values.size and not 0 <= values.min() <= values.max() < size:
                    raise UserError(f"The classes are 0 to {size - 1}.")
                values = np.eye(size, dtype=np.float32)[values]
            if values.dtype.kind not in "iuf" or values.shape not in ((size,), (n, size)):
                raise UserError(f"{name} needs numbers of shape ({n}, {size}), not {values.shape}.")
            if not np.isfinite(values).all():
                raise UserError(f"{name} must be finite numbers.")
            one = np.abs(values.sum(-1) - 1).max(initial=0) <= MIX_ERROR
            if name == "classes" and not (one and (values >= 0).all()):
                raise UserError("The weights of the classes are not negative, and their sum is 1.")
            inputs[name] = np.broadcast_to(values, (n, size)).astype(np.float32)
        if self.orders > 1:
            classes = inputs.get("classes", np.zeros((n, 0), np.float32))
            inputs["classes"] = with_orders(classes, self.orders)
        return inputs


class Images(NamedTuple):
    """Images to draw or to score; all arrays are contiguous.

    Attributes:
        levels: `(n, C, H, W)`, int64: drawn levels, and those that are given.
        inputs: For each of `INPUTS` that the program takes, `(n, count)`, float32; with guidance
            `(2 n, count)`.
        noise: Numbers in [0, 1), `(n, C, H, W)`, float64; None to score or to code.
        known: True where the level is given, `(n, C, H, W)`; None if none is.
        intervals: Gets the low end and the width of each level's interval of the integer CDF,
            `(n, C, H, W, 2)`, uint32; or None.
    """

    levels: NDArray[np.int64]
    inputs: Inputs
    noise: NDArray[np.float64] | None = None
    known: NDArray[np.bool_] | None = None
    intervals: NDArray[np.uint32] | None = None

    def check(self, program: Program, count: int) -> None:
        """Checks that the arrays are what a program reads and writes.

        Raises:
            UserError: One of them is not.
        """
        shape = (len(self.levels), *program.shape)
        wanted = {
            "levels": (self.levels, shape, np.int64),
            "noise": (self.noise, shape, np.float64),
            "known": (self.known, shape, np.bool_),
            "intervals": (self.intervals, (*shape, 2), np.uint32),
        }
        for name, (array, size, kind) in wanted.items():
            if array is not None and not (
                array.shape == size and array.dtype == kind and array.flags.c_contiguous
            ):
                raise UserError(
                    f"{name} must be contiguous, of shape {size} and type {kind.__name__}."
                )
        for name, numbers in program.inputs.items():
            if name not in self.inputs or self.inputs[name].size != count * numbers:
                raise UserError(
                    f"This program needs the input {name}, {count} times {numbers} numbers."
                )

    def part(self, some: slice) -> Images:
        """Picks some of the images, which share the memory."""
        n = len(self.levels)
        inputs = {}
        for name, values in self.inputs.items():
            null = values[n:][some] if len(values) > n else values[:0]
            inputs[name] = np.concatenate([values[:n][some], null])
        return Images(
            self.levels[some],
            inputs,
            None if self.noise is None else self.noise[some],
            None if self.known is None else self.known[some],
            None if self.intervals is None else self.intervals[some],
        )


class Session:
    """Images on their way through a program, all at the same site.

    Args:
        program: The program.
        images: The images.
        temperature: Divides the logits.
        guidance: See `Program.run`.
        coder: Encodes all levels that are not known, or decodes them; there is no noise then.

    Raises:
        UserError: The temperature or the guidance is out of range.
    """

    def __init__(
        self,
        program: Program,
        images: Images,
        temperature: float = 1.0,
        guidance: float = 1.0,
        coder: Coder | None = None,
    ) -> None:
        if not 0 < temperature < math.inf:
            raise UserError(f"The temperature must be above 0, not {temperature}.")
        if not 0 <= guidance < math.inf:
            raise UserError(f"guidance must be at least 0, not {guidance}.")
        self.program, self.images = program, images
        library, address = program.library, program._address
        n = len(images.levels)
        self._count = n if guidance == 1 else 2 * n
        images.check(program, self._count)
        arrays = (images.levels, images.noise, images.known, images.intervals)
        places = [None if a is None else a.ctypes.data for a in arrays]
        self._job = Job(*places, temperature, guidance, n)
        if coder is not None:
            self._coder = coder  # keeps its memory
            self._job.coder = ctypes.pointer(coder.state)
        self._state = aligned(library.np_state_bytes(address, self._count))
        state = self._state.ctypes.data
        library.np_begin(address, state, self._count)
        self._stride = 0
        if self._count > 1:
            first, second = (library.np_parameters(address, state, i, 0) for i in (0, 1))
            self._stride = second - first  # bytes of an image
        for which, name in enumerate(INPUTS):
            if name in program.inputs:
                self._fill_input(which, np.ascontiguousarray(images.inputs[name], np.float32))
        library.np_prepare(address, state, self._count)

    def _fill_input(self, which: int, values: NDArray[np.float32]) -> None:
        count = self.program.inputs[INPUTS[which]]
        assert values.size == self._count * count
        for image, row in enumerate(values.reshape(self._count, count)):
            place = self.program.library.np_input_at(
                self.program._address, self._state.ctypes.data, image, which
            )
            ctypes.memmove(place, row.ctypes.data, row.nbytes)

    @contextmanager
    def helper(self) -> Iterator[None]:
        """Lets a second thread help within the context, if there are products large enough."""
        program = self.program
        size = program.library.np_crew_bytes(program._address, self._count)
        if not size:
            yield
            return
        crew, finished = aligned(size), threading.Event()
        crew.fill(0)

        def help_leader(session: Session) -> None:  # which it keeps alive while it reads its state
            while not finished.is_set():
                if not program.library.np_help(program._address, crew.ctypes.data):
                    finished.wait(NAP)

        thread = threading.Thread(
            target=help_leader, args=(self,), name="nextpixel helper", daemon=True
        )
        try:
            with suppress(RuntimeError):  # the system gives no more threads
                thread.start()
                self._job.crew = crew.ctypes.data
            yield
        finally:
            self._job.crew = None
            finished.set()
            if thread.ident is not None:
                thread.join()

    def run(self, first: int, end: int) -> None:
        """Runs the sites from `first` to `end - 1`, which follow those already run.

        Sites count in the order of generation: `(row * width + column) * channels + channel`.

        Raises:
            UserError: A level does not exist, or the model computes infinity or no number.
        """
        program = self.program
        error = program.library.np_run(
            program._address, self._state.ctypes.data, ctypes.byref(self._job), first, end
        )
        if error:
            raise failed(error)

    def run_rows(self, first: int, end: int) -> None:
        """Runs the rows from `first` to `end - 1`, see `run`."""
        channels, _, width = self.program.shape
        self.run(first * width * channels, end * width * channels)

    def parameters(self, site: int) -> NDArray[np.float32]:
        """Copies the distribution's parameters at the site that was run last, `(n, parameters)`.

        With guidance, `(2 n, parameters)`.
        """
        program = self.program
        place = program.library.np_parameters(program._address, self._state.ctypes.data, 0, site)
        view = np.ndarray(
            (self._count, program.parameters),
            np.float32,
            self._state,
            place - self._state.ctypes.data,
            (self._stride, 4),
        )
        return view.copy()

    def select(self, images: ArrayLike) -> None:
        """Reorders the images between two sites; some may occur several times, or not at all.

        Args:
            images: For each image of the new order, its index in the old one. Reorder the levels in
                the same way.
        """
        chosen = np.asarray(images)
        if self._count != len(self.images.levels):
            raise ValueError("with guidance, images cannot be reordered")
        if chosen.shape != (self._count,):
            raise ValueError(f"give the index of each of the {self._count} images")
        whole = self._state[: self._count * self._stride].reshape(self._count, self._stride or -1)
        whole[:] = whole[chosen]


def processors() -> int:
    """Counts the processors that this process may use: `OMP_NUM_THREADS`, or all."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
