"""Programs for `nextpixel sample`, from a file or kept in the user's cache, without PyTorch.

Importing PyTorch takes longer than drawing a few images. So a model that the engine can run is
compiled once, and its program is kept. It belongs to the files that it was made of: if the weights,
the configuration, nextpixel's sources or PyTorch's version change, it is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nextpixel.cli.contexts import Classes, is_mix
from nextpixel.data import DataRecord
from nextpixel.engine import Program
from nextpixel.errors import UserError
from nextpixel.model_folders import SavedModel, find, read_folder, recorded_classes
from nextpixel.utils.files import cache_folder

if TYPE_CHECKING:
    from nextpixel.models.base.image_model import ImageModel

__all__ = ["ProgramModel", "is_program", "keep_program", "kept_program", "load_program"]

SUFFIX = ".program"
MOST_BYTES = 500_000_000  # that all kept programs take together
SOURCES = ("context.py", "distributions.py", "engine", "models", "nn")  # decide about a program


@dataclass(frozen=True)
class ProgramModel:
    """A program, and what its model keeps of its data.

    Attributes:
        program: The program.
        data_record: The names of the classes, and the settings of spectrograms.
    """

    program: Program
    data_record: DataRecord

    @property
    def levels(self) -> int:
        """A pixel is an integer in `[0, levels)`."""
        return self.program.levels

    @property
    def classes(self) -> int | None:
        """Number of classes, or None."""
        return self.program.classes or None

    def sample(
        self,
        n: int,
        c: Classes | None,
        *,
        seed: int,
        temperature: float,
        guidance: float,
        batch_size: int,
        threads: int | None,
        progress: Callable[[float], None],
    ) -> NDArray[np.int64]:
        """Samples n images, as `sampling.sample` does; c are class ids `(n,)`, a mix, or None."""
        pictures = []
        for begin in range(0, n, batch_size):
            numbers = range(begin, min(begin + batch_size, n))
            context = {}
            if c is not None:
                context["classes"] = c if is_mix(c) else c[begin : numbers.stop]

            def show(done: float, numbers: range = numbers) -> None:
                progress((numbers.start + len(numbers) * done) / n)

            x = self.program.sample(
                len(numbers),
                seed=seed,
                numbers=numbers,
                temperature=temperature,
                guidance=guidance,
                threads=threads,
                progress=show,
                **context,
            )
            pictures.append(x)
        return np.concatenate(pictures)


def is_program(name: str) -> bool:
    """Checks whether a name is that of a program's file, as `nextpixel export` writes it."""
    return name.endswith(SUFFIX) and Path(name).is_file()


def load_program(path: str) -> ProgramModel:
    """Loads a program from a file.

    Raises:
        UserError: It is no program, or damaged.
    """
    program = Program.load(path)
    try:
        record = DataRecord.from_settings(program.description)
    except (TypeError, ValueError, AttributeError, KeyError):
        raise UserError(f"{path}: its description is not one that nextpixel writes.") from None
    return ProgramModel(program, record)


def kept_program(name: str) -> ProgramModel | None:
    """Finds the program that was kept for a saved model.

    Returns:
        The program; None if there is none, or anything is wrong with it or with the model's folder.
    """
    try:
        folder = find(name)
        saved = read_folder(folder)
        program = Program.load(path_of(saved))
    except (UserError, OSError):
        return None
    if "map" in program.inputs:  # kept by an earlier version
        return None
    record, classes = DataRecord.from_settings(saved.config), program.classes or None
    if record.class_names is None and classes is not None:
        record = replace(record, class_names=recorded_classes(folder, classes))
    return ProgramModel(program, record)


def keep_program(name: str, model: ImageModel) -> None:
    """Keeps the program of a saved model for the next command, if the engine can run it.

    Nothing happens if it cannot, if the model needs more than a class, or if the cache cannot be
    written.

    Args:
        name: The model's name or folder.
        model: The model.
    """
    from nextpixel.models.base.autoregressive import CausalNetwork
    from nextpixel.nn.context_bias import ContextBias

    if not isinstance(model, CausalNetwork) or set(model.context_spec.parts) - {"classes"}:
        return
    if any(isinstance(part, ContextBias) and part.spatial for part in model.modules()):
        return  # PyTorch computes features of its classes
    with suppress(UserError, OSError):
        saved = read_folder(find(name))
        if saved.config["sha256"] != model.digest():  # replaced since it was loaded
            return
        path = path_of(saved)
        model.save_program(path)
        remove_oldest(path.parent)


def path_of(saved: SavedModel) -> Path:
    """Returns the path of the program that is kept for a saved model."""
    key = hashlib.sha256(json.dumps(saved.config, sort_keys=True).encode())
    for file in sources():
        key.update(file.read_bytes())
    return cache_folder() / "programs" / f"{key.hexdigest()[:32]}{SUFFIX}"


def sources() -> Iterator[Path]:
    """Yields the files that decide about a program besides the model's own: nextpixel's, and that
    with PyTorch's version, which computes the constants.
    """
    for name in SOURCES:
        path = Path(__file__).parents[1] / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]
    torch = find_spec("torch")
    if torch is not None and torch.origin is not None:
        yield Path(torch.origin).with_name("version.py")


def remove_oldest(folder: Path) -> None:
    """Removes the oldest programs, so that all together take at most `MOST_BYTES`."""
    files = sorted(folder.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > MOST_BYTES:
            file.unlink()
