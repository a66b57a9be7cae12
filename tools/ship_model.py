"""Copies the best model of a run into the package, and writes its card.

    nextpixel train --config recipes/mnist/mnist-gated.yaml --out runs/mnist-gated
    python tools/ship_model.py runs/mnist-gated mnist-gated

The card describes the model, how and on which machine it was trained, and its scores on the whole
validation and test sets; `nextpixel eval NAME --json` prints the same numbers. For a
class-conditional model it also has the accuracy on the test set, or on --classify of its images.
"""

from __future__ import annotations

import argparse
import datetime
import json
from dataclasses import asdict
from pathlib import Path

import yaml

import nextpixel as npx
from nextpixel.evaluation.likelihood import classify, evaluate
from nextpixel.utils.files import replace_file
from nextpixel.utils.machine import machine
from nextpixel.utils.progress import progress

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = Path(npx.__file__).parent / "weights"


def main() -> None:
    """Copies the model, scores it and writes its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("name", help="the name of the model in the package")
    parser.add_argument(
        "--classify", type=int, metavar="N", help="classify N test images (default: all)"
    )
    parser.add_argument("--recipe", type=Path, help="its recipe (default: recipes/*/NAME.yaml)")
    args = parser.parse_args()
    recipe = find_recipe(args.name) if args.recipe is None else args.recipe.resolve()
    if recipe is None or not recipe.is_file() or not recipe.is_relative_to(ROOT):
        parser.error(
            f"there is no recipe {recipe or args.name} in this repository: give one as --recipe"
        )

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


def find_recipe(name: str) -> Path | None:
    """Finds the recipe of a name; returns None for none, or for several of the same name."""
    found = list((ROOT / "recipes").glob(f"*/{name}.yaml"))
    return found[0] if len(found) == 1 else None


if __name__ == "__main__":
    main()
