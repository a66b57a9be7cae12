"""Autoregressive models: exact likelihoods, and the incremental interface for generation."""

from __future__ import annotations

import math
from abc import abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor, nn

from nextpixel import sampling
from nextpixel.context import Context, ContextLike
from nextpixel.data.pictures import ImagesLike
from nextpixel.distributions import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Distribution,
)
from nextpixel.errors import UserError
from nextpixel.models.base.image_model import ImageModel
from nextpixel.nn import Cache, CausalLayer, Site
from nextpixel.nn.context_bias import ContextBias
from nextpixel.orders import turn
from nextpixel.sampling.config import MaskLike, SampleOptions, as_mask, check_mask
from nextpixel.sampling.programs import save_program

__all__ = ["AutoregressiveModel", "CausalNetwork", "Inputs", "WholePixelNetwork", "autoregressive"]

Inputs = Literal["scaled", "embedded"]


class AutoregressiveModel(ImageModel):
    """A distribution over images, factorised along the raster order.

    A subclass needs only `forward` to be trained, scored and, by full passes, sampled from.
    """

    is_likelihood = True
    fits_codes = True

    @property
    def has_cached_path(self) -> bool:
        """Whether a step computes one site from a cache, not the whole picture again."""
        return type(self).step is not AutoregressiveModel.step

    @abstractmethod
    def forward(self, x: Tensor, c: ContextLike = None) -> Distribution:
        """Computes the distributions of all sites, each given the pixels before it.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`.
            c: The context, see `context`.

        Returns:
            A distribution of `batch_shape` `(B, C, H, W)`.
        """

    def log_prob(
        self, x: ImagesLike, c: ContextLike = None, mask: MaskLike | None = None
    ) -> Tensor:
        """Computes log p(x | c) in nats, `(B,)`.

        Of a tensor, it has a graph, so that a training loop can maximise it. Of anything else it
        has none, dropout is off, and the result is on the CPU.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`, as a tensor; or pictures, see
                `nextpixel.to_images`.
            c: The context, see `context`.
            mask: True at pixels that do not count, broadcastable to x. If c shows these pixels,
                the result is the log-probability of the others given them.

        Raises:
            UserError: x, c or the mask does not fit.
        """
        if not isinstance(x, Tensor):
            return self.of_pictures("log_prob", x, c, mask)
        self.check(x)
        distribution: Distribution = self(x, c)
        by_site = distribution.log_prob(x)
        if mask is not None:
            mask = as_mask(mask).to(x.device)
            check_mask(mask, x.shape)
            by_site = by_site.masked_fill(mask, 0)
        return by_site.flatten(1).sum(1)

    def log_prob_in_orders(
        self, x: ImagesLike, c: ContextLike = None, mask: MaskLike | None = None
    ) -> Tensor:
        """Computes the log-probability of images in each of the orders that the model learned.

        The mixture of all, `torch.logsumexp(nats, 1) - log(orders)`, is an exact likelihood as
        well, and a better one (Jain, Abbeel, Pathak: Locally Masked Convolution for Autoregressive
        Models, 2020).

        Args:
            x: The images, as for `log_prob`, not turned.
            c: The context.
            mask: True at pixels that do not count, broadcastable to x.

        Returns:
            Nats, `(B, orders)`.
        """
        if not isinstance(x, Tensor):
            return self.of_pictures("log_prob_in_orders", x, c, mask)
        if self.orders == 1:
            return self.log_prob(x, c, mask)[:, None]
        context = cast(Context, self.context(c, len(x)))
        known = None if mask is None else as_mask(mask).expand(x.shape)
        return torch.stack(
            [
                self.log_prob(
                    turn(x, order),
                    context.in_order(order, self.orders),
                    None if known is None else turn(known, order),
                )
                for order in range(self.orders)
            ],
            1,
        )

    def score(self, x: ImagesLike, c: ContextLike = None, mask: MaskLike | None = None) -> Tensor:
        """Computes log p(x | c), see `log_prob`."""
        return self.log_prob(x, c, mask)

    def bits_per_dim(self, x: ImagesLike, c: ContextLike = None) -> Tensor:
        """Computes `-log2 p(x | c) / (C H W)`, `(B,)`, see `log_prob`.

        It has a graph only of a tensor in training mode. `nextpixel.load` and `fit` leave a model
        in evaluation mode.
        """
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return -self.log_prob(x, c) / (math.prod(self.shape) * math.log(2))

    def sample(self, n: int = 1, c: ContextLike = None, **how: Unpack[SampleOptions]) -> Tensor:
        """Samples n images, integers `(n, C, H, W)`; `how` are the options of `sampling.sample`."""
        return sampling.sample(self, n, c, **how)

    def start(self, batch: int, c: ContextLike = None) -> Cache:
        """Makes the cache that `step` needs to generate a batch."""
        return Cache(context=self.context(c, batch))

    def step(self, x: Tensor, site: Site, cache: Cache) -> Distribution:
        """Computes the distribution at one site, by a full pass over the images so far.

        Args:
            x: The images, integers `(B, C, H, W)`; only the sites before this one matter.
            site: The next site in raster order.
            cache: The cache from `start`; a step changes it.

        Returns:
            A distribution of `batch_shape` `(B,)`.
        """
        distribution: Distribution = self(x, cache.context)
        return distribution.at(*site)


