"""All that nextpixel reads from files: a good file of each kind, and the function that reads it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image

from nextpixel.cli.describe import explain
from nextpixel.cli.train_options import recipe_of, train_settings
from nextpixel.codec import compress as compressing
from nextpixel.codec.compress import compress
from nextpixel.codec.decompress import Compressed
from nextpixel.comparison.measure import read_config, read_metrics
from nextpixel.comparison.run import read_steps
from nextpixel.data import Dataset
from nextpixel.data import Images as Split
from nextpixel.data.catalogue import load
from nextpixel.data.folders import read_picture
from nextpixel.data.pictures import to_images
from nextpixel.data.readers import read_amat, read_bytes, read_cifar_delta
from nextpixel.data.sound_files import read_wav
from nextpixel.data.sounds import load_sounds, read_zip, spoken_digits
from nextpixel.engine.program import Images, Program
from nextpixel.evaluation.anomaly import read_labels
from nextpixel.evaluation.thresholds import Threshold
from nextpixel.evaluation.typicality import FEATURES
from nextpixel.latents.generator import LatentGenerator
from nextpixel.model_folders import training_record
from nextpixel.models.base.image_model import load as load_model
from nextpixel.nn.context_bias import ContextBias
from nextpixel.training import recipes
from nextpixel.training.begun import begun_record
from nextpixel.training.checkpoint import MAGIC, load_state
from nextpixel.training.recipes import make_features
from nextpixel.training.report import read_metrics as read_log
from tests.codec.files import repaired
from tests.engine.test_same_bits import build
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "golden"
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 1, 8, 8), np.uint8)
COLOUR = np.kron(RNG.integers(0, 256, (6, 6, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
WAVE = np.sin(np.arange(4000) / 5).astype(np.float64) / 2
Read = Callable[[Path, bytes], None]


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        content: Makes a good one.
        read: Writes content into an empty folder and reads it. It must end well, or in a
            `UserError`; where a checksum covers the content, what is read must be right, too.
        text: Whether it is text.
    """

    content: Callable[[], bytes]
    read: Read
    text: bool = False


def file(name: str, use: Callable[[Path], object]) -> Read:
    """Reads a file that is alone in its folder."""

    def read(folder: Path, data: bytes) -> None:
        (folder / name).write_bytes(data)
        use(folder / name)

    return read


def among(source: Path, name: str, use: Callable[[Path], object]) -> Read:
    """Reads a copy of a folder in which one file has other content."""

    def read(folder: Path, data: bytes) -> None:
        copy = folder / "copy"
        shutil.copytree(source, copy)
        (copy / name).write_bytes(data)
        use(copy)

    return read


def same(name: str, content: Callable[[], bytes], use: Callable[[Path], Any]) -> Read:
    """Reads a file alone in its folder; what it gives must be what the undamaged one gives."""

    @cache
    def right() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(content())
            return use(Path(folder) / name)

    def check(path: Path) -> None:
        if use(path) != right():
            raise AssertionError("other content was read without a word")

    return file(name, check)


# --- pictures, arrays and sounds ------------------------------------------------------------------


