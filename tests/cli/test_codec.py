"""compress, archive, decompress, info and verify, as a user calls them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nextpixel as npx
from nextpixel.cli.main import main
from nextpixel.codec import archive as archiving
from nextpixel.codec.models import compiled
from nextpixel.engine import Program
from nextpixel.model_folders import shipped
from tests.cli.test_programs import small
from tests.helpers import arrays, refused, run, succeed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a saved model, a program, an array and pictures of two sizes."""
    monkeypatch.chdir(tmp_path)
    small().save("model")
    small().save_program("a.program")
    random = np.random.default_rng(0)
    np.savez("x.npz", x=random.integers(0, 8, (20, 6, 5), np.uint8), levels=8)
    values = np.rint(np.arange(8) * 255 / 7).astype(np.uint8)  # what shows 8 levels
    for name, size in (("1/a.png", (6, 5)), ("1/b.png", (6, 5)), ("2/c.png", (11, 14))):
        path = Path("pictures", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values[random.integers(0, 8, size)]).save(path)
    return tmp_path


@pytest.mark.parametrize("model", ["model", "a.program"])
def test_pictures_come_back(model: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(f"compress {model} pictures -o p.npxz", capsys)
    assert "3 images" in out
    assert "bits/dim" in out
    assert "3 images" in run("verify p.npxz", capsys)
    run("decompress p.npxz -o back", capsys)
    for path in Path("pictures").rglob("*.png"):
        with (
            Image.open(path) as before,
            Image.open(Path("back") / path.relative_to("pictures")) as after,
        ):
            assert (after.mode, after.tobytes()) == (before.mode, before.tobytes())
    assert "exists" in refused("decompress p.npxz -o back", capsys)


def test_arrays_come_back(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("compress model x.npz -o x.npxz --threads 2", capsys)
    run("decompress x.npxz", capsys)
    assert Path("x-2.npz").is_file()  # x.npz was there
    before, after = arrays("x.npz"), arrays("x-2.npz")
    assert np.array_equal(after["x"][:, 0], before["x"])
    assert after["levels"] == 8


def test_info_counts_without_decoding(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("compress model x.npz -o x.npxz", capsys)
    text = run("info x.npxz", capsys)
    assert "20 images" in text
    assert "'model'" in text
    found = json.loads(run("info x.npxz --json", capsys))
    assert found["images"] == 20
    assert found["kept"] == 0
    assert found["bytes"] == Path("x.npxz").stat().st_size
    assert found["program_bytes"] > 0
    assert found["levels"] == 8
    assert found["coded_levels"] == found["raw_bytes"] == 20 * 30


def test_a_file_without_its_program_needs_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("compress a.program x.npz -o x.npxz --leave-out", capsys)
    assert "--program" in refused("verify x.npxz", capsys)
    run("verify x.npxz --program a.program", capsys)
    small(seed=1).save_program("b.program")
    assert "is not the program" in refused("verify x.npxz --program b.program", capsys)
    assert "--leave-out is for" in refused("compress model x.npz -o y.npxz --leave-out", capsys)
    assert not Path("y.npxz").exists()


def test_damage_is_said_and_the_rest_is_salvaged(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextpixel.codec import compress

    monkeypatch.setattr(compress, "MOST_IMAGES", 5)
    run("compress a.program x.npz -o x.npxz", capsys)
    data = bytearray(Path("x.npxz").read_bytes())
    with npx.Compressed("x.npxz") as file:
        second = file.chunks[1]
    data[second.begin + second.size - 1] ^= 1
    Path("x.npxz").write_bytes(data)
    for words in ("verify x.npxz", "decompress x.npxz -o y.npz"):
        assert "--salvage" in refused(words, capsys)
    assert not Path("y.npz").exists()
    assert main(["decompress", "x.npxz", "-o", "y.npz", "--salvage"]) == 1
    error = capsys.readouterr().err
    assert "5 images lost: " in error
    assert "in all, 5 of 20 images are lost" in error
    before, after = arrays("x.npz")["x"], arrays("y.npz")["x"][:, 0]
    kept = np.r_[0:5, 10:20]
    assert np.array_equal(after[kept], before[kept])
    assert not after[5:10].any()
    Path("x.npxz").write_bytes(b"PK" + data[2:])
    assert "no .npxz" in refused("info x.npxz", capsys)


def flip(path: str, at: int) -> None:
    """Flips a bit of a file."""
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 1
    Path(path).write_bytes(data)


def test_damage_that_does_no_harm_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first or the second description of all images; a program that is given, too."""
    run("compress a.program x.npz -o whole.npxz", capsys)
    with npx.Compressed("whole.npxz") as file:
        heads = [record for record in file.reader.records if record.kind == b"HEAD"]
        program = next(record for record in file.reader.records if record.kind == b"PROG")
    for k, record in enumerate(heads):
        shutil.copy("whole.npxz", "x.npxz")
        flip("x.npxz", record.begin + record.size // 2)
        assert "damaged" in refused("verify x.npxz", capsys)
        assert main(["decompress", "x.npxz", "-o", f"{k}.npz"]) == 1
        assert "one of its two descriptions is damaged" in capsys.readouterr().err
        assert np.array_equal(arrays(f"{k}.npz")["x"][:, 0], arrays("x.npz")["x"])
    shutil.copy("whole.npxz", "x.npxz")
    flip("x.npxz", program.begin + 9)
    assert "damaged" in refused("verify x.npxz --program a.program", capsys)


def test_pictures_of_too_many_tiles_are_kept(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of more would not be decoded. Pictures fit into it as long as their sum does."""
    from nextpixel.codec import chunks, compress

    for module in (chunks, compress):
        monkeypatch.setattr(module, "MOST_TILES", 3)
    run("compress a.program pictures -o p.npxz", capsys)
    found = json.loads(run("info p.npxz --json", capsys))
    assert (found["images"], found["kept"]) == (3, 1)
    run("verify p.npxz", capsys)
    run("compress a.program x.npz -o x.npxz", capsys)
    assert json.loads(run("info x.npxz --json", capsys))["chunks"] == 7
    run("decompress x.npxz -o back.npz", capsys)
    assert np.array_equal(arrays("back.npz")["x"][:, 0], arrays("x.npz")["x"])
    np.savez("large.npz", x=np.zeros((1, 30, 30), np.uint8), levels=8)
    assert "too large for this model" in refused("compress a.program large.npz", capsys)


def test_hidden_pictures_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("pictures/1/a.png", "pictures/1/.hidden.png")
    shutil.copytree("pictures/2", "pictures/.old")
    out = run("compress model pictures -o p.npxz", capsys)
    assert "Left out, as hidden or no pictures: 2 files (.old, 1/.hidden.png)." in out


def test_what_was_left_by_an_interrupted_run_is_said(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nextpixel.codec import compress

    monkeypatch.setattr(compress, "MOST_IMAGES", 5)
    with monkeypatch.context() as patch:
        patch.setattr(compress.Writer, "finish", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(["compress", "model", "x.npz", "-o", "x.npxz"])
    capsys.readouterr()
    assert "20 images had been done before, by a run" in run(
        "compress model x.npz -o x.npxz", capsys
    )


def test_what_cannot_be_compressed_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no model mnist-gatd" in refused("compress mnist-gatd x.npz -o y.npxz", capsys)
    assert "needs features that PyTorch computes" in refused(
        "compress mnist-super-resolution x.npz -o y.npxz", capsys
    )
    np.savez("colour.npz", x=np.zeros((2, 6, 5, 3), np.uint8))
    assert "3 channels" in refused("compress model colour.npz -o y.npxz", capsys)
    Path("empty").mkdir()
    assert "no pictures" in refused("compress model empty -o y.npxz", capsys)
    assert "no nothing" in refused("compress model nothing pictures -o y.npxz", capsys)
    assert not list(here.glob("*y.npxz*"))


def test_a_pretrained_model_is_not_compiled(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its program is put together from its weights; the file names it and does not hold it."""
    from nextpixel.codec import models

    def never(*_: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(models, "compiled", never)
    digits = npx.load_data("mnist").test.subset(20)
    np.savez("digits.npz", x=digits.batch(np.arange(20))[0])
    run("compress mnist digits.npz -o d.npxz", capsys)
    found = json.loads(run("info d.npxz --json", capsys))
    assert found["program_bytes"] == 0
    assert found["bits_per_dim"] < 1.1
    words = "import sys; from nextpixel.cli.main import main; main(sys.argv[1:]); "
    words += "sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", words, *["decompress", "d.npxz", "-o", "back.npz"]]
    assert subprocess.run(command).returncode == 0  # PyTorch was not imported
    assert np.array_equal(arrays("back.npz")["x"], arrays("digits.npz")["x"])


def test_the_program_of_a_pretrained_model_can_be_put_into_the_file(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is then read by a version that brings another model of this name, or none."""
    from nextpixel.codec import programs

    succeed("compress mnist mnist --limit 3 -o without.npxz")
    succeed("compress mnist mnist --limit 3 --embed -o with.npxz")
    monkeypatch.setattr(programs, "shipped_programs", lambda _: {})
    error = refused("decompress without.npxz -o without.npz", capsys)
    assert "'mnist', which is not here: give it by --program FILE" in error
    succeed("decompress with.npxz -o with.npz")
    wanted = npx.load_data("mnist").test.subset(3)
    assert np.array_equal(arrays("with.npz")["x"], wanted.batch(np.arange(3))[0])


def test_a_data_set_is_compressed_by_its_name(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("compress mnist mnist --limit 5 -o d.npxz", capsys)
    run("decompress d.npxz -o d.npz", capsys)
    found, wanted = arrays("d.npz"), npx.load_data("mnist").test.subset(5)
    assert np.array_equal(found["x"], wanted.batch(np.arange(5))[0])
    assert np.array_equal(found["y"], wanted.y)


def test_an_archive_is_no_larger_than_the_best_files(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks of three values: few pictures, for which no model is worth its bytes."""
    random, values = np.random.default_rng(0), np.array([0, 100, 255], np.uint8)
    shutil.rmtree("pictures")
    Path("pictures").mkdir()
    for k in range(40):
        x = np.repeat(np.repeat(random.integers(0, 256, (4, 4), np.uint8), 5, 0), 5, 1)
        Image.fromarray(values[x % 3]).save(f"pictures/{k}.png")
    succeed("archive pictures -o few.npxz --minutes 0.02")
    out = capsys.readouterr().out
    assert "nothing is gained" in out  # 40 pictures are too few
    found = json.loads(run("info few.npxz --json", capsys))
    assert (found["model"], found["kept"], found["program_bytes"]) == (None, 40, 0)
    assert found["files"] <= sum(p.stat().st_size for p in Path("pictures").iterdir())
    run("decompress few.npxz -o back", capsys)
    assert len(list(Path("back").iterdir())) == 40


def test_an_archive_holds_its_model(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without training: the model draws the images that it compresses."""
    network = small(seed=2, classes=None, levels=256)

    def train(seen: archiving.Seen, *_: object) -> tuple[bytes, archiving.Trial]:
        assert seen.crops.shape == (500, 1, 6, 5)
        return compiled(network, seen.sizes), archiving.Trial(
            6, 2000, archiving.Rounding(1.0, 1000, 8.0)
        )

    monkeypatch.setattr(archiving, "train", train)
    x = network.sample(500, seed=0, temperature=0.3).numpy().astype(np.uint8)
    np.savez("many.npz", x=x)
    out = run("archive many.npz -o many.npxz", capsys)
    assert "1,000 of the bytes are the model" in out
    found = json.loads(run("info many.npxz --json", capsys))
    assert found["model"] == "archive"
    assert found["program_bytes"] > 0
    run("decompress many.npxz -o back.npz", capsys)
    assert np.array_equal(arrays("back.npz")["x"], x)


def test_skeletons_are_the_programs_of_their_models() -> None:
    """They were made once, and never change: files name them by their hash."""
    from nextpixel.codec.programs import shipped_programs

    names = [name for name, folder in shipped().items() if list(folder.glob("*.skeleton"))]
    assert {"mnist", "binarized-mnist"} <= set(names)
    for name in names:
        for size, file in shipped_programs(name).items():
            program, network = Program(file), npx.load(name)
            network = npx.load(name, shape=(network.shape[0], *size))
            assert program.shape == network.shape
            classes = {"classes": 1} if program.classes else {}
            x = program.sample(2, seed=3, **classes)
            c = 1 if program.classes else None
            drawn = network.sample(2, c, seed=3).numpy()
            assert np.array_equal(x, drawn)


def test_a_network_of_one_size_says_that_it_codes_tiles(here: Path) -> None:
    torch.manual_seed(0)
    network = npx.PixelSNAIL(shape=(1, 6, 5), levels=8, width=8, blocks=1, layers=1).eval()
    with pytest.warns(UserWarning, match="tiles of its own size"):
        file = compiled(network, [(11, 14)])
    assert Program(file).shape == (1, 6, 5)
