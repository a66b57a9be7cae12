"""Finds the files of named data sets, downloads missing ones and verifies their hashes."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nextpixel.data.readers import read_bytes
from nextpixel.data.sounds import read_zip
from nextpixel.errors import UserError
from nextpixel.utils.files import cache_folder, user_path
from nextpixel.utils.progress import bar_on_stderr

__all__ = [
    "Store",
    "find_file",
    "find_folder",
    "find_or_download",
    "read_verified",
    "verify_sha256",
]

CHUNK = 1 << 18  # bytes


@dataclass(frozen=True)
class Store:
    """Describes the files of a data set: their source and their hashes.

    Attributes:
        folder: Name of the folder that holds the files.
        url: The official address; a file's name is appended to it.
        files: Official file name -> sha256 of its content. The content of a .gz is the file in it;
            that of a .zip, its recordings concatenated in the order of their names. A file may also
            be found gzipped instead of plain, or plain instead of gzipped.
        alternatives: Sets of files that can replace the official ones.
    """

    folder: str
    url: str
    files: dict[str, str]
    alternatives: tuple[tuple[str, ...], ...] = ()


# --- finding and downloading ----------------------------------------------------------------------


def _search_path(data_dir: str | Path | None) -> list[Path]:
    """Lists the folders to search, in order."""
    folders = []
    if data_dir is not None:
        folder = user_path(data_dir)
        if not folder.is_dir():
            raise UserError(f"The data folder {folder} does not exist: name one that does.")
        folders.append(folder)
    if variable := os.environ.get("NEXTPIXEL_DATA"):
        folders.append(user_path(variable))
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "src" / "nextpixel").is_dir():
        folders.append(checkout / "data")
    folders.append(Path("data"))
    with suppress(UserError):  # without a home folder nothing is cached
        folders.append(cache_folder())
    return folders


def find_folder(store: Store, data_dir: str | Path | None) -> Path | None:
    """Returns the first folder that holds all files of a store, or an alternative set of files.

    Args:
        store: The files.
        data_dir: The folder to search first.

    Raises:
        UserError: If `data_dir` does not exist.
    """
    for parent in _search_path(data_dir):
        folder = parent / store.folder
        complete = [all(find_file(folder, name) for name in store.files)]
        complete += [all((folder / name).is_file() for name in s) for s in store.alternatives]
        if any(complete):
            return folder
    return None


def find_file(folder: Path, name: str) -> Path | None:
    """Returns the path of a file that is stored under its official name, gzipped or not."""
    twin = name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"
    return next((folder / n for n in (name, twin) if (folder / n).is_file()), None)


def find_or_download(name: str, store: Store, data_dir: str | Path | None, download: bool) -> Path:
    """Returns the folder that holds a store's files, after downloading missing ones to the cache.

    Args:
        name: Name of the data set, for messages.
        store: The files.
        data_dir: The folder to search first.
        download: Whether downloads are allowed.

    Raises:
        UserError: If files are missing and cannot be downloaded.
    """
    if folder := find_folder(store, data_dir):
        return folder
    folder = cache_folder() / store.folder
    reason = "and downloading was switched off"
    if download:
        try:
            for file, sha256 in store.files.items():
                if not find_file(folder, file):
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
    """Downloads a file, which appears under its name only when it is complete and verified.

    Raises:
        OSError: If the download fails for any reason.
    """
    # Imported here, because downloads are rare and these imports are slow.
    import http.client
    import urllib.request

    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part-{os.getpid()}-{target.name}")
    columns = "{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn()
    bar = bar_on_stderr(*columns)
    try:
        with part.open("wb") as file, urllib.request.urlopen(url, timeout=30) as response, bar:
            length = int(response.headers.get("Content-Length") or 0)
            task = bar.add_task(target.name, total=length or None)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.advance(task, len(chunk))
        if (size := part.stat().st_size) < length:
            raise OSError(f"only {size:,} of {length:,} bytes of {target.name} arrived")
        if not _has_sha256(part, sha256):
            raise OSError(f"the hash of {target.name} is not the official sha256")
        part.replace(target)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _has_sha256(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(_content(path)).hexdigest() == sha256
    except UserError:  # a broken .gz
        return False


# --- verifying ------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    """Reads the content that a file's hash is of, see `Store.files`."""
    if path.suffix == ".zip":
        return b"".join(read_zip(path).values())
    return path.read_bytes() if path.name.endswith(".tar.gz") else read_bytes(path)


def read_verified(store: Store, folder: Path, name: str) -> bytes:
    """Reads the content of a file, given its official name, and verifies its hash.

    Raises:
        UserError: If the file cannot be read, or is not the official one.
    """
    path = find_file(folder, name) or folder / name
    content = _content(path)
    verify_sha256(content, store.files[name], path, store.url + name)
    return content


def verify_sha256(content: bytes | memoryview, sha256: str, path: Path, url: str) -> None:
    """Refuses content of another hash than the official file's.

    Args:
        content: The content of the file.
        sha256: The official hash.
        path: The path of the file, for messages.
        url: The address of the official file, for messages.

    Raises:
        UserError: If the hashes differ.
    """
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(
            f"{path} is not the official file (the sha256 of its content is {found[:12]}..., not "
            f"{sha256[:12]}...): it is incomplete, corrupt or another file; replace it with {url}."
        )
