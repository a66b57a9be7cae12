"""Whole files: pictures and arrays there and back, and on other machines."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextpixel.codec import compress as compressing
from nextpixel.codec.chunks import parse_chunk
from nextpixel.codec.compress import compress
from nextpixel.codec.decompress import Compressed
from nextpixel.codec.models import Coding, compiled
from nextpixel.codec.programs import program_file
from nextpixel.codec.sources import find_files
from nextpixel.data import Images
from nextpixel.engine import Program
from nextpixel.engine.library import LIBRARIES
from nextpixel.errors import UserError
from nextpixel.models import GatedPixelCNN
from tests.codec.files import KEPT, PROFILE, back, pack, pixels, plain, some_items, source_of
from tests.codec.golden.make import DIGESTS, digests, opened
from tests.engine.test_same_bits import build
from tests.helpers import needs

HERE = Path(__file__).parent


def test_a_folder_comes_back_pixel_by_pixel(folder: Path, colours: bytes, tmp_path: Path) -> None:
    source = find_files([folder])
    assert source.left_out == ["notes.txt"]
    out = tmp_path / "a.npxz"
    totals = pack(source, out, colours, threads=2)
    assert totals.images == source.count == 19
    done = back(out, tmp_path / "back", threads=2)
    assert (done.images, done.faults) == (19, [])
    names = {str(p.relative_to(tmp_path / "back")) for p in (tmp_path / "back").rglob("*.*")}
    assert {"same.png", "sub/bits.png", "film.gif", "broken.png"} <= names
    for path in (p for p in folder.rglob("*.*") if p.suffix != ".txt"):
        name = path.relative_to(folder)
        same = tmp_path / "back" / name
        if path.name in KEPT:
            assert same.read_bytes() == path.read_bytes()
            continue
        if not same.exists():  # not kept as it was
            same = same.with_name("same.bmp.png" if path.name == "same.bmp" else same.stem + ".png")
        mode, x = pixels(path)
        mode_back, y = pixels(same)
        if mode == "P" and mode_back != "P":
            mode, x = "RGB", np.asarray(Image.open(path).convert("RGB"))
        assert (mode_back, y.tolist()) == (mode, x.tolist()), name
    with Image.open(tmp_path / "back" / "profile.png") as picture:
        assert picture.info["icc_profile"] == PROFILE


def test_an_array_comes_back(tmp_path: Path) -> None:
    file = build("PixelCNN")
    program = Program(file)
    x = np.random.default_rng(0).integers(0, program.levels, (50, *program.shape), np.uint8)
    y = np.arange(50) % 3
    source = Images(x, y, program.levels)
    totals = pack(source, tmp_path / "a.npxz", file)
    assert totals.images == 50
    back(tmp_path / "a.npxz", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        assert np.array_equal(found["x"], x)
        assert np.array_equal(found["y"], y)
        assert found["levels"] == program.levels
    with pytest.raises(UserError, match="exists"):
        back(tmp_path / "a.npxz", tmp_path / "a.npz")


@pytest.mark.parametrize("levels", [2, 8, 51, 255, 256])
@pytest.mark.parametrize("with_model", [True, False])
def test_arrays_of_any_levels_come_back(levels: int, with_model: bool, tmp_path: Path) -> None:
    """Also flat ones, which are kept as files, and with their classes, which no model needs."""
    random = np.random.default_rng(0)
    x = random.integers(0, levels, (30, 1, 9, 8), np.uint8)
    x[::3] = levels - 1
    images = Images(x, np.arange(30) % 4, levels, class_names=("c", "a", "d", "b"))
    coding = Coding("a model", plain(levels)) if with_model else None
    totals = compress(coding, images, tmp_path / "a.npxz", threads=1)
    assert with_model or totals.kept == 30
    back(tmp_path / "a.npxz", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        assert np.array_equal(found["x"], x)
        assert np.array_equal(found["y"], images.y)
        assert found["levels"] == levels


def test_classes_come_back_as_they_were(tmp_path: Path) -> None:
    """The model has the same classes in another order, and is given its own numbers."""
    file = build("PixelCNN")
    program = Program(file)
    x = np.random.default_rng(0).integers(0, program.levels, (12, *program.shape), np.uint8)
    images = Images(x, np.arange(12) % 3, program.levels, class_names=("a", "b", "c"))
    coding = Coding("a model", file, class_names=("c", "a", "b"))
    compress(coding, images, tmp_path / "a.npxz")
    back(tmp_path / "a.npxz", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        assert np.array_equal(found["y"], images.y)
    with Compressed(tmp_path / "a.npxz") as compressed:
        (chunk,) = compressed.images()
        assert compressed.head["class_names"] == ["a", "b", "c"]
    assert [image.class_id for image in chunk] == images.y.tolist()


def test_levels_above_256_and_several_lanes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GatedPixelCNN(shape=(1, 16, 16), levels=600, inputs="embedded", width=4, blocks=1)
    coding = Coding("codes", compiled(model.eval()))
    x = np.random.default_rng(0).integers(0, 600, (600, 1, 16, 16)).astype(np.uint16)
    compress(coding, Images(x, None, 600), tmp_path / "a.npxz", threads=2)
    with Compressed(tmp_path / "a.npxz") as compressed:
        (record,) = compressed.chunks
        assert len(parse_chunk(compressed.reader.body(record))[1]) == compressing.LANES
        for number in (0, 311, 599):
            assert np.array_equal(compressed.image(number).levels, x[number])
        with pytest.raises(UserError, match="no image 600"):
            compressed.image(600)


def test_padding_costs_nothing_and_comes_back(tmp_path: Path) -> None:
    file = build("PixelCNN of two levels")
    program = Program(file)
    rows = np.arange(1, 9)
    x = np.random.default_rng(0).integers(0, 2, (8, *program.shape), np.uint8)
    for k, real in enumerate(rows):
        x[k, :, real:] = 0
    source = Images(x, None, 2, rows=rows)
    pack(source, tmp_path / "a.npxz", file)
    back(tmp_path / "a.npxz", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        assert np.array_equal(found["x"], x)
        assert np.array_equal(found["rows"], rows)


def test_no_images_at_all(tmp_path: Path, colours: bytes) -> None:
    totals = pack(source_of([]), tmp_path / "a.npxz", colours)
    assert totals.images == 0
    assert back(tmp_path / "a.npxz", tmp_path / "back").images == 0
    assert list((tmp_path / "back").iterdir()) == []


def test_the_cheapest_class_is_chosen(tmp_path: Path) -> None:
    file = build("PixelCNN")
    program = Program(file)
    x = program.sample(12, classes=np.arange(12) % 3)
    x = x.astype(np.uint8)
    best = pack(Images(x, None, program.levels), tmp_path / "a.npxz", file).code
    nats = np.stack([program.log_prob(x, classes=np.full(12, c)) for c in range(3)])
    with_best = Images(x, nats.argmax(0), program.levels)
    assert pack(with_best, tmp_path / "b.npxz", file).code == best
    back(tmp_path / "a.npxz", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        assert "y" not in found  # nobody gave them


@pytest.mark.parametrize("name", json.loads(DIGESTS.read_text()))
def test_files_of_version_1_decode_for_ever(name: str) -> None:
    assert digests(DIGESTS.with_name(name)) == json.loads(DIGESTS.read_text())[name]


# --- other machines -------------------------------------------------------------------------------


def test_a_browsers_machine_decodes_it(tmp_path: Path, folder: Path) -> None:
    """WebAssembly, in Node: pictures of many sizes, and classes."""
    needs("node", "nodejs")
    colours, classes = build("PixelSNAIL"), build("PixelCNN")
    source = find_files([folder])
    first, second = tmp_path / "a.npxz", tmp_path / "b.npxz"
    pack(source, first, colours)
    pack(source_of(some_items(classes)), second, classes)
    wasm = LIBRARIES / "engine-wasm32.wasm"
    for path, images in ((first, 19), (second, 20)):
        words = ["node", str(HERE / "decode.mjs"), str(wasm), str(path)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr[-2000:]
        assert sum(int(line.split()[1]) for line in done.stdout.splitlines()) == images


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiles decode.c and the engine for AArch64."""
    needs("qemu-aarch64", "qemu-user")
    pytest.importorskip("ziglang", reason="there is no ziglang, which the extra dev installs")
    out, native = tmp_path_factory.mktemp("aarch64") / "decode", LIBRARIES.parent / "native"
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-O3"]
    sources = [HERE / "decode.c", native / "engine.c", native / "run.c"]
    words = [*zig, "-w", "-ffp-contract=off", f"-I{native}", *map(str, sources), "-o", str(out)]
    subprocess.run(words, check=True)
    return out


@pytest.mark.parametrize("name", ["classes", "bits", "digits"])
def test_another_processor_decodes_it(name: str, decoder: Path, tmp_path: Path) -> None:
    """AArch64, in QEMU: golden files, which were made on x86-64."""
    with opened(DIGESTS.with_name(f"{name}.npxz")) as file:
        about, (code,), _ = parse_chunk(file.reader.body(file.chunks[0]))
        program = program_file(file.reader, file.head, file.given)
        (tmp_path / "a.program").write_bytes(program)
    (tmp_path / "code").write_bytes(code)
    words = ["qemu-aarch64", decoder, tmp_path / "a.program", tmp_path / "code", len(about.entries)]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=1800)
    assert done.stdout.strip() == f"{about.crc:08x}", done.stdout + done.stderr
