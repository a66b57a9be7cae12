"""Draws images: the generation loop, and completion by particles."""

from nextpixel.sampling.drawing import Drawing, Generator, Sampler
from nextpixel.sampling.loop import (
    Step,
    all_at_once,
    complete,
    film,
    fixed_point,
    sample,
    sites,
    trace,
)
from nextpixel.sampling.particles import complete_with_particles

__all__ = [
    "Drawing",
    "Generator",
    "Sampler",
    "Step",
    "all_at_once",
    "complete",
    "complete_with_particles",
    "film",
    "fixed_point",
    "sample",
    "sites",
    "trace",
]
