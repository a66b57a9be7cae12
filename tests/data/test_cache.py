import errno
import gzip
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextpixel.data import batch_indices, checked, folders, load, readers
from nextpixel.data import cache as data_cache
from nextpixel.data import images as own
from nextpixel.errors import UserError
from nextpixel.utils import progress, reading

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (40, 6, 6, 3), np.uint8)
SPLITS = ("train", "valid", "test")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nextpixel" / "decoded"


@pytest.fixture
def folder(tmp_path, cache):
    folder = tmp_path / "pictures"
    for i, x in enumerate(COLOUR):
        path = folder / ("cats", "dogs")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(path)
    return folder


@pytest.fixture
def no_decoding(monkeypatch):
    """Lets every test go on as it likes, until it says that nothing may be decoded any more."""

    def begin():
        def fail(*args):
            raise AssertionError("a picture was decoded")

        monkeypatch.setattr(folders, "read_picture", fail)
        monkeypatch.setattr(folders, "_is_grey", fail)

    return begin


def same(a, b):
    assert (a.name, a.levels, a.class_names, a.source) == (
        b.name,
        b.levels,
        b.class_names,
        b.source,
    )
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(a, split).x, getattr(b, split).x)
        np.testing.assert_array_equal(getattr(a, split).y, getattr(b, split).y)


def in_memory(folder, **options):
    """Loads a folder where nothing can be kept."""
    no_folder = folder.parent / "a file where the cache should be"
    no_folder.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(no_folder))
        with pytest.warns(UserWarning, match=r"cannot be kept in .* \(Not a directory\)"):
            return load(folder, **options)


def test_a_folder_is_decoded_once(folder, no_decoding):
    expected = in_memory(folder)
    assert not isinstance(expected.train.x, np.memmap)
    first = load(folder)
    no_decoding()
    second = load(folder)
    for data in (first, second):
        same(data, expected)
        for split in SPLITS:
            assert isinstance(getattr(data, split).x, np.memmap)
            assert not getattr(data, split).x.flags.writeable


@pytest.mark.parametrize("options", [{}, {"levels": 4}, {"channels": 1, "resize": 3}])
def test_batches_are_those_of_memory(folder, no_decoding, options):
    expected = in_memory(folder, **options).train
    load(folder, **options)
    no_decoding()
    data = load(folder, **options).train
    for step in range(5):
        indices = batch_indices(len(data), 7, step)
        for mine, theirs in zip(data.batch(indices), expected.batch(indices), strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert type(mine) is np.ndarray
            mine[:] = 0  # a copy, free to be changed


def test_options_that_change_nothing_decode_nothing(folder, no_decoding):
    expected = load(folder)
    no_decoding()
    for options in ({"resize": 6}, {"channels": 3}, {"resize": 6, "channels": 3, "levels": 256}):
        same(load(folder, **options), expected)
    for options in ({"resize": 5}, {"channels": 1}, {"levels": 255}):
        with pytest.raises(AssertionError, match="decoded"):
            load(folder, **options)


def white(path):
    Image.new("RGB", (6, 6), "white").save(path)


def touch(path):
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: white(folder / "cats" / "new.png"),
        lambda folder: (folder / "cats" / "00.png").unlink(),
        lambda folder: (folder / "cats" / "00.png").rename(folder / "dogs" / "00.png"),
        lambda folder: (folder / "cats").rename(folder / "lions"),
        lambda folder: white(folder / "cats" / "00.png"),
        lambda folder: touch(folder / "cats" / "00.png"),
    ],
)
def test_a_changed_folder_is_decoded_anew(folder, change, monkeypatch):
    load(folder)
    decoded = []
    read_picture = folders.read_picture
    monkeypatch.setattr(
        folders,
        "read_picture",
        lambda path, *options: decoded.append(path) or read_picture(path, *options),
    )
    change(folder)
    data = load(folder)
    assert decoded
    same(data, in_memory(folder))


def test_a_changed_folder_leaves_no_old_images_behind(folder, cache):
    load(folder)
    white(folder / "cats" / "00.png")
    load(folder)
    assert len([path for path in cache.rglob("*") if path.name != "lock" and path.is_file()]) == 1


