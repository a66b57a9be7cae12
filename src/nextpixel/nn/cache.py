"""The cache: the state of generation, held outside the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = ["Cache", "CausalLayer", "Site"]


class Site(NamedTuple):
    """One channel of one pixel.

    Generation visits rows from the top, the pixels of a row from the left, and the channels of a
    pixel in order.
    """

    row: int
    col: int
    channel: int = 0

    @property
    def begins_row(self) -> bool:
        """Whether it is the first site of its row."""
        return self.col == 0 and self.channel == 0


@dataclass
class Cache:
    """The state of generating one batch: the current site, and the tensors of each layer.

    `AutoregressiveModel.start` makes it for a batch, and every step gets it. Steps visit each site
    once, in raster order from the first one.

    Attributes:
        context: The context, one row for each image.
        prepared: The part of the context's biases that all sites share, computed once.
        biases: The context's bias for each layer in the current row.
        site: The site whose distribution is being computed.
        newest: The newest integers before the site.
        parameters: The last output of the network.
        layers: The tensors of every causal layer, of fixed shapes; a layer writes only its own.
        views: Views of these tensors that a layer needs in every step.
        period: Rows, and columns, after which the steps repeat (strided layers).
        watch: Computes a step in place of the network, by calling a function, and sees what it does
            (see `nextpixel.engine`); None just computes it.
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
    watch: Callable[[Site, Callable[[], Tensor]], Tensor] | None = None

    def nbytes(self) -> int:
        """Counts the bytes that the layers store, without the model's weights."""
        stored = (t for tensors in self.layers.values() for t in tensors)
        return sum(t.nbytes for t in stored if not t._is_view())

    def select(self, images: Tensor) -> None:
        """Reorders the batch between two steps; images may occur several times, or not at all.

        The tensors change in place, because layers hold views of them.
        The biases are left out: they are read only when a row begins, and computed just before.

        Args:
            images: For each image of the new batch, its index in the old one, `(B,)`. Reorder the
                `x` of the next step in the same way.
        """
        stored = [t for layer, tensors in self.layers.items() for t in layer.of_images(tensors)]
        for tensor in [*stored, *(t for t in self.prepared or () if t is not None)]:
            tensor.copy_(tensor[images])
        if self.context is not None:
            self.context = self.context[images]
        if self.parameters is not None:
            self.parameters = self.parameters[images]


class CausalLayer(nn.Module, ABC):
    """A layer that can step through an image, with tensors in the cache.

    Attributes:
        scale: The factor by which its maps are smaller than the image, in both directions.
    """

    scale = 1

    @abstractmethod
    def new_cache(self, batch: int, width: int) -> list[Tensor]:
        """Makes the layer's tensors for generating `batch` images with maps of `width` columns.

        Every generation makes new ones, so weights that they contain are never stale.
        """

    def of_images(self, tensors: list[Tensor]) -> list[Tensor]:
        """Picks the tensors of the layer whose first dimension is the batch: by default all.

        A layer that also stores weights leaves those out.
        """
        return tensors
