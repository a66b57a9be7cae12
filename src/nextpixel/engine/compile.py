"""Compiles a model: captures its steps, lowers them, and lays out the memory of a program."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextpixel.context import Context, ContextLike, ContextSpec
from nextpixel.distributions import Categorical, DiscretizedLogisticMixture, Distribution
from nextpixel.engine.affine import NotAffineError
from nextpixel.engine.capture import storage_address
from nextpixel.engine.file import (
    CONSTANTS,
    DISTRIBUTIONS,
    INPUTS,
    NOWHERE,
    OPERATIONS,
    STATE,
    Kind,
    Line,
    Matrix,
    Place,
    write_program,
)
from nextpixel.engine.instructions import Instruction, Operand
from nextpixel.engine.sections import (
    IMAGES,
    Section,
    Steps,
    capture_prologue,
    capture_steps,
    kinds_of,
    lower_calls,
    padded,
    storage_numbers,
)
from nextpixel.nn import Cache
from nextpixel.nn.context_bias import ContextBias
from nextpixel.utils.inference import evaluation_mode

__all__ = ["Compilable", "compile_model"]


class Compilable(Steps, Protocol):
    """A causal network, see `nextpixel.models.base.autoregressive.CausalNetwork`."""

    levels: int
    groups: int
    condition: ContextBias
    training: bool

    def train(self, mode: bool = True) -> object:
        """Switches between training mode and evaluation mode."""

    @property
    def context_spec(self) -> ContextSpec:
        """The contexts that it takes."""

    def context(self, c: ContextLike, batch: int) -> Context | None:
        """Turns a context into one row for each image."""

    def start(self, batch: int, c: ContextLike = None) -> Cache:
        """Makes the cache for a batch."""

    def distribution(self, parameters: Tensor, x: Tensor) -> Distribution:
        """Makes the distribution from the network's output."""


@torch.inference_mode()
def compile_model(
    model: Compilable, description: Mapping[str, Any] | None = None
) -> NDArray[np.uint8]:
    """Compiles a model.

    Args:
        model: The model, float32 on the CPU. Its training mode does not matter, and stays.
        description: What people may want to know about the program.

    Returns:
        The bytes of a program, see `nextpixel.engine.Program`.

    Raises:
        NotAffineError: Its steps cannot be captured, or the engine has no instruction for them.
        UserError: There is no engine for this machine.
    """
    with evaluation_mode(model) as network:
        context = network.context("null" if network.context_spec.parts else None, IMAGES)
        cache = network.start(IMAGES, context)
        newest = cast(Tensor, cache.newest)
        layout = Layout(cache)
        kinds = kinds_of(network.shape[1:], cache.period, network.groups)
        captures = capture_steps(network, cache, kinds)
        state = set(layout.state)
        sections = [
            None
            if kind is None
            else lower_calls([captures[site] for site in kind], state, cache.period)
            for kind in kinds
        ]
        inputs, prologue = begin_section(network, layout, cache, context)
        distribution = distribution_of(network, cache)
    for section in (prologue, *sections):
        layout.add(section)
    numbers = {
        **dict(zip(("channels", "height", "width"), model.shape, strict=True)),
        "levels": model.levels,
        "groups": model.groups,
        "period": cache.period,
        **distribution,
        "newest": layout.place_of(newest),
        "newest_count": newest.shape[1],
        "inputs": [layout.place_of(inputs.get(name)) for name in INPUTS],
        "input_counts": [inputs[name][0].numel() if name in inputs else 0 for name in INPUTS],
    }
    return layout.write(numbers, description or {})


def begin_section(
    model: Compilable, layout: Layout, cache: Cache, context: Context | None
) -> tuple[dict[str, Tensor], Section | None]:
    """Captures what a program computes before the first site: the biases of classes and vectors.

    Returns:
        The tensors that are inputs, and the section; None where there is nothing to compute.
    """
    inputs = {}
    if cache.prepared.maps is not None:
        inputs["map"] = cache.prepared.maps
    if context is None or cache.prepared.everywhere is None:
        return inputs, None
    parts = {"classes": context.choices, "vector": context.vector, "present": context.present}
    given = {name: part.contiguous() for name, part in parts.items() if part is not None}
    context = Context(**given)
    for name, part in given.items():
        layout.reserve(part)
        inputs[name] = part
    biases = cache.prepared.everywhere
    capture = capture_prologue(lambda: biases.copy_(model.condition.everywhere(context)))
    return inputs, lower_calls([capture] * 4, set(layout.state))


def distribution_of(model: Compilable, cache: Cache) -> dict[str, Any]:
    """Describes the distribution that ends each step, as the header of a program does."""
    channels = model.shape[0]
    x, parameters = torch.zeros(IMAGES, channels, dtype=torch.int64), cast(Tensor, cache.parameters)
    distribution = model.distribution(parameters, x)
    numbers = {"parameters": parameters.shape[1], "components": 0, "max_log_scale": 0.0}
    if isinstance(distribution, DiscretizedLogisticMixture):
        one = DiscretizedLogisticMixture.parameter_count(channels, 1)
        numbers["components"] = numbers["parameters"] // one
        numbers["max_log_scale"] = distribution.max_log_scale
        name = "mixture"
    else:
        name = "categorical" if isinstance(distribution, Categorical) else "bernoulli"
    return {"distribution": DISTRIBUTIONS.index(name), **numbers}