class CausalNetwork(AutoregressiveModel):
    """An autoregressive model whose network is written once, for whole maps and single steps.

    A subclass builds `network` from the layers of `nextpixel.nn`. The feature maps are in one group
    for each channel of the image, and a step computes one group.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        inputs: "scaled" feeds a pixel as a number in [-1, 1]; "embedded" treats levels as
            categories and feeds a learned vector for each.
        hyperparameters: The contexts, see `ImageModel`, and the arguments of the subclass.
    """

    embedding_size = 16  # length of the vector of a category, with inputs="embedded"
    whole_pixels = False  # whether the channels are one group: the distribution couples them
    condition: ContextBias  # set by the subclass: the context's bias for each layer

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int,
        inputs: Inputs,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(shape=shape, levels=levels, inputs=inputs, **hyperparameters)
        if inputs not in ("scaled", "embedded"):
            raise UserError(f"inputs is 'scaled' or 'embedded', not {inputs!r}.")
        self.groups = 1 if self.whole_pixels else shape[0]
        for name in ("width", "blocks", "head"):
            value = hyperparameters.get(name)
            least = 1 if name == "blocks" else self.groups  # each group has a feature map
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}, not {value}.")
        self.embedding = nn.Embedding(levels, self.embedding_size) if inputs == "embedded" else None
        self.in_channels = shape[0] * (self.embedding_size if self.embedding else 1)
        self.out_channels = shape[0] * (1 if levels == 2 else levels)

    @abstractmethod
    def network(self, x: Tensor, biases: list[Tensor | None], cache: Cache | None = None) -> Tensor:
        """Computes the parameters of the distributions.

        Args:
            x: The output of `encode` for whole maps; with a cache, for the newest values.
            biases: The context's bias for each layer, from `condition`; in a step the biases of the
                row, which may be read only when the row begins.
            cache: The state of generation.

        Returns:
            `(B, out_channels, H, W)`, in a step `(B, out_channels / groups)`.
        """

    def encode(self, x: Tensor) -> Tensor:
        """Turns integers into the network's input: the only place where pixels become floats.

        Args:
            x: Integers in `[0, levels)`, `(B, C, ...)`.

        Returns:
            `(B, in_channels, ...)`: scaled to [-1, 1], or embedded.
        """
        if self.embedding is None:
            return x.to(self.dtype) * (2 / (self.levels - 1)) - 1
        vectors: Tensor = self.embedding(x.long())
        return vectors.movedim(-1, 2).flatten(1, 2)

    def distribution(self, parameters: Tensor, x: Tensor) -> Distribution:
        """Makes the distribution from the network's output: Bernoulli for 2 levels.

        Args:
            parameters: `(B, P, H, W)`, in a step `(B, P)`.
            x: The pixels there, integers `(B, C, H, W)` or `(B, C)`, for distributions that couple
                the channels of a pixel.
        """
        if self.levels == 2:
            return Bernoulli(parameters)
        logits = torch.unflatten(parameters, 1, (-1, self.levels))
        return Categorical(logits.movedim(2, -1))

    def forward(self, x: Tensor, c: ContextLike = None) -> Distribution:
        """Computes the distributions of all sites, see `AutoregressiveModel.forward`."""
        self.check(x)
        biases = self.condition(self.context(c, len(x)))
        return self.distribution(self.network(self.encode(x), biases), x)

    @torch.no_grad()
    def start(self, batch: int, c: ContextLike = None) -> Cache:
        """Makes the cache for a batch, see `AutoregressiveModel.start`."""
        context = self.context(c, batch)
        cache = Cache(context=context, prepared=self.condition.prepare(context))
        channels = self.shape[0] if self.groups == 1 else 1
        cache.newest = torch.zeros(batch, channels, dtype=torch.int64, device=self.device)
        for layer in self.modules():
            if isinstance(layer, CausalLayer):
                columns = -(-self.shape[2] // layer.scale)
                cache.layers[layer] = layer.new_cache(batch, columns)
                cache.period = max(cache.period, layer.scale)
        return cache

    def step(self, x: Tensor, site: Site, cache: Cache) -> Distribution:
        """Computes the distribution at one site from the cache and the newest values before it."""
        cache.site = site
        if site.channel < self.groups:  # else all channels were computed at the first one
            newest = cast(Tensor, cache.newest).copy_(self.newest(x, site))

            def compute() -> Tensor:
                if site.begins_row:  # layers read the biases only then
                    cache.biases = self.condition.biases(cache.prepared, site.row)
                return self.network(self.encode(newest), cache.biases, cache)

            cache.parameters = cache.watch(site, compute) if cache.watch else compute()
        pixel = x[:, :, site.row, site.col]
        distribution = self.distribution(cast(Tensor, cache.parameters), pixel)
        return distribution[:, site.channel if self.groups == 1 else 0]

    def save_program(self, path: str | Path, **more: Any) -> None:
        """Compiles the model and writes a program, which runs without PyTorch.

        The file also holds the weights. It describes itself by the entries of `config.json`: the
        class, the hyperparameters, the names of the classes, and the sha256 of the weights.

        Args:
            path: The file to write; missing folders are created.
            more: Further entries, which JSON can hold.

        Raises:
            UserError: The engine cannot run the model: its weights are not float32 on the CPU, or
                its layers do what the engine has no instruction for.
            OSError: The file cannot be written.

        Example:
            >>> npx.load("mnist").save_program("digits.program")
            >>> from nextpixel.engine import Program  # imports no torch
            >>> pictures = Program.load("digits.program").sample(4, classes=[3, 1, 4, 1])
        """
        description = {"nextpixel": version("nextpixel"), **self.saved_config(self.digest())}
        save_program(self, path, description | more)

    def newest(self, x: Tensor, site: Site) -> Tensor:
        """Picks the newest values before a site: one channel `(B, 1)`, with one group a pixel.

        There are none before the first site, where the values do not matter.
        """
        row, col, channel = site
        if channel == 0:
            row, col = (row, col - 1) if col else (row - 1, -1)
        pixel = x[:, :, row, col]
        return pixel if self.groups == 1 else pixel[:, channel - 1 : channel or None]


class WholePixelNetwork(CausalNetwork):
    """A causal network that computes one output for all channels of a pixel.

    Its distribution, a mixture of logistics, couples the channels. For levels that are categories
    (`inputs="embedded"`) it has one channel and the distribution of `CausalNetwork`.

    Args:
        components: Components of the mixture.
        dropout: Dropout probability, in [0, 1).
        max_log_scale: See `DiscretizedLogisticMixture`.
        arguments: The arguments of `CausalNetwork`.
    """

    whole_pixels = True

    def __init__(
        self, *, components: int, dropout: float, max_log_scale: float, **arguments: Any
    ) -> None:
        super().__init__(
            components=components, dropout=dropout, max_log_scale=max_log_scale, **arguments
        )
        self.max_log_scale = max_log_scale
        self.mixture = self.embedding is None
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), not {dropout}.")
        if components < 1:
            raise UserError(f"A mixture has at least 1 component, not {components}.")
        if not 0 <= max_log_scale <= 40:  # e^40 still leaves float32 some digits
            raise UserError(f"max_log_scale must lie in [0, 40], not {max_log_scale}.")
        if self.mixture:
            self.out_channels = DiscretizedLogisticMixture.parameter_count(
                self.shape[0], components
            )
        elif self.shape[0] > 1:
            raise UserError(
                f"{type(self).__name__} takes categories of one channel only: for "
                f"{self.shape[0]} channels leave inputs at 'scaled', or use GatedPixelCNN."
            )

    def distribution(self, parameters: Tensor, x: Tensor) -> Distribution:
        """Makes the distribution from the network's output, see `CausalNetwork.distribution`."""
        if not self.mixture:
            return super().distribution(parameters, x)
        return DiscretizedLogisticMixture.from_pixel_parameters(
            parameters,
            self.encode(x),
            levels=self.levels,
            max_log_scale=self.max_log_scale,
        )


def autoregressive(model: ImageModel, name: str | Path) -> AutoregressiveModel:
    """Returns the model if it is autoregressive.

    Args:
        model: The model.
        name: The name that the user gave it, for the message.

    Raises:
        UserError: It is another kind of model.
    """
    if not isinstance(model, AutoregressiveModel):
        raise UserError(
            f"{name} is a {type(model).__name__}, and this needs an autoregressive model, which "
            "samples pixel by pixel: give another one (see nextpixel models)."
        )
    return model
