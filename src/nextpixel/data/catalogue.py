"""The data sets known by name: their files and sums, where to look for them, and the download."""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nextpixel.data.images import Dataset, Images, draw_bits
from nextpixel.data.kept import cache_folder
from nextpixel.data.own import load_own
from nextpixel.data.readers import (
    CIFAR_RECORD,
    read_amat,
    read_bytes,
    read_cifar_binary,
    read_cifar_delta,
    read_idx,
)
from nextpixel.data.sounds import SPEAKERS, load_sounds, read_zip, spoken_digits
from nextpixel.errors import UserError

__all__ = ["KnownDataset", "known", "load"]

HELD_OUT = 5_000  # the last images of an official training file are the validation split
REDRAW_SEED = 1_812_2008  # mnist-dynamic's validation and test bits; changing it changes the scores
CHUNK = 1 << 18
SOUNDS = "wavs:"  # in front of a folder of the user's own sounds


@dataclass(frozen=True)
class Store:
    """The files of a data set: where they come from, and what is in them.

    Attributes:
        folder: The folder's name, below any of the places looked in.
        url: The official address; a file's name is appended to it.
        files: The official file names, each with the sha256 of the file, unpacked if it is a .gz of
            one file. Such a file may also lie there unpacked, and an unpacked one as a .gz. Of a
            .zip it is that of its recordings one after the other, in the order of their names,
            however they were packed.
        others: Sets of files that can stand in for the official ones.
    """

    folder: str
    url: str
    files: dict[str, str]
    others: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class KnownDataset:
    """What is known of a data set without reading it.

    Attributes:
        name: The name to load it by.
        description: One line.
        present: The folder that its files were found in, or None.
        files: The files that it wants, by their official names, with the folder's name in front.
        class_names: A name for each class id, or None if there are no classes.
    """

    name: str
    description: str
    present: Path | None
    files: tuple[str, ...]
    class_names: tuple[str, ...] | None


