"""The abstract models: saving and loading, likelihoods, and the incremental interface."""

from __future__ import annotations

import hashlib
import importlib
import importlib.resources
import inspect
import json
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, cast

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from nextpixel import sampling
from nextpixel.context import Context, ContextBias, Takes
from nextpixel.distributions import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Distribution,
)
from nextpixel.errors import UserError
from nextpixel.files import replace_file
from nextpixel.nn import Cache, CausalLayer, Site

__all__ = [
    "AutoregressiveModel",
    "CausalNetwork",
    "Inputs",
    "Model",
    "WholePixelNetwork",
    "load",
    "shipped",
]

Inputs = Literal["scaled", "embedded"]

FORMAT = 1  # of config.json


class Model(nn.Module, ABC):
    """A network that can be saved to a folder and loaded from it.

    A subclass hands every argument of its `__init__` on to `Model.__init__`, which keeps them as
    `hyperparameters`; they are what JSON can hold.
    """

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__()
        expected = arguments_of(type(self))
        if set(hyperparameters) != expected:
            raise TypeError(
                f"{type(self).__name__}.__init__ takes {sorted(expected)} but handed "
                f"{sorted(hyperparameters)} on to Model.__init__: they must be the same"
            )
        self.hyperparameters: dict[str, Any] = json.loads(json.dumps(hyperparameters))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters(), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return next(self.parameters(), torch.empty(0)).dtype

    def save(self, folder: str | Path) -> None:
        """Saves the weights and `config.json` into a folder.

        The new weights are written beside the old ones under a name made of their hash, and replace
        them in the moment `config.json` is replaced: a crash leaves the old model or the new one.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        data = save_tensors(tensors)
        digest = hashlib.sha256(data).hexdigest()
        weights = f"model-{digest[:12]}.safetensors"
        config = {
            "format": FORMAT,
            "model": model_name(type(self)),
            "hyperparameters": self.hyperparameters,
            "weights": weights,
            "sha256": digest,
        }
        replace_file(folder / weights, data)
        replace_file(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        for old in folder.glob("model-*.safetensors"):
            if old.name != weights:
                old.unlink()


def arguments_of(cls: type[Model]) -> set[str]:
    """Names the arguments that a model's `__init__` takes."""
    parameters = inspect.signature(cls.__init__).parameters
    named = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    return named - {"self"}


class AutoregressiveModel(Model):
    """A distribution over images, factorised along the raster order.

    A subclass needs only `forward`; it can then be trained, scored and (by full passes) sampled.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        classes: Number of classes the model is conditioned on, or None.
        vector: Length of the vector that it is conditioned on, or None.
        image: `(Cc, Hc, Wc)` of the image that it is conditioned on, or None.
        hyperparameters: The subclass's other arguments.

    Attributes:
        paper: Title, authors and year of the paper a model comes from.
        takes: The contexts that it is conditioned on.
    """

    paper = ""

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        levels: int,
        classes: int | None = None,
        vector: int | None = None,
        image: tuple[int, int, int] | None = None,
        **hyperparameters: Any,
    ) -> None:
        image = None if image is None else cast("tuple[int, int, int]", tuple(image))
        takes = Takes(classes, vector, image)
        for name, what in takes._asdict().items():
            if what is not None or name in arguments_of(type(self)):
                hyperparameters[name] = what
        super().__init__(shape=shape, levels=levels, **hyperparameters)
        if len(shape) != 3 or min(shape) < 1:
            raise UserError(f"shape is (channels, height, width), not {tuple(shape)}.")
        if levels < 2:
            raise UserError(f"A pixel has at least 2 levels, not {levels}.")
        if classes is not None and classes < 1:
            raise UserError(f"A conditional model has at least 1 class, not {classes}.")
        if vector is not None and vector < 1:
            raise UserError(f"A context vector has at least 1 number, not {vector}.")
        if image is not None and (len(image) != 3 or min(image) < 1):
            raise UserError(f"A context image has (channels, height, width), not {image}.")
        self.takes = takes
        channels, height, width = shape
        self.shape, self.levels, self.classes = (channels, height, width), levels, classes

    @abstractmethod
    def forward(self, x: Tensor, c: object = None) -> Distribution:
        """Computes the distributions of all sites, each given the pixels before it.

        Args:
            x: Integers in `[0, levels)`, `(B, C, H, W)`.
            c: The context, see `context`.

        Returns:
            A distribution of `batch_shape` `(B, C, H, W)`.
        """

    def context(self, c: object, batch: int) -> Context | None:
        """Turns what a user gave as context into one row an image, see `Takes.read`."""
        context = self.takes.read(c, batch)
        return None if context is None else context.to(self.device)

    def log_prob(self, x: Tensor, c: object = None) -> Tensor:
        """Computes log p(x | c) in nats, `(B,)`, for integers x `(B, C, H, W)`.

        Raises:
            UserError: x or c does not fit the model.
        """
        self.check(x)
        distribution: Distribution = self(x, c)
        return distribution.log_prob(x).flatten(1).sum(1)

    def bits_per_dim(self, x: Tensor, c: object = None) -> Tensor:
        """Computes `-log2 p(x | c) / (C H W)`, `(B,)`."""
        return -self.log_prob(x, c) / (math.prod(self.shape) * math.log(2))

    def sample(self, n: int = 1, c: object = None, **how: Any) -> Tensor:
        """Draws n images, integers `(n, C, H, W)`; `how` are the arguments of `sampling.sample`."""
        return sampling.sample(self, n, c, **how)

    def start(self, batch: int, c: object = None) -> Cache:
        """Begins to generate a batch: makes what `step` needs of the context and of the past."""
        return Cache(context=self.context(c, batch))

    def step(self, x: Tensor, site: Site, cache: Cache) -> Distribution:
        """Computes the distribution at one site, by a full pass over the picture so far.

        Args:
            x: The pictures, integers `(B, C, H, W)`; only what comes before the site counts.
            site: The next site in raster order.
            cache: As from `start`; a step changes it.

        Returns:
            A distribution of `batch_shape` `(B,)`.
        """
        distribution: Distribution = self(x, cache.context)
        return distribution.at(*site)

    def check(self, x: Tensor) -> None:
        """Checks that x are images of this model.

        Raises:
            UserError: Its type, shape or range is wrong.
        """
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise UserError(f"Images are integers in [0, {self.levels}), not {x.dtype}.")
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            raise UserError(
                f"This model's images have the shape (B, {', '.join(map(str, self.shape))}), "
                f"not {tuple(x.shape)}."
            )
        # Elsewhere, looking at the values would make the accelerator wait.
        if x.device.type == "cpu" and x.numel():
            least, most = int(x.min()), int(x.max())
            if least < 0 or most >= self.levels:
                raise UserError(
                    f"Pixels must lie in [0, {self.levels}), but these go from {least} to {most}: "
                    "were the images requantised to the model's levels?"
                )


