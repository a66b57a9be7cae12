"""How long a user waits for help and for a first picture.

    python benchmarks/startup.py

Each command is a process of its own, started as often as asked; the median counts. The drawn
picture includes all: Python, PyTorch, the model, 784 pixels of it and the file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from yardstick import median_seconds, print_table, write_json

COMMANDS = {"nextpixel --help": 0.5, "nextpixel sample mnist-gated -n 1": 5.0}  # seconds asked for


def main() -> None:
    """Measures the commands and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5, help="how often each is run")
    parser.add_argument("--json", type=Path, help="also write what was measured here")
    args = parser.parse_args()

    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            arguments = [sys.executable, "-m", *command.split()]

            def run(arguments: list[str] = arguments) -> None:
                subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL)

            seconds[command] = median_seconds(run, args.times)
    print_table(
        ["command", "s", "asked for"],
        [[f"`{name}`", f"{value:.2f}", f"{COMMANDS[name]}"] for name, value in seconds.items()],
    )
    write_json(args.json, seconds)


if __name__ == "__main__":
    main()
