"""Gets the program that codes images: of a model's name, a run, a .program, or a network."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from nextpixel.codec.coding import TOGETHER, Plan, bytes_of_tiles, count_parts
from nextpixel.codec.programs import shipped_programs
from nextpixel.engine import Program
from nextpixel.errors import UserError, did_you_mean
from nextpixel.model_folders import bundles, find, read_folder, recorded_classes, shipped
from nextpixel.utils.reading import read_regular, refusing_damage

if TYPE_CHECKING:
    from nextpixel.models.base.autoregressive import CausalNetwork

__all__ = [
    "CONTEXT",
    "Coding",
    "ModelLike",
    "Size",
    "best_canvas",
    "coding_of",
    "compiled",
    "refuse_more_than_a_class",
]

ModelLike: TypeAlias = "str | Path | CausalNetwork"
Size = tuple[int, int]  # height and width

CONTEXT = 8  # pixels around a tile that its canvas keeps for what is known, at most
SQUARES = (32, 64, 128, 256)  # canvases, unless all pictures are of one size
MEMORY = 1 << 28  # bytes that tiles side by side take
LARGEST = 512  # side of a picture that is coded as a whole


@dataclass(frozen=True)
class Coding:
    """A program to code images by.

    Attributes:
        name: What the model is called.
        file: The bytes of the program's file.
        shipped: Whether everybody who has nextpixel has this program.
        class_names: The names of its classes, or None.
        network: What the program was compiled from, if that is here; its weights can be rounded.
    """

    name: str
    file: bytes
    shipped: bool = False
    class_names: tuple[str, ...] | None = None
    network: CausalNetwork | None = None

    @cached_property
    def program(self) -> Program:
        """The program.

        Raises:
            UserError: It needs more than a class.
        """
        program = Program(self.file)
        refuse_more_than_a_class(program, self.name, "compress images")
        return program

    def plan(self, lanes: int = 1, pool: Executor | None = None, orders: int = 1) -> Plan:
        """How images are coded by it, see `Plan`."""
        return Plan(self.program, self.context, self.together, lanes, pool, orders)

    @property
    def together(self) -> int:
        """Tiles that are taken through a canvas side by side."""
        return max(1, min(TOGETHER, MEMORY // bytes_of_tiles(self.program, 1)))

    @property
    def context(self) -> tuple[int, int]:
        """Rows above a tile, and columns on each side of it, that are kept for what is known."""
        return context_of(self.program.shape[1:])


def refuse_more_than_a_class(program: Program, name: str, task: str) -> None:
    """Refuses a program whose context a compressed file or a page cannot give.

    Args:
        program: The program.
        name: What its model is called.
        task: What it cannot do.

    Raises:
        UserError: It is such a program.
    """
    if not set(program.inputs) - {"classes", "present"}:
        return
    needs = "more than a class"
    if "map" in program.inputs:
        needs = "features that PyTorch computes, of an image or (with spatial=True) of its class"
    raise UserError(
        f"{name} needs {needs}, and so cannot {task}: choose a model without a context, or with "
        "classes and without spatial=True, such as mnist."
    )


def context_of(canvas: Size) -> tuple[int, int]:
    """Returns the context of tiles on a canvas: at most a quarter of it."""
    return min(CONTEXT, canvas[0] // 4), min(CONTEXT, canvas[1] // 4)


def coding_of(model: ModelLike, sizes: Sequence[Size] = (), *, trust: bool = False) -> Coding:
    """Gets the program of a model; of a pretrained one the program that everybody has.

    Args:
        model: The name of a pretrained model, a run folder, a .program, or a network.
        sizes: `(H, W)` of the images, for a network that takes any size.
        trust: See `nextpixel.load`.

    Raises:
        UserError: There is no such model, or it cannot code images.
    """
    if not isinstance(model, str | Path):
        names = model.data_record.class_names
        return Coding(
            type(model).__name__, compiled(model, sizes), class_names=names, network=model
        )
    name = str(model)
    if name.endswith(".program"):
        return coding_of_file(Path(name))
    known = [*shipped(), *bundles()]
    if name not in known and not Path(name).exists() and (guess := did_you_mean(name, known)):
        raise UserError(f"There is no model {name}{guess}; nextpixel models lists them all.")
    folder = find(name)
    read_folder(folder, trust=trust)
    called = name if name in shipped() else Path(name).resolve().name
    programs = shipped_programs(name) if name in shipped() else {}
    if programs:
        file = programs[best_canvas(list(programs), sizes)]
        names = Program(file).description.get("class_names")
        if names is None and (classes := Program(file).classes):
            names = recorded_classes(folder, classes)
        return Coding(called, file, True, None if names is None else tuple(names))
    from nextpixel.models.base.autoregressive import CausalNetwork  # imports PyTorch
    from nextpixel.models.base.image_model import load

    network: Any = load(name, trust=trust)
    if not isinstance(network, CausalNetwork):
        raise UserError(f"{name} ({type(network).__name__}) cannot be compiled, nor compress.")
    names = network.data_record.class_names
    return Coding(called, compiled(network, sizes), class_names=names, network=network)


def coding_of_file(path: Path) -> Coding:
    """Reads a .program.

    Raises:
        UserError: It cannot be read.
    """
    with refusing_damage(path, "program", "give another"):
        file = read_regular(path)
    names = Program(file).description.get("class_names")
    return Coding(path.stem, file, class_names=None if names is None else tuple(names))


def compiled(network: CausalNetwork, sizes: Sequence[Size] = ()) -> bytes:
    """Compiles a network, for images of these sizes if it takes them; for its own size if not.

    Raises:
        UserError: The engine cannot run it.
    """
    spec = network.context_spec
    if sizes and spec.vector is None and spec.image is None:  # else `Coding.program` refuses it
        channels, own = network.shape[0], network.shape[1:]
        canvas = best_canvas([own, *canvases_for(sizes)], sizes)
        try:
            network = network.resized((channels, *canvas))
        except UserError as error:
            warnings.warn(f"{error} Images are coded in tiles of its own size.", stacklevel=2)
    with tempfile.TemporaryDirectory() as folder:
        network.save_program(path := Path(folder) / "model.program")
        return path.read_bytes()


def canvases_for(sizes: Sequence[Size]) -> list[Size]:
    """Lists canvases that may suit images of these sizes: squares, or the size of all of them."""
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST:
        return [sizes[0]]
    return [(side, side) for side in SQUARES]


def best_canvas(canvases: Sequence[Size], sizes: Sequence[Size]) -> Size:
    """Chooses the canvas on which images take the least work; the first one if there are none."""
    return min(canvases, key=lambda canvas: work_of(canvas, sizes))


def work_of(canvas: Size, sizes: Sequence[Size]) -> int:
    """Counts the pixels that are run to code images of these sizes on a canvas, at most."""
    above, beside = context_of(canvas)
    return sum(
        count_parts(height, canvas[0], above, 0)
        * min(height, canvas[0])
        * count_parts(width, canvas[1], beside, beside)
        * canvas[1]
        for height, width in sizes
    )
