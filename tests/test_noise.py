"""Random streams: which there are, that none runs into another, and that they never change."""

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from nextpixel import noise
from nextpixel.noise import SEEDS, Stream, content_key, make_seed, seeded

SOURCE = Path(noise.__file__).parent
PAIRS = list(combinations(Stream, 2))
# The same key and counter is given to two streams only where their keys count different things.
# A pair that is not here is new: give its stream a counter of its own.
ALIKE = {
    ("PIXELS", "SCORED_CODES"),
    ("PIXELS", "BITS"),
    ("PIXELS", "SPLITS"),
    ("PIXELS", "PHASES"),
    ("SCORED_CODES", "BITS"),
    ("SCORED_CODES", "SPLITS"),
    ("SCORED_CODES", "PHASES"),
    ("BITS", "SPLITS"),
    ("BITS", "PHASES"),
    ("SPLITS", "PHASES"),
    ("RESAMPLING", "ORDER"),
}


def counter(generator: np.random.Generator) -> int:
    """Where a generator is in the 2^256 numbers of its key."""
    words = generator.bit_generator.state["state"]["counter"].tolist()
    return sum(word << (64 * place) for place, word in enumerate(words))


def names(pair: tuple[Stream, Stream]) -> tuple[str, str]:
    return pair[0].name, pair[1].name


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[0].of == pair[1].of])
def test_streams_with_equal_keys_draw_different_numbers(pair: tuple[Stream, Stream]) -> None:
    """Whatever the rows; the numbers are uniform in [0, 1), 53 bits each."""
    drawn = [
        stream.generator(seed, number, row).random(1000)
        for stream in pair
        for seed in (0, 5)
        for number in (0, 1)
        for row in (0, 1, 27)
    ]
    everything = np.concatenate(drawn)
    assert len(np.unique(everything)) == len(everything)


@pytest.mark.parametrize("pair", PAIRS)
def test_no_stream_runs_into_another(pair: tuple[Stream, Stream]) -> None:
    """From the first row's begin to the end of the last, no counter belongs to two streams."""
    last = 2**64 - 1
    ranges = [(counter(s.generator(3, 4)), counter(s.generator(3, 4, last))) for s in pair]
    (begin, end), (other_begin, other_end) = ranges
    assert end - begin == other_end - other_begin == last << 64
    apart = end + last < other_begin or other_end + last < begin
    assert apart != (names(pair) in ALIKE)
    assert apart or pair[0].of != pair[1].of


def test_rows_do_not_run_into_each_other() -> None:
    generator = Stream.RESAMPLING.generator(3, 4, 5)
    begin = counter(generator)
    generator.random(100_000)
    assert begin < counter(generator) < counter(Stream.RESAMPLING.generator(3, 4, 6))


@pytest.mark.parametrize("stream", Stream)
def test_both_words_of_the_key_count(stream: Stream) -> None:
    keys = [(0, 0), (1, 0), (0, 1), (2**64 - 1, 7), (7, 2**64 - 1), (7, 2**64 - 2)]
    first = [stream.generator(*key).random() for key in keys]
    assert len(set(first)) == len(keys)
    assert stream.generator(7, 2**64 - 2).random() == first[-1]


def test_seeds_of_different_purposes_differ() -> None:
    """With equal numbers where the table has names."""
    for number in range(1, 4):
        keys = [[int(w) if w.isdigit() else number for w in seed.key] for seed in SEEDS]
        seeds = [make_seed(*key) for key in keys]
        assert len(set(seeds)) == len(SEEDS)
        assert len({seeded(seed).random() for seed in seeds}) == len(SEEDS)


def test_numbers_never_change() -> None:
    """What was drawn once is drawn again by every later version."""
    drawn = {stream.name: stream.generator(7, 2**63 + 5, 2).random() for stream in Stream}
    assert drawn == {
        "PIXELS": 0.41892539995284717,
        "DEGRADATIONS": 0.024847063366042588,
        "RESAMPLING": 0.7407328771833861,
        "PRIOR_CODES": 0.6830688888406341,
        "SCORED_CODES": 0.41892539995284717,
        "BITS": 0.41892539995284717,
        "ORDER": 0.7407328771833861,
        "MUTATIONS": 0.013823583207284607,
        "SPLITS": 0.41892539995284717,
        "CROPS": 0.31676496403102206,
        "PHASES": 0.41892539995284717,
    }
    assert make_seed(7, 9, 1) == 13_635_847_418_654_145_605
    assert make_seed(7, 9, 1, 2) == 4_214_798_136_175_022_437
    assert seeded(7).random() == 0.625095466604667
    keys = [content_key(np.arange(number, number + 4)) for number in range(3)]
    assert keys == [16958249009808338944, 15195315728730726400, 16135827132223864832]


def generators_made(path: Path) -> Iterator[str]:
    """The names in a file by which NumPy makes random numbers."""
    wanted = {
        *("default_rng", "Philox", "SeedSequence", "RandomState", "PCG64", "PCG64DXSM", "MT19937"),
        *("SFC64", "BitGenerator"),
    }
    called = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.alias) and node.name.rpartition(".")[2] in {*wanted, "random"}:
            yield f"{path.name}: import {node.name}"
        elif isinstance(node, ast.Name) and node.id in wanted:
            yield f"{path.name}:{node.lineno}: {node.id}"
        elif isinstance(node, ast.Call):
            called.append(node.func)
        elif isinstance(node, ast.Attribute) and node.attr in wanted:
            yield f"{path.name}:{node.lineno}: {node.attr}"
    for function in called:  # np.random.Generator is fine as a type
        text = ast.unparse(function)
        if text.startswith(("np.random.", "numpy.random.", "random.")):
            yield f"{path.name}:{function.lineno}: {text}"


def test_nothing_else_makes_generators() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 50
    made = [what for path in files if path != SOURCE / "noise.py" for what in generators_made(path)]
    assert made == []
    assert list(generators_made(SOURCE / "noise.py"))


@pytest.mark.parametrize("path", sorted({entry.used_by for entry in [*Stream, *SEEDS]}))
def test_the_table_names_existing_streams(path: str) -> None:
    assert pkgutil.resolve_name(f"nextpixel.{path}") is not None


def test_the_table_needs_no_torch() -> None:
    code = "import sys, nextpixel.noise; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
