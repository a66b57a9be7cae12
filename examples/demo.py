"""Trains a small model on MNIST and shows its results on one page; `make demo` runs this.

The digits have 4 grey levels, so that a few minutes on two processor cores are enough. The page
ends with samples of a pretrained model (256 levels, trained longer).
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch

import nextpixel as npx
from nextpixel import sampling
from nextpixel.conditioning.regions import half_mask
from nextpixel.data import Dataset
from nextpixel.evaluation import likelihood
from nextpixel.training.choosing import choose_threads
from nextpixel.training.estimate import ONE_THREAD
from nextpixel.utils.progress import progress
from nextpixel.viz import charts
from nextpixel.viz import images as pictures
from nextpixel.viz.report import Section, write_report

OUT = Path("runs/demo")
LEVELS = 4
SETTINGS = {"width": 24, "blocks": 1, "inputs": "embedded", "dropout": 0.0}
STEPS, BATCH = 1200, 16


def main() -> None:
    """Trains, scores, samples, completes, and writes the report."""
    shutil.rmtree(OUT, ignore_errors=True)
    digits = npx.load_data("mnist", levels=LEVELS)
    by_class = torch.arange(100) // 10

    every = torch.get_num_threads()
    if choose_threads(digits, minutes=10) < every:
        print(ONE_THREAD.format(every))
    print(f"Training a PixelCNN++ on MNIST with {LEVELS} grey levels, {STEPS} steps ...")
    began = time.monotonic()
    torch.manual_seed(0)
    net = npx.PixelCNNPP(shape=digits.shape, levels=LEVELS, classes=10, **SETTINGS)
    npx.fit(
        net,
        digits,
        out=OUT,
        steps=STEPS,
        batch_size=BATCH,
        lr=2.8e-3,
        ema=0.995,
        valid_every=400,
        valid_images=500,
    )
    seconds = time.monotonic() - began
    model = npx.load(OUT)

    with progress("scoring the test set") as show:
        score = likelihood.evaluate(model, digits.test, progress=show)
    print(f"Test: {score}")

    with progress("sampling 100 digits") as show:
        frames, sites = sampling.film(model, 100, by_class, seed=1, progress=show)
    pictures.save_image(pictures.grid(frames[-1], LEVELS, columns=10), OUT / "digits.png")
    pictures.save_gif(
        pictures.sampling_frames(frames, sites, LEVELS, columns=10, scale=2), OUT / "growing.gif"
    )
    wrong = sampling.all_at_once(model, 100, by_class, seed=1)
    both = {
        "all at once: wrong": pictures.grid(wrong, LEVELS, columns=10, scale=2),
        "pixel by pixel: right": pictures.grid(frames[-1], LEVELS, columns=10, scale=2),
    }
    pictures.save_image(pictures.captioned_row(both), OUT / "all-at-once.png")

    bits = complete_halves(model, digits)

    print("Sampling 100 digits from the pretrained model with 256 levels ...")
    pretrained = npx.load("mnist")
    with progress("sampling 100 digits") as show:
        x = pretrained.sample(100, by_class, seed=1, progress=show)
    pictures.save_image(pictures.grid(x, 256, columns=10), OUT / "pretrained.png")

    records = [json.loads(line) for line in (OUT / "metrics.jsonl").read_text().splitlines()]
    charts.loss_curve(records, OUT / "loss.svg")
    parameters = sum(p.numel() for p in model.parameters())
    results = [
        ("Test score", f"{score.bits_per_dim:.4f} ± {score.bits_per_dim_error:.4f} bits/dim"),
        ("", f"{score.nats:.2f} ± {score.nats_error:.2f} nats per image"),
        ("Images scored", f"{score.images:,}, given their classes"),
        ("Hidden halves", f"{bits:.1f} bits each, the mean of 8 images"),
        ("Network", f"PixelCNN++, {parameters:,} parameters"),
        ("Trained for", f"{STEPS} steps of {BATCH} images, {seconds:.0f} s here"),
    ]
    write_report(OUT / "report.html", "nextpixel: the demo", sections(results))
    print(f"Done. Open {OUT / 'report.html'}; its pictures are in {OUT}, too.")


def complete_halves(model: npx.AutoregressiveModel, digits: Dataset) -> float:
    """Completes test digits whose lower half is hidden, and returns the hidden bits of an image."""
    pixels, classes = digits.test.batch(np.arange(8))
    x, c = torch.from_numpy(pixels), torch.from_numpy(classes)
    known = half_mask("top", *digits.shape[1:])
    columns = {
        "original": pictures.to_uint8(x, LEVELS),
        "given": pictures.tint_unknown(x, known, LEVELS),
    }
    with progress("completing hidden halves") as show:
        for k in range(4):
            show(k / 4)
            numbers = range(8 * k, 8 * (k + 1))
            completed = npx.complete(model, x, known, c, seed=2, numbers=numbers)
            columns[f"completion {k + 1}"] = pictures.to_uint8(completed, LEVELS)
    bits = likelihood.hidden_bits(model, x, known, c)
    columns["bits per pixel"] = pictures.heat_map(bits.sum(1).masked_fill(known, torch.nan))
    pictures.save_image(pictures.side_by_side(columns, 256), OUT / "completions.png")
    return bits.flatten(1).sum(1).mean().item()


def sections(results: list[tuple[str, str]]) -> list[Section]:
    """Returns the sections of the report."""
    return [
        Section(
            "What this is",
            "A pixel model writes the probability of an image as a product of one factor for each "
            "pixel, given the pixels before it: those in the rows above and those to the left. A "
            "network learns the factors by maximum likelihood. Its score is exact, and sampling "
            "follows the same order, pixel by pixel.",
            table=results,
        ),
        Section(
            "New digits", image=OUT / "digits.png", caption="A class in each row, sampled just now."
        ),
        Section(
            "How they grow",
            image=OUT / "growing.gif",
            caption="The same digits while they are sampled, in raster order.",
        ),
        Section(
            "Why pixel by pixel",
            "In training, all pixels are predicted in one pass, because the pixels before each of "
            "them are known. In sampling they are not: if all pixels are sampled in one pass from "
            "an empty image, they are independent of each other.",
            image=OUT / "all-at-once.png",
            caption="The same network, the same noise.",
        ),
        Section(
            "Hidden halves",
            "The upper half of test digits is given, the lower half is sampled. The last column "
            "shows how many bits each true pixel takes: the more, the more surprising it is.",
            image=OUT / "completions.png",
            caption="Each pixel is sampled given those above it and to its left only.",
        ),
        Section("Learning", image=OUT / "loss.svg", caption="Bits/dim over the training steps."),
        Section(
            "A pretrained model",
            "mnist, trained longer and on 256 grey levels, comes with nextpixel.",
            image=OUT / "pretrained.png",
            caption="A class in each row.",
            code="nextpixel sample mnist -n 100 --columns 10 --out digits.png",
        ),
    ]


if __name__ == "__main__":
    main()
