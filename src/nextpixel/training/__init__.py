"""Trains models: recipes, the options, the loop, its checkpoints and its logs."""

from nextpixel.training.config import TrainArgs
from nextpixel.training.fitting import fit

__all__ = ["TrainArgs", "fit"]
