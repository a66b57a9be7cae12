"""Copies the best model of a run into the package, and writes its card.

    nextpixel train --config recipes/mnist/mnist.yaml --out runs/mnist
    python tools/ship_model.py runs/mnist mnist

    python tools/ship_model.py runs/photos-second photos --earlier runs/photos \
        --whole ../shared/data/kodak --attribution ../shared/data/photos/ATTRIBUTION.tsv

The card describes the model, how and on which machine it was trained, and its scores on the whole
validation and test sets; `nextpixel eval NAME --json` prints the same numbers. For a
class-conditional model it also has the accuracy on the test set, or on --classify of its images;
for a model of any size, with --whole, its scores on whole pictures in their place; for one of
several orders of the pixels that of all orders together, on the test set or --limit-orders of it.
"""

from __future__ import annotations

import argparse
import datetime
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

import nextpixel as npx
from nextpixel.cli.commands.evaluate import mixture_of_orders
from nextpixel.codec.sources import list_files
from nextpixel.data import Images
from nextpixel.evaluation.likelihood import classify, evaluate
from nextpixel.evaluation.whole import bits_per_dim, score_whole
from nextpixel.model_folders import shipped
from nextpixel.models.base.image_model import ImageModel
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
    parser.add_argument(
        "--limit-orders", type=int, metavar="N", help="score N test images in all orders of pixels"
    )
    parser.add_argument("--recipe", type=Path, help="its recipe (default: recipes/*/NAME.yaml)")
    parser.add_argument(
        "--earlier", type=Path, nargs="+", default=[], help="runs whose weights it began with"
    )
    parser.add_argument("--whole", type=Path, help="a folder of pictures to score as wholes")
    parser.add_argument("--source", help="where the data come from (default: what the data say)")
    parser.add_argument("--attribution", type=Path, help="a file that names the data's authors")
    args = parser.parse_args()
    recipe = find_recipe(args.name) if args.recipe is None else args.recipe.resolve()
    if recipe is None or not recipe.is_file() or not recipe.is_relative_to(ROOT):
        parser.error(
            f"there is no recipe {recipe or args.name} in this repository: give one as --recipe"
        )

    for path in (args.whole, args.attribution, *args.earlier):
        if path is not None and not path.exists():
            parser.error(f"there is no {path}")

    folder = WEIGHTS / args.name
    model = npx.load(args.run / "best")
    model.save(folder)
    config = yaml.safe_load((args.run / "config.yaml").read_text())
    saved = json.loads((folder / "config.json").read_text())
    dataset = npx.load_data(config["data"], levels=model.levels)
    scores = {}
    for split in ("valid", "test") if args.whole is None else ():
        with progress(f"scoring {split}") as show:
            scores[split] = asdict(evaluate(model, getattr(dataset, split), progress=show))
        print(split, scores[split])
    data = yaml.safe_load(recipe.read_text())["data"]
    command = f"nextpixel eval {args.name} --data {data} --json"
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
    if model.orders > 1:
        scores["all orders"] = score_all_orders(model, command, dataset.test, args.limit_orders)
    if args.whole is not None:
        scores["whole"] = score_pictures(model, args.name, args.whole)
    if args.attribution is not None:
        (folder / args.attribution.name).write_bytes(args.attribution.read_bytes())
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
        "data": data,
        "source": args.source or dataset.source,
        "images": {"train": len(dataset.train)},
        "recipe": recipe.relative_to(ROOT).as_posix(),
        **({"from": config["from"]} if config.get("from") in shipped() else {}),
        "train": config["train"],
        "kept_step": best["step"],
        "training_seconds": round(metrics[-1]["seconds"]),
        **({"earlier": [earlier_run(run) for run in args.earlier]} if args.earlier else {}),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "scores": scores,
        **({"command": command} if args.whole is None else {}),
        **classified,
    }
    replace_file(folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    print(f"Written: {folder / 'card.json'}")


def score_all_orders(
    model: ImageModel, command: str, test: Images, limit: int | None
) -> dict[str, Any]:
    """Scores the test set, or `limit` of its images, by the mixture of all orders of the pixels."""
    with progress("scoring in all orders") as show:
        found = evaluate(model, test.subset(limit), progress=show, score=mixture_of_orders)
    print("all orders", found)
    limited = f" --limit {limit}" if limit else ""
    return {"command": f"{command} --all-orders{limited}", **asdict(found)}


def score_pictures(model: ImageModel, name: str, folder: Path) -> dict[str, Any]:
    """Scores the pictures of a folder, each at its own size."""
    paths = [Path(*each) for each in list_files([folder])[0]]
    with progress("scoring pictures") as show:
        found = score_whole(model, name, paths, show)
    return {
        "command": f"nextpixel eval {name} --whole {folder} --json",
        "data": folder.name,
        "bits_per_dim": bits_per_dim(found),
        "pictures": {one.path.name: bits_per_dim([one]) for one in found},
    }


def earlier_run(run: Path) -> dict[str, Any]:
    """Describes a run whose weights the model began with."""
    seconds = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    options = yaml.safe_load((run / "config.yaml").read_text())["train"]
    return {"train": options, "training_seconds": round(seconds)}


def find_recipe(name: str) -> Path | None:
    """Finds the recipe of a name; returns None for none, or for several of the same name."""
    found = list((ROOT / "recipes").glob(f"*/{name}.yaml"))
    return found[0] if len(found) == 1 else None


if __name__ == "__main__":
    main()
