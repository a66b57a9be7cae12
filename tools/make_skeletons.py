"""Writes the skeletons of pretrained models' programs, beside their weights.

    python tools/make_skeletons.py mnist
    python tools/make_skeletons.py photos --sizes 32x32 64x64 128x128 256x256

Files that were compressed by a pretrained model name its program by its hash. So a skeleton is
written once, when the model comes into the package, and never again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nextpixel as npx
from nextpixel.codec.skeletons import make_skeleton, program_of
from nextpixel.model_folders import shipped


def main() -> None:
    """Writes the skeletons of some models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="names of pretrained models")
    parser.add_argument("--sizes", nargs="*", help="sizes of images, HxW (default: the model's)")
    args = parser.parse_args()
    for name in args.names:
        shape = npx.load(name).shape
        for size in args.sizes or [f"{shape[1]}x{shape[2]}"]:
            write_skeleton(name, size)


def write_skeleton(name: str, size: str) -> None:
    """Writes the skeleton of a model's program for a size, HxW."""
    folder = shipped()[name]
    path = folder / f"program-{size}.skeleton"
    if path.exists():
        print(f"{path} exists: files may need it.")
        return
    height, width = map(int, size.split("x"))
    model = npx.load(name, shape=(npx.load(name).shape[0], height, width))
    with tempfile.TemporaryDirectory() as temporary:
        model.save_program(file := Path(temporary) / "model.program")
        program = file.read_bytes()
    weights = next(folder.glob("*.safetensors")).read_bytes()
    skeleton = make_skeleton(program, weights)
    assert program_of(skeleton, weights) == program
    path.write_bytes(skeleton)
    print(f"Wrote {path}: {len(skeleton):,} bytes for a program of {len(program):,}.")


if __name__ == "__main__":
    main()
