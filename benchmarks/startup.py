"""Measures how long a user waits for help and for a first picture.

    python benchmarks/startup.py

Each command is run in its own process several times; the table shows the median. The time of the
picture includes starting Python, importing PyTorch, loading the model, sampling 784 pixels and
writing the file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from yardstick import median_seconds, print_table, write_json

COMMANDS = {
    "nextpixel --help": 0.5,
    "nextpixel sample mnist -n 1": 5.0,
}  # largest acceptable seconds


def main() -> None:
    """Measures the commands and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5, metavar="N", help="runs of each command")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the measurements to FILE"
    )
    args = parser.parse_args()

    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            arguments = [sys.executable, "-m", *command.split()]

            def run(arguments: list[str] = arguments) -> None:
                subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL)

            seconds[command] = median_seconds(run, args.times)
    print_table(
        ["command", "s", "at most"],
        [[f"`{name}`", f"{value:.2f}", f"{COMMANDS[name]}"] for name, value in seconds.items()],
    )
    write_json(args.json, seconds)


if __name__ == "__main__":
    main()
