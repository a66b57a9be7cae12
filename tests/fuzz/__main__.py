"""Damages inputs of all kinds and reads them.

python -m tests.fuzz 1000 --seed 3
python -m tests.fuzz 1000 --kind npz --keep faults   # one kind; inputs with faults are kept
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.kinds import KINDS
from tests.fuzz.run import BATCH, faults, inputs


def main() -> int:
    """Runs the fuzzer; the exit status is 1 if there were faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("times", type=int, help="the number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same inputs")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="only this kind")
    parser.add_argument("--keep", type=Path, help="a folder for inputs with faults")
    args = parser.parse_args()
    start, found, done = time.monotonic(), 0, 0
    waiting = []
    for each in inputs(args.times, args.seed, args.kind or ()):
        waiting.append(each)
        done += 1
        if len(waiting) < BATCH and done < args.times:
            continue
        for fault in faults(waiting):
            found += 1
            print(f"--- {fault.input.kind}\n{fault.what}")
            if args.keep is not None:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{fault.input.kind}.{found}").write_bytes(fault.input.data)
        waiting = []
    seconds = time.monotonic() - start
    print(
        f"{args.times:,} inputs of {len(args.kind or KINDS)} kinds, {found} faults, {seconds:.0f} s"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