# --- what there is --------------------------------------------------------------------------------

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
CIFAR_BATCHES = {  # 10,000 images each; the sums are those of the binary version's files
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
    others=(tuple(f"{CIFAR_FOLDER}/{name}" for name in CIFAR_BATCHES), CIFAR_DELTA),
)
FSDD_COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
FSDD_ARCHIVE = "free-spoken-digit-dataset-recordings.zip"
FSDD = Store(
    "fsdd",
    # GitHub packs a commit when it is asked for, under any name that one likes.
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
            read_idx(_checked(store, folder, name), folder / name)
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

    def drawn(images: Images, number: int) -> Images:
        return Images(draw_bits(images.x, (REDRAW_SEED, number)), images.y, 2)

    return replace(
        data,
        name="mnist-dynamic",
        train=Images(data.train.x, data.train.y, 2, redraw=True),
        valid=drawn(data.valid, 0),
        test=drawn(data.test, 1),
        levels=2,
        source=f"{data.source}; binarized by chance, after Salakhutdinov and Murray (2008)",
    )


def _binarized_mnist(store: Store, folder: Path) -> Dataset:
    train, valid, test = (
        Images(read_amat(_checked(store, folder, name)), None, 2) for name in store.files
    )
    source = (
        "Binarized MNIST: Salakhutdinov and Murray (2008), as fixed by Larochelle and Murray "
        "(2011); no licence stated, derived from MNIST (CC BY-SA 3.0)"
    )
    return Dataset("binarized-mnist", train, valid, test, 2, None, source)


def _cifar10(store: Store, folder: Path) -> Dataset:
    batches: Mapping[str, bytes | memoryview]
    if path := _find_file(folder, CIFAR_ARCHIVE):
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
        _check_sum(batches[name], sha256, path / name, store.url + CIFAR_ARCHIVE)
    parts = [read_cifar_binary(batches[name], path / name) for name in CIFAR_BATCHES]
    train = np.concatenate([x for x, _ in parts[:5]]), np.concatenate([y for _, y in parts[:5]])
    source = (
        "CIFAR-10: Krizhevsky, Learning multiple layers of features from tiny images (2009); "
        "no licence stated"
    )
    test = parts[5][0].copy(), parts[5][1]
    return _official_splits("cifar10", train, test, THINGS, source)


def _unpack_cifar(path: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as archive:
            members = {
                name: archive.extractfile(f"{CIFAR_FOLDER}/{name}") for name in CIFAR_BATCHES
            }
            return {name: file.read() if file else b"" for name, file in members.items()}
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise UserError(
            f"{path} is truncated or corrupt ({error}): get it anew from "
            f"{CIFAR.url}{CIFAR_ARCHIVE}."
        ) from error


def _spoken_digits(store: Store, folder: Path) -> Dataset:
    _checked(store, folder, FSDD_ARCHIVE)
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
    """A data set with a name: its files, the function that reads them, its classes' names."""

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
        "digits, 28x28 fixed bits (Larochelle's), no classes: what published nats are for",
        BINARIZED,
        _binarized_mnist,
    ),
    "mnist-dynamic": Named(
        "digits, 28x28 bits drawn anew for every training batch, 10 classes",
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
    size: int | None = None,
    channels: int | None = None,
    download: bool = True,
) -> Dataset:
    """Loads a data set by its name, or the user's own from a path.

    The files of a named set are looked for in `data_dir`, $NEXTPIXEL_DATA, the checkout's data/,
    the current folder's data/ and the user cache (~/.cache/nextpixel), then downloaded to the last,
    and their sums are checked. A name comes before a path: write ./mnist for a folder called mnist.

    Args:
        name: A name that `known` lists, or a path (see `nextpixel.data.own.load_own`), or wavs: and
            the path of a folder of sounds (see `nextpixel.data.sounds.load_sounds`).
        levels: Requantises to so many levels; None keeps those of the source.
        data_dir: The folder to look in first.
        size: For a folder of pictures: crops and resizes them to size x size.
        channels: For the user's own images: 1 or 3.
        download: Whether missing files may be downloaded.

    Raises:
        UserError: If there is no such data set, its files are missing, corrupt or not the official
            ones, or an option does not fit it.
    """
    if isinstance(name, str) and name in NAMED:
        if size is not None or channels is not None:
            raise UserError(
                f"size and channels are for your own images, and {name} is as it is: leave them "
                "out."
            )
        entry = NAMED[name]
        data = entry.read(entry.store, _folder(name, entry.store, data_dir, download))
    elif isinstance(name, str) and name.startswith(SOUNDS):
        if size is not None or channels is not None:
            raise UserError(f"size and channels are for pictures, and {name} are sounds.")
        data = load_sounds(Path(name.removeprefix(SOUNDS)).expanduser())
    elif (path := Path(name).expanduser()).exists():
        data = load_own(path, size=size, channels=channels, levels=levels)
    else:
        near = difflib.get_close_matches(str(name), NAMED, n=1)
        guess = f"did you mean {near[0]}? Known" if near else "known"
        raise UserError(
            f"There is no data set, file or folder {str(name)!r}: {guess} are {', '.join(NAMED)}, "
            "and your own images by a path (.npz, .npy, IDX, or a folder of pictures), or your own "
            f"sounds by {SOUNDS}FOLDER."
        )
    return data if levels is None else data.requantised(levels)


def known(data_dir: str | Path | None = None) -> list[KnownDataset]:
    """Lists the named data sets, and where their files were found (by name; sums are not checked).

    Args:
        data_dir: The folder to look in first.
    """
    return [
        KnownDataset(
            name,
            entry.description,
            _find(entry.store, data_dir),
            tuple(f"{entry.store.folder}/{file}" for file in entry.store.files),
            entry.class_names,
        )
        for name, entry in NAMED.items()
    ]


# --- finding and fetching files -------------------------------------------------------------------


def _places(data_dir: str | Path | None) -> list[Path]:
    """Lists the folders to look in, the first first."""
    places = []
    if data_dir is not None:
        place = Path(data_dir).expanduser()
        if not place.is_dir():
            raise UserError(f"The data folder {place} does not exist: name one that does.")
        places.append(place)
    if own := os.environ.get("NEXTPIXEL_DATA"):
        places.append(Path(own).expanduser())
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "src" / "nextpixel").is_dir():
        places.append(checkout / "data")
    return [*places, Path("data"), cache_folder()]