class Layout:
    """The memory of a program: the state of an image, the constants, and the instructions.

    Args:
        cache: The cache of a generation that has not taken a step.

    Attributes:
        state: Where the storages of the state begin, by their addresses.
    """

    def __init__(self, cache: Cache) -> None:
        self.state: dict[int, int] = {}
        self._size = self._end = 0  # of the state without and with the storages of steps
        self._alive: list[Tensor] = []
        self._plain: list[NDArray[np.float32]] = []
        self._plain_at: dict[Any, int] = {}
        self._plain_size = 0
        self._weights: list[NDArray[np.float32]] = []
        self._matrices: list[Matrix] = []  # with offsets from the first matrix
        self._matrix_numbers: dict[Any, int] = {}
        self._lines: list[Line] = []
        self._kinds: list[Kind] = []
        layers = cache.layers.items()
        stored = [t for layer, tensors in layers for t in layer.of_images(tensors)]
        for tensor in stored:
            if torch.count_nonzero(tensor):
                raise NotAffineError("a layer's cache does not begin with zeros")
        for tensor in [*stored, *cache.prepared, cache.newest]:
            if tensor is not None:
                self.reserve(tensor)

    def reserve(self, tensor: Tensor) -> None:
        """Reserves memory in the state for the storage of a tensor, `(IMAGES, ...)`."""
        address = storage_address(tensor)
        if address not in self.state:
            self._alive.append(tensor)
            self.state[address] = self._size
            self._size += padded(storage_numbers(tensor) // IMAGES)

    def place_of(self, tensor: Tensor | None) -> int:
        """Returns where a tensor of the state begins; 0 for None."""
        return 0 if tensor is None else self.state[storage_address(tensor)]

    def add(self, section: Section | None) -> None:
        """Adds the instructions of a kind of sites; None for a kind without sites."""
        if section is None:
            self._kinds.append(Kind(len(self._lines), 0, NOWHERE))
            return
        begins, end = section.allocate(self._size)
        self._end = max(self._end, end)
        first = len(self._lines)
        self._lines += [self._line(step, section, begins) for step in section.steps]
        out = self._place(Operand(section.result, (0, 1)), section, begins)
        if out.space != STATE:
            raise NotAffineError("its result does not depend on the pixels")
        self._kinds.append(Kind(first, len(section.steps), out))

    def _line(self, step: Instruction, section: Section, begins: dict[Any, int]) -> Line:
        weight = 0
        if step.weight is not None:
            weight = self._matrix(step.weight)
        elif step.scratch is not None:
            weight = begins[step.scratch]
        out, a, b, more = (
            self._place(operand, section, begins)
            for operand in (step.out, step.a, step.b, step.more)
        )
        return Line(
            operation=OPERATIONS.index(step.name),
            inner=step.inner,
            depth=step.depth,
            relu=int(step.relu),
            outer=step.outer[0],
            outer_per_row=step.outer[1],
            outer_per_col=step.outer[2],
            weight=weight,
            out=out,
            a=a,
            b=b,
            more=more,
            number=step.number,
        )

    def _place(self, operand: Operand | None, section: Section, begins: dict[Any, int]) -> Place:
        if operand is None:
            return NOWHERE
        view, strides = operand
        storage, offset = view.storage, view.origin.offset
        moves = view.per_row[0], view.per_col[0]
        if storage.created and storage in section.constants:
            value, size = section.constants[storage], section.sizes[storage.key]
            at = self._constant(("value", value, size), np.full(size, value, np.float32))
            return Place(CONSTANTS, at + offset % size, 0, 0, *strides)
        if storage.created:
            return Place(STATE, begins[storage] + offset, *moves, *strides)
        if storage.key in self.state:
            return Place(STATE, self.state[storage.key] + offset, *moves, *strides)
        tensor = section.external[storage.key].detach()
        if tensor.dtype != torch.float32:
            raise NotAffineError(f"it computes with a constant of type {tensor.dtype}")
        whole = tensor.as_strided((storage_numbers(tensor),), (1,), 0).numpy()
        return Place(CONSTANTS, self._constant(storage.key, whole) + offset, *moves, *strides)

    def _constant(self, key: Any, numbers: NDArray[np.float32]) -> int:
        """Adds a constant unless it is known, and returns where it lies."""
        if key not in self._plain_at:
            self._plain_at[key] = self._plain_size
            self._plain.append(np.resize(numbers, padded(numbers.size)))
            self._plain_size += padded(numbers.size)
        return self._plain_at[key]

    def _matrix(self, weight: Tensor) -> int:
        """Adds a matrix, `(..., columns)`, unless it is known, and returns its number."""
        key = weight.data_ptr(), weight.shape, weight.stride()
        if key not in self._matrix_numbers:
            self._alive.append(weight)  # no other weight gets its address
            matrix = weight.flatten(0, -2).contiguous().numpy()
            digest = hashlib.blake2b(matrix.tobytes()).digest(), matrix.shape
            if digest not in self._matrix_numbers:
                self._matrix_numbers[digest] = len(self._matrices)
                offset = sum(weights.size for weights in self._weights)
                self._weights.append(matrix)
                self._matrices.append(Matrix(offset, *matrix.shape))
            self._matrix_numbers[key] = self._matrix_numbers[digest]
        return self._matrix_numbers[key]

    def write(
        self, numbers: Mapping[str, Any], description: Mapping[str, Any]
    ) -> NDArray[np.uint8]:
        """Writes the program, see `write_program`."""
        plain = self._plain_size
        matrices = [m._replace(offset=plain + m.offset) for m in self._matrices]
        return write_program(
            {**numbers, "state": self._end, "plain_count": plain},
            self._kinds,
            self._lines,
            matrices,
            [*self._plain, *self._weights],
            description,
        )
