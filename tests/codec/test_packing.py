"""Programs in compressed files: packed and unpacked, and rounded weights."""

import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import nextpixel as npx
from nextpixel.codec.models import compiled
from nextpixel.codec.packing import BLOCK, SIZES, pack_program, unpack_program
from nextpixel.codec.rounding import best_steps, rounded
from nextpixel.data import Images
from nextpixel.engine.file import HEADER
from nextpixel.errors import UserError
from nextpixel.models import PixelCNNPP


@pytest.fixture(scope="module")
def network() -> PixelCNNPP:
    torch.manual_seed(0)
    return PixelCNNPP(shape=(1, 8, 8), width=8, blocks=1, stages=2, components=2)


def with_constants(file: bytes, values: list[float]) -> bytes:
    """Puts values in the place of the last constants; the checksum is then another program's."""
    header = np.frombuffer(file[: HEADER.itemsize], HEADER)[0]
    data = np.frombuffer(file, np.uint8).copy()
    end = int(header["constants"]) + 4 * int(header["constant_count"])
    data[end - 4 * len(values) : end] = np.array(values, "<f4").view(np.uint8)
    return data.tobytes()


@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 8,
        [-0.0, 1.0, 0.5],
        [np.nan, 1.0],
        [np.inf, -np.inf, 0.25],
        [1e-45, 2e-45],
        [3.4e38, -3.4e38],
        [127.0, -128.0, 0.0],
        [128.0, -128.5],
        [32767.0, -32768.0],
        [2.0**-126, 2.0**-140],
    ],
)
def test_any_number_comes_back(network: PixelCNNPP, values: list[float]) -> None:
    file = with_constants(compiled(network), values)
    assert unpack_program(pack_program(file)) == file


def test_rounded_weights_take_a_fraction(network: PixelCNNPP) -> None:
    file = compiled(network)
    packed = [len(pack_program(file))]
    x = torch.randint(0, 256, (8, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    steps = best_steps(network, x, share=1.0)
    for coarseness in (1.0, 8.0):
        coarse = compiled(rounded(network, steps, coarseness))
        assert unpack_program(pack_program(coarse)) == coarse
        packed.append(len(pack_program(coarse)))
    assert packed[0] > 1.4 * packed[1] > 1.4 * packed[2]


def test_steps_are_those_of_the_fisher_information() -> None:
    """Twice the information takes a step of 1 / sqrt(2), and more images have more of it."""
    torch.manual_seed(0)
    network = PixelCNNPP(shape=(1, 4, 4), width=4, blocks=1, stages=1, components=1, dropout=0.0)
    x = torch.randint(0, 256, (4, 1, 4, 4))
    network.zero_grad()
    (-network.log_prob(x).sum()).backward()
    gradient = network.last.weight.grad
    assert gradient is not None
    wanted = (12 / gradient.square().mean()).sqrt()
    torch.testing.assert_close(best_steps(network, x, 1.0)["last.weight"], wanted)
    torch.testing.assert_close(best_steps(network, x, 0.25)["last.weight"], wanted / 2)


def test_rounding_leaves_multiples_of_a_power_of_two(network: PixelCNNPP) -> None:
    steps = {name: torch.tensor(0.1) for name, _ in network.named_parameters()}
    for name, weights in rounded(network, steps, 1.0).named_parameters():
        before = network.get_parameter(name)
        assert torch.equal(weights * 8, (weights * 8).round())
        assert (weights - before).abs().max() <= 1 / 16
        assert not torch.signbit(weights[weights == 0]).any()


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 3), ("width", 255), ("width", 0), ("columns", 7), ("length", 1 << 31), ("size", 0)],
)
def test_a_list_of_blocks_that_lies_is_refused(network: PixelCNNPP, field: str, value: int) -> None:
    """Before anything is unpacked by it."""
    packed = pack_program(compiled(network))
    end = SIZES.size + SIZES.unpack_from(packed)[2]
    blocks = np.frombuffer(zlib.decompress(packed[SIZES.size : end]), BLOCK).copy()
    assert len(blocks) > 5
    blocks[field][-2] = value
    listed = zlib.compress(blocks.tobytes())
    head = SIZES.pack(*SIZES.unpack_from(packed)[:2], len(listed))
    with pytest.raises(UserError, match="damaged"):
        unpack_program(head + listed + packed[end:])


def test_what_is_damaged_is_refused(network: PixelCNNPP) -> None:
    """Checksums of the record and of the program see to what unpacks to other numbers."""
    packed = pack_program(compiled(network))
    random = np.random.default_rng(0)
    for at in random.integers(len(packed), size=300).tolist():
        for some in (packed[:at], packed + bytes([at % 256])):
            with pytest.raises(UserError, match="damaged"):
                unpack_program(some)
        data = np.frombuffer(packed, np.uint8).copy()
        data[at] ^= 1 << random.integers(8)
        with suppress(UserError):
            unpack_program(data.tobytes())


@pytest.mark.parametrize("classes", [None, 3])
def test_a_file_holds_a_program_whose_weights_suit_its_images(
    classes: int | None, tmp_path: Path
) -> None:
    """Rounded as the number of images demands; the same each time, so that one can resume."""
    torch.manual_seed(0)
    options = {"width": 4, "blocks": 1, "stages": 1, "components": 2, "classes": classes}
    network = PixelCNNPP(shape=(1, 8, 8), **options)
    whole = len(pack_program(compiled(network)))
    x = network.eval().sample(600, classes and np.arange(600) % 3, seed=0).numpy().astype(np.uint8)
    y, sizes = None if classes is None else np.arange(600) % 3, []
    for count in (600, 600, 20):
        images = Images(x[:count], None if y is None else y[:count], 256)
        npx.compress(network, images, path := tmp_path / "a.npxz")
        with npx.Compressed(path) as file:
            (program,) = [record for record in file.reader.records if record.kind == b"PROG"]
            found = np.stack([image.levels for some in file.images() for image in some])
            sizes.append((program.size, file.head["program"]))
        assert np.array_equal(found, x[:count])
    assert sizes[0] == sizes[1]
    assert sizes[2][0] < sizes[0][0] < whole
