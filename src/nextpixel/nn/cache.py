"""What generation remembers, held outside the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

__all__ = ["Cache", "CausalLayer", "Site"]


class Site(NamedTuple):
    """One channel of one pixel. Generation goes along the rows, from the top.

    At each pixel it goes through the channels, before the next pixel comes.
    """

    row: int
    col: int
    channel: int = 0

    @property
    def begins_row(self) -> bool:
        """Whether it is the first site of its row."""
        return self.col == 0 and self.channel == 0


class StepRunner(Protocol):
    """Runs the steps of a generation: `nextpixel.engine.Replay`."""

    def step(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """Takes a step, by `compute` or by replaying what it did at other sites."""

    def refresh_weights(self) -> None:
        """Reads the weights again: their numbers may have changed."""

    def external_storages(self) -> set[int]:
        """Lists the storages that the steps use but do not create, by their addresses."""

    def nbytes(self) -> int:
        """Counts the bytes of what the steps create."""


@dataclass
class Cache:
    """The state of generating one batch: where it stands and what each layer keeps of the past.

    Made by `AutoregressiveModel.start` for a batch and passed to every step. Steps visit the sites
    in raster order, from the first one, once each.

    Attributes:
        context: The context, one row an image.
        prepared: What the context gives to all sites, computed once.
        biases: What the context adds to each layer in the current row.
        site: The site whose distribution is being computed.
        newest: The integers that are newest before it.
        parameters: What the network returned last.
        layers: For every causal layer its tensors, of fixed shapes; a layer writes its own.
        views: Parts of these tensors that a layer wants again and again.
        period: After how many rows, and columns, the steps do the same again (strided layers).
        replay_safe: Whether steps are known to replay correctly: all layers are nextpixel's own.
        replay: Replays the steps (see `nextpixel.engine`); None computes each of them in PyTorch.
    """

    context: Any = None
    prepared: Any = None
    biases: list[Tensor | None] = field(default_factory=list)
    site: Site = field(default_factory=lambda: Site(0, 0))
    newest: Tensor | None = None
    parameters: Tensor | None = None
    layers: dict[CausalLayer, list[Tensor]] = field(default_factory=dict)
    views: dict[nn.Module, Any] = field(default_factory=dict)
    period: int = 1
    replay_safe: bool = False
    replay: StepRunner | None = None

    def nbytes(self) -> int:
        """Counts the bytes that the layers keep, but not the model's weights."""
        kept = (t for tensors in self.layers.values() for t in tensors)
        return sum(t.nbytes for t in kept if not t._is_view())

    def tensors(self) -> list[Tensor]:
        """Lists what steps read; some of it is a weight itself."""
        of_layers = (t for tensors in self.layers.values() for t in tensors)
        return [t for t in (*of_layers, *(self.prepared or ()), self.newest) if t is not None]

    def restart_from(self, new: Cache, weights: set[int]) -> bool:
        """Begins another generation in the same memory, so that its replay stays valid.

        Args:
            new: A cache that the same model has just made.
            weights: The addresses of the storages of the model's weights: nothing is written there.

        Returns:
            Whether that was possible: the new cache has tensors of the same shapes.
        """
        mine, others = self.tensors(), new.tensors()
        looks = [[(t.shape, t.stride(), t.dtype) for t in all_] for all_ in (mine, others)]
        if looks[0] != looks[1] or list(self.layers) != list(new.layers):
            return False
        pairs = [(a, b) for a, b in zip(mine, others, strict=True) if a.data_ptr() != b.data_ptr()]
        if any(a.untyped_storage().data_ptr() in weights for a, _ in pairs):
            return False
        for tensor, other in pairs:  # what lies in the same place is a weight itself
            tensor.copy_(other)
        self.context, self.parameters = new.context, None
        return True

    def select(self, images: Tensor) -> None:
        """Puts images of the batch in the places of others, between two steps.

        The tensors change in place, because layers hold views of them and a replay their addresses.
        The biases are left out: they are read only when a row begins, and computed just before.

        Args:
            images: For each place the number of the image that comes there, `(B,)`, of the batch
                as it was; the pictures handed to the next step must be the same selection.
        """
        kept = [t for layer, tensors in self.layers.items() for t in layer.of_images(tensors)]
        for tensor in [*kept, *(t for t in self.prepared or () if t is not None)]:
            tensor.copy_(tensor[images])
        if self.context is not None:
            self.context = self.context[images]
        if self.parameters is not None:
            self.parameters = self.parameters[images]


class CausalLayer(nn.Module, ABC):
    """A layer that can be stepped through an image; it says what it must keep.

    Attributes:
        scale: How many times smaller its maps are than the image, in both directions.
    """

    scale = 1

    @abstractmethod
    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the layer's tensors for generating `batch` images; its maps have `width` columns.

        They are made anew for every generation, so weights folded into them are never stale.
        """

    def of_images(self, tensors: list[Tensor]) -> list[Tensor]:
        """Picks those of the layer's tensors whose first dimension are the images: all of them.

        A layer that keeps folded weights, too, leaves those out.
        """
        return tensors
