"""Levels to bytes and back, by all kinds of programs, at any size."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nextpixel.codec.coding import Plan, count_parts, cut, decode, encode, waves_of
from nextpixel.data.levels import level_type
from nextpixel.engine import Coder, Images, Program, Session
from nextpixel.engine.library import load_library
from nextpixel.errors import UserError
from tests.engine.test_same_bits import MODELS, build

CONTEXT = (2, 2)
OTHER_SIZES = [(3, 4), (13, 17), (6, 20), (25, 7), (1, 1), (40, 1)]
WITH_CLASSES_ALONE = [name for name in MODELS if "vector" not in MODELS[name][1]]


@pytest.fixture(scope="module", params=WITH_CLASSES_ALONE)
def program(request: pytest.FixtureRequest) -> Program:
    return Program(build(request.param))


def own_size(program: Program) -> tuple[int, int]:
    return program.shape[1], program.shape[2]


def random_images(program: Program, sizes: list[tuple[int, int]]) -> list[NDArray[Any]]:
    random, kind = np.random.default_rng(0), level_type(program.levels)
    channels = program.shape[0]
    return [random.integers(0, program.levels, (channels, *size)).astype(kind) for size in sizes]


def classes_of(n: int) -> list[int]:
    return [k % 3 for k in range(n)]


def assert_equal(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        assert np.array_equal(x, y)


def test_what_is_decoded_is_what_was_encoded(program: Program) -> None:
    own = own_size(program)
    for sizes in ([own] * 5, [own, *OTHER_SIZES], [own], []):
        images, classes = random_images(program, sizes), classes_of(len(sizes))
        for lanes in (1, 3):
            plan = Plan(program, CONTEXT, 64, lanes)
            codes, bits = encode(plan, images, classes)
            found, found_classes = decode(plan, codes, sizes)
            assert_equal(found, images)
            assert found_classes.tolist() == classes or "classes" not in program.inputs
            # Classes cost log2 3 each, and each lane fills up a word.
            more = len(sizes) * math.log2(3) * ("classes" in program.inputs)
            assert 0 <= 8 * sum(map(len, codes)) - bits.sum() - more < 18 * lanes


def test_likely_images_take_few_bits() -> None:
    """Drawn by the model itself, at a low temperature: intervals are nearly the whole."""
    program = Program(build("PixelCNN"))
    x = program.sample(20, classes=classes_of(20), temperature=0.01).astype(np.uint8)
    codes, bits = encode(Plan(program, CONTEXT, 64), list(x), classes_of(20))
    assert_equal(decode(Plan(program, CONTEXT, 64), codes, [own_size(program)] * 20)[0], list(x))
    random = encode(
        Plan(program, CONTEXT, 64), random_images(program, [own_size(program)] * 20), [0] * 20
    )
    assert bits.sum() < random[1].sum()


def test_the_bits_are_those_of_the_score(program: Program) -> None:
    images = random_images(program, [own_size(program)] * 3)
    _, bits = encode(Plan(program, CONTEXT, 64), images, classes_of(3))
    context = {"classes": classes_of(3)} if "classes" in program.inputs else {}
    nats = program.log_prob(np.stack(images), **context)
    assert bits == pytest.approx(-nats / math.log(2), rel=1e-12)


@pytest.fixture
def any_instructions() -> Iterator[None]:
    yield
    load_library().np_choose(2)


@pytest.mark.usefixtures("any_instructions")
def test_other_instructions_and_threads_decode_it() -> None:
    file = build("PixelSNAIL")
    program, sizes = Program(file), [(6, 7), (60, 70)]
    images = random_images(program, sizes)
    codes, _ = encode(Plan(program, CONTEXT, 64, lanes=4), images, [0, 0])
    for choice in (0, 1, 2):
        load_library().np_choose(choice)
        with ThreadPoolExecutor(2) as pool:
            plan = Plan(Program(file), CONTEXT, 64, 4, pool)
            assert_equal(decode(plan, codes, sizes)[0], images)
            assert encode(plan, images, [0, 0])[0] == codes


def test_damaged_code_gives_some_levels(program: Program) -> None:
    sizes = [own_size(program)] * 2
    (code,), _ = encode(Plan(program, CONTEXT, 64), random_images(program, sizes), [0, 1])
    for wrong in (b"", b"\xff" * len(code), bytes(len(code)), code[: len(code) // 2], code[1:]):
        found, _ = decode(Plan(program, CONTEXT, 64), [wrong], sizes)
        assert all(int(x.max()) < program.levels for x in found)


def test_known_levels_cost_nothing() -> None:
    program = Program(build("PixelCNN of two levels"))
    x = np.stack(random_images(program, [own_size(program)] * 2)).astype(np.int64)
    known = np.random.default_rng(1).random(x.shape) < 0.5
    sizes = []
    for which in (known, np.ones_like(known), None):
        coder = Coder.encoder(4 * x.size + 8)
        Session(program, Images(x.copy(), {}, known=which), coder=coder).run(0, x[0].size)
        data = coder.finish()
        sizes.append(len(data))
        decoded = np.zeros_like(x) if which is None else np.where(which, x, 0)
        images = Images(decoded, {}, known=which)
        Session(program, images, coder=Coder.decoder(data)).run(0, x[0].size)
        assert np.array_equal(decoded, x)
    assert sizes[1] == 2
    assert sizes[0] < sizes[2]


def test_wrong_jobs_are_refused() -> None:
    program = Program(build("PixelCNN of two levels"))
    x = np.stack(random_images(program, [own_size(program)])).astype(np.int64)
    with pytest.raises(UserError, match="room"):
        Session(program, Images(x, {}), coder=Coder.encoder(4)).run(0, x.size)
    noise = np.zeros(x.shape)
    with pytest.raises(UserError, match="stopped"):
        Session(program, Images(x, {}, noise), coder=Coder.encoder(4)).run(0, x.size)


# --- the coder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3, 10, 255, 1 << 20, 1 << 30])
def test_numbers(most: int) -> None:
    """The highest and the lowest numbers move the interval to its ends: words are carried over."""
    random = np.random.default_rng(0)
    for numbers in (
        random.integers(0, most, 2000),
        np.full(2000, most - 1),
        np.zeros(2000, np.int64),
        np.where(random.random(2000) < 0.01, 0, most - 1),
    ):
        coder = Coder.encoder(4 * 2000 + 8)
        coder.code_numbers(numbers.copy(), most)
        data = coder.finish()
        found = np.zeros(2000, np.int64)
        Coder.decoder(data).code_numbers(found, most)
        assert np.array_equal(found, numbers)
        assert len(data) <= 2000 * math.log2(most) / 8 * 1.0001 + 4
    with pytest.raises(UserError, match="level"):
        Coder.encoder(100).code_numbers(np.array([most]), most)


def test_the_rate_is_that_of_another_coder() -> None:
    """The range coder of the package constriction, given the same intervals."""
    constriction = pytest.importorskip("constriction", reason="constriction is not installed")
    program = Program(build("PixelSNAIL"))
    x = np.stack(random_images(program, [own_size(program)] * 40)).astype(np.int64)
    found = np.zeros((*x.shape, 2), np.uint32)
    program.run(Images(x, {}, intervals=found))
    other = constriction.stream.queue.RangeEncoder()
    for low, width in found.reshape(-1, 2).astype(np.float64):
        shares = np.array([low, width, 2.0**30 - low - width])
        model = constriction.stream.model.Categorical(shares[shares > 0] / 2.0**30, perfect=False)
        other.encode(np.array([int(low > 0)], np.int32), model)
    (code,), bits = encode(Plan(program, CONTEXT, 64), list(x.astype(np.uint8)), [0] * 40)
    assert 8 * len(code) <= 1.0005 * bits.sum() + 32
    assert 8 * len(code) <= 1.0005 * other.num_bits() + 32


# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 8), (8, 9), (50, 3), (31, 64), (100, 100)])
@pytest.mark.parametrize("context", [(3, 2), (0, 0), (7, 3), (1, 3)])
def test_tiles_cover_a_picture_and_wait_for_what_they_see(
    size: tuple[int, int], context: tuple[int, int]
) -> None:
    canvas = (8, 8)
    covered, wave_of = np.zeros(size, int), np.full(size, -1)
    for number, wave in enumerate(waves_of([size], canvas, context)):
        for tile in wave:
            part = tile.part[1:]
            covered[part] += 1
            wave_of[part] = number
            assert 0 <= tile.y - tile.top <= canvas[0] - tile.height
            assert 0 <= tile.x - tile.left <= canvas[1] - tile.width
            assert tile.top == 0 or tile.y - tile.top >= context[0]
            assert tile.left == 0 or tile.x - tile.left >= context[1]
            left = wave_of[tile.top : tile.y + tile.height, tile.left : tile.x]
            above = wave_of[tile.top : tile.y, tile.x : tile.x + tile.width]
            for seen in (left, above):
                assert (seen >= 0).all()
                assert (seen < number).all()
    assert (covered == 1).all()


def test_waves_of_several_pictures_keep_the_order_of_the_pictures() -> None:
    waves = list(waves_of([(8, 8), (20, 8), (8, 20)], (8, 8), (2, 2)))
    assert [tile.image for tile in waves[0]] == [0, 1, 2]
    assert all([t.image for t in wave] == sorted(t.image for t in wave) for wave in waves)
    assert [tile.image for tile in waves[1]] == [2]  # one column of tiles: no odd waves


def test_a_side_as_long_as_the_canvas_is_one_part() -> None:
    assert cut(8, 8, 2, 2) == [(0, 8, 0)]
    assert cut(5, 8, 2, 2) == [(0, 5, 0)]
    assert cut(0, 8, 2, 2) == []


def test_parts_are_counted_without_cutting() -> None:
    for canvas in range(2, 9):
        for before in range(canvas // 2):
            for after in (0, before):
                for length in range(40):
                    parts = cut(length, canvas, before, after)
                    assert len(parts) == count_parts(length, canvas, before, after)


def test_images_side_by_side_do_not_know_of_each_other(program: Program) -> None:
    sizes = [own_size(program), (13, 17), (6, 20)]
    images = random_images(program, sizes)
    for together in (1, 2, 64):
        plan = Plan(program, CONTEXT, together)
        codes, _ = encode(plan, images, [0, 1, 2])
        assert_equal(decode(plan, codes, sizes)[0], images)
