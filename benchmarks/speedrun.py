"""How fast does a network learn the static binarized MNIST? Trains to three targets, and times it.

    python benchmarks/speedrun.py
    python benchmarks/speedrun.py --targets 81.3

The targets are nats on the test images: 81.3 is the PixelCNN of the paper (van den Oord et al.,
2016). The number of steps is fixed beforehand, because the learning rate falls to zero in the last
one; that they were enough, the validation images must say, and the test images are scored once,
afterwards. Two processes of one thread each train together, which is faster than two threads of
one: small maps divide badly.

`seconds` are those of the optimizer steps, `wall` those of the whole command, with the start of
Python, the validation and the report.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from yardstick import print_table, write_json

import nextpixel as npx
from nextpixel.utils.machine import machine

# The width and the number of steps that end below so many nats of a validation image.
RUNS = {82.0: (24, 1200), 81.3: (24, 1700), 80.0: (32, 4500)}
BATCH = 16  # images of a step, of all processes together


def main() -> None:
    """Trains to each target and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--targets", type=float, nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NATS"
    )
    parser.add_argument(
        "--processes", type=int, default=2, choices=[1, 2, 4], help="that train together"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    args = parser.parse_args()
    rows, found = [], {}
    for target in args.targets:
        with tempfile.TemporaryDirectory() as folder:
            found[str(target)] = result = train(*RUNS[target], args.processes, Path(folder) / "run")
        rows.append(
            [
                f"{target:.1f}",
                *(f"{number:,}" for number in RUNS[target]),
                f"{result['seconds']:.0f}",
                f"{result['wall']:.0f}",
                f"{result['valid']:.2f} ± {result['valid_error']:.2f}",
                f"{result['test']:.2f} ± {result['test_error']:.2f}",
                "yes" if result["valid"] <= target else "NO",
            ]
        )
    print(machine())
    print_table(
        ["nats", "width", "steps", "seconds", "wall", "validation", "test", "reached"], rows
    )
    write_json(args.json, found)


def train(width: int, steps: int, processes: int, out: Path) -> dict[str, float]:
    """Trains a network, and scores it on the whole test set."""
    options = {
        "data": "binarized-mnist",
        "model": "PixelCNNPP",
        "model.width": width,
        "model.blocks": 1,
        "model.inputs": "embedded",
        "model.dropout": 0,
        "train.steps": steps,
        "train.batch_size": BATCH // processes,
        "train.optimizer": "muon",
        "train.lr": 2.8e-3,
        "train.weight_decay": 0.2,
        "train.warmup": 75,
        "train.ema": 1 - 4 / steps,
        "train.valid_every": steps,
        "train.valid_images": 10_000,
        "threads": 1,
        "out": out,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    together = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [sys.executable, "-m", *(together if processes > 1 else []), "nextpixel", "train"]
    start = time.monotonic()
    subprocess.run([*command, "--yes", *words], check=True)
    wall = time.monotonic() - start
    *_, last_step, end = (json.loads(line) for line in (out / "metrics.jsonl").open())
    nats = 28 * 28 * math.log(2)  # of an image with one bit a dimension
    test = npx.evaluate(npx.load(out), npx.load_data("binarized-mnist").test)
    return {
        "seconds": last_step["seconds"],  # the last line's include the validation
        "wall": wall,
        "valid": end["valid"] * nats,
        "valid_error": end["valid_error"] * nats,
        "test": test.nats,
        "test_error": test.nats_error,
    }


if __name__ == "__main__":
    main()
