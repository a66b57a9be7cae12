"""Program files, and what runs without PyTorch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextpixel.engine import Images, Program
from nextpixel.engine.compile import compile_model
from nextpixel.engine.file import read_description
from nextpixel.engine.program import TOTAL
from nextpixel.errors import UserError
from nextpixel.models import GatedPixelCNN, PixelCNN, PixelCNNPP
from nextpixel.sampling import trace
from tests.helpers import randomize


def model(cls: Any = GatedPixelCNN, **arguments: Any) -> Any:
    torch.manual_seed(0)
    arguments = {"shape": (1, 5, 6), "levels": 9, "width": 6, "blocks": 2, **arguments}
    made = cls(**arguments).eval()
    randomize(made)
    return made


@pytest.fixture(scope="module")
def file() -> bytes:
    """A program with classes."""
    return compile_model(model(classes=3), {"name": "a test"}).tobytes()


def test_a_file_says_what_it_is(file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "digits.program"
    path.write_bytes(file)
    program = Program.load(path)
    assert (program.shape, program.levels) == ((1, 5, 6), 9)
    assert program.inputs == {"classes": 3, "present": 1}
    assert program.description == {"name": "a test"}


def test_it_draws_what_the_model_draws(file: bytes) -> None:
    gated, program = model(classes=3), Program(file)
    for guidance in (1.0, 2.5):
        x = program.sample(3, classes=[2, 0, 1], seed=5, temperature=0.8, guidance=guidance)
        expected = gated.sample(
            3, [2, 0, 1], seed=5, temperature=0.8, guidance=guidance, sampler="full"
        )
        assert np.array_equal(x, expected.numpy())
    mixed = np.array([[0.5, 0.5, 0.0]] * 2)
    assert np.array_equal(
        program.sample(2, classes=mixed), gated.sample(2, torch.from_numpy(mixed)).numpy()
    )
    nats = program.log_prob(x, classes=[2, 0, 1])
    np.testing.assert_allclose(nats, gated.log_prob(torch.tensor(x), [2, 0, 1]).detach(), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "takes classes, and was given nothing"),
        ({"vector": [1.0]}, "takes classes, and was given vector"),
        ({"classes": [3]}, "classes are 0 to 2"),
        ({"classes": [1, 2]}, "Give one class"),
        ({"classes": [5.0, -3.0, 9.0]}, "weights of the classes"),
        ({"classes": [[float("nan")] * 3]}, "finite"),
        ({"classes": [1], "threads": 0}, "at least one thread"),
        ({"classes": [1], "n": 0}, "at least one picture"),
        ({"classes": [1], "numbers": [1, 2]}, "1 pictures need 1 numbers"),
        ({"classes": [1], "seed": -1}, "A seed"),
        ({"classes": [1], "temperature": 0.0}, "temperature"),
    ],
)
def test_arguments_that_do_not_fit(file: bytes, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Program(file).sample(**arguments)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((1, 1, 5, 6)), "integers"),
        (np.zeros((1, 5, 6), int), "shape"),
        (np.full((1, 1, 5, 6), 9), "level"),
        (np.full((1, 1, 5, 6), -1), "level"),
    ],
)
def test_pictures_that_do_not_fit(file: bytes, x: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Program(file).log_prob(x, classes=[0])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file[:-8], "cut off"),
        (lambda file: file + b"\0" * 8, "cut off"),
        (lambda file: file[:100], "no program"),
        (lambda file: b"", "no program"),
        (lambda file: b"PNG" + file[3:], "no program"),
        (lambda file: file[:8] + b"\x09" + file[9:], "another version"),
        (lambda file: file[:5000] + bytes([file[5000] ^ 1]) + file[5001:], "checksum"),
        (lambda file: file[:-1] + bytes([file[-1] ^ 1]), "checksum"),
    ],
)
def test_damage_is_noticed(file: bytes, tmp_path: Path, damage: Any, words: str) -> None:
    path = tmp_path / "digits.program"
    path.write_bytes(damage(file))
    with pytest.raises(UserError, match=words) as error:
        Program.load(path)
    assert "digits.program" in str(error.value)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_descriptions_that_cannot_be_read(text: bytes) -> None:
    with pytest.raises(UserError, match="description"):
        read_description(text)


def test_no_pictures_have_no_scores(file: bytes) -> None:
    assert Program(file).log_prob(np.zeros((0, 1, 5, 6), int), classes=0).shape == (0,)


def test_arrays_of_other_types_are_refused(file: bytes) -> None:
    levels, classes = np.zeros((2, 1, 5, 6), np.int32), np.eye(3, dtype=np.float32)[[0, 1]]
    inputs = {"classes": classes, "present": np.ones((2, 1), np.float32)}
    with pytest.raises(UserError, match="levels must be"):
        Program(file).begin(Images(levels, inputs))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="needs the input classes"):
        Program(file).begin(Images(levels.astype(np.int64), {}))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        Program.load(tmp_path / "none")


@pytest.mark.parametrize(
    "made",
    [
        (PixelCNN, {"levels": 2}),
        (PixelCNN, {"levels": 256}),
        (PixelCNNPP, {"levels": 256, "shape": (3, 5, 6)}),
        (PixelCNNPP, {"levels": 600, "shape": (1, 5, 6)}),
    ],
    ids=["Bernoulli", "categorical", "mixture", "mixture of 600 levels"],
)
def test_the_integer_cdf_is_the_distribution(made: Any) -> None:
    """Every level gets at least 1, all together get the whole, and each its share."""
    net = model(made[0], **made[1])
    program, levels = Program(compile_model(net)), net.levels
    x = net.sample(1)
    step = next(trace(net, 1))
    pmf = step.distribution.pmf()[0].numpy()
    low, width = [], []
    for level in range(levels):
        images = x.clone().numpy()
        images[:, 0, 0, 0] = level
        intervals = np.zeros((*images.shape, 2), np.uint32)
        program.begin(Images(images, {}, intervals=intervals)).run(0, 1)
        low.append(int(intervals[0, 0, 0, 0, 0]))
        width.append(int(intervals[0, 0, 0, 0, 1]))
    assert min(width) >= 1
    assert low == [sum(width[:level]) for level in range(levels)]
    assert sum(width) == TOTAL
    np.testing.assert_allclose(np.array(width) / TOTAL, pmf, atol=2e-6)
    share = np.array(width) / TOTAL
    assert float((pmf * np.log2(pmf / share)).sum()) < 0.0005  # bits, the cost of whole numbers


def test_the_engine_needs_numpy_alone(file: bytes, tmp_path: Path) -> None:
    (tmp_path / "digits.program").write_bytes(file)
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'PIL', 'scipy', 'matplotlib', 'yaml')))\n"
        "from nextpixel.engine import Program\n"
        "program = Program.load('digits.program')\n"
        "x = program.sample(2, classes=1)\n"
        "print(x.sum(), program.log_prob(x, classes=1).sum() < 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{Program(file).sample(2, classes=1).sum()} True\n"
