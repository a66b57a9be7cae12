"""Measures a few training steps, to tell in advance how long a run will take."""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from nextpixel.data import Dataset
from nextpixel.models.base.image_model import ImageModel
from nextpixel.training.config import TrainArgs
from nextpixel.training.launch import make_fabric
from nextpixel.training.trainer import Run
from nextpixel.utils.denormals import denormals_as_zero
from nextpixel.utils.devices import find_device

__all__ = ["ONE_THREAD", "Estimate", "duration", "measure", "measure_threads"]

ONE_THREAD = "One thread is faster than {} now: other programs use the processor."
SLOW = 5.0  # seconds; a batch that takes longer is measured on one image only
REPEATS = 3  # of which the fastest counts, as other programs can only slow it down


@dataclass(frozen=True)
class Estimate:
    """What a run will need.

    Attributes:
        parameters: Number of parameters.
        step_seconds: Seconds for a step.
        seconds: Seconds for all steps, without validations; at most `TrainArgs.minutes`.
        memory: Bytes of memory, that of the process or of the GPU.
    """

    parameters: int
    step_seconds: float
    seconds: float
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters, {self.memory / 1e9:.1f} GB of memory, "
            f"{self.step_seconds:.2g} s a step, about {duration(self.seconds)} without validations"
        )


@denormals_as_zero()
def measure(model: ImageModel, data: Dataset, args: TrainArgs, device: str = "auto") -> Estimate:
    """Computes gradients of a copy of the model, for one image and then for a whole batch.

    Args:
        model: The model; not changed.
        data: The data set.
        args: The training options.
        device: See `nextpixel.fit`.
    """
    fabric = make_fabric(device, args.precision)
    run = Run(fabric, copy.deepcopy(model), data, args, Path(), {})
    seconds = args.batch_size * timed(run, 1)
    if seconds < SLOW:
        timed(run, args.batch_size)  # at first memory is allocated, and programs are compiled
        seconds = min(timed(run, args.batch_size) for _ in range(REPEATS))
    parameters = sum(p.numel() for p in model.parameters())
    moments = 8 * parameters  # two more numbers in float32 for each, or one by Muon
    whole = args.steps * seconds
    if args.minutes is not None:
        whole = min(whole, 60 * args.minutes)
    return Estimate(parameters, seconds, whole, peak_memory(fabric.device) + moments)


def measure_threads(model: ImageModel, data: Dataset, args: TrainArgs, device: str) -> Estimate:
    """Measures all threads and a single one, see `measure`, and sets the number that is faster.

    Beside other programs threads wait for each other, and two may take a hundred times as long as
    one.
    """
    every = torch.get_num_threads()
    estimate = measure(model, data, args, device)
    if every == 1 or find_device(device).type != "cpu":
        return estimate
    torch.set_num_threads(1)
    alone = measure(model, data, args, device)
    if alone.step_seconds < estimate.step_seconds:
        return alone
    torch.set_num_threads(every)
    return estimate


def timed(run: Run, images: int) -> float:
    """Returns the seconds that the gradient of some images of a batch takes."""
    x, conditioning = run.batch()
    began = time.perf_counter()
    torch.manual_seed(0)
    run.fabric.backward(run.loss(x[:images], conditioning[torch.arange(images)]))
    run.optimizer.zero_grad()
    if run.fabric.device.type == "cuda":
        torch.cuda.synchronize(run.fabric.device)
    return time.perf_counter() - began


def peak_memory(device: torch.device) -> int:
    """Returns the most memory in bytes that was in use so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def duration(seconds: float) -> str:
    """Writes a time span in words, such as "3 h 20 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{round(hours / 24)} days"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
