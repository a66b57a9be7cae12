"""Makes what lies beside this file: one of each kind of thing that nextpixel saves.

It was run once, with the version that preceded the refactoring of the whole package: the files and
the numbers in expected.json say how things were then. It does not run any more, because arguments
and attributes (`located`, `task`, `features`) have the names of then; the imports have today's.
Never make it run to let a failing test pass: what somebody saved then would still not load.

One number was changed since, on purpose: the pixels drawn from `vae`, whose codes had shared a
random stream with the particles' resampling (see nextpixel/noise.py).

    python tests/golden/make.py
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).resolve().parent
sys.path.append(str(GOLDEN.parent))
EXPECTED = GOLDEN / "expected.json"
if not EXPECTED.exists():
    EXPECTED.write_text('{"models": {}, "bundles": {}, "logits": {}, "stopped": {}}')

import test_golden as golden  # noqa: E402

import nextpixel as npx  # noqa: E402
from nextpixel.cli.main import main  # noqa: E402
from nextpixel.conditioning.classifier import load_classifier  # noqa: E402
from nextpixel.conditioning.degradation import Task  # noqa: E402
from nextpixel.conditioning.features import Features  # noqa: E402
from nextpixel.data.spectrogram import Spectrogram  # noqa: E402
from nextpixel.models.base.image_model import ImageModel  # noqa: E402
from nextpixel.nn.context_bias import ContextBias  # noqa: E402
from nextpixel.training.trainer import Run  # noqa: E402

GREY, COLOUR, LARGER = (1, 4, 4), (3, 4, 4), (1, 8, 8)
GATED = "--model GatedPixelCNN --model.width 4 --model.blocks 2 --model.kernel_size 3"
VQ = "--data data.npz --model.codes 8 --model.code_size 2 --model.width 2 --conditional false"
TRAIN = (
    "--train.steps 4 --train.batch_size 4 --train.lr 0.05 --train.warmup 1 --train.valid_every 2 "
    "--train.precision float32 --device cpu --threads 1"
)
STOPPED = {
    "plain": f"--data data.npz {GATED} --train.mutate 0.1 --train.accumulate 2",
    "inpaint": f"--data data.npz {GATED} --task inpaint --holes boxes --conditional false",
    "features": (
        f"--data data.npz {GATED} --features classifier --layer embedding --train.drop_context 0.5"
    ),
    "vq": f"--model VQVAE {VQ}",
    "prior": f"--data codes:stopped/vq {GATED}",
}
BEFORE = ("gated", "plain")  # older than the others: only measured


def run(words: str) -> None:
    """Runs a command, which may stop at an interrupt."""
    assert main(words.split()) in (0, 130), words


def make_data() -> None:
    """Makes images of two classes: darker ones and brighter ones."""
    random = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 16), ("valid", 6), ("test", 6)):
        y = np.arange(count) % 2
        x = random.integers(0, 3, (count, 8, 8)) + y[:, None, None]
        arrays |= {f"x_{split}": x.astype(np.uint8), f"y_{split}": y}
    np.savez_compressed("data.npz", levels=4, **arrays)


def models() -> dict[str, ImageModel]:
    """Makes a model of each class, and one of each thing that is saved beside the weights."""
    small = {"levels": 4, "width": 4, "blocks": 2}
    gated = {**small, "kernel_size": 3}
    latent = {"shape": LARGER, "levels": 4, "latent": 3}
    made: dict[str, ImageModel] = {
        "pixel-cnn": npx.PixelCNN(shape=COLOUR, levels=4, width=3, blocks=2, head=6),
        "gated-located": npx.GatedPixelCNN(shape=GREY, classes=3, located=True, **gated),
        "row-lstm": npx.RowLSTM(shape=GREY, classes=3, head=4, **small),
        "diagonal-bilstm": npx.DiagonalBiLSTM(shape=GREY, inputs="embedded", head=4, **small),
        "pixel-cnn-pp": npx.PixelCNNPP(
            shape=COLOUR, levels=256, width=4, blocks=1, stages=2, components=2
        ),
        "pixel-cnn-pp-embedded": npx.PixelCNNPP(
            shape=GREY, levels=4, classes=3, width=4, blocks=1, stages=2, inputs="embedded"
        ),
        "pixel-snail": npx.PixelSNAIL(
            shape=COLOUR, levels=256, width=4, blocks=1, layers=1, key=2, components=2
        ),
        "autoencoder": npx.Autoencoder(width=4, components=2, **latent),
        "vae": npx.VAE(width=4, likelihood="categorical", **latent),
        "pixel-cnn-autoencoder": npx.PixelCNNAutoencoder(
            encoder_width=4, width=4, blocks=2, kernel_size=3, **latent
        ),
        "inpaint": npx.GatedPixelCNN(shape=GREY, image=(2, 4, 4), **gated),
        "features-embedding": npx.GatedPixelCNN(shape=LARGER, vector=6, **gated),
        "features-conv2": npx.PixelCNN(shape=LARGER, image=(8, 2, 2), head=4, **small),
        "class-names": npx.GatedPixelCNN(shape=GREY, classes=3, **gated),
        "spectrogram": npx.GatedPixelCNN(shape=GREY, **gated),
    }
    classifier = load_classifier("classifier")
    made["inpaint"].task = Task("inpaint", holes="boxes")
    made["features-embedding"].features = Features(classifier, "embedding")
    made["features-conv2"].features = Features(classifier, "conv2")
    made["class-names"].class_names = ("ant", "bee", "fly")
    made["spectrogram"].spectrogram = Spectrogram(bands=4, frames=4, levels=4)
    return made


def save(name: str, model: ImageModel) -> None:
    """Saves a model with weights of which none is 0, as many are before training."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save(name)


