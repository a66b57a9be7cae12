"""Data that do not hold the processor up: a folder of many small pictures, used twice.

    python benchmarks/data.py --images 100000

Makes two folders of pictures (PNG, 32 x 32, RGB; one a tenth of the other) in a temporary folder,
and measures, each in a process of its own: the first use, when they are decoded, and the second,
until the first batch is there and until `nextpixel train` has taken its first step, with the peaks
of memory; and batches against steps of training. Linux only (memory is read from /proc).

Resident memory counts pages of the file that are mapped just now. They are the system's, which
takes them back when it needs them; private memory is what the process really holds.
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
LEVELS = 8  # few, so that a step is quick: that is harder for the data
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
class Used:
    """What a process took.

    Attributes:
        seconds: From its start until it was done with what is measured, in wall time.
        resident: Peak of resident memory, in MiB.
        private: Peak of private memory, in MiB, looked at every 10 ms.
        output: What it printed.
    """

    seconds: float
    resident: float
    private: float
    output: str


def make_folder(folder: Path, count: int) -> None:
    """Makes pictures of a few large pixels with some noise, which differ all."""
    rng = np.random.default_rng(count)
    folder.mkdir()
    for i in range(count):
        blocks = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        x = blocks ^ rng.integers(0, 8, blocks.shape, np.uint8)
        Image.fromarray(x).save(folder / f"{i:06}.png", compress_level=1)


def measure(command: list[str], done: Callable[[], bool] = lambda: False) -> Used:
    """Runs a command, and takes its time until it is done with what is measured, or has ended."""
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
    return Used(ended if seconds is None else seconds, memory["VmHWM"], memory["RssAnon"], output)


def train(folder: Path, out: Path) -> tuple[Used, float]:
    """Trains a tiny network a little; the time is that until the first step is done.

    Returns:
        That, and the seconds of a later step (median).
    """
    metrics = out / "metrics.jsonl"
    command = [sys.executable, "-m", "nextpixel", "train", "--data", str(folder), "--out", str(out)]
    command += f"{MODEL} {TRAINING}".split()
    used = measure(command, lambda: metrics.exists() and metrics.stat().st_size > 0)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return used, BATCH / float(np.median([line["images_per_second"] for line in lines[2:]]))


def use(folder: Path, work: Path) -> dict[str, Any]:
    """Uses a folder for the first time and again."""
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
    parser.add_argument("--images", type=int, default=100_000, help="in the larger folder")
    parser.add_argument("--json", type=Path, help="also write what was measured here")
    args = parser.parse_args()

    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")
        for count in (args.images // 10, args.images):
            folder = work / str(count)
            make_folder(folder, count)
            results[count] = use(folder, work)

    from yardstick import print_table, write_json  # after all that, as it imports torch

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
