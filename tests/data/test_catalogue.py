import gzip
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nextpixel.data import catalogue, list_datasets, load
from nextpixel.data.readers import read_cifar_binary, read_cifar_delta, read_idx
from nextpixel.errors import UserError
from tests.helpers import ROOT

SHARED = ROOT.parent / "shared" / "data"
MNIST = ROOT / "data" / "mnist"


def digest(x):
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()


def both(data, field="x"):
    """The official training file: what is now train and valid."""
    return np.concatenate([getattr(data.train, field), getattr(data.valid, field)])


@pytest.fixture(scope="module")
def mnist():
    return load("mnist")


@pytest.fixture
def copied(tmp_path):
    """A data folder of its own, to break."""
    shutil.copytree(MNIST, tmp_path / "mnist")
    return tmp_path


def test_mnist_is_the_official_one(mnist):
    assert mnist.shape == (1, 28, 28)
    assert (mnist.levels, mnist.classes) == (256, 10)
    assert [len(mnist.train), len(mnist.valid), len(mnist.test)] == [55_000, 5_000, 10_000]
    assert both(mnist).mean() == pytest.approx(33.318421, abs=1e-6)
    assert mnist.test.x.mean() == pytest.approx(33.791225, abs=1e-6)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(both(mnist, "y")).tolist() == counts
    assert both(mnist, "y")[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.train.x.flags.writeable
    assert "CC BY-SA" in mnist.source


def test_mnist_valid_is_the_end_of_the_training_file(mnist):
    raw = gzip.decompress((MNIST / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    assert np.array_equal(mnist.valid.x.ravel(), np.frombuffer(raw, np.uint8)[55_000 * 784 :])


def test_mnist_threshold_is_two_levels_of_mnist(mnist):
    data = load("mnist-threshold")
    assert data.levels == data.test.levels == 2
    for split in ("train", "valid", "test"):
        expected = getattr(mnist, split)
        assert np.array_equal(getattr(data, split).x, expected.x >= 128)
        assert np.array_equal(getattr(data, split).y, expected.y)
    assert np.array_equal(load("mnist", levels=2).test.x, data.test.x)


def test_mnist_dynamic_redraws_the_training_bits_only(mnist):
    data = load("mnist-dynamic")
    assert data.levels == 2
    assert data.shape == (1, 28, 28)
    assert np.array_equal(data.train.x, mnist.train.x)
    some = np.arange(100)
    first, ids = data.train.batch(some, key=(0, 0))
    again, _ = data.train.batch(some, key=(0, 0))
    other, _ = data.train.batch(some, key=(0, 1))
    assert np.array_equal(first, again)
    assert 0.01 < (first != other).mean() < 0.15
    assert np.array_equal(ids, mnist.train.y[:100])
    assert first.max() == 1
    fixed = data.test.batch(some, key=(0, 0))[0]
    assert np.array_equal(fixed, data.test.batch(some, key=(0, 1))[0])


def test_mnist_dynamic_test_bits_never_change(mnist):
    data = load("mnist-dynamic")
    assert digest(data.valid.x) == VALID_BITS
    assert digest(data.test.x) == TEST_BITS
    for split, grey in ((data.valid, mnist.valid), (data.test, mnist.test)):
        assert split.x.max() == 1
        assert not split.x[grey.x == 0].any()
        assert split.x[grey.x == 255].all()
        assert split.x.mean() == pytest.approx(grey.x.mean() / 255, abs=3e-4)


VALID_BITS = "2a2b1e1249d0efc796e21811bcc884bd3e8737501c2c2846edc07a445aa5c0b3"
TEST_BITS = "57279341b9394ce46583cc75fb616881b2b7a7b5547d3a56251d98e1f6c541f2"


def test_binarized_mnist_is_the_official_one():
    data = load("binarized-mnist")
    assert data.shape == (1, 28, 28)
    assert (data.levels, data.classes, data.train.y) == (2, None, None)
    assert [len(data.train), len(data.valid), len(data.test)] == [50_000, 10_000, 10_000]
    means = [split.x.mean() for split in (data.train, data.valid, data.test)]
    assert means == pytest.approx([0.13056227, 0.13112704, 0.13251224], abs=5e-9)
    assert data.test.x.max() == 1
    # An image, not merely the right sum: ink is in the middle and none on the rim.
    assert data.test.x[:, 0, 10:18, 10:18].mean() > 0.3
    assert data.test.x[:, 0, 0].mean() < 0.001


def test_binarized_mnist_may_lie_there_unpacked(tmp_path):
    folder = tmp_path / "binarized_mnist"
    folder.mkdir()
    for part in ("train", "valid"):
        name = f"binarized_mnist_{part}.amat.gz"
        (folder / name).symlink_to(ROOT / "data" / "binarized_mnist" / name)
    packed = ROOT / "data" / "binarized_mnist" / "binarized_mnist_test.amat.gz"
    content = gzip.decompress(packed.read_bytes())
    (folder / "binarized_mnist_test.amat").write_bytes(content)
    data = load("binarized-mnist", data_dir=tmp_path)
    assert data.test.x.mean() == pytest.approx(0.13251224, abs=5e-9)
    (folder / "binarized_mnist_test.amat").write_bytes(content[:-2])
    with pytest.raises(UserError, match=r"binarized_mnist_test\.amat is not the official file"):
        load("binarized-mnist", data_dir=tmp_path)


def test_fashion_mnist_is_the_official_one():
    if not (SHARED / "fashion_mnist").is_dir():
        pytest.skip("Fashion-MNIST does not come with the repository; it is not in ../shared/data")
    data = load("fashion-mnist", data_dir=SHARED)
    assert data.name == "fashion-mnist"
    assert data.class_names[9] == "Ankle boot"
    assert both(data).mean() == pytest.approx(72.940352, abs=1e-6)
    assert data.test.x.mean() == pytest.approx(73.146567, abs=1e-6)
    assert np.bincount(both(data, "y")).tolist() == [6_000] * 10
    assert both(data, "y")[0] == 9


def test_cifar10_from_delta_coded_npz():
    if not (SHARED / "cifar10").is_dir():
        pytest.skip("CIFAR-10 does not come with the repository; it is not in ../shared/data")
    data = load("cifar10", data_dir=SHARED)
    assert data.shape == (3, 32, 32)
    assert [len(data.train), len(data.valid), len(data.test)] == [45_000, 5_000, 10_000]
    assert digest(both(data).transpose(0, 2, 3, 1)) == (
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"
    )
    assert digest(data.test.x.transpose(0, 2, 3, 1)) == (
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"
    )
    assert np.bincount(both(data, "y")).tolist() == [5_000] * 10
    assert data.class_names[both(data, "y")[0]] == "frog"


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """Batches of 1,200 made-up images in the layout of the binary version, taken for official."""
    rng = np.random.default_rng(0)
    batches = {}
    for name in catalogue.CIFAR_BATCHES:
        records = np.zeros((1_200, 3073), np.uint8)
        records[:, 0] = rng.integers(0, 10, 1_200)
        for c in range(3):
            records[:, 1 + 1024 * c : 1025 + 1024 * c] = rng.integers(0, 256, (1_200, 1))
        batches[name] = records.tobytes()
    sums = {name: hashlib.sha256(raw).hexdigest() for name, raw in batches.items()}
    monkeypatch.setattr(catalogue, "CIFAR_BATCHES", sums)
    (tmp_path / "cifar10").mkdir()
    return tmp_path, batches


def check_small_cifar(data, batches):
    first = np.frombuffer(batches["data_batch_1.bin"], np.uint8).reshape(-1, 3073)
    assert data.shape == (3, 32, 32)
    assert [len(data.train), len(data.valid), len(data.test)] == [1_000, 5_000, 1_200]
    assert np.array_equal(data.train.y, first[:1_000, 0])
    assert np.array_equal(data.train.x[:, 2, 5, 7], first[:1_000, 1 + 2 * 1024 + 5 * 32 + 7])


def test_cifar10_from_the_unpacked_binary_version(small_cifar):
    place, batches = small_cifar
    folder = place / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir()
    for name, raw in batches.items():
        (folder / name).write_bytes(raw)
    check_small_cifar(load("cifar10", data_dir=place), batches)
    bad = folder / "data_batch_3.bin"
    bad.write_bytes(batches["data_batch_3.bin"][:-1] + b"\x07")
    with pytest.raises(UserError, match=r"data_batch_3\.bin is not the official file"):
        load("cifar10", data_dir=place)


def test_cifar10_from_the_binary_archive(small_cifar):
    place, batches = small_cifar
    path = place / "cifar10" / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, raw in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    check_small_cifar(load("cifar10", data_dir=place), batches)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"no archive", whole[:-500]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=re.escape(str(path))):
            load("cifar10", data_dir=place)


def test_cifar10_reader_takes_planes_apart():
    image = np.arange(3 * 32 * 32).reshape(3, 32, 32) % 251
    raw = bytes([7]) + image.astype(np.uint8).tobytes()
    x, y = read_cifar_binary(raw * 2, Path("two.bin"))
    assert y.tolist() == [7, 7]
    assert np.array_equal(x[1], image)
    with pytest.raises(UserError, match=r"two\.bin is truncated or corrupt"):
        read_cifar_binary(raw[:-1], Path("two.bin"))


def test_cifar10_delta_coding_is_undone(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    delta = x.swapaxes(0, 1).copy()
    delta[[0, 2]] -= delta[1]
    for axis in (2, 3):
        delta = np.diff(delta, axis=axis, prepend=np.uint8(0))
    np.savez(tmp_path / "x.npz", delta=delta, labels=np.array([3, 0, 9, 3], np.uint8))
    images, ids = read_cifar_binary(read_cifar_delta(tmp_path / "x.npz"), tmp_path)
    assert np.array_equal(images, x)
    assert ids.tolist() == [3, 0, 9, 3]


def test_cifar10_npz_that_is_another_file_is_refused(tmp_path):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    for part in ("train", "test"):
        np.savez(folder / f"cifar10_{part}.npz", delta=np.zeros((3, 2, 8, 8), np.uint8))
    with pytest.raises(UserError, match=r"cifar10_train\.npz is not a delta-coded CIFAR-10 file"):
        load("cifar10", data_dir=tmp_path)


def test_unpacked_idx_files_are_read(copied, mnist):
    for path in (copied / "mnist").iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert np.array_equal(load("mnist", data_dir=copied).test.x, mnist.test.x)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)


def repack_changed(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content, 1))


def no_gzip(path):
    path.write_bytes(b"<html>Not Found</html>")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, repack_changed, no_gzip, empty])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
