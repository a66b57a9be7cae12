"""Reads damaged inputs in processes of their own, with limits on time and memory."""

from __future__ import annotations

import os
import resource
import select
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch

from nextpixel.errors import UserError
from tests.fuzz.kinds import KINDS
from tests.fuzz.mutations import mutate

SECONDS = 60  # of the wall: a busy machine stalls for some
MEMORY = 2**30  # bytes that an input may take beyond what the process has
ADDRESSES = 2**33  # bytes that a child may ask for at all
BATCH = 40  # inputs to a process


class Input(NamedTuple):
    """An input: the kind of file, and its damaged content."""

    kind: str
    data: bytes


class Fault(NamedTuple):
    """What an input did instead of ending in a sentence, or being read rightly."""

    input: Input
    what: str


def inputs(times: int, seed: int, kinds: Sequence[str] = ()) -> Iterator[Input]:
    """Yields damaged inputs of all kinds in turn, or of some."""
    names = list(kinds or KINDS)
    good = {name: KINDS[name].content() for name in names}
    for i in range(times):
        name = names[i % len(names)]
        random = Random(f"{seed} {i}")
        yield Input(name, mutate(good[name], random, KINDS[name].text))


def faults(wanted: Sequence[Input]) -> list[Fault]:
    """Reads inputs, and returns those that did not end well."""
    found: list[Fault] = []
    begin = 0
    while begin < len(wanted):
        batch = wanted[begin : begin + BATCH]
        done, ended = _in_a_process(batch)
        found += [Fault(batch[i], what) for i, what in enumerate(done) if what]
        begin += len(done)
        if ended is not None:  # the process was killed, or died
            found.append(Fault(wanted[begin], ended))
            begin += 1
    return found


def shown(found: Sequence[Fault]) -> str:
    """Returns faults in words, each with the beginning of its input."""
    return "\n".join(
        f"{fault.input.kind}: {fault.input.data[:200]!r}\n{fault.what}" for fault in found
    )


def _in_a_process(batch: Sequence[Input]) -> tuple[list[str], str | None]:
    """Reads a batch in a child.

    Returns:
        For each input that the child got through "" or its fault; and how the child ended if it
        did not get through all.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _read_all(batch, writing)
        finally:
            os._exit(0)
    os.close(writing)
    done: list[str] = []
    ended: str | None = None
    with os.fdopen(reading, "rb") as file:
        while len(done) < len(batch):
            ready, _, _ = select.select([file], [], [], SECONDS)
            if not ready:
                os.kill(child, 9)
                ended = f"it took more than {SECONDS} seconds"
                break
            size = file.read(4)
            if len(size) < 4:
                break
            done.append(file.read(int.from_bytes(size)).decode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if len(done) < len(batch) and ended is None:
        ended = f"the process ended with {status}"
    return done, ended


def _read_all(batch: Sequence[Input], out: int) -> None:
    """Reads inputs one after the other, in the child, and writes what came of each."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # OpenMP would wait for the parent's threads, which a fork leaves out
    before = _peak()
    resource.setrlimit(resource.RLIMIT_AS, (_virtual() + ADDRESSES,) * 2)
    for each in batch:
        what = _read(each)
        peak = _peak()
        if not what and peak - before > MEMORY:
            what = f"it took {(peak - before) / 2**30:.1f} GiB"
        before = peak
        data = what.encode(errors="replace")
        os.write(out, len(data).to_bytes(4) + data)


def _read(each: Input) -> str:
    """Reads an input; returns "" if it ends in a sentence, or is read rightly."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        KINDS[each.kind].read(folder, each.data)
    except UserError as error:
        text = str(error)
        if "\n" in text or len(text) > 1000:
            return f"not one short sentence: {text[:1500]}"
    except BaseException:
        return traceback.format_exc()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _virtual() -> int:
    """The addresses that this process uses, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
