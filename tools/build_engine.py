"""Builds the engine's libraries for all machines, on any machine, with the pinned ziglang.

    make engine                             # after a change of src/nextpixel/engine/native
    python tools/build_engine.py --check    # builds them again and compares the bytes

The libraries are committed. So a clean clone, an editable install and a wheel all draw at full
speed without a compiler, and every user runs the same bytes, which CI reproduces. Building them
when the package is installed would make a compiler of 100 MB a build requirement, and give every
machine a wheel of its own. Each library holds the digest of its sources, flags and compiler; a
test refuses a library that was built from others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "nextpixel" / "engine" / "native"
LIBRARIES = SOURCES.parent / "libraries"
DIGESTS = "digests.json"  # of the libraries, for nextpixel.engine.library

# -ffp-contract=off: a product and a sum are rounded apart, on every machine.
FLAGS = (
    *("-std=gnu11", "-O3", "-ffp-contract=off", "-ffreestanding", "-fno-sanitize=all"),
    *("-fvisibility=hidden", "-g0", "-Wall", "-Wextra", "-Werror", "-Wframe-larger-than=4096"),
)
LINK = ("-shared", "-nostdlib")
ELF = (*LINK, "-Wl,--build-id=none")
AVX512 = "x86_64+avx512f+avx512dq+avx512bw+avx512vl"
X86_64 = {"basic": "x86_64", "avx2": "x86_64+avx2", "avx512": AVX512}


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        triple: How the compiler calls it.
        variants: Sets of instructions, of which the library chooses one when it is loaded:
            the processor for each variant of run.c.
        compile: Flags of the compiler.
        link: Flags of the linker.
    """

    triple: str
    variants: dict[str, str]
    compile: tuple[str, ...] = ()
    link: tuple[str, ...] = LINK


# Linux: no C library is linked, so it does not matter which one the machine has.
TARGETS = {
    "engine-linux-x86_64.so": Target("x86_64-linux-musl", X86_64, ("-fPIC",), ELF),
    "engine-linux-aarch64.so": Target("aarch64-linux-musl", {"basic": "generic"}, ("-fPIC",), ELF),
    "engine-macos-x86_64.dylib": Target(
        "x86_64-macos.11.0", X86_64, link=(*LINK, "-Wl,-install_name,@rpath/engine.dylib")
    ),
    "engine-macos-arm64.dylib": Target(
        "aarch64-macos.11.0",
        {"basic": "apple_m1"},
        link=(*LINK, "-Wl,-install_name,@rpath/engine.dylib"),
    ),
    # Without probes of the stack, which need a function of the C library; frames are small.
    # /Brepro: a hash in the place of the time.
    "engine-windows-x86_64.dll": Target(
        "x86_64-windows-gnu", X86_64, ("-mno-stack-arg-probe",), (*LINK, "-Wl,/Brepro")
    ),
    "engine-wasm32.wasm": Target(
        "wasm32-freestanding",
        {"basic": "generic+simd128"},
        link=("-Wl,--no-entry", "-Wl,--export-dynamic", "-Wl,--export=__heap_base"),
    ),
}


def pinned() -> str:
    """Returns the version of ziglang that builds the libraries."""
    found = re.search(r"^ziglang==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def digest() -> str:
    """Computes the SHA-256 of what the libraries are built from: sources, flags and compiler."""
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.*"))}
    return hashlib.sha256(repr((pinned(), FLAGS, TARGETS, sources)).encode()).hexdigest()


class Builder:
    """Builds libraries in a folder of its own, in which the compiler keeps its cache, too.

    Attributes:
        folder: The folder, empty at first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cache = str(folder / "cache")
        self._environment = {
            **os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache
        }  # fmt: skip
        self._digest = f'-DNP_DIGEST="{digest()}"'

    def build(self, name: str) -> bytes:
        """Builds a library and returns its bytes."""
        target = TARGETS[name]
        folder = self.folder / name.partition(".")[0]
        folder.mkdir()
        several = ["-DNP_VARIANTS"] if len(target.variants) > 1 else []
        plain = target.variants["basic"]
        objects = [
            self._compile(target, folder, "engine", plain, self._digest, *several),
            self._compile(target, folder, "memory", plain, "-fno-builtin"),
        ]
        for variant, cpu in target.variants.items():
            objects.append(
                self._compile(target, folder, "run", cpu, f"-DNP_VARIANT={variant}", to=variant)
            )
        self._zig(folder, "-target", target.triple, "-s", "-g0", *target.link, *objects, "-o", name)
        return (folder / name).read_bytes()

    def _compile(
        self, target: Target, folder: Path, source: str, cpu: str, *flags: str, to: str = ""
    ) -> str:
        made = f"{to or source}.o"
        how = ("-target", target.triple, f"-mcpu={cpu}", *FLAGS, *target.compile, *flags)
        self._zig(SOURCES, *how, "-c", f"{source}.c", "-o", str(folder / made))
        return made

    def _zig(self, folder: Path, *words: str) -> None:
        # -P: a ziglang.py in the current folder is not what is wanted.
        command = [sys.executable, "-P", "-m", "ziglang", "cc", *words]
        done = subprocess.run(
            command, cwd=folder, env=self._environment, text=True, capture_output=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}:\n{done.stderr}")


def build_all() -> dict[str, bytes]:
    """Builds all libraries; returns their bytes, and those of the file of their digests."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        files = dict(zip(TARGETS, pool.map(Builder(Path(folder)).build, TARGETS), strict=True))
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return {**files, DIGESTS: (json.dumps(digests, indent=2) + "\n").encode()}


def main() -> None:
    """Builds the libraries, or checks those that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; compare with the libraries there"
    )
    check = parser.parse_args().check
    try:
        version = metadata.version("ziglang")
    except metadata.PackageNotFoundError:
        parser.error("ziglang is not installed: pip install -c constraints.txt ziglang")
    if version != pinned():
        parser.error(f"ziglang {version} is installed, but constraints.txt has {pinned()}")

    files = build_all()
    if check:
        there = {path.name: path.read_bytes() for path in LIBRARIES.glob("*")}
        wrong = sorted(n for n in files.keys() | there if files.get(n) != there.get(n))
        if wrong:
            raise SystemExit(f"not what the sources give: {', '.join(wrong)}; run make engine")
        print(f"{len(files)} files are what the sources give")
        return
    LIBRARIES.mkdir(exist_ok=True)
    for name, data in files.items():
        (LIBRARIES / name).write_bytes(data)
        print(f"{len(data):9,} {name}")


if __name__ == "__main__":
    main()
