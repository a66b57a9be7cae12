"""Data sets with names: their files with their hashes, and the functions that read them."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.download import (
    Store,
    find_file,
    find_folder,
    find_or_download,
    read_verified,
    verify_sha256,
)
from nextpixel.data.images import Dataset, Images
from nextpixel.data.levels import draw_bits
from nextpixel.data.readers import (
    CIFAR_RECORD,
    read_amat,
    read_bytes,
    read_cifar_binary,
    read_cifar_delta,
    read_idx,
)
from nextpixel.data.sounds import SPEAKERS, load_sounds, read_zip, spoken_digits
from nextpixel.data.user_data import load_user_data
from nextpixel.errors import UserError, did_you_mean
from nextpixel.utils.files import user_path
from nextpixel.utils.reading import open_regular, refusing_damage

__all__ = [
    "FSDD_ARCHIVE",
    "NAMED",
    "SOUNDS",
    "DatasetInfo",
    "list_datasets",
    "load",
    "own_folder",
    "refuse_inside",
]

HELD_OUT = 5_000  # the last images of an official training file are the validation split
REDRAW_SEED = 1_812_2008  # of mnist-dynamic's validation and test bits; scores depend on it
SOUNDS = "wavs:"  # prefix of a folder of the user's own sounds


@dataclass(frozen=True)
class DatasetInfo:
    """Describes a named data set without reading it.

    Attributes:
        name: The name to load it by.
        description: One line.
        present: The folder that holds its files, or None if they were not found.
        files: Its files by their official names, as FOLDER/FILE.
        class_names: The name of each class id, or None if there are no classes.
    """

    name: str
    description: str
    present: Path | None
    files: tuple[str, ...]
    class_names: tuple[str, ...] | None


# --- files and class names ------------------------------------------------------------------------

MNIST = Store(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        "train-images-idx3-ubyte.gz": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte.gz": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
)
FASHION = Store(
    "fashion_mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        "train-images-idx3-ubyte.gz": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte.gz": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
)
BINARIZED = Store(
    "binarized_mnist",
    "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    {
        "binarized_mnist_train.amat": (
            "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"
        ),
        "binarized_mnist_valid.amat": (
            "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"
        ),
        "binarized_mnist_test.amat": (
            "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"
        ),
    },
)
CIFAR_BATCHES = {  # 10,000 images each; the hashes are of the binary version's files
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_DELTA = ("cifar10_train.npz", "cifar10_test.npz")
CIFAR = Store(
    "cifar10",
    "https://www.cs.toronto.edu/~kriz/",
    {CIFAR_ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    alternatives=(tuple(f"{CIFAR_FOLDER}/{name}" for name in CIFAR_BATCHES), CIFAR_DELTA),
)
FSDD_COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
FSDD_ARCHIVE = "free-spoken-digit-dataset-recordings.zip"
FSDD = Store(
    "fsdd",
    # GitHub makes an archive of a commit on request, under any file name.
    f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{FSDD_COMMIT}/",
    {FSDD_ARCHIVE: "ddb17656a0bca4c5ddace082be188ca630516dc2ef1110afe3c4e9cc71173de4"},
)
DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
THINGS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


# --- from a folder of files to a data set ---------------------------------------------------------


def _mnist(store: Store, folder: Path) -> Dataset:
    def images(prefix: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        x, y = (
            read_idx(read_verified(store, folder, name), folder / name)
            for name in (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
        )
        return x[:, None], y.astype(np.int64)

    source = "MNIST: LeCun, Cortes and Burges (1998); CC BY-SA 3.0"
    return _official_splits("mnist", images("train"), images("t10k"), DIGITS, source)


def _fashion(store: Store, folder: Path) -> Dataset:
    source = "Fashion-MNIST: Xiao, Rasul and Vollgraf (2017), Zalando SE; MIT"
    data = _mnist(store, folder)
    return replace(data, name="fashion-mnist", class_names=GARMENTS, source=source)


def _mnist_threshold(store: Store, folder: Path) -> Dataset:
    data = _mnist(store, folder).requantised(2)  # x * 2 // 256 is 1 exactly where x >= 128
    return replace(data, name="mnist-threshold", source=f"{data.source}; thresholded at 128")


def _mnist_dynamic(store: Store, folder: Path) -> Dataset:
    data = _mnist(store, folder)

    def binarized(images: Images, number: int) -> Images:
        return Images(draw_bits(images.x, (REDRAW_SEED, number)), images.y, 2)

    return replace(
        data,
        name="mnist-dynamic",
        train=Images(data.train.x, data.train.y, 2, redraw=True),
        valid=binarized(data.valid, 0),
        test=binarized(data.test, 1),
        levels=2,
        source=f"{data.source}; binarized by chance, after Salakhutdinov and Murray (2008)",
    )


def _binarized_mnist(store: Store, folder: Path) -> Dataset:
    train, valid, test = (
        Images(read_amat(read_verified(store, folder, name)), None, 2) for name in store.files
    )
    source = (
        "Binarized MNIST: Salakhutdinov and Murray (2008), as fixed by Larochelle and Murray "
        "(2011); no licence stated, derived from MNIST (CC BY-SA 3.0)"
    )
    return Dataset("binarized-mnist", train, valid, test, 2, None, source)


def _cifar10(store: Store, folder: Path) -> Dataset:
    batches: Mapping[str, bytes | memoryview]
    if path := find_file(folder, CIFAR_ARCHIVE):
        batches = _unpack_cifar(path)
    elif all((folder / name).is_file() for name in CIFAR_DELTA):
        path = folder / "cifar10_*.npz"
        records = memoryview(b"".join(read_cifar_delta(folder / name) for name in CIFAR_DELTA))
        size = 10_000 * CIFAR_RECORD
        batches = {name: records[i * size : (i + 1) * size] for i, name in enumerate(CIFAR_BATCHES)}
    else:
        path = folder / CIFAR_FOLDER
        batches = {name: read_bytes(path / name) for name in CIFAR_BATCHES}
    for name, sha256 in CIFAR_BATCHES.items():
        verify_sha256(batches[name], sha256, path / name, store.url + CIFAR_ARCHIVE)
    parts = [read_cifar_binary(batches[name], path / name) for name in CIFAR_BATCHES]
    train = np.concatenate([x for x, _ in parts[:5]]), np.concatenate([y for _, y in parts[:5]])
    source = (
        "CIFAR-10: Krizhevsky, Learning multiple layers of features from tiny images (2009); "
        "no licence stated"
    )
    test = parts[5][0].copy(), parts[5][1]
    return _official_splits("cifar10", train, test, THINGS, source)


def _unpack_cifar(path: Path) -> dict[str, bytes]:
    remedy = f"download it again from {CIFAR.url}{CIFAR_ARCHIVE}"
    with (
        refusing_damage(path, "tar archive", remedy),
        open_regular(path) as file,
        tarfile.open(fileobj=file) as archive,
    ):
        batches = dict[str, bytes]()
        for name in CIFAR_BATCHES:
            batch = archive.extractfile(f"{CIFAR_FOLDER}/{name}")
            if batch is None:
                raise ValueError(f"{name} is no file")
            batches[name] = batch.read(10_000 * CIFAR_RECORD + 1)
        return batches


def _spoken_digits(store: Store, folder: Path) -> Dataset:
    read_verified(store, folder, FSDD_ARCHIVE)
    path = folder / FSDD_ARCHIVE
    source = "Free Spoken Digit Dataset: Jakobovski and others (2016 to 2020); CC BY-SA 4.0"
    return spoken_digits(read_zip(path), path, source)


def _official_splits(
    name: str,
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
    class_names: tuple[str, ...],
    source: str,
) -> Dataset:
    (x, y), (test_x, test_y) = train, test
    return Dataset(
        name,
        train=Images(x[:-HELD_OUT], y[:-HELD_OUT], 256),
        valid=Images(x[-HELD_OUT:], y[-HELD_OUT:], 256),
        test=Images(test_x, test_y, 256),
        levels=256,
        class_names=class_names,
        source=source,
    )


@dataclass(frozen=True)
class Named:
    """Describes a data set with a name: its files, the function that reads them, its classes."""

    description: str
    store: Store
    read: Callable[[Store, Path], Dataset]
    class_names: tuple[str, ...] | None = None


NAMED = {
    "mnist": Named("handwritten digits, 28x28, 256 levels, 10 classes", MNIST, _mnist, DIGITS),
    "fashion-mnist": Named("garments, 28x28, 256 levels, 10 classes", FASHION, _fashion, GARMENTS),
    "cifar10": Named(
        "small photographs, 32x32 RGB, 256 levels, 10 classes", CIFAR, _cifar10, THINGS
    ),
    "binarized-mnist": Named(
        "digits, 28x28 fixed bits (Larochelle's), no classes: the one of published scores in nats",
        BINARIZED,
        _binarized_mnist,
    ),
    "mnist-dynamic": Named(
        "digits, 28x28 bits redrawn for every training batch, 10 classes",
        MNIST,
        _mnist_dynamic,
        DIGITS,
    ),
    "mnist-threshold": Named(
        "digits, 28x28 bits (1 where the pixel is 128 or more), 10 classes",
        MNIST,
        _mnist_threshold,
        DIGITS,
    ),
    "spoken-digits": Named(
        "spoken digits as spectrograms, 96x40, 256 levels, 60 classes: digit and speaker",
        FSDD,
        _spoken_digits,
        tuple(f"{digit} {speaker}" for digit in DIGITS for speaker in SPEAKERS),
    ),
}


# --- the public functions -------------------------------------------------------------------------


def load(
    name: str | Path,
    *,
    levels: int | None = None,
    data_dir: str | Path | None = None,
    resize: int | None = None,
    channels: int | None = None,
    download: bool = True,
) -> Dataset:
    """Loads a data set by its name, or the user's own from a path.

    The files of a named data set are searched in `data_dir`, $NEXTPIXEL_DATA, the checkout's data/,
    the current folder's data/ and the user's cache (~/.cache/nextpixel). Missing files are
    downloaded to the cache. All files are verified by their sha256.

    Args:
        name: A name from `list_datasets`; or a path, see `nextpixel.data.user_data.load_user_data`;
            or "wavs:" and the path of a folder of sounds, see `nextpixel.data.sounds.load_sounds`.
            A name has priority: write ./mnist for a folder called mnist.
        levels: Requantises to this number of levels; None leaves the source's levels.
        data_dir: The folder to search first.
        resize: For folders of pictures: crops to the central square and resizes it to this side.
        channels: For the user's own images: 1 or 3.
        download: Whether missing files may be downloaded.

    Returns:
        The data set, with its training, validation and test images.

    Raises:
        UserError: If there is no such data set, a file is missing, corrupt or not the official one,
            or an option does not apply to it.
    """
    if isinstance(name, str) and name in NAMED:
        if resize is not None or channels is not None:
            raise UserError(
                f"resize and channels are for your own images, but {name} has fixed ones: leave "
                "them out."
            )
        entry = NAMED[name]
        data = entry.read(entry.store, find_or_download(name, entry.store, data_dir, download))
        data = replace(data, own=False)
    elif isinstance(name, str) and name.startswith(SOUNDS):
        if resize is not None or channels is not None:
            raise UserError(
                f"resize and channels are for pictures, but {name} are sounds: leave them out."
            )
        path = user_path(name.removeprefix(SOUNDS))
        data = replace(load_sounds(path), location=f"{SOUNDS}{path.absolute()}")
    elif (path := user_path(name)).exists():
        data = load_user_data(path, resize=resize, channels=channels, levels=levels)
        data = replace(data, location=str(path.absolute()))
    else:
        raise UserError(
            f"There is no data set, file or folder {str(name)!r}{did_you_mean(str(name), NAMED)}: "
            f"give one of {', '.join(NAMED)}, your own images by a path (.npz, .npy, IDX, or a "
            f"folder of pictures), or your own sounds by {SOUNDS}FOLDER."
        )
    return data if levels is None else data.requantised(levels)


def list_datasets(data_dir: str | Path | None = None) -> list[DatasetInfo]:
    """Lists the named data sets and the folders that hold their files, without verifying those.

    Args:
        data_dir: The folder to search first.

    Raises:
        UserError: If `data_dir` does not exist.
    """
    return [
        DatasetInfo(
            name,
            entry.description,
            find_folder(entry.store, data_dir),
            tuple(f"{entry.store.folder}/{file}" for file in entry.store.files),
            entry.class_names,
        )
        for name, entry in NAMED.items()
    ]


def own_folder(name: str) -> Path | None:
    """Returns the folder of pictures or sounds that the name of a data set means, if it is one."""
    path = user_path(name.removeprefix(SOUNDS))
    return path if name not in NAMED and path.is_dir() else None


def refuse_inside(out: Path, data: str) -> None:
    """Refuses to write into the user's folder of data, where a picture would become one of them.

    Args:
        out: The file or folder to write.
        data: The name of the data set.

    Raises:
        UserError: It is inside the folder.
    """
    folder = own_folder(data)
    if folder is not None and out.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{out} would be written into {folder}, among the data: name a place outside of it by "
            "--out."
        )
