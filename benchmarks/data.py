"""Measures the loading of a folder of many small pictures: time, memory and batches a second.

    python benchmarks/data.py --images 100000

Makes two folders of pictures (PNG, 32 x 32, RGB; one with a tenth of the other's) in a temporary
folder. Each measurement has its own process: the first use, in which the pictures are decoded, and
the second, until the first batch is ready and until `nextpixel train` has taken its first step,
with the peaks of memory; and the time of a batch compared with that of a training step. Linux only,
because memory is read from /proc.

Resident memory includes mapped pages of the cache file, which the system can reclaim at any time;
private memory is what the process itself has allocated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BATCH = 32
STEPS = 20
LEVELS = 8  # few, for a quick step, which loading must keep up with
MODEL = f"--levels {LEVELS} --model PixelCNN --model.width 8 --model.blocks 2 --model.head 16"
TRAINING = f"--train.batch_size {BATCH} --train.steps {STEPS} --train.valid_images 32"
FIRST_BATCH = """
import sys
from nextpixel.data import batch_indices, load
train = load(sys.argv[1], levels=int(sys.argv[3])).train
train.batch(batch_indices(len(train), int(sys.argv[2]), 0))
"""
EPOCH = """
import json, sys, time
from nextpixel.data import batch_indices, load
train = load(sys.argv[1], levels=int(sys.argv[3])).train
size = int(sys.argv[2])
batches = len(train) // size
began = time.perf_counter()
for step in range(batches):
    train.batch(batch_indices(len(train), size, step))
print(json.dumps({"batches": batches, "seconds": time.perf_counter() - began}))
"""


@dataclass(frozen=True)
class Usage:
    """Time and memory of a process.

    Attributes:
        seconds: Wall time from its start until it was done.
        resident: Peak of resident memory, in MiB.
        private: Peak of private memory, in MiB, sampled every 10 ms.
        output: Its standard output.
    """

    seconds: float
    resident: float
    private: float
    output: str


def make_folder(folder: Path, count: int, side: int = 32) -> None:
    """Makes different pictures of a few large squares with noise; the side is a multiple of 4."""
    rng = np.random.default_rng(count)
    folder.mkdir()
    for i in range(count):
        blocks = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(side // 4, 0).repeat(side // 4, 1)
        x = blocks ^ rng.integers(0, 8, blocks.shape, np.uint8)
        Image.fromarray(x).save(folder / f"{i:06}.png", compress_level=1)


def measure(command: list[str], done: Callable[[], bool] = lambda: False) -> Usage:
    """Measures a command until `done` returns True, or to its end."""
    began = time.perf_counter()
    seconds = None
    memory = {"VmHWM": 0.0, "RssAnon": 0.0}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        while process.poll() is None:
            if seconds is None and done():
                seconds = time.perf_counter() - began
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in memory:
                    memory[name] = max(memory[name], int(value.split()[0]) / 1024)
            time.sleep(0.01)
        ended = time.perf_counter() - began
        output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Usage(ended if seconds is None else seconds, memory["VmHWM"], memory["RssAnon"], output)


def train(folder: Path, out: Path) -> tuple[Usage, float]:
    """Trains a tiny network for a few steps.

    Returns:
        The usage, with the time until the first step, and the median seconds of a later step.
    """
    metrics = out / "metrics.jsonl"
    command = [sys.executable, "-m", "nextpixel", "train", "--data", str(folder), "--out", str(out)]
    command += f"{MODEL} {TRAINING}".split()
    used = measure(command, lambda: metrics.exists() and metrics.stat().st_size > 0)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return used, BATCH / float(np.median([line["images_per_second"] for line in lines[2:]]))


def use(folder: Path, work: Path) -> dict[str, Any]:
    """Measures the first and the second use of a folder."""
    arguments = [str(folder), str(BATCH), str(LEVELS)]
    first = measure([sys.executable, "-c", FIRST_BATCH, *arguments])
    again = measure([sys.executable, "-c", FIRST_BATCH, *arguments])
    trained, step = train(folder, work / f"run-{folder.name}")
    epoch = measure([sys.executable, "-c", EPOCH, *arguments])
    batches = json.loads(epoch.output)
    return {
        "first use, first batch": asdict(first),
        "second use, first batch": asdict(again),
        "second use, first step of nextpixel train": asdict(trained),
        "second use, all batches of an epoch": asdict(epoch),
        "step_seconds": step,
        "batch_seconds": batches["seconds"] / batches["batches"],
    }


def main() -> None:
    """Measures both folders and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, default=100_000, metavar="N", help="pictures in the larger folder"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the measurements to FILE"
    )
    args = parser.parse_args()

    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")
        for count in (args.images // 10, args.images):
            folder = work / str(count)
            make_folder(folder, count)
            results[count] = use(folder, work)

    from yardstick import print_table, write_json  # late, because it imports torch

    small, large = results
    rows = []
    for what, before in results[small].items():
        if isinstance(before, dict):
            after = results[large][what]
            cells = [
                f"{used[key]:.{digits}f}"
                for key, digits in (("seconds", 2), ("resident", 0), ("private", 0))
                for used in (before, after)
            ]
            rows.append([what, *cells])
    columns = [f"{name}, {n:,}" for name in ("s", "resident MiB", "private MiB") for n in results]
    print_table(["", *columns], rows)
    print()
    batch, step = (results[large][f"{name}_seconds"] * 1000 for name in ("batch", "step"))
    print_table(
        [f"of {BATCH} images", "ms", "a second"],
        [
            ["batch", f"{batch:.3f}", f"{1000 / batch:,.0f}"],
            ["step of training", f"{step:.3f}", f"{1000 / step:,.0f}"],
        ],
    )
    print(f"\nMaking a batch takes {batch / step:.2%} of a step of a tiny network.")
    write_json(args.json, {"batch": BATCH, "model": MODEL, "folders": results})


if __name__ == "__main__":
    main()