def train_and_stop(name: str, words: str, scratch: str) -> list[dict[str, float]]:
    """Leaves a run that stopped after two of four steps, and returns what a whole one logs."""
    out = f"stopped/{name}"
    run(f"train --out {scratch}/{name} {words} {TRAIN}")
    train_step = Run.train_step

    def stopping(self: Run) -> dict[str, float]:
        if self.step == 1:
            signal.raise_signal(signal.SIGINT)
        return train_step(self)

    Run.train_step = stopping
    run(f"train --out {out} {words} {TRAIN}")
    Run.train_step = train_step
    return golden.metrics(f"{scratch}/{name}")


def make(scratch: str) -> None:
    """Makes everything, in the current folder."""
    make_data()
    run("classifier --data data.npz --out classifier --steps 4 --width 4 --embedding 6 --threads 1")
    made = models()
    for name, model in made.items():
        save(name, model)
    stopped = {name: train_and_stop(name, words, scratch) for name, words in STOPPED.items()}
    run("bundle stopped/vq stopped/prior --out bundle")
    run(f"train --out vq2 --model VQVAE2 {VQ} {TRAIN}")
    run(f"train --out top --data codes:vq2 {GATED} {TRAIN}")
    run(f"train --out bottom --data codes:vq2#bottom {GATED} {TRAIN}")
    run("bundle vq2 top bottom --out bundle-two-grids")
    for part in ("vq2", "top", "bottom"):
        shutil.rmtree(part)
    for part in ("tensorboard", "samples"):  # only a person looks at them
        for folder in Path("stopped").glob(f"*/{part}"):
            shutil.rmtree(folder)
    runs_and_parts = ["stopped/inpaint", "stopped/vq", "bundle/prior", "bundle-two-grids/decoder"]
    names = [*BEFORE, *made, *runs_and_parts]
    bundles = ("bundle", "bundle-two-grids")
    expected = {
        "models": {name: golden.measure(name) for name in names},
        "bundles": {name: golden.draw_from_bundle(name) for name in bundles},
        "logits": {"classifier": golden.classify("classifier")},
        "stopped": stopped,
    }
    EXPECTED.write_text("{\n" + ",\n".join(map(section, expected.items())) + "\n}\n")


def section(item: tuple[str, dict[str, object]]) -> str:
    """Writes a part of the record as JSON, a line for each name."""
    lines = (f"  {json.dumps(name)}: {json.dumps(what)}" for name, what in item[1].items())
    return f'"{item[0]}": {{\n' + ",\n".join(lines) + "\n}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    ContextBias.features = golden.FEATURES
    os.chdir(GOLDEN)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        make(scratch)
