"""Measures the speed-up of the samplers over one full pass of the textbook's network per pixel.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --models PixelCNN GatedPixelCNN --batches 1 16 --json speed.json
    python benchmarks/sampling.py --busy
    python benchmarks/sampling.py --scores

Both networks have the same weights, which are random: the time does not depend on them. A full pass
takes the same time at every pixel, so a few pixels, spread over the picture, are timed, and the
median is scaled up to all of them. A model is compiled when it first samples: the first time has
its own column.

`--busy` measures something else: how long drawings take where other programs want every
processor. `--scores` compares scoring by the engine, site by site, with one parallel pass.

Every row is checked: with the same noise, full passes must sample the same picture. The picture is
put through the textbook's network once, and every pixel is sampled again from the distribution
given all pixels before it. If all pixels stay the same, full passes sample this very picture. Where
the noise lies within 1e-5 of an edge of the distribution, rounding in float32 may decide: these
ties are counted and shown. Any other difference ends the benchmark with an error.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yardstick import (
    limits,
    multiplications,
    print_table,
    textbook,
    wait,
    write_json,
)

import nextpixel as npx
from nextpixel import sampling
from nextpixel.engine import Program
from nextpixel.engine.compile import compile_model
from nextpixel.models.base.autoregressive import AutoregressiveModel
from nextpixel.sampling.config import site_noise
from nextpixel.utils import machine

MODELS: dict[str, Callable[[], AutoregressiveModel]] = {
    "PixelCNN": lambda: npx.PixelCNN(shape=(1, 28, 28)),
    "GatedPixelCNN": lambda: npx.GatedPixelCNN(shape=(1, 28, 28), width=128, blocks=15),
    "PixelCNNPP": lambda: npx.PixelCNNPP(shape=(3, 32, 32)),
    "PixelSNAIL": lambda: npx.PixelSNAIL(shape=(1, 28, 28)),
    "RowLSTM": lambda: npx.RowLSTM(shape=(1, 28, 28)),
    "DiagonalBiLSTM": lambda: npx.DiagonalBiLSTM(shape=(1, 28, 28)),
}
TIE = 1e-5  # in probability
LONG = 10.0  # seconds after which nothing is measured once more, but for a second drawing
LONGEST = 60.0  # seconds of a first drawing, compiling included, after which there is no second


def full_seconds(book: AutoregressiveModel, n: int, sites: int) -> float:
    """Times full passes at a few pixels, and scales the time up to a whole batch of pictures."""
    channels, height, width = book.shape
    steps = height * width * (1 if getattr(book, "whole_pixels", False) else channels)
    x = torch.randint(book.levels, (n, *book.shape), device=book.device)
    noise = site_noise(book.shape, 0, range(n)).to(book.device)
    seconds: list[float] = []
    with torch.inference_mode():
        for step in range(sites + 1):
            row, col = height * step // (sites + 1), width * step // (sites + 1)
            began = time.perf_counter()
            x[:, 0, row, col] = book(x).at(row, col, 0).sample(noise[:, 0, row, col])
            wait(book.device)
            seconds.append(time.perf_counter() - began)
            if sum(seconds) > LONG:
                break
    # The first pass is slower than the others: where there are others, it does not count.
    return steps * statistics.median(seconds[1:] or seconds)


def draw(
    model: AutoregressiveModel, n: int, sampler: sampling.Sampler
) -> tuple[Tensor, float, float]:
    """Samples pictures up to six times, and takes the times; the first one includes compiling.

    Returns:
        The pictures, the seconds of the first time, and the median seconds of the others.
    """
    seconds: list[float] = []
    while len(seconds) < 6 and sum(seconds) < (LONG if len(seconds) > 1 else LONGEST):
        began = time.perf_counter()
        x = model.sample(n, batch_size=n, sampler=sampler)
        seconds.append(time.perf_counter() - began)
    return x, seconds[0], statistics.median(seconds[1:] or seconds)


def count_ties(book: AutoregressiveModel, x: Tensor) -> int:
    """Samples every pixel again by full passes, and counts the pixels that differ by a tie.

    Raises:
        SystemExit: A pixel differs that is no tie.
    """
    noise = site_noise(book.shape, 0, range(len(x))).to(book.device)
    x = x.to(book.device)
    ties = 0
    with torch.inference_mode():
        for begin in range(0, len(x), 16):
            part = slice(begin, begin + 16)
            distribution = book(x[part])
            for row in range(book.shape[1]):  # probabilities of whole pictures take much memory
                here = (slice(None), slice(None), row)
                of_row = distribution[here]
                differs = of_row.sample(noise[part][here]) != x[part][here]
                if not bool(differs.any()):
                    continue
                edges = of_row.pmf().cumsum(-1)[differs]
                distance = (edges - noise[part][here][differs][:, None]).abs().amin(-1)
                if float(distance.max()) > TIE:
                    raise SystemExit("The picture is not the one that full passes sample.")
                ties += int(differs.sum())
    return ties


def measure(
    name: str, n: int, sites: int, device: torch.device, top: dict[str, float]
) -> dict[str, Any]:
    """Measures one row."""
    torch.manual_seed(0)
    model = MODELS[name]().eval().to(device)
    book = textbook(model).eval()
    full = full_seconds(book, n, sites)
    _, _, cached = draw(model, n, "cached")
    x, first, ours = draw(model, n, "auto")
    work = multiplications(model) * math.prod(model.shape[1:])  # of an image
    return {
        "model": name,
        "batch": n,
        "full_passes_s": full,
        "cached_s": cached,
        "first_s": first,
        "ours_s": ours,
        "ratio_cached": full / cached,
        "ratio": full / ours,
        "ties": count_ties(book, x),
        "pixels": n * math.prod(model.shape),
        "of_products": 2 * work * n / ours / 1e9 / top["gflops"],
        "of_reading": 4 * work / ours / 1e9 / top["gbytes"],
    }


def row_of(result: dict[str, Any]) -> list[str]:
    """Returns one row of the table."""
    return [
        result["model"],
        str(result["batch"]),
        f"{result['full_passes_s']:.0f}",
        f"{result['cached_s']:.2f}",
        f"{result['first_s']:.3g}",
        f"{result['ours_s']:.3g}",
        f"{result['ratio_cached']:.0f}",
        f"**{result['ratio']:.0f}**",
        f"{result['ties']} of {result['pixels']:,}",
        f"{result['of_products']:.0%}",
        f"{result['of_reading']:.0%}",
    ]


COLUMNS = [
    "model",
    "images at once",
    "full passes, s",
    "cached in PyTorch, s",
    "ours, the first time, s",
    "ours, s",
    "speed-up, cached",
    "speed-up, ours",
    "ties",
    "share of the matrix-product rate",
    "share of the reading rate",
]


def seconds(run: Callable[[], object], times: int = 7) -> float:
    """Times a function: the median of some runs after the first."""
    run()
    measured = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def measure_busy(name: str, loops: int) -> list[dict[str, Any]]:
    """Times drawings alone, then beside processes that never wait."""
    model = npx.load(name)
    c = 3 if model.context_spec.classes else None

    def drawings() -> dict[int, float]:
        return {n: seconds(lambda n=n: model.sample(n, c)) for n in (1, 64)}  # type: ignore[misc]

    alone = drawings()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        time.sleep(1)
        beside = drawings()
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return [
        {"batch": n, "alone_s": alone[n], "busy_s": beside[n], "ratio": beside[n] / alone[n]}
        for n in alone
    ]


def measure_scores(name: str, n: int = 64) -> dict[str, float]:
    """Times the scores of n images, by the engine and by a parallel pass."""
    model = npx.load(name)
    c = [k % 10 for k in range(n)] if model.context_spec.classes else None
    x, program = model.sample(n, c), Program(compile_model(model))
    context = {} if c is None else {"classes": c}
    threads = torch.get_num_threads()
    with torch.inference_mode():
        parallel = seconds(lambda: model.log_prob(x, c))
    engine = seconds(lambda: program.log_prob(x.numpy(), threads=threads, **context), times=3)
    nats = torch.from_numpy(program.log_prob(x.numpy(), **context))
    more = float((model.log_prob(x, c).detach() - nats).mean())
    cost = more / math.prod(model.shape) / math.log(2)
    return {"batch": n, "parallel_s": parallel, "engine_s": engine, "cost_bits_per_dim": cost}


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64, 256], metavar="N")
    parser.add_argument(
        "--sites", type=int, default=20, metavar="N", help="full passes to time, at most"
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the measurements to FILE"
    )
    parser.add_argument("--busy", action="store_true", help="measure beside six busy loops")
    parser.add_argument("--scores", action="store_true", help="measure scores, not samples")
    args = parser.parse_args()
    print(f"{machine.machine()}, {torch.get_num_threads()} threads")
    if args.busy:
        rows = measure_busy("mnist", loops=6)
        print_table(
            ["images", "alone, s", "beside six busy loops, s", "times as long"],
            [[f"{x:.3g}" for x in row.values()] for row in rows],
        )
        write_json(args.json, {"machine": machine.machine(), "busy": rows})
        return
    if args.scores:
        scores = measure_scores("mnist")
        print_table(
            ["images", "a parallel pass, s", "the engine, s", "cost of whole numbers, bits/dim"],
            [[f"{x:.3g}" for x in scores.values()]],
        )
        write_json(args.json, {"machine": machine.machine(), "scores": scores})
        return
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    top = limits(args.device)
    print(f"Limits: {top['gflops']:.0f} GFLOP/s in matrix products, {top['gbytes']:.0f} GB/s read")
    results = []
    for name in args.models:
        for n in args.batches:
            results.append(measure(name, n, args.sites, args.device, top))
            print(" | ".join(row_of(results[-1])), flush=True)
    print()
    print_table(COLUMNS, [row_of(result) for result in results])
    write_json(args.json, {"machine": machine.machine(), "limits": top, "rows": results})


if __name__ == "__main__":
    main()