class CausalNetwork(AutoregressiveModel):
    """An autoregressive model whose network is wired once, for whole maps and for single steps.

    A subclass defines `network` out of the layers of `nextpixel.nn`. Its feature maps are in as
    many groups as the picture has channels, and a step computes one group.

    Args:
        shape: `(C, H, W)` of an image.
        levels: A pixel is an integer in `[0, levels)`.
        inputs: "scaled" feeds a pixel as a number in [-1, 1]; "embedded" takes levels for
            categories and feeds a learned vector for each.
        hyperparameters: The contexts, see `AutoregressiveModel`, and the subclass's arguments.
    """

    embedding_size = 16  # numbers a category, with inputs="embedded"
    whole_pixels = False  # whether the channels are one group: the distribution couples them
    condition: ContextBias  # set by the subclass: what the context adds to each layer

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
            x: What `encode` returned for whole maps; with a cache, for what is newest.
            biases: What the context adds to each layer, from `condition`; in a step for the row,
                and to be read only when it begins.
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
            parameters: `(B, P, *sites)`: the sites are a map, or in a step there is but one.
            x: The pixels there, integers `(B, C, *sites)`, for what later channels learn of
                earlier ones not through the network but here.
        """
        if self.levels == 2:
            return Bernoulli(parameters)
        logits = torch.unflatten(parameters, 1, (-1, self.levels))
        return Categorical(logits.movedim(2, -1))

    def forward(self, x: Tensor, c: object = None) -> Distribution:
        """Computes the distributions of all sites, see `AutoregressiveModel.forward`."""
        self.check(x)
        biases = self.condition(self.context(c, len(x)))
        return self.distribution(self.network(self.encode(x), biases), x)

    @torch.no_grad()
    def start(self, batch: int, c: object = None) -> Cache:
        """Begins to generate a batch, see `AutoregressiveModel.start`."""
        context = self.context(c, batch)
        cache = Cache(context=context, prepared=self.condition.prepare(context))
        names = {type(module).__module__.partition(".")[0] for module in self.modules()}
        cache.even = names <= {"nextpixel", "torch"}
        for layer in self.modules():
            if isinstance(layer, CausalLayer):
                columns = -(-self.shape[2] // layer.scale)
                cache.layers[layer] = layer.new_cache(batch, columns)
                cache.period = max(cache.period, layer.scale)
        return cache

    def step(self, x: Tensor, site: Site, cache: Cache) -> Distribution:
        """Computes the distribution at one site from the cache and what is newest before it."""
        cache.site = site
        if site.channel < self.groups:  # else all channels were computed at the first one

            def compute() -> Tensor:
                if site.begins_row:  # they are read only then
                    cache.biases = self.condition.biases(cache.prepared, site.row)
                return self.network(self.encode(self.newest(x, site)), cache.biases, cache)

            cache.parameters = cache.tape.step(site, compute) if cache.tape else compute()
        pixel = x[:, :, site.row, site.col]
        distribution = self.distribution(cast(Tensor, cache.parameters), pixel)
        return distribution[:, site.channel if self.groups == 1 else 0]

    def newest(self, x: Tensor, site: Site) -> Tensor:
        """Picks what is newest before a site: a channel `(B, 1)` or, in one group, a pixel.

        The first site has none, and gets any.
        """
        row, col, channel = site
        if channel == 0:
            row, col = (row, col - 1) if col else (row - 1, -1)
        pixel = x[:, :, row, col]
        return pixel if self.groups == 1 else pixel[:, channel - 1 : channel or None]


class WholePixelNetwork(CausalNetwork):
    """A causal network that takes the channels of a pixel together.

    Its distribution couples them: a mixture of logistics. Where levels are categories
    (`inputs="embedded"`) it is the one of `CausalNetwork`, for one channel.

    Args:
        components: Components of the mixture.
        dropout: Probability to zero a number, in [0, 1).
        arguments: Those of `CausalNetwork`.
    """

    whole_pixels = True

    def __init__(self, *, components: int, dropout: float, **arguments: Any) -> None:
        super().__init__(components=components, dropout=dropout, **arguments)
        self.mixture = self.embedding is None
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), not {dropout}.")
        if components < 1:
            raise UserError(f"A mixture has at least 1 component, not {components}.")
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
        return DiscretizedLogisticMixture.coloured(parameters, self.encode(x), levels=self.levels)


def load(name: str | Path, *, device: str | torch.device = "cpu") -> AutoregressiveModel:
    """Loads a model: a shipped one by name, a run's best one, or any saved folder.

    Args:
        name: A name from `shipped()`, a run folder, or a folder with a `config.json`.
        device: Where to put the weights.

    Returns:
        The model, ready to score and to sample.

    Raises:
        UserError: There is no such model, or it is damaged.
    """
    return read_model(find(name)).to(device).eval()


def shipped() -> dict[str, Path]:
    """Lists the trained models that come with the package: name and folder."""
    folder = Path(str(importlib.resources.files("nextpixel"))) / "weights"
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}


def find(name: str | Path) -> Path:
    """Finds the folder of a saved model, see `load`."""
    if str(name) in shipped():
        return shipped()[str(name)]
    path = Path(name)
    folder = path.parent if path.suffix in (".json", ".safetensors") else path
    for candidate in (folder, folder / "best", folder / "last"):
        if (candidate / "config.json").is_file():
            return candidate
    what = "has no saved model" if path.exists() else "does not exist"
    raise UserError(
        f"{name} {what}: give a run folder, a folder with a config.json, or a model that comes "
        f"with nextpixel ({', '.join(shipped()) or 'none'})."
    )


def trained_on(name: str | Path) -> tuple[str | None, str | None]:
    """Says which data a model was trained on, as far as its card or its run's configuration does.

    Returns:
        The data's name, and the folder that they were looked for in first.
    """
    folder = find(name)
    for file in (folder / "card.json", folder.parent / "config.yaml"):
        if file.is_file():
            try:
                known = yaml.safe_load(file.read_text())  # JSON is YAML
                return known.get("data"), known.get("data_dir")
            except (yaml.YAMLError, UnicodeDecodeError, AttributeError):
                raise UserError(f"{file} is damaged: take another copy, or give --data.") from None
    return None, None


def read_model(folder: Path) -> AutoregressiveModel:
    """Reads a saved model from its folder, after checking its weights against their hash."""
    try:
        config = json.loads((folder / "config.json").read_text())
        name, hyperparameters = str(config["model"]), dict(config["hyperparameters"])
        weights, digest = folder / Path(config["weights"]).name, config["sha256"]
        saved_format = config["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'config.json'} is not the configuration of a model ({error}): "
            "save the model again, or take another copy."
        ) from None
    if saved_format != FORMAT:
        raise UserError(
            f"{folder} was saved in format {saved_format}, and this version of nextpixel reads "
            f"format {FORMAT}: install the version that wrote it."
        )
    if not weights.is_file():
        raise UserError(f"{weights} is missing: take another copy of the model's whole folder.")
    data = weights.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"{weights} is damaged (wrong sha256): take another copy of the model.")
    try:
        model = find_class(name)(**hyperparameters)
        model.load_state_dict(load_tensors(data))
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The weights in {folder} do not fit {name}: {reason}") from None
    return model


def model_name(cls: type[Model]) -> str:
    """Names a model's class: a bare name for one of ours, else a dotted path."""
    ours = cls.__module__.startswith("nextpixel.")
    return cls.__name__ if ours else f"{cls.__module__}.{cls.__qualname__}"


def find_class(name: str) -> type[AutoregressiveModel]:
    """Finds a model's class by its name or dotted path, see `model_name`."""
    module, _, cls_name = name.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module or "nextpixel.models"), cls_name)
    except Exception as error:  # a user's own file may fail in any way while it is imported
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"There is no model {name} ({reason}): give the name of one of nextpixel's models, or "
            "the dotted path of a class that can be imported from here."
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, AutoregressiveModel)):
        raise UserError(f"{name} is not a subclass of nextpixel.AutoregressiveModel.")
    return cls
