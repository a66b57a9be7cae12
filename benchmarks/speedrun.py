"""How fast does a network learn the static binarized MNIST? Trains to three targets, and times it.

    python benchmarks/speedrun.py
    python benchmarks/speedrun.py --targets 81.3

Two processes of one thread each train together, which is faster than one of two threads: small maps
divide badly among threads. A run's length is fixed beforehand, because its learning rate falls to
zero at the end; that it was long enough, the validation images say, and the test images are scored
once, after it. Seconds are those of the optimizer steps, without validations and without the start
of Python.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from yardstick import print_table, write_json

import nextpixel as npx
from nextpixel.utils.machine import machine


class Run(NamedTuple):
    """How to reach a target.

    Attributes:
        width: Channels of the PixelCNN++.
        steps: Optimizer steps.
        batch: Images of a step, of each process.
        lr: The highest learning rate.
        dropout: The chance of an activation to be dropped.
    """

    width: int
    steps: int
    batch: int
    lr: float
    dropout: float


RUNS = {  # by the nats of a test image that are to be reached
    82.0: Run(width=24, steps=4000, batch=4, lr=5e-3, dropout=0.0),
    81.3: Run(width=24, steps=8000, batch=4, lr=5e-3, dropout=0.0),
    80.0: Run(width=32, steps=30000, batch=4, lr=5e-3, dropout=0.1),
}


def main() -> None:
    """Trains to each target and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--targets", type=float, nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NATS"
    )
    parser.add_argument("--processes", type=int, default=2, help="that train together")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    args = parser.parse_args()
    rows, found = [], {}
    for target in args.targets:
        with tempfile.TemporaryDirectory() as folder:
            found[str(target)] = result = train(RUNS[target], args.processes, Path(folder) / "run")
        reached = "yes" if result["test"] <= target else "no"
        numbers = [f"{result[name]:.2f}" for name in ("valid", "test", "test_error")]
        rows.append([f"{target:.1f}", f"{result['seconds']:.0f}", *numbers, reached])
    print(machine())
    print_table(["target", "seconds", "validation", "test", "error", "reached"], rows)
    write_json(args.json, found)


def train(run: Run, processes: int, out: Path) -> dict[str, float]:
    """Trains a network, and scores it on the whole test set."""
    options = {
        "data": "binarized-mnist",
        "model": "PixelCNNPP",
        "model.width": run.width,
        "model.blocks": 1,
        "model.components": 1,
        "model.dropout": run.dropout,
        "train.steps": run.steps,
        "train.batch_size": run.batch,
        "train.lr": run.lr,
        "train.warmup": 200,
        "train.ema": 0.999,
        "train.valid_every": run.steps,
        "train.valid_images": 10_000,
        "threads": 1,
        "out": out,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    together = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [sys.executable, "-m", *(together if processes > 1 else []), "nextpixel", "train"]
    subprocess.run([*command, "--yes", *words], check=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    nats_of_a_bit = 28 * 28 * math.log(2)
    score = npx.evaluate(npx.load(out), npx.load_data("binarized-mnist").test)
    return {
        "seconds": lines[-2]["seconds"],  # the last line's include the validation
        "valid": lines[-1]["valid"] * nats_of_a_bit,
        "test": score.nats,
        "test_error": score.nats_error,
    }


if __name__ == "__main__":
    main()