def picture(ending: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(COLOUR).convert(mode).save(
        out, Image.registered_extensions()[ending], **options
    )
    return out.getvalue()


def see(path: Path) -> None:
    read_picture(path, 16, 3)
    to_images(path)


def folder_of_pictures(folder: Path, data: bytes) -> None:
    (folder / "own").mkdir()
    for i in range(20):
        (folder / "own" / f"{i}.png").write_bytes(picture(".png"))
    (folder / "own" / "3.png").write_bytes(data)
    load(folder / "own", resize=8)


def npz(save: Callable[..., None], **more: Any) -> bytes:
    out = io.BytesIO()
    save(out, x=GREY, y=np.arange(20) % 3, **more)
    return out.getvalue()


def npy(x: Any = GREY) -> bytes:
    out = io.BytesIO()
    np.save(out, x)
    return out.getvalue()


def digest(path: Path) -> str:
    return load(path).digest


def idx(x: Any, zip_: bool) -> bytes:
    head = b"\0\0\x08" + bytes([x.ndim]) + np.array(x.shape, ">u4").tobytes()
    data = head + x.tobytes()
    return gzip.compress(data) if zip_ else data


def idx_with_labels(folder: Path, data: bytes) -> None:
    (folder / "a-images-idx3-ubyte").write_bytes(idx(GREY[:, 0], zip_=False))
    (folder / "a-labels-idx1-ubyte").write_bytes(data)
    load(folder / "a-images-idx3-ubyte")


def own_folder(folder: Path) -> Path:
    own = folder / "own"
    own.mkdir()
    for i, x in enumerate(GREY):
        Image.fromarray(x[0]).save(own / f"{i}.png")
        os.utime(own / f"{i}.png", (0, 0))
    return own


@cache
def cache_file() -> bytes:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as here:
        here.setenv("XDG_CACHE_HOME", f"{name}/cache")
        load(own_folder(Path(name)))
        return next(Path(name).rglob("images.npz")).read_bytes()


def cached(folder: Path, data: bytes) -> None:
    """Damage in the cache of decoded pictures must be noticed, and they are decoded again."""
    own = own_folder(folder)
    before = load(own).digest
    (path,) = (folder / "cache").rglob("images.npz")
    path.unlink()  # it is still mapped
    path.write_bytes(data)
    if load(own).digest != before:
        raise AssertionError("other images were read without a word")


def cifar_archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for i in range(1, 6):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/data_batch_{i}.bin")
            member.size = 3073
            archive.addfile(member, io.BytesIO(bytes(3073)))
    return out.getvalue()


def cifar(folder: Path, data: bytes) -> None:
    (folder / "cifar10").mkdir()
    (folder / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(data)
    load("cifar10", data_dir=folder, download=False)


def sound(format_: str, subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, WAVE, 8000, subtype, format=format_)
    return out.getvalue()


def archive_of_sounds() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in (0, 5, 10, 11):
            archive.writestr(f"recordings/3_theo_{number}.wav", sound("WAV", "PCM_16"))
    return out.getvalue()


def digits(path: Path) -> None:
    spoken_digits(read_zip(path), path, "a test")


def folder_of_sounds(folder: Path, data: bytes) -> None:
    (folder / "own").mkdir()
    for i in range(20):
        (folder / "own" / f"{i}.wav").write_bytes(sound("WAV", "PCM_16"))
    (folder / "own" / "3.wav").write_bytes(data)
    load_sounds(folder / "own")


# --- models, runs and what they have written ------------------------------------------------------


def golden(name: str) -> Callable[[], bytes]:
    return (GOLDEN / name).read_bytes


def weights_of(name: str) -> Path:
    return next((GOLDEN / name).glob("*.safetensors"))


def load_small(path: Path) -> None:
    with patch.object(ContextBias, "features", 8):  # as `tests/golden/make.py` made them
        load_model(path)


def classifier(path: Path) -> None:
    make_features(str(path), "embedding")


def signed_weights(folder: Path, data: bytes) -> None:
    """Damaged weights whose hash is right."""
    copy = folder / "copy"
    shutil.copytree(GOLDEN / "gated", copy)
    config = json.loads((copy / "config.json").read_text())
    config["sha256"] = hashlib.sha256(data).hexdigest()
    (copy / "config.json").write_text(json.dumps(config))
    (copy / config["weights"]).write_bytes(data)
    load_model(copy)


def card() -> bytes:
    return json.dumps({"data": "mnist", "levels": 4, "train": {"steps": 3, "lr": 1e-3}}).encode()


def with_card(path: Path) -> None:
    training_record(path)
    explain(str(path), (1, 8, 8), 4, None)


def run_config() -> bytes:
    config = {
        "model": {"class_path": "PixelCNN", "init_args": {"width": 4}},
        "data": "mnist",
        "levels": 4,
        "train": {"steps": 3, "lr": 1e-3, "batch_size": 4, "ema": 0.9},
    }
    return yaml.safe_dump(config).encode()


def resume(folder: Path, data: bytes) -> None:
    (folder / "config.yaml").write_bytes(data)
    train_settings(["--resume", str(folder)])
    read_config(folder)


def train(path: Path) -> None:
    train_settings(["--config", str(path), "--out", str(path.with_name("out"))])


def sizes() -> bytes:
    model = {
        "class_path": "GatedPixelCNN",
        "init_args": {"width": 4, "blocks": 2, "kernel_size": 3},
    }
    return yaml.safe_dump({"model": model, "data": "mnist", "train": {"steps": 3}}).encode()


def make(path: Path) -> None:
    """Makes the model of a recipe, on a machine of 1 GiB, whatever this one has."""
    settings = train_settings(["--config", str(path), "--out", str(path.with_name("out"))])
    images = Split(GREY, None, 256)
    dataset = Dataset("grey", images, images, images, 256, None, "")
    with patch.object(recipes, "memory", lambda: 2**30):
        recipe_of(settings).make_model(dataset)


def begun(folder: Path, data: bytes) -> None:
    (folder / "last").mkdir()
    (folder / "last" / "config.json").write_bytes(data)
    begun_record(folder)


def state() -> dict[str, Any]:
    weight = torch.arange(6.0).reshape(2, 3)
    return {"model": {"w": weight}, "optimizer": {"state": {}}, "step": 3, "best": 0.5, "watch": {}}


@cache
def state_file(plain: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(state(), out)
    data = out.getvalue()
    return data if plain else MAGIC + hashlib.sha256(data).digest() + data


def state_of(path: Path) -> str:
    loaded = load_state(path)
    return repr([loaded[name] for name in sorted(loaded, key=str)])


def signed_state(folder: Path, data: bytes) -> None:
    """A damaged state whose hash is right."""
    (folder / "state.pt").write_bytes(MAGIC + hashlib.sha256(data).digest() + data)
    load_state(folder / "state.pt")


def metrics() -> bytes:
    return b"".join(json.dumps({"step": i, "loss": 1 / i}).encode() + b"\n" for i in (1, 2, 3))


def threshold() -> bytes:
    record = {
        "threshold": 1.5,
        "quantile": 0.99,
        "ordinary": "digits",
        "model": "m",
        "features": list(FEATURES),
        "ordinary_features": RNG.normal(size=(30, len(FEATURES))).tolist(),
    }
    return json.dumps(record).encode()


# --- programs and compressed files ----------------------------------------------------------------


@cache
def program() -> bytes:
    return build("PixelCNN of two levels")


def run_program(path: Path) -> None:
    loaded = Program.load(path)
    levels = np.zeros((1, *loaded.shape), np.int64)
    loaded.begin(Images(levels, {}))


@cache
def compressed() -> bytes:
    x = RNG.integers(0, 2, (6, *Program(program()).shape), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.program").write_bytes(program())
        np.savez(Path(folder) / "x.npz", x=x)
        out = Path(folder) / "x.npxz"
        with patch.object(compressing, "MOST_IMAGES", 2):  # three chunks
            compress(str(Path(folder) / "a.program"), str(Path(folder) / "x.npz"), out, embed=True)
        return out.read_bytes()


def pixels_of(path: Path, salvage: bool = False) -> list[bytes]:
    with Compressed(path, salvage=salvage) as images:
        return [np.asarray(x.levels).tobytes() for chunk in images.images() for x in chunk]


@cache
def known_pixels() -> set[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.npxz").write_bytes(compressed())
        return set(pixels_of(Path(folder) / "a.npxz"))


def salvage(path: Path) -> None:
    if not set(pixels_of(path, salvage=True)) <= known_pixels():
        raise AssertionError("other pixels were salvaged")


def read_repaired(path: Path) -> None:
    """Reads a file whose checksums were made to fit: only what they guard may be wrong."""
    path.write_bytes(repaired(path.read_bytes()))
    salvage(path)
    if not set(pixels_of(path)) <= known_pixels():
        raise AssertionError("other pixels were read")


PICTURES = ("png", "jpg", "webp", "gif", "bmp", "tif", "tga", "ppm", "ico", "pcx")
KINDS: Mapping[str, Kind] = {
    **{
        ending: Kind(partial(picture, f".{ending}"), file(f"a.{ending}", see))
        for ending in PICTURES
    },
    "palette.png": Kind(partial(picture, ".png", "P"), file("a.png", see)),
    "folder of pictures": Kind(partial(picture, ".png"), folder_of_pictures),
    "npz": Kind(partial(npz, np.savez), same("a.npz", partial(npz, np.savez), digest)),
    "npz deflated": Kind(partial(npz, np.savez_compressed), file("a.npz", load)),
    "npz with levels": Kind(partial(npz, np.savez, levels=256), file("a.npz", load)),
    "npy": Kind(npy, file("a.npy", load)),
    "npy of numbers": Kind(
        partial(npy, np.arange(500).reshape(20, 5, 5) % 256), file("a.npy", load)
    ),
    "idx": Kind(partial(idx, GREY[:, 0], False), file("a-images-idx3-ubyte", load)),
    "idx.gz": Kind(partial(idx, GREY[:, 0], True), file("a-images-idx3-ubyte.gz", load)),
    "idx labels": Kind(partial(idx, np.arange(20, dtype=np.uint8), False), idx_with_labels),
    "cache": Kind(cache_file, cached),
    "amat.gz": Kind(
        lambda: gzip.compress(b" ".join([b"0", b"1"] * 392) + b"\n", mtime=0),
        file("a.amat.gz", lambda path: read_amat(read_bytes(path))),
    ),
    "cifar tar.gz": Kind(cifar_archive, cifar),
    "cifar delta": Kind(
        lambda: npz(np.savez, delta=np.zeros((3, 2, 32, 32), np.uint8), labels=np.arange(2)),
        file("a.npz", read_cifar_delta),
    ),
    "wav": Kind(partial(sound, "WAV", "PCM_16"), file("a.wav", read_wav)),
    "wav of floats": Kind(partial(sound, "WAV", "FLOAT"), file("a.wav", read_wav)),
    "flac": Kind(partial(sound, "FLAC"), file("a.flac", read_wav)),
    "ogg": Kind(partial(sound, "OGG"), file("a.ogg", read_wav)),
    "zip of sounds": Kind(archive_of_sounds, file("a.zip", digits)),
    "folder of sounds": Kind(partial(sound, "WAV", "PCM_16"), folder_of_sounds),
    "model": Kind(
        golden("gated/config.json"), among(GOLDEN / "gated", "config.json", load_model), True
    ),
    "model with classes": Kind(
        golden("class-names/config.json"),
        among(GOLDEN / "class-names", "config.json", load_model),
        True,
    ),
    "model of sounds": Kind(
        golden("spectrogram/config.json"),
        among(GOLDEN / "spectrogram", "config.json", load_model),
        True,
    ),
    "model with features": Kind(
        golden("features-conv2/config.json"),
        among(GOLDEN / "features-conv2", "config.json", load_small),
        True,
    ),
    "model that restores": Kind(
        golden("inpaint/config.json"), among(GOLDEN / "inpaint", "config.json", load_small), True
    ),
    "classifier": Kind(
        golden("classifier/config.json"),
        among(
            GOLDEN / "classifier", "config.json", lambda path: make_features(str(path), "embedding")
        ),
        True,
    ),
    "weights": Kind(
        weights_of("gated").read_bytes,
        among(GOLDEN / "gated", weights_of("gated").name, load_model),
    ),
    "signed weights": Kind(weights_of("gated").read_bytes, signed_weights),
    "card": Kind(card, among(GOLDEN / "gated", "card.json", with_card), True),
    "training.yaml": Kind(
        run_config, among(GOLDEN / "gated", "training.yaml", training_record), True
    ),
    "bundle": Kind(
        golden("bundle/bundle.json"),
        among(GOLDEN / "bundle", "bundle.json", LatentGenerator.load),
        True,
    ),
    "options": Kind(run_config, file("a.yaml", train), True),
    "recipe": Kind(sizes, file("a.yaml", make), True),
    "run": Kind(run_config, resume, True),
    "begun": Kind(
        golden("class-names/config.json"),
        begun,
        True,
    ),
    "state": Kind(state_file, same("state.pt", state_file, state_of)),
    "old state": Kind(partial(state_file, True), same("state.pt", state_file, state_of)),
    "signed state": Kind(partial(state_file, True), signed_state),
    "metrics": Kind(metrics, file("metrics.jsonl", lambda path: read_metrics(path.parent)), True),
    "log": Kind(metrics, file("metrics.jsonl", lambda path: read_log(path.parent)), True),
    "steps": Kind(
        lambda: b'{"simple": {"seconds": 3, "steps": 40}}', file("plan.json", read_steps), True
    ),
    "threshold": Kind(threshold, file("t.json", lambda path: Threshold.load(path, "m")), True),
    "labels": Kind(
        lambda: b"image,anomaly\na.png,1\nb.png,0\n",
        file("l.csv", lambda path: read_labels(path, ["a.png", "b.png"])),
        True,
    ),
    "program": Kind(program, file("a.program", run_program)),
    "npxz": Kind(compressed, same("a.npxz", compressed, pixels_of)),
    "npxz salvaged": Kind(compressed, file("a.npxz", salvage)),
    "npxz repaired": Kind(compressed, file("a.npxz", read_repaired)),
}
