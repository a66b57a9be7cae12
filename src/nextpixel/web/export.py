"""Writes pages that open from the disk and ask for nothing elsewhere.

A page holds the engine (WebAssembly), the program of a model, packed as in compressed files, and
the modules of `page/`, joined into one script for the page and one for its worker.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import shlex
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nextpixel.codec.models import Coding, coding_of, refuse_more_than_a_class
from nextpixel.codec.packing import pack_program
from nextpixel.codec.pictures import levels_of_picture
from nextpixel.engine import Program
from nextpixel.errors import UserError
from nextpixel.model_folders import bundles, shipped, training_record
from nextpixel.utils.files import atomic_write
from nextpixel.web.sounds import is_sound_model, sounds_of

__all__ = ["models_for_pages", "write_folder", "write_page"]

PAGE = files("nextpixel.web") / "page"
WASM = files("nextpixel.engine") / "libraries" / "engine-wasm32.wasm"
IMPORT = re.compile(r'^import (?:{[^}]*} from )?"\./(\w+)\.mjs";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=async |function |class |const |let )", re.MULTILINE)
EXAMPLES = "examples.png"  # of a pretrained model: pictures beside each other


def write_page(models: Sequence[str], out: Path, *, trust: bool = False) -> None:
    """Writes one HTML file with all that it needs.

    Args:
        models: Names of pretrained models, run folders or .program files.
        out: The file.
        trust: See `nextpixel.load`.

    Raises:
        UserError: A model cannot run in a page.
        OSError: The file cannot be written.
    """
    refuse_same_names(models)
    entries = {name_of(model): entry_of(model, trust) for model in models}
    with atomic_write(out) as file:
        file.write(html(entries).encode())


def write_folder(
    models: Sequence[str],
    out: Path,
    *,
    trust: bool = False,
    show: Callable[[float], None] | None = None,
) -> None:
    """Writes index.html and a script for each model, which the page loads when it is chosen.

    Args:
        models: As for `write_page`; pretrained models of sounds as well, see `sounds`.
        out: The folder; missing ones are created.
        trust: See `nextpixel.load`.
        show: Called with the fraction of the sounds that are done.

    Raises:
        UserError: A model cannot run in a page, or the folder holds a page of somebody else's.
        OSError: A file cannot be written.
    """
    index = out / "index.html"
    if index.exists() and b'id="page"' not in index.read_bytes():
        raise UserError(f"{index} is not a page of nextpixel: name another folder.")
    refuse_same_names(models)
    sounds = [model for model in models if is_sound_model(model)]
    pictures = [model for model in models if model not in sounds]
    if not pictures:
        raise UserError("A page needs a model of pictures, too, such as mnist.")
    out.mkdir(parents=True, exist_ok=True)
    entries = {}
    for model in pictures:
        name, entry = name_of(model), entry_of(model, trust)
        entry["script"] = write_script(out, name, entry.pop("body"))
        entries[name] = entry
    scripts = [write_script(out, name, sounds_of(name, show)) for name in sounds]
    with atomic_write(index) as file:
        file.write(html(entries, scripts).encode())


def write_script(out: Path, name: str, data: Any) -> str:
    """Writes data as a script, because a page on the disk may read no other file."""
    with atomic_write(out / f"{name}.js") as file:
        file.write(f"nextpixelLoaded({json.dumps(data)});\n".encode())
    return f"{name}.js"


def models_for_pages() -> list[str]:
    """Lists the pretrained models for a page: those that run in it, and those of sounds.

    The page opens with the first one: everybody can sketch a digit, and judge one.
    """
    pictures = [name for name, folder in shipped().items() if any(folder.glob("*.skeleton"))]
    pictures.sort(key=lambda name: name != "mnist")
    return [*pictures, *filter(is_sound_model, bundles())]


# --- models ---------------------------------------------------------------------------------------


def name_of(model: str) -> str:
    """Returns what a page calls a model."""
    if model in shipped() or model in bundles():
        return model
    return Path(model).stem if model.endswith(".program") else Path(model).resolve().name


def refuse_same_names(models: Sequence[str]) -> None:
    """Refuses models that a page would call by the same name.

    Raises:
        UserError: There are such.
    """
    names = [name_of(model) for model in models]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two of the models are called {name}: rename the folder of one.")


def entry_of(model: str, trust: bool) -> dict[str, Any]:
    """Returns what a page knows of a model, its program included.

    Raises:
        UserError: It cannot run in a page.
    """
    if is_sound_model(model):
        raise UserError(f"{model} makes sounds: write a folder, with a model of pictures as well.")
    coding = coding_of(model, trust=trust)
    program = Program(coding.file)
    refuse_more_than_a_class(program, model, "run in a page")
    if program.shape[0] not in (1, 3):
        raise UserError(f"{model} makes {program.shape[0]} channels, and a page shows 1 or 3.")
    record = {} if model.endswith(".program") else training_record(model)
    return {
        "body": base64.b64encode(pack_program(coding.file)).decode(),
        "sha256": hashlib.sha256(coding.file).hexdigest(),
        "shipped": coding.shipped,
        "argument": shlex.quote(model),
        "guidance": bool(record and record.get("train", {}).get("drop_context")),
        "class_names": coding.class_names,
        "examples": examples_of(model, coding),
    }


def examples_of(model: str, coding: Coding) -> list[str]:
    """Returns the levels of some pictures that a pretrained model brings, in base64."""
    path, program = shipped().get(model, Path()) / EXAMPLES, coding.program
    channels, _, width = program.shape
    if not path.is_file() or program.levels > 256:
        return []
    with Image.open(path) as picture:
        x = levels_of_picture(picture, channels, program.levels)
    if x is None:
        raise AssertionError(f"{path} holds other pictures than those of {model}")
    parts = np.split(x, x.shape[2] // width, axis=2)
    return [base64.b64encode(part.tobytes()).decode() for part in parts]


# --- pages ----------------------------------------------------------------------------------------


def html(entries: dict[str, dict[str, Any]], sounds: Sequence[str] = ()) -> str:
    """Fills in the page.

    Args:
        entries: The models, see `entry_of`.
        sounds: Scripts with sounds beside the page.
    """
    page = {
        "version": version("nextpixel"),
        "wasm": base64.b64encode(WASM.read_bytes()).decode(),
        "models": entries,
        "fields": fields(),
        "sounds": sounds,
    }
    filled = {
        "style": text("style.css"),
        "version": version("nextpixel"),
        "page": in_script(json.dumps(page)),
        "worker": in_script(json.dumps(script("worker"))),
        "app": script("app"),
    }
    return re.sub(r"{(\w+)}", lambda match: filled[match[1]], text("index.html"))


@cache
def fields() -> dict[str, Any]:
    """Returns what pixels depend on in each kind of network, see tools/make_fields.py."""
    png = (PAGE / "fields.png").read_bytes()
    with Image.open(io.BytesIO(png)) as picture:
        kinds, side = picture.info["kinds"].split(), math.isqrt(picture.width)
    return {"side": side, "kinds": kinds, "png": base64.b64encode(png).decode()}


def in_script(data: str) -> str:
    """Writes JSON so that no end of a script stands in it."""
    return data.replace("<", "\\u003c")


@cache
def text(name: str) -> str:
    """Reads a file of the page."""
    return (PAGE / name).read_text(encoding="utf-8")


@cache
def script(name: str) -> str:
    """Joins a module and all that it imports, as one script: each name is one thing in all."""
    joined = dict[str, str]()

    def add(module: str) -> None:
        source = text(f"{module}.mjs")
        for needed in IMPORT.findall(source):
            if needed not in joined:
                add(needed)
        joined[module] = EXPORT.sub("", IMPORT.sub("", source))

    add(name)
    return '"use strict";\n' + "\n".join(joined.values())
