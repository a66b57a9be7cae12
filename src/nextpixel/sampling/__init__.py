"""Sampling: `loop.py` has the generation loop, `trace`, and all that is built on it.

- `config.py`: the options of sampling, the noise, and the pixels that are known.
- `loop.py`: `trace` steps through the sites; `sample`, `complete` and `film` run it. `fixed_point`
  samples without it, by full passes over all pixels.
- `particles.py`: completion that also fits the known pixels after a hidden one.
"""

from nextpixel.sampling.config import IncrementalModel, Sampler, SamplingConfig
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
    "IncrementalModel",
    "Sampler",
    "SamplingConfig",
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