def _find(store: Store, data_dir: str | Path | None) -> Path | None:
    """Returns the first folder that holds all files of a store, or others that stand for them."""
    for place in _places(data_dir):
        folder = place / store.folder
        ways = [all(_find_file(folder, name) for name in store.files)]
        ways += [all((folder / name).is_file() for name in names) for names in store.others]
        if any(ways):
            return folder
    return None


def _find_file(folder: Path, name: str) -> Path | None:
    """Returns the file of this name, or the same one packed or unpacked by gzip."""
    twin = name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"
    return next((folder / n for n in (name, twin) if (folder / n).is_file()), None)


def _folder(name: str, store: Store, data_dir: str | Path | None, download: bool) -> Path:
    """Returns the folder that holds a store's files, after a download if need be."""
    if folder := _find(store, data_dir):
        return folder
    folder = cache_folder() / store.folder
    reason = "and downloading was switched off"
    if download:
        try:
            for file, sha256 in store.files.items():
                if not _find_file(folder, file):
                    _download(store.url + file, folder / file, sha256)
            return folder
        except OSError as error:
            reason = f"and the download from {store.url} failed ({error})"
    raise UserError(
        f"The files of {name} were not found, {reason}: put {', '.join(store.files)} into "
        f"{folder}, or into a folder {store.folder} in a place that you name with data_dir "
        "(--data-dir) or $NEXTPIXEL_DATA."
    )


def _download(url: str, target: Path, sha256: str) -> None:
    """Downloads a file; it appears under its name only when it is whole and its sum is right.

    Raises:
        OSError: If that fails, for whatever reason.
    """
    # Loaded here, because few calls download, and these take longer to import than all the rest.
    import http.client
    import urllib.request

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part-{os.getpid()}-{target.name}")
    bar = Progress(
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    try:
        with part.open("wb") as file, urllib.request.urlopen(url, timeout=30) as response, bar:
            length = int(response.headers.get("Content-Length") or 0)
            task = bar.add_task(target.name, total=length or None)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.advance(task, len(chunk))
        if (size := part.stat().st_size) < length:
            raise OSError(f"only {size:,} of {length:,} bytes of {target.name} came")
        if not _is_right(part, sha256):
            raise OSError(f"what came as {target.name} has not the official sha256")
        part.replace(target)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _is_right(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(_content(path)).hexdigest() == sha256
    except UserError:  # a broken .gz
        return False


def _content(path: Path) -> bytes:
    """Reads what a file's sum is of, see `Store`: the file, what is in its .gz, or in its .zip."""
    if path.suffix == ".zip":
        return b"".join(read_zip(path).values())
    return path.read_bytes() if path.name.endswith(".tar.gz") else read_bytes(path)


def _checked(store: Store, folder: Path, name: str) -> bytes:
    """Reads a file of a store, by its official name, and checks its sum."""
    path = _find_file(folder, name) or folder / name
    content = _content(path)
    _check_sum(content, store.files[name], path, store.url + name)
    return content


def _check_sum(content: bytes | memoryview, sha256: str, path: Path, url: str) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(
            f"{path} is not the official file (the sha256 of its content is {found[:12]}..., not "
            f"{sha256[:12]}...): it is incomplete, corrupt or another file; replace it with {url}."
        )
