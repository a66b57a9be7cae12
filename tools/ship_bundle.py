"""Copies a trained VQ-VAE and its prior into the package, and writes their card.

    nextpixel train --config recipes/mnist/vq-vae-mnist.yaml --out runs/vq-vae-mnist
    nextpixel train --config recipes/mnist/vq-prior-mnist.yaml --out runs/vq-prior-mnist
    python tools/ship_bundle.py runs/vq-vae-mnist runs/vq-prior-mnist vq-mnist

Name each run folder after its recipe. The card holds the output of `nextpixel eval NAME --json` and
`nextpixel evaluate-samples NAME --data DATA --per-class 50 --json`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
from pathlib import Path
from typing import Any

from ship_model import ROOT, WEIGHTS, find_recipe

import nextpixel as npx
from nextpixel.cli.main import main as nextpixel
from nextpixel.model_folders import training_record
from nextpixel.utils.files import replace_file
from nextpixel.utils.machine import machine


def main() -> None:
    """Bundles the models, scores them and writes their card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("decoder", type=Path, help="the run folder of the VQ-VAE")
    parser.add_argument("prior", type=Path, help="the run folder of its prior")
    parser.add_argument("name", help="the name of the bundle in the package")
    args = parser.parse_args()

    folder = WEIGHTS / args.name
    run("bundle", str(args.decoder), str(args.prior), "--out", str(folder))
    generator = npx.LatentGenerator.load(folder)
    models = {"decoder": generator.decoder, "prior": generator.prior}
    data = training_record(folder / "decoder")["data"]
    parts = {}
    for part, model in models.items():
        training = getattr(args, part)
        recipe = find_recipe(training.name)
        if recipe is None:
            parser.error(
                f"there is no recipe {training.name}.yaml: name the run folder after its recipe"
            )
        metrics = [json.loads(x) for x in (training / "metrics.jsonl").read_text().splitlines()]
        best = min((line for line in metrics if "valid" in line), key=lambda line: line["valid"])
        parts[part] = {
            "model": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "recipe": recipe.relative_to(ROOT).as_posix(),
            "kept_step": best["step"],
            "training_seconds": round(metrics[-1]["seconds"]),
        }
    commands = {
        "codes": ["eval", args.name, "--json"],
        "quality": [
            *("evaluate-samples", args.name, "--data", data),
            *("--per-class", "50", "--json"),
        ],
    }
    card = {
        "name": args.name,
        "model": f"VQVAE and {type(generator.prior).__name__}",
        "parameters": sum(part["parameters"] for part in parts.values()),
        "bytes": sum(file.stat().st_size for file in folder.rglob("*.safetensors")),
        "shape": generator.shape,
        "levels": generator.levels,
        "classes": generator.classes,
        "data": data,
        "source": npx.load_data(data).source,
        **parts,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    for entry, words in commands.items():
        card[entry] = {"command": " ".join(["nextpixel", *words]), **json.loads(run(*words))}
    replace_file(folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    print(f"Written: {folder / 'card.json'}")


def run(*words: str) -> Any:
    """Runs a command of nextpixel and returns its output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = nextpixel(list(words))
    if status:
        raise SystemExit(status)
    print(printed.getvalue(), end="")
    return printed.getvalue()


if __name__ == "__main__":
    main()
