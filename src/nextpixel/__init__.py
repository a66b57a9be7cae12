"""Exact-likelihood pixel models: PixelCNN and its family, trained, scored and sampled exactly.

Importing this is cheap: what needs torch is imported when it is first used.

Example:
    >>> import nextpixel as npx
    >>> model = npx.load("mnist-gated")
    >>> x = model.sample(16, c=3, seed=0)  # (16, 1, 28, 28) integers
    >>> nats = -model.log_prob(x, c=3)  # (16,)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nextpixel.errors import UserError

if TYPE_CHECKING:
    from nextpixel.distributions import (
        Bernoulli,
        Categorical,
        DiscretizedLogisticMixture,
        Distribution,
    )
    from nextpixel.latents.codes import load_data
    from nextpixel.latents.generator import LatentGenerator
    from nextpixel.models import (
        VAE,
        VQVAE,
        VQVAE2,
        Autoencoder,
        DiagonalBiLSTM,
        GatedPixelCNN,
        PixelCNN,
        PixelCNNAutoencoder,
        PixelCNNPP,
        PixelSNAIL,
        RowLSTM,
    )
    from nextpixel.models.base.autoregressive import AutoregressiveModel
    from nextpixel.models.base.image_model import load
    from nextpixel.sampling.loop import all_at_once, complete, sample, trace
    from nextpixel.sampling.particles import complete_with_particles
    from nextpixel.training.trainer import fit

__all__ = [
    "VAE",
    "VQVAE",
    "VQVAE2",
    "Autoencoder",
    "AutoregressiveModel",
    "Bernoulli",
    "Categorical",
    "DiagonalBiLSTM",
    "DiscretizedLogisticMixture",
    "Distribution",
    "GatedPixelCNN",
    "LatentGenerator",
    "PixelCNN",
    "PixelCNNAutoencoder",
    "PixelCNNPP",
    "PixelSNAIL",
    "RowLSTM",
    "UserError",
    "all_at_once",
    "complete",
    "complete_with_particles",
    "fit",
    "load",
    "load_data",
    "sample",
    "trace",
]

_HOMES = {
    "nextpixel.distributions": [
        "Bernoulli",
        "Categorical",
        "DiscretizedLogisticMixture",
        "Distribution",
    ],
    "nextpixel.models.base.autoregressive": ["AutoregressiveModel"],
    "nextpixel.latents.generator": ["LatentGenerator"],
    "nextpixel.models.base.image_model": ["load"],
    "nextpixel.models": [
        "VAE",
        "VQVAE",
        "VQVAE2",
        "Autoencoder",
        "DiagonalBiLSTM",
        "GatedPixelCNN",
        "PixelCNN",
        "PixelCNNAutoencoder",
        "PixelCNNPP",
        "PixelSNAIL",
        "RowLSTM",
    ],
    "nextpixel.sampling.particles": ["complete_with_particles"],
    "nextpixel.sampling": ["all_at_once", "complete", "sample", "trace"],
    "nextpixel.training": ["fit"],
}


def __getattr__(name: str) -> Any:
    if name == "load_data":
        return import_module("nextpixel.latents.codes").load_data
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'nextpixel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
