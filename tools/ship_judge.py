"""Trains a classifier of real images (a judge), copies it into the package, and writes its card.

    python tools/ship_judge.py judge-mnist
    python tools/ship_judge.py judge-spoken-digits

The card says how and on which machine it was trained, and its accuracy on the whole test set;
`nextpixel evaluate-samples` prints the same numbers in its first row.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import nextpixel as npx
from nextpixel.cli.main import main as nextpixel
from nextpixel.conditioning.classifier import load_classifier
from nextpixel.evaluation.sample_quality import classify_images, name_words
from nextpixel.utils.files import replace_file
from nextpixel.utils.machine import machine

COMMANDS = {
    "judge-fashion-mnist": "classifier --data fashion-mnist --width 24 --steps 5000",
    "judge-mnist": "classifier --data mnist --width 16 --steps 3000",
    "judge-spoken-digits": (
        "classifier --data spoken-digits --width 16 --embedding 32 --steps 3000"
    ),
}
JUDGES = Path(npx.__file__).parent / "judges"


def main() -> None:
    """Trains the judge, copies it and writes the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=COMMANDS, help="the name of the classifier in the package")
    name = parser.parse_args().name

    run, folder = Path("runs") / name, JUDGES / name
    command = f"{COMMANDS[name]} --out {run}"
    if not run.exists() and (status := nextpixel(command.split())):
        raise SystemExit(status)
    judge = load_classifier(run)
    judge.save(folder)
    saved = json.loads((folder / "config.json").read_text())
    data = npx.load_data(name.removeprefix("judge-"))
    whole, by_word = classify_images(judge, data.test, name_words(data.class_names or ()))
    accuracy = {
        "test": whole.accuracy,
        "test_error": whole.accuracy_error,
        "images": whole.images,
        "words": {
            word: {"test": found.accuracy, "test_error": found.accuracy_error}
            for word, found in by_word.items()
        },
    }
    card = {
        "name": name,
        "model": type(judge).__name__,
        "parameters": sum(p.numel() for p in judge.parameters()),
        "bytes": (folder / saved["weights"]).stat().st_size,
        "sha256": saved["sha256"],
        "shape": judge.shape,
        "levels": judge.levels,
        "classes": judge.classes,
        "data": data.name,
        "source": data.source,
        "images": {"train": len(data.train)},
        "command": f"nextpixel {command}",
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "accuracy": accuracy,
    }
    replace_file(folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    print(f"Written: {folder / 'card.json'}")


if __name__ == "__main__":
    main()