def test_other_files_change_nothing(folder, no_decoding):
    load(folder)
    no_decoding()
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.png").write_text("hello")
    load(folder)


def test_a_new_top_folder_is_noticed(folder):
    (folder / "cats").rename(folder / "train")
    for path in (folder / "dogs").iterdir():
        path.rename(folder / "train" / path.name)
    (folder / "dogs").rmdir()
    assert load(folder).class_names is None
    (folder / "train").rename(folder / "birds")
    assert load(folder).class_names == ("birds",)


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_a_half_written_file_is_ignored_and_replaced(folder, cache, keep):
    expected = load(folder)
    (path,) = cache.rglob("images.npz")
    raw = path.read_bytes()
    path.unlink()  # and not truncated: the first one is still mapped
    path.write_bytes(raw[: int(len(raw) * keep) if isinstance(keep, float) else keep])
    with pytest.warns(UserWarning, match=r"The cached data in .* are damaged, so that they are"):
        same(load(folder), expected)
    assert path.stat().st_size == len(raw)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_a_flipped_bit_in_the_cache_is_noticed(folder, cache, part):
    expected = load(folder)
    (path,) = cache.rglob("images.npz")
    raw = bytearray(path.read_bytes())
    raw[int(len(raw) * part)] ^= 1
    path.unlink()
    path.write_bytes(raw)
    with pytest.warns(UserWarning, match="damaged, so that they are decoded again"):
        same(load(folder), expected)


