"""Programs of models: compiled when a model first samples, kept while nothing about it changes."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from nextpixel.context import Context
from nextpixel.engine import Images, Program
from nextpixel.engine.affine import NotAffineError
from nextpixel.engine.compile import Compilable, compile_model
from nextpixel.engine.library import load_library
from nextpixel.errors import UserError
from nextpixel.sampling.config import IncrementalModel, Sampler
from nextpixel.utils.files import atomic_write
from nextpixel.utils.inference import evaluation_mode

__all__ = ["images_of", "program_of", "save_program"]

NAME = "_kept_program"  # an attribute of the model, so that the garbage collector finds it


def program_of(model: IncrementalModel, sampler: Sampler) -> Program | None:
    """Returns the program of a model, to sample from it by the engine.

    Args:
        model: The model.
        sampler: "engine", or "auto" for the engine where it surely fits: nextpixel's own layers, in
            float32 on the CPU, without hooks. A user's layers may do what a program does not do
            again, such as to count their calls.

    Returns:
        The program; None if another sampler is to be used.

    Raises:
        UserError: The sampler is "engine", and the model cannot be compiled.
    """
    if sampler not in ("engine", "auto"):
        return None
    if obstacle := obstacle_of(model, sampler):
        if sampler == "engine":
            raise UserError(f"The engine cannot run this model: {obstacle}.")
        return None
    try:
        program = kept_program(cast("nn.Module", model))
    except UserError as error:  # there is no engine for this machine
        program = str(error)
    if isinstance(program, Program):
        return program
    if sampler == "engine":
        raise UserError(f"The engine cannot run this model: {program}")
    warnings.warn(f"Sampling without the engine, which is slow: {program}", stacklevel=2)
    return None


def save_program(
    model: nn.Module, path: str | os.PathLike[str], description: Mapping[str, Any]
) -> None:
    """Compiles a model and writes the program to a file, atomically.

    The model samples by this program from now on.

    Args:
        model: The model.
        path: Where to write; missing folders are created.
        description: What the file says about itself, see `Program`.

    Raises:
        UserError: The model cannot be compiled.
        OSError: The file cannot be written.
    """
    if obstacle := obstacle_of(cast(IncrementalModel, model), "engine"):
        raise UserError(f"The engine cannot run this model: {obstacle}.")
    try:
        file = compile_model(cast(Compilable, model), description)
    except NotAffineError as error:
        raise UserError(f"The engine cannot run this model: {error}") from None
    keep(model, Program(file), Fingerprint.of(model), checksums_of(model))
    with atomic_write(Path(path)) as out:
        out.write(file.data)


def obstacle_of(model: IncrementalModel, sampler: Sampler) -> str | None:
    """Says why a model is not for the engine; None if it is."""
    if os.environ.get("NEXTPIXEL_ENGINE") == "0":
        return "NEXTPIXEL_ENGINE is 0"
    if not isinstance(model, nn.Module) or not hasattr(model, "condition"):
        return "it has no cached path"
    tensors = [x for module in model.modules() for x in own_tensors(module)]
    if any(x.device.type != "cpu" for x in tensors):
        return "it is not on the CPU"
    if any(x.is_floating_point() and x.dtype != torch.float32 for x in tensors):
        return "its weights are not float32"
    return own_code(model) if sampler == "auto" else None


def own_code(model: nn.Module) -> str | None:
    """Says what code of the user a model may run, that a program would not; else None."""
    packages, modules = {"nextpixel", "torch"}, list(model.modules())
    if any(hasattr(module, "parametrizations") for module in modules):
        return "it has parametrized layers"
    if not {type(module).__module__.partition(".")[0] for module in modules} <= packages:
        return "it has layers of your own"
    if any(callable(x) for module in modules for x in list(vars(module).values())):
        return "it has methods of your own"
    everywhere = torch.nn.modules.module
    hooks = [everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks]
    hooks += [h for m in modules for h in (m._forward_hooks, m._forward_pre_hooks)]
    return "it has hooks" if any(hooks) else None


def images_of(
    model: IncrementalModel,
    x: Tensor,
    context: Context | None,
    noise: Tensor,
    mask: Tensor | None,
) -> Images:
    """Gives a batch to the engine.

    Args:
        model: The model.
        x: The images, `(n, C, H, W)`, whose known pixels are set; the engine writes the others.
        context: The context; with guidance, followed by the null contexts.
        noise: In [0, 1), `(n, C, H, W)`, float64.
        mask: True at known pixels, `(n, C, H, W)`; or None.
    """
    inputs: dict[str, Any] = {}
    if context is not None:
        condition = cast(Compilable, model).condition
        with torch.inference_mode(), evaluation_mode(condition) as network:
            maps = network.maps(context)
        parts = {"classes": context.choices, "vector": context.vector, "present": context.present}
        parts["map"] = maps
        inputs = {
            name: part.float().contiguous().numpy()
            for name, part in parts.items()
            if part is not None
        }
    known = None if mask is None else mask.contiguous().numpy()
    return Images(x.numpy(), inputs, noise.contiguous().numpy(), known)


# --- keeping --------------------------------------------------------------------------------------


@dataclass(eq=False)
class KeptProgram:
    """A model's program, and what it depends on.

    Attributes:
        model: The model it belongs to: a copied attribute would belong to another.
        program: The program; or why there is none.
        fingerprint: The model's fingerprint when it was compiled.
        checksums: The checksums of its tensors then.
    """

    model: weakref.ref[nn.Module]
    program: Program | str
    fingerprint: Fingerprint
    checksums: list[int]

    def __deepcopy__(self, memo: object) -> None:
        """Leaves it out of copies of the model."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leaves it out of files."""
        return type(None), ()


