"""Finds the files of a folder, their classes and their splits."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nextpixel.data.images import SPLITS
from nextpixel.errors import UserError
from nextpixel.utils.progress import track
from nextpixel.utils.words import count, list_names

__all__ = [
    "SOUNDS",
    "File",
    "FileKind",
    "Skipped",
    "find_files",
    "folder_state",
    "list_files",
    "walk",
]

STATE_VERSION = 2  # increase it when a folder decodes to other integers, classes or splits
SPLIT_FOLDERS = {  # in any case
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
SOUNDS = (".wav", ".flac", ".ogg")  # endings
NAMED = 3  # skipped files in a message


class FileKind(NamedTuple):
    """Describes the files to look for in a folder.

    Attributes:
        name: The plural of what the files are, for messages.
        expected: The expected formats and places, for messages.
        endings: Endings of the files' names, in lower case.
    """

    name: str
    expected: str
    endings: tuple[str, ...]


class File(NamedTuple):
    """Describes a file of a folder.

    Attributes:
        name: The path below the folder, with slashes.
        split: "train", "valid" or "test".
        label: The name of the class, or None.
    """

    name: str
    split: str
    label: str | None


class Skipped(NamedTuple):
    """Lists the files of a folder that are left out, by their paths below the folder.

    Attributes:
        broken: Links that lead nowhere or in a circle.
        other: Files of other kinds, by the endings of their names.
        unreadable: Files of the kind that are damaged or must not be read.
    """

    broken: Sequence[str] = ()
    other: Sequence[str] = ()
    unreadable: Sequence[str] = ()

    def in_words(self, folder: Path, kind: FileKind) -> str | None:
        """Returns a sentence that counts these files and names a few; None if there are none."""
        counted = self.counted(kind)
        return f"Left out of {folder}: {counted}." if counted else None

    def counted(self, kind: FileKind) -> str:
        """Counts these files and names a few; "" if there are none."""
        parts = (
            ("unreadable file", "unreadable files", self.unreadable),
            ("broken link", "broken links", self.broken),
            (f"file without {kind.name}", f"files without {kind.name}", self.other),
        )
        return ", ".join(
            f"{count(len(names), one, several)} ({list_names(sorted(names), NAMED)})"
            for one, several, names in parts
            if names
        )


def folder_state(folder: Path, endings: tuple[str, ...]) -> str:
    """Returns a fingerprint of a folder, which changes when it has to be decoded again.

    It is a sum of hashes: one for the name, size and time of each file with one of the endings, and
    one for the name of each subfolder. A sum does not depend on the order, so that it takes no
    list of all names.
    """
    total = 0
    for name, stat in track(walk(folder, endings), f"looking through {folder}"):
        written = (stat.st_size, stat.st_mtime_ns) if stat else None
        line = os.fsencode(f"{name}\0{written}")
        total += int.from_bytes(hashlib.sha256(line).digest())
    return f"{STATE_VERSION} {total:x}"


def walk(
    folder: Path,
    endings: tuple[str, ...],
    broken: list[str] | None = None,
    other: list[str] | None = None,
    hidden: list[str] | None = None,
) -> Iterator[tuple[str, os.stat_result | None]]:
    """Lists the files below a folder as (name, stat) and its subfolders as (name, None), unsorted.

    Hidden entries are skipped. Symbolic links to folders are followed, unless they lead to a folder
    that they are in.

    Args:
        folder: The folder.
        endings: Endings of the files to list.
        broken: Gets the names of links that lead nowhere or in a circle.
        other: Gets the names of files with other endings.
        hidden: Gets the names of hidden files, and of hidden folders without what is in them.
    """
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]  # and the folders above
    while waiting:
        parent, above = waiting.pop()
        try:
            here = (folder / parent).stat()
            above = (*above, (here.st_dev, here.st_ino))
            with os.scandir(folder / parent) as entries:
                for entry in entries:
                    name = f"{parent}/{entry.name}" if parent else entry.name
                    if entry.name[0] == ".":
                        if hidden is not None:
                            hidden.append(name)
                        continue
                    try:
                        stat = entry.stat()
                    except OSError:
                        if broken is not None:
                            broken.append(name)
                        continue
                    if entry.is_dir():
                        if (stat.st_dev, stat.st_ino) not in above or not entry.is_symlink():
                            waiting.append((name, above))
                            yield name, None
                        elif broken is not None:
                            broken.append(name)
                    elif entry.is_file() and entry.name.lower().endswith(endings):
                        yield name, stat
                    elif other is not None:
                        other.append(name)
        except OSError as error:
            raise UserError(
                f"{folder / parent} cannot be read ({error.strerror}): check the folder and its "
                "permissions."
            ) from error


def find_files(folder: Path, kind: FileKind) -> list[File]:
    """Lists the files of a folder with their splits and classes, in the order of their names.

    Raises:
        UserError: If the folder cannot be read, holds no such files, or its classes are ambiguous.
    """
    return list_files(folder, kind)[0]


def list_files(folder: Path, kind: FileKind) -> tuple[list[File], Skipped]:
    """Lists the files of a folder, see `find_files`, and those that are left out."""
    broken: list[str] = []
    other: list[str] = []
    # The stat of a file takes more memory than its name, so it is dropped.
    names = sorted(
        (name for name, stat in walk(folder, kind.endings, broken, other) if stat is not None),
        key=lambda name: name.split("/"),
    )
    tops = split_folders(folder, kind, names)
    missing = set(SPLITS) - set(tops.values())
    files = []
    for name in names:
        if (readable := os.fsencode(name).decode(errors="replace")) != name:
            raise UserError(f"{folder} holds {readable}, whose name is not UTF-8: rename the file.")
        top, relative = name.split("/", 1) if tops else ("", name)
        split = tops.get(top, "train")
        if split == "train":
            split = _split_by_name(relative, missing)
        label = relative.split("/")[0] if "/" in relative else None
        files.append(File(name, split, label))
    if not files:
        sounds = any(name.lower().endswith(SOUNDS) for name in other)
        hint = f"; its sounds are given as wavs:{folder}" if sounds else ""
        raise UserError(f"{folder} holds no {kind.name}: expected {kind.expected}{hint}.")
    if len({f.label is None for f in files}) > 1:
        raise UserError(
            f"{folder} holds {kind.name} both directly and in subfolders, so that their classes "
            "are not clear: move all files into a subfolder per class, or all into one folder."
        )
    return files, Skipped(broken, other)


def split_folders(folder: Path, kind: FileKind, names: Sequence[str]) -> dict[str, str]:
    """Finds the subfolders that are splits, by their names; only folders with files count.

    Returns:
        The split of each subfolder; empty if the folder is not divided into splits.

    Raises:
        UserError: Some subfolders are named like splits, but others are not; or two are one split.
    """
    tops = sorted({name.split("/", 1)[0] for name in names if "/" in name})
    splits = {top: SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in SPLIT_FOLDERS}
    if not splits:
        return {}
    others = [top for top in tops if top not in splits]
    others += [name for name in names if "/" not in name][:1]
    if others:
        first = next(iter(splits))
        raise UserError(
            f"{folder} holds {first}, which is named like a split, beside {others[0]}: rename "
            f"{first} if it is a class, or move {others[0]} into a split."
        )
    if len(set(splits.values())) < len(splits):
        raise UserError(
            f"{folder} holds two folders for one split ({', '.join(splits)}): join them."
        )
    return splits


def _split_by_name(name: str, missing: set[str]) -> str:
    """Chooses a file's split by its relative name alone: 80 % train, 10 % valid, 10 % test.

    Only splits missing from the folder are filled. Names are hashed in Unicode's composed form,
    because file systems store accents differently.
    """
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).digest()
    tenth = int.from_bytes(digest[:8], "big") * 10 >> 64
    split = {8: "valid", 9: "test"}.get(tenth, "train")
    return split if split in missing else "train"