def test_files_of_a_killed_process_are_removed(folder, cache, monkeypatch):
    class Killed(BaseException):
        pass

    def read(path, *options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(folders, "read_picture", read)
        with pytest.raises(Killed):
            load(folder)
    (lock,) = cache.rglob("lock")
    leaving = lock.with_name(".images.npz.1.npx-part")
    leaving.write_bytes(b"half")
    load(folder)
    assert sorted(path.name for path in lock.parent.iterdir()) == ["images.npz", "lock"]


def test_a_refused_picture_keeps_nothing(folder, cache):
    Image.fromarray(COLOUR[0, ..., 0].astype(np.uint16)).save(folder / "dogs" / "07.png")
    with pytest.raises(UserError, match=r"07\.png has more than 8 bits"):
        load(folder)
    assert not list(cache.rglob("*.npz*"))


def test_a_read_only_cache_falls_back_to_memory(folder, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write into a read-only folder
    with pytest.warns(UserWarning, match=r"cannot be kept in .* \(Permission denied\)"):
        data = load(folder)
    assert len(data.train) + len(data.valid) + len(data.test) == 40


def test_a_read_only_cache_is_used(folder, monkeypatch, no_decoding):
    load(folder)
    no_decoding()
    monkeypatch.setattr(
        data_cache, "locked", lambda path: pytest.fail("something was to be written")
    )
    assert isinstance(load(folder).train.x, np.memmap)


def test_a_full_disk_falls_back_to_memory(folder, cache, monkeypatch):
    write = np.lib.format.write_array

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.warns(UserWarning, match="No space left on device.* make room"):
        data = load(folder)
    assert not list(cache.rglob("*.npz*"))
    monkeypatch.setattr(np.lib.format, "write_array", write)
    same(data, load(folder))


def test_a_disk_that_is_too_small_is_seen_before_decoding(folder, monkeypatch):
    monkeypatch.setattr(
        data_cache.shutil,
        "disk_usage",
        lambda path: type("Usage", (), {"free": 40 * 6 * 6 * 3 - 1}),
    )
    monkeypatch.setattr(data_cache, "atomic_write", lambda path: pytest.fail("it began to write"))
    with pytest.warns(UserWarning, match="No space left on device"):
        load(folder)


def test_processes_at_once_decode_once(folder):
    code = (
        "import sys; from nextpixel.data import load, folders\n"
        "read, count = folders.read_picture, []\n"
        "folders.read_picture = lambda *a: count.append(1) or read(*a)\n"
        "data = load(sys.argv[1]); print(bool(count), int(data.train.x.sum()), len(data.train))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate()[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    data = load(folder)
    expected = [str(int(data.train.x.sum())), str(len(data.train))]
    assert [words[1:] for words in said] == [expected] * 3
    if sys.platform != "win32":
        assert sorted(words[0] for words in said) == ["False", "False", "True"]


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\): check the folder"):
        load(folder)


def test_progress_is_shown_after_a_while_only(capsys, monkeypatch):
    assert list(progress.track([1, 2], "counting", 2)) == [1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    assert list(progress.track([1, 2], "counting", 2)) == [1, 2]
    assert capsys.readouterr().err == "counting ...\n"


# --- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_uncompressed_arrays_are_mapped(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    (np.save if ending == "npy" else np.savez)(path, **{"arr" if ending == "npy" else "x": COLOUR})
    mapped = readers.read_numpy(path)["x"]
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, COLOUR)


def test_splits_of_an_npz_are_mapped_to_the_end(tmp_path):
    x = COLOUR.transpose(0, 3, 1, 2).copy()
    np.savez(tmp_path / "x.npz", x_train=x[:20], x_valid=x[20:30], x_test=x[30:])
    np.savez_compressed(tmp_path / "c.npz", x_train=x[:20], x_valid=x[20:30], x_test=x[30:])
    mapped, read = load(tmp_path / "x.npz"), load(tmp_path / "c.npz")
    for split in SPLITS:
        assert isinstance(getattr(mapped, split).x, np.memmap)
        assert not isinstance(getattr(read, split).x, np.memmap)
        np.testing.assert_array_equal(getattr(mapped, split).x, getattr(read, split).x)


def test_values_of_a_memory_map_are_checked_as_they_are_read(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1))
    images = own.Images(np.load(tmp_path / "x.npy", mmap_mode="r"), None, 4)
    assert images.batch(np.array([3, 0]))[0].ravel().tolist() == [3, 0]
    with pytest.raises(UserError, match="integers from 0 to 3, but one value is 4"):
        images.batch(np.array([3, 4]))


def test_a_large_file_is_checked_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each size and time; a smaller one each time."""
    monkeypatch.setattr(checked, "ALWAYS", 1000)
    opened = []
    monkeypatch.setattr(
        checked, "track", lambda blocks, words, n: opened.append(words) or iter(blocks)
    )
    x = np.arange(2000, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x)
    for _ in range(2):
        np.testing.assert_array_equal(readers.read_numpy(tmp_path / "a.npz")["x"], x)
    assert opened == [f"checking {tmp_path}/a.npz, once"]
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[1000] ^= 1
    (tmp_path / "a.npz").unlink()
    (tmp_path / "a.npz").write_bytes(data)
    os.utime(tmp_path / "a.npz", (1, 1))
    for _ in range(2):  # no note is made of a damaged one
        with pytest.raises(UserError, match=r"the checksum of x\.npy is wrong"):
            readers.read_numpy(tmp_path / "a.npz")


def test_content_that_would_fill_the_memory_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "memory", lambda: 10_000)
    monkeypatch.setattr(reading, "memory", lambda: 10_000)
    (tmp_path / "zeros.gz").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(UserError, match=r"asks for 0\.0 GB of memory"):
        readers.read_bytes(tmp_path / "zeros.gz")
    head = b"\0\0\x08\x03" + np.array([20, 8, 8], ">u4").tobytes()
    (tmp_path / "i.gz").write_bytes(gzip.compress(head + bytes(10**7)))
    with pytest.raises(UserError, match="asks for 1,280 values, and it has more"):
        readers.read_idx_file(tmp_path / "i.gz")
    for name in ("z.npz", "n.npy"):
        save = np.savez_compressed if name == "z.npz" else np.save
        save(tmp_path / name, np.zeros((100, 20, 20), np.int64))
        with pytest.raises(UserError, match=r"asks for 0\.0 GB of memory"):
            readers.read_numpy(tmp_path / name)


def test_all_methods_of_compression_are_read(tmp_path: Path) -> None:
    x = np.arange(60, dtype=np.int64).reshape(3, 20)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            for name, array in {"x.npy": x, "y.npy": np.asfortranarray(x)}.items():
                with archive.open(name, "w") as member:
                    np.lib.format.write_array(member, array)
        found = readers.read_numpy(tmp_path / "a.npz")
        np.testing.assert_array_equal(found["x"], x)
        np.testing.assert_array_equal(found["y"], x)
