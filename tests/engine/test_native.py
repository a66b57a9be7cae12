"""The C code of the engine, by a small program that is made by hand."""

import ctypes
import math
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nextpixel.engine.library import Job, load_library

LEVELS, HEIGHT, WIDTH = 5, 3, 4
WIDE = 131  # numbers between the products: no multiple of a vector
NOWHERE, STATE, CONSTANTS = range(3)
PRODUCT, _, GATHER, COPY, _, ELU, SIGMOID, TANH = range(8)
MULTIPLY = 13
Operand = tuple[int, ...]
NONE: Operand = (NOWHERE, 0, 0, 0, 0, 0)


def state(offset: int, per_inner: int = 1) -> Operand:
    return (STATE, offset, 0, 0, 0, per_inner)


def instruction(what: int, out: Operand, a: Operand, b: Operand = NONE, **other: Any) -> bytes:
    weight, depth, inner = (other.get(n, 0) for n in ("weight", "depth", "inner"))
    numbers = (what, inner or WIDE, depth, 0, 1, 0, 0, weight, *out, *a, *b, *NONE)
    return struct.pack("<32id", *numbers, 0.0)


def small_program(bias: float = 0.0) -> bytes:
    """Makes a program: the newest level's row of a table, functions of it, and two products."""
    random = np.random.default_rng(0)
    table = random.normal(0, 2, (LEVELS, WIDE))
    first, second = random.normal(0, 0.3, (WIDE, WIDE)), random.normal(0, 0.05, (WIDE, LEVELS))
    first[:, ::3] = 0
    plain = np.append(table, np.full(LEVELS, bias))
    constants = np.concatenate([plain, first.ravel(), second.ravel()]).astype("<f4")
    x, y, z, logits = 16, 16 + WIDE, 16 + 2 * WIDE, 16 + 3 * WIDE
    instructions = [
        instruction(GATHER, state(x), state(0), (CONSTANTS, 0, 0, 0, 0, 1)),
        instruction(TANH, state(y), state(x)),
        instruction(COPY, state(y), state(y + WIDE - 1, -1)),
        instruction(PRODUCT, state(z), state(y), state(x), depth=WIDE),
        instruction(ELU, state(x), state(z)),
        instruction(SIGMOID, state(y), state(x)),
        instruction(MULTIPLY, state(x), state(x), state(y)),
        instruction(
            PRODUCT, state(logits), state(x), (CONSTANTS, table.size, 0, 0, 0, 1),
            weight=1, depth=WIDE, inner=LEVELS,
        ),
    ]  # fmt: skip
    every_site = struct.pack("<8i", 0, len(instructions), *state(logits))
    kinds = struct.pack("<8i", 0, 0, *NONE) + 3 * every_site
    matrices = struct.pack("<6q", plain.size, WIDE, WIDE, plain.size + WIDE**2, WIDE, LEVELS)
    numbers = constants.tobytes() + bytes(-constants.nbytes % 8)
    parts = [kinds, b"".join(instructions), matrices, numbers]
    counts = [4, len(instructions), 2, constants.size]
    begins = np.cumsum([288, *map(len, parts)]).tolist()
    body = struct.pack("<9qd", 1, HEIGHT, WIDTH, LEVELS, 1, 1, 1, 0, LEVELS, 0.0)
    body += struct.pack("<3q8q", logits + LEVELS, 0, 1, *[0] * 8)
    for begin, count in zip(begins, counts, strict=False):
        body += struct.pack("<2q", begin, count)
    body += struct.pack("<3q", plain.size, begins[4], 0)
    body += b"".join(parts)
    checksum = load_library().np_checksum(body, len(body))
    return struct.pack("<8s2qQ", b"NPXPROG\n", 1, len(body) + 32, checksum) + body


def aligned(size: int) -> NDArray[np.uint8]:
    whole = np.zeros(size + 64, np.uint8)
    begin = -whole.ctypes.data % 64
    return whole[begin : begin + size]


class Images:
    """Images of a program, before their first site."""

    def __init__(self, file: bytes, images: int = 7) -> None:
        self.engine = load_library()
        data = aligned(len(file))
        data[:] = np.frombuffer(file, np.uint8)
        size = self.engine.np_memory(data.ctypes.data, len(file))
        if size < 0:
            raise ValueError(self.engine.np_error(-size).decode())
        self.memory = aligned(size)
        self.program = self.engine.np_open(data.ctypes.data, len(file), self.memory.ctypes.data)
        self.state = aligned(self.engine.np_state_bytes(self.program, images))
        self.engine.np_begin(self.program, self.state.ctypes.data, images)
        self.engine.np_prepare(self.program, self.state.ctypes.data, images)
        self.levels = np.zeros((images, HEIGHT, WIDTH), np.int64)
        self.noise = np.random.default_rng(1).random((64, HEIGHT, WIDTH))[:images].copy()
        self.intervals = np.zeros((images, HEIGHT, WIDTH, 2), np.uint32)

    def run(self, first: int = 0, end: int = HEIGHT * WIDTH, **changes: Any) -> str:
        """Runs sites; returns the sentence of an error."""
        arrays = {"levels": self.levels, "noise": self.noise, "intervals": self.intervals}
        job = Job(**{name: array.ctypes.data for name, array in arrays.items()})
        job.temperature, job.guidance, job.images = 1, 1, len(self.levels)
        for name, value in changes.items():
            setattr(job, name, value)
        address = self.state.ctypes.data
        error = self.engine.np_run(self.program, address, ctypes.byref(job), first, end)
        return str(self.engine.np_error(-error).decode())


