"""Measures the memory of a training step, of generation as images grow, and of the codec.

    python benchmarks/memory.py training --threads 2
    python benchmarks/memory.py generation --threads 2
    python benchmarks/memory.py compression --threads 1

`training`: the peak of resident memory (VmHWM) of a process that takes a few training steps, less
its resident memory before the first: for the textbook's network, ours, ours with
`--train.checkpoint_activations`, and ours with `--train.accumulate 4` (see benchmarks/training.py).

`generation`: the size of the cache for 16 images, `Cache.nbytes()`, and the time for a pixel, for
images of several heights and widths. Line buffers and rows of states grow with the width only.
PixelSNAIL's attention keeps a key and a value of every earlier site, so its cache and its time for
a pixel grow with height x width.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yardstick
from training import MODELS, SHAPE, Side, other_side

import nextpixel as npx
from data import make_folder, measure
from nextpixel.codec.models import compiled
from nextpixel.training import TrainArgs

SIDES: dict[str, dict[str, Any]] = {
    "textbook": {},
    "ours": {},
    "checkpointed": {"checkpoint_activations": True},
    "in 4 parts": {"accumulate": 4},
}
SIZES = [(28, 28), (56, 28), (112, 28), (28, 56)]


def resident(field: str) -> float:
    """Reads the resident memory of this process in MiB: VmRSS now, or its peak VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def train_here(name: str, side_name: str, batch: int) -> None:
    """Takes a few training steps on one side, and prints their memory and time as JSON."""
    torch.manual_seed(0)
    model = MODELS[name]()
    ours = side_name != "textbook"
    if not ours:
        model = other_side(model)
    side = Side(model, ours, TrainArgs(**SIDES[side_name]))
    x = torch.randint(model.levels, (batch, *SHAPE))
    before, seconds = resident("VmRSS"), []
    for _ in range(4):
        began = time.perf_counter()
        side.step(x)
        seconds.append(time.perf_counter() - began)
    mib = resident("VmHWM") - before
    print(json.dumps({"mib": mib, "seconds": statistics.median(seconds[1:])}))


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the training of each model on each side, in its own process."""
    result: dict[str, Any] = {}
    for name in args.models:
        result[name] = {}
        for side in SIDES:
            command = [sys.executable, __file__, "training", "--child", name, side]
            command += ["--batch", str(args.batch), "--threads", str(torch.get_num_threads())]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            result[name][side] = json.loads(output)
    columns = ("model", *(f"{side}: MiB, s a step" for side in SIDES))
    rows = [
        (name, *(f"{side['mib']:.0f}, {side['seconds']:.2f}" for side in sides.values()))
        for name, sides in result.items()
    ]
    print(f"Memory of a training step, batch {args.batch}, and its time")
    yardstick.print_table(columns, rows)
    return result


def generation(args: argparse.Namespace) -> dict[str, Any]:
    """Measures caches and sampling at several image sizes."""
    result: dict[str, Any] = {}
    for name in args.models:
        models = {}
        for height, width in SIZES:
            hyperparameters = {**MODELS[name]().hyperparameters, "shape": (1, height, width)}
            torch.manual_seed(0)
            models[f"{height} x {width}"] = type(MODELS[name]())(**hyperparameters).eval()
        seconds: dict[str, list[float]] = {size: [] for size in models}
        for _ in range(args.rounds):  # in turns, so that a busy moment affects all sizes
            for size, model in models.items():
                began = time.perf_counter()
                model.sample(args.batch)
                pixels = math.prod(model.shape)
                seconds[size].append((time.perf_counter() - began) / pixels)
        result[name] = {
            size: {
                "mib": model.start(args.batch).nbytes() / 2**20,
                "milliseconds": 1000 * statistics.median(seconds[size]),
            }
            for size, model in models.items()
        }
    columns = ("model", *(f"{height} x {width}" for height, width in SIZES))
    print(f"Sampling {args.batch} images, height x width: MiB of the cache, milliseconds a pixel")
    rows = [
        (name, *(f"{s['mib']:.2f}, {s['milliseconds']:.3f}" for s in sizes.values()))
        for name, sizes in result.items()
    ]
    yardstick.print_table(columns, rows)
    return result


def compression(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the codec on folders of several sizes."""
    result: dict[str, Any] = {}
    threads = str(torch.get_num_threads())
    nextpixel = [sys.executable, "-m", "nextpixel"]
    with tempfile.TemporaryDirectory() as place:
        torch.manual_seed(0)
        network = npx.PixelCNN(shape=(3, 8, 8), levels=256, width=3, blocks=1, head=3)
        model, file = Path(place) / "small.program", Path(place) / "file.npxz"
        model.write_bytes(compiled(network, [(8, 8)]))
        for pictures in args.pictures:
            folder = Path(place) / str(pictures)
            make_folder(folder, pictures, side=8)
            commands = {
                "compress": [str(model), str(folder), "-o", str(file)],
                "decompress": [str(file), "-o", f"{folder}-restored"],
            }
            result[f"{pictures:,}"] = {
                name: asdict(measure([*nextpixel, name, *options, "--threads", threads]))
                for name, options in commands.items()
            }
            file.unlink()
    print("Memory of the codec, pictures of 8 x 8 pixels: MiB of the process, and its time")
    yardstick.print_table(
        ("pictures", "compress", "decompress"),
        [
            (name, *(f"{x['resident']:.0f} MiB, {x['seconds']:.0f} s" for x in row.values()))
            for name, row in result.items()
        ],
    )
    return result


PARTS = {"training": training, "generation": generation, "compression": compression}


def main() -> None:
    """Measures one part, prints it and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="images at a time")
    parser.add_argument("--threads", type=int, metavar="N", help="number of processor threads")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="repetitions of each size"
    )
    parser.add_argument(
        "--pictures", nargs="+", type=int, default=[2000, 20_000], metavar="N", help="of a folder"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the measurements to FILE"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.child:
        train_here(*args.child, args.batch)
        return
    yardstick.write_json(args.json, {args.part: PARTS[args.part](args)})


if __name__ == "__main__":
    main()