def test_a_damaged_file_is_named(copied, damage, name):
    path = copied / "mnist" / name
    damage(path)
    with pytest.raises(UserError, match=re.escape(str(path))):
        load("mnist", data_dir=copied)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG", "not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01aaaa", "not an IDX file"),
        (b"\0\0\x08\x02\0\0\0\x02", "truncated"),
        (b"\0\0\x08\x01\0\0\0\x02a", "corrupt .* asks for 2 values, and it has 1"),
        (b"\0\0\x08\x01\0\0\0\x02aaa", "asks for 2 values, and it has more"),
        (
            b"\0\0\x08\x03" + b"\xff" * 12,
            "asks for 79,228,162,458,924,105,728.0 GB of memory, and this",
        ),
        (b"\0\0\x08\x41" + b"\0" * 260, "its header says 65 dimensions"),
        (b"\0\0\x08\0", "its header says 0 dimensions"),
    ],
)
def test_idx_headers_are_checked(raw, message):
    with pytest.raises(UserError, match=message):
        read_idx(raw, Path("some-idx"))


def test_the_places_are_looked_in_in_order(tmp_path, monkeypatch):
    places = [tmp_path / name for name in ("dir", "env", "here/data", "cache/nextpixel")]
    for place in places:
        (place / "fashion_mnist").mkdir(parents=True)
        for name in catalogue.FASHION.files:
            (place / "fashion_mnist" / name).touch()
    monkeypatch.setenv("NEXTPIXEL_DATA", str(places[1]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "here")

    def found():
        present = {k.name: k.present for k in list_datasets(places[0])}["fashion-mnist"]
        return present and present.resolve()

    for place in places:
        if place.name == "data" and (ROOT / "data" / "fashion_mnist").is_dir():
            return  # the checkout's own comes before the rest
        assert found() == place / "fashion_mnist"
        (place / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert found() in (None, ROOT / "data" / "fashion_mnist")


def test_known_lists_all_names_with_their_files():
    records = {k.name: k for k in list_datasets()}
    assert list(records) == [
        "mnist",
        "fashion-mnist",
        "cifar10",
        "binarized-mnist",
        "mnist-dynamic",
        "mnist-threshold",
        "spoken-digits",
    ]
    assert records["mnist-dynamic"].present == MNIST
    assert "mnist/t10k-labels-idx1-ubyte.gz" in records["mnist"].files
    assert records["cifar10"].files == ("cifar10/cifar-10-binary.tar.gz",)
    assert all(k.description for k in records.values())


@pytest.mark.parametrize("name", ["mnist", "binarized-mnist", "mnist-dynamic", "mnist-threshold"])
def test_known_names_the_classes_that_loading_gives(name):
    assert {k.name: k.class_names for k in list_datasets()}[name] == load(name).class_names


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_known_names_the_classes_of_the_larger_sets(name, shared_data):
    names = {k.name: k.class_names for k in list_datasets()}[name]
    assert names == load(name, data_dir=shared_data).class_names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "mnits"},
            "file or folder 'mnits' \\(did you mean mnist\\?\\): give one of .*cifar10",
        ),
        ({"name": "imagenet-1k"}, "'imagenet-1k': give one of mnist, .*by a path"),
        ({"name": "missing.npz"}, "'missing.npz'"),
        ({"name": "mnist", "levels": 257}, "mnist has 256 levels, which cannot be turned into 257"),
        (
            {"name": "mnist-dynamic", "levels": 4},
            "has 2 levels, which cannot be turned into 4: ask for 2, ",
        ),
        ({"name": "mnist", "resize": 14}, "resize and channels are for your own images"),
        ({"name": "mnist", "data_dir": "nowhere"}, "The data folder nowhere does not exist"),
    ],
)
def test_mistakes_are_one_clear_sentence(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        load(**arguments)
    assert "\n" not in str(caught.value)


def test_import_is_light():
    code = "import sys, nextpixel.data as d; d.list_datasets(); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "PIL", "rich", "urllib.request"} & set(run.stdout.split())