def kept_program(model: nn.Module) -> Program | str:
    """Returns the program of a model, or why it has none.

    It is the kept one if nothing has changed, else a new one.
    """
    now, checksums = Fingerprint.of(model), checksums_of(model)
    kept: KeptProgram | None = vars(model).get(NAME)
    if (
        kept is not None
        and kept.model() is model
        and kept.fingerprint.same_as(now)
        and kept.checksums == checksums
    ):
        return kept.program
    try:
        program: Program | str = Program(compile_model(cast(Compilable, model)))
    except (NotAffineError, UserError) as error:
        program = str(error)
    keep(model, program, now, checksums)
    return program


def keep(model: nn.Module, program: Program | str, now: Fingerprint, checksums: list[int]) -> None:
    """Keeps a program, or why there is none, with its model."""
    vars(model)[NAME] = KeptProgram(weakref.ref(model), program, now, checksums)


@dataclass
class Fingerprint:
    """What the steps of a model depend on, without the numbers in its tensors.

    Attributes:
        values: Numbers, strings, and the identities of everything else.
        alive: The objects whose identities these are, so that no other object gets one.
    """

    values: list[Any] = field(default_factory=list)
    alive: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module) -> Fingerprint:
        """Makes the fingerprint of a model."""
        found, seen = cls(), set()
        for name, module in model.named_modules(remove_duplicate=False):
            found.values += [name, weakref.ref(module)]
            for attribute, x in list(vars(module).items()):
                if attribute not in ("training", NAME) and not attribute.startswith("_modules"):
                    found._add(attribute, x)
            classes = [c for c in type(module).__mro__ if c.__module__.split(".")[0] != "torch"]
            for c in classes:
                if c not in seen and c is not object:
                    seen.add(c)
                    found._add(c.__qualname__, list(vars(c).values()))
        return found

    def same_as(self, other: Fingerprint) -> bool:
        """Whether nothing has changed."""
        return self.values == other.values

    def _add(self, name: str, x: Any) -> None:
        """Adds an attribute: containers by what they hold, the rest by value or identity."""
        self.values.append(name)
        if isinstance(x, dict):
            for key, part in x.items():
                self._add(str(key), part)
        elif isinstance(x, (list, tuple)):
            for part in x:
                self._add("", part)
        elif isinstance(x, Tensor):
            self.values.append((x.shape, x.stride(), x.dtype, x.data_ptr()))
        elif isinstance(x, (int, float, str)):
            self.values.append(x)
        elif not isinstance(x, nn.Module):
            self.values.append(id(x))
            self.alive.append(x)


def own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Iterates over the tensors of a module, without those of the modules inside it."""
    yield from tensors_in([x for name, x in list(vars(module).items()) if name != "_modules"])


def tensors_in(x: Any) -> Iterator[Tensor]:
    """Iterates over the tensors in lists, tuples and dictionaries."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict):
        yield from tensors_in(list(x.values()))
    elif isinstance(x, (list, tuple)):
        for part in x:
            yield from tensors_in(part)


def checksums_of(model: nn.Module) -> list[int]:
    """Computes the checksums of all tensors of a model, in order."""
    checksum = load_library().np_checksum
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for module in model.modules()
        for x in own_tensors(module)
    }
    return [checksum(*storage) for storage in storages.items()]
