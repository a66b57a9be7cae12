"""Puts a trained run's best model into the package, with its card.

    nextpixel train --config recipes/mnist-gated.yaml --out runs/mnist-gated
    python recipes/ship.py runs/mnist-gated mnist-gated

The card says what the model is, how it was made, on which machine, and what it scores on the whole
validation and test sets: `nextpixel eval NAME --json` prints the same numbers. Of a
class-conditional model it also says how well it classifies the test set, or so many images of it;
with --classify the command prints that, too.
"""

from __future__ import annotations

import argparse
import datetime
import json
from dataclasses import asdict
from pathlib import Path

import yaml

import nextpixel as npx
from nextpixel.describe import machine
from nextpixel.evaluate import classify, evaluate
from nextpixel.files import replace_file
from nextpixel.options import progress

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = Path(npx.__file__).parent / "weights"


def main() -> None:
    """Copies the model, scores it and writes the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("name", help="the name to load the model by")
    parser.add_argument(
        "--classify", type=int, metavar="N", help="classify so many test images (default: all)"
    )
    parser.add_argument("--recipe", type=Path, help="its recipe (default: recipes/NAME.yaml)")
    args = parser.parse_args()
    recipe = (args.recipe or ROOT / "recipes" / f"{args.name}.yaml").resolve()
    if not recipe.is_file() or not recipe.is_relative_to(ROOT):
        parser.error(f"there is no recipe {recipe} in this repository: give one as --recipe")

    folder = WEIGHTS / args.name
    model = npx.load(args.run / "best")
    model.save(folder)
    config = yaml.safe_load((args.run / "config.yaml").read_text())
    saved = json.loads((folder / "config.json").read_text())
    dataset = npx.load_data(config["data"], levels=model.levels)
    scores = {}
    for split in ("valid", "test"):
        with progress(f"scoring {split}") as show:
            scores[split] = asdict(evaluate(model, getattr(dataset, split), progress=show))
        print(split, scores[split])
    command = f"nextpixel eval {args.name} --data {config['data']} --json"
    classified = {}
    if model.classes is not None:
        with progress("classifying test") as show:
            found = classify(model, dataset.test, limit=args.classify, progress=show)
        print(found)
        classified["accuracy"] = {
            "test": found.accuracy,
            "test_error": found.accuracy_error,
            "images": found.images,
            "command": f"{command} --classify"
            + (f" --limit {args.classify}" if args.classify else ""),
        }
    metrics = [json.loads(line) for line in (args.run / "metrics.jsonl").read_text().splitlines()]
    best = min((line for line in metrics if "valid" in line), key=lambda line: line["valid"])
    card = {
        "name": args.name,
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": (folder / saved["weights"]).stat().st_size,
        "sha256": saved["sha256"],
        "shape": model.shape,
        "levels": model.levels,
        "classes": model.classes,
        **({"task": model.conditioner.settings()} if model.role == "restore" else {}),
        "data": config["data"],
        "source": dataset.source,
        "images": {"train": len(dataset.train)},
        "recipe": recipe.relative_to(ROOT).as_posix(),
        "train": config["train"],
        "kept_step": best["step"],
        "training_seconds": round(metrics[-1]["seconds"]),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "scores": scores,
        "command": command,
        **classified,
    }
    replace_file(folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    print(f"Written: {folder / 'card.json'}")


if __name__ == "__main__":
    main()
