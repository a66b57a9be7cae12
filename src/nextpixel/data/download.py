"""Finds the files of known data sets, and downloads what is missing."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from nextpixel.data.cache import cache_folder
from nextpixel.data.readers import read_bytes
from nextpixel.data.sounds import read_zip
from nextpixel.errors import UserError

__all__ = ["Store"]

CHUNK = 1 << 18


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