@pytest.fixture
def images() -> Images:
    return Images(small_program())


@pytest.fixture
def any_instructions() -> Iterator[None]:
    yield
    load_library().np_choose(2)


@pytest.mark.usefixtures("any_instructions")
def test_all_instructions_and_batches_give_the_same_bits() -> None:
    results = []
    for choice in (0, 1, 2):
        load_library().np_choose(choice)
        for count in (1, 2, 7, 64):
            images = Images(small_program(), count)
            assert images.run() == "no error"
            results.append((images.levels[0].tolist(), images.intervals[0].tolist()))
    assert all(result == results[0] for result in results)
    assert len(np.unique(results[0][0])) > 1


def test_scoring_finds_the_intervals_of_drawing(images: Images) -> None:
    images.run()
    drawn = images.intervals.copy()
    assert (drawn[..., 1] > 0).all()
    low, width = (drawn.astype(np.float64)[..., i] / 2**30 for i in (0, 1))
    assert ((low <= images.noise) & (images.noise < low + width)).all()
    scored = Images(small_program())
    scored.levels[:] = images.levels
    assert scored.run(noise=None) == "no error"
    np.testing.assert_array_equal(scored.intervals, drawn)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temperature": math.nan}, "the temperature or guidance is no number"),
        ({"temperature": 0.0}, "the temperature or guidance is no number"),
        ({"temperature": math.inf}, "the temperature or guidance is no number"),
        ({"guidance": math.nan}, "the temperature or guidance is no number"),
        ({"guidance": -math.inf}, "the temperature or guidance is no number"),
        ({"images": 0}, "there are no levels or images"),
        ({"images": 2**40}, "there are no levels or images"),
        ({"levels": None}, "there are no levels or images"),
        ({"first": -1}, "the sites are none of the picture"),
        ({"first": 3, "end": 2}, "the sites are none of the picture"),
        ({"end": HEIGHT * WIDTH + 1}, "the sites are none of the picture"),
    ],
)
def test_a_wrong_job_is_refused(images: Images, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in images.run(**changes)


@pytest.mark.parametrize("noise", [1.0, -0.5, math.nan, math.inf])
def test_wrong_noise_is_refused(images: Images, noise: float) -> None:
    images.noise[2, 1, 1] = noise
    assert images.run() == "the noise is not in [0, 1)"


@pytest.mark.parametrize("level", [-1, LEVELS, 2**62])
@pytest.mark.parametrize("site", [0, 5, HEIGHT * WIDTH - 1])
def test_a_wrong_level_is_refused(images: Images, level: int, site: int) -> None:
    images.levels.reshape(7, -1)[4, site] = level
    assert "not below the number of levels" in images.run(noise=None)
    assert "not below the number of levels" in images.run(noise=None, intervals=None)


@pytest.mark.parametrize("bias", [math.nan, math.inf, -math.inf])
def test_parameters_that_are_not_finite_are_refused(bias: float) -> None:
    assert Images(small_program(bias)).run() == "the model computes infinity or no number"


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e300])
def test_extreme_temperatures(images: Images, temperature: float) -> None:
    assert images.run(temperature=temperature) == "no error"
    widths = images.intervals[..., 1]
    fair = 2**30 // LEVELS
    assert (widths > 2**30 - 2 * LEVELS).all() or (abs(widths.astype(np.int64) - fair) < 9).all()


def test_a_small_stack_is_enough() -> None:
    before, errors = threading.stack_size(), []
    threading.stack_size(128 * 1024)
    try:
        thread = threading.Thread(target=lambda: errors.append(Images(small_program()).run()))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert errors == ["no error"]


def changed(at: int, number: int) -> bytes:
    """Changes a number of 8 bytes in the header of the program, with the right checksum."""
    file = bytearray(small_program())
    struct.pack_into("<q", file, at, number)
    checksum = load_library().np_checksum(bytes(file[32:]), len(file) - 32)
    struct.pack_into("<Q", file, 24, checksum)
    return bytes(file)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (b"", "no program"),
        (bytes(4096), "no program"),
        (small_program()[:-8], "cut off"),
        (small_program() + bytes(8), "cut off"),
        (small_program()[:-8] + b"damaged!", "checksum"),
        (changed(8, 2), "another version"),
        (changed(32, 1 << 40), "its header"),  # channels
        (changed(80, 2), "its header"),  # a mixture without components
        (changed(112, 1 << 40), "its header"),  # the state
        (changed(112, 20), "memory that it does not have"),  # the state
        (changed(120, 1 << 20), "its header"),  # the newest level
        (changed(72, 2), "its header"),  # the period
        (changed(224, -1), "its header"),  # the number of instructions
        (changed(264, 1), "memory that it does not have"),  # the plain constants
    ],
)
def test_a_wrong_file_is_refused(file: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Images(file)
